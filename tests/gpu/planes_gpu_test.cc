// The paths of planes on the device: planes_big, whose CTAs have fewer warps with more rows each, is right by itself, and gives the
// bits of planes at every number of tokens and width of a tile.
#include <algorithm>

#include "tests/catch.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/gpu/gpu_plan.h"
#include "tests/gpu/gpu_rows.h"

namespace dsv4mx::test {
namespace {

// Of a levelled h, planes have other bits.
std::string PlanOf(const char* path, int width) {
  return PlanOfRule("path", path, width, {"level,0,0"});
}

void CheckTokens(const std::string& text, const std::vector<int64_t>& tokens) {
  test::CheckTokens(text, "planes_big", tokens);
}

// By each of these plans, the bits of planes at these numbers of tokens.
void CheckBits(const std::string& text, const std::vector<std::string>& plans,
               const std::vector<int64_t>& tokens) {
  INFO(text);
  Case c = GpuCase(text + PlanOf("planes", 32));
  const GpuLayer layer(c);
  std::vector<std::unique_ptr<GpuLayer>> others;
  for (const std::string& plan : plans) {
    Problem p = c.p;
    p.plan = plan.substr(6);
    others.push_back(std::make_unique<GpuLayer>(GpuCase(p), layer.raw()));
  }
  for (const int64_t m : tokens) {
    c.p.tokens = m;
    const Inputs in = MakeRouting(c.p);
    GpuCall want(layer, in);
    want.Run();
    INFO(m << " tokens");
    for (const auto& other : others) {
      GpuCall got(*other, in);
      got.Run();
      INFO(other->Plan(m));
      CHECK(SameRows(want, got) == "");
      CHECK(got.Damage() == "");
    }
  }
}

TEST_CASE("planes_big: every number of tokens of an expert has the bits of planes",
          "[gpu][gpu-quick][planes]") {
  REQUIRE_GPU();
  std::vector<int64_t> tokens(140);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int64_t>(i + 1);
  CheckBits("h=640 i=160 e=1 k=1 out=f32", {PlanOf("planes_big", 64)}, tokens);
}

TEST_CASE("planes_big: every width of a tile has the bits of planes", "[gpu][gpu-quick][planes]") {
  REQUIRE_GPU();
  std::vector<std::string> plans;
  for (int width = 4; width <= 64; width += 4) plans.push_back(PlanOf("planes_big", width));
  CheckBits("h=1120 i=416 e=3 k=2 dist=zipf out=f32", plans, {3, 65, 150});
}

// Of GEMM1: whole blocks of 512, then 256, 128 and less by themselves; more stages than the ring has.
TEST_CASE("planes_big: tails of K and of the rows", "[gpu][planes]") {
  REQUIRE_GPU();
  const std::vector<std::string> plans = {PlanOf("planes_big", 64), PlanOf("planes_big", 40)};
  for (int n = 32; n <= 1056; n += 32) {
    CheckBits("h=" + std::to_string(n) + " i=96 e=3 k=2 out=f32", plans, {5, 70});
    CheckBits("h=96 i=" + std::to_string(n) + " e=3 k=2 out=f32", plans, {6, 71});
  }
  CheckBits("h=4096 i=192 e=2 k=1 out=f32", plans, {100});
  CheckBits("h=192 i=4128 e=2 k=1 out=f32", plans, {100});
}

// So many experts leave room for no more stages than GEMM1 holds until both tiles of a warpgroup are through with them.
TEST_CASE("planes_big: a ring of one turn", "[gpu][planes]") {
  REQUIRE_GPU();
  CheckBits("h=1536 i=32 e=4000 k=1 dist=one out=f32", {PlanOf("planes_big", 64)}, {64, 150});
}

TEST_CASE("planes_big: small layers, row by row", "[gpu][gpu-quick][planes]") {
  REQUIRE_GPU();
  for (const int width : {64, 48, 12}) {
    const std::string plan = PlanOf("planes_big", width);
    CheckTokens("h=160 i=96 e=8 k=4" + plan, {0, 1, 2, 7, 8, 9, 17, 33, 64, 100, 256, 1000, 4096});
    CheckTokens("h=512 i=384 e=4 k=2 out=f32 scales=117..128" + plan, {1, 16, 48, 104, 150, 300});
  }
}

TEST_CASE("planes_big: the sizes of the models", "[gpu][planes]") {
  REQUIRE_GPU();
  for (const char* sizes : {"h=2880 i=2880 e=4 k=4", "h=4096 i=2048 e=6 k=4",
                            "h=5120 i=288 e=8 k=6", "h=7168 i=192 e=8 k=7"})
    CheckTokens(sizes + PlanOf("planes_big", 64), {8, 33, 100, 256});
}

TEST_CASE("planes_big: every option", "[gpu][gpu-quick][planes]") {
  REQUIRE_GPU();
  for (const std::string words :
       {"clamp=0.5", "act=gptoss clamp=7 bias=f32 rsf=1.5 order=interleaved", "bias=bf16",
        "wpos=before clamp=7 rsf=2.5", "k=1 wpos=input rw=bf16", "ids=i64 rw=bf16 out=f32",
        "slot=bf16", "slot=bf16 bias=f32", "xs=168 os=176", "e=32 ep=4 rank=3", "invariant=1",
        "path=planes"}) {
    CheckTokens("h=160 i=224 e=8 k=4 " + words + PlanOf("planes_big", 64), {3, 37, 300});
    CheckBits("h=160 i=224 e=8 k=4 " + words, {PlanOf("planes_big", 64)}, {37, 300});
  }
  // Which the reference has not.
  CheckBits("h=160 i=224 e=8 k=4 act=situ situb=4 situl=25", {PlanOf("planes_big", 64)}, {37, 300});
}

// A layer that is pinned to planes takes planes_big for many tokens, and a token's bits are those that it has alone.
TEST_CASE("planes_big: a row's bits are the same alone and in a batch that is pinned to planes",
          "[gpu][gpu-quick][planes]") {
  REQUIRE_GPU();
  for (const std::string words : {"invariant=1", "path=planes"}) {
    const Case c = GpuCase("h=1120 i=416 e=5 k=3 m=310 dist=zipf out=f32 " + words);
    INFO(words);
    const GpuLayer layer(c);
    CHECK(MissingWords(layer.Plan(310), "planes_big") == "");
    CHECK(MissingWords(layer.Plan(30), "planes_big") != "");
    GpuCall all(layer, c.in);
    CHECK(RunAndJudge(&all) == "");
    Inputs in = c.in;
    in.x = all.X();
    CheckBitsAlone(layer, c.p, in, all, {0, 77, 309});
  }
}

TEST_CASE("planes_big: NaN and Inf of a row stay in it", "[gpu][gpu-quick][planes]") {
  REQUIRE_GPU();
  CheckNanStays(" m=80" + PlanOf("planes_big", 64));
}

}  // namespace
}  // namespace dsv4mx::test
