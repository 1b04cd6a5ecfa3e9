// Experts shared out to launches of several paths by how many tokens the routing sends them.
#include <algorithm>

#include "tests/catch.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/gpu/gpu_plan.h"
#include "tests/gpu/gpu_rows.h"

namespace dsv4mx::test {
namespace {

// `main` for all experts but those with more than `hot` tokens, which are bf16's, and those with up to `cold`, which are planes'.
// 0 = none. With `level`, h of planes is levelled where they are the main path.
std::string MixedPlan(const std::string& main, int hot, int cold, bool level = false) {
  return PlanOfLines({"few,0,0", "path,0," + main, "mixed,0,0", "hot,0," + std::to_string(hot),
                      "cold,0," + std::to_string(cold), level ? "level,0,1" : "level,0,0"});
}
std::string PlainPlan(const std::string& path, bool level = false) {
  return MixedPlan(path, 0, 0, level);
}

// Tokens of each expert, where all experts are held here.
std::vector<int64_t> CountsOf(const Problem& p, const Inputs& in) {
  std::vector<int64_t> counts(static_cast<size_t>(p.experts));
  for (const int64_t id : in.ids) {
    if (id >= 0 && id < p.experts) counts[static_cast<size_t>(id)]++;
  }
  return counts;
}

bool IsPlanesName(const std::string& path) {
  return path.substr(0, 6) == "planes";
}

// With one id a token, a row is the one of its expert's path, to the bit.
void CheckRows(const std::string& text, const std::string& main, int hot, int cold, Dist dist,
               int64_t tokens, bool level = false) {
  INFO(text << " by " << main << " hot " << hot << " cold " << cold << " dist "
            << static_cast<int>(dist) << " tokens " << tokens << " level " << level);
  Case c = GpuCase(text + PlainPlan("planes", level));
  c.p.tokens = tokens, c.p.dist = dist;
  const GpuLayer planes(c);
  const auto with = [&](const std::string& plan) {
    Problem p = c.p;
    p.plan = plan.substr(6);
    return GpuLayer(GpuCase(p), planes.raw());
  };
  // Beside planes it is f16 that takes what they do not.
  const GpuLayer halves = with(PlainPlan(main == "bf16" ? "bf16" : "f16")),
                 mixed = with(MixedPlan(main, hot, cold, level));
  const Inputs in = MakeRouting(c.p);
  GpuCall by_planes(planes, in), by_halves(halves, in), got(mixed, in);
  by_planes.Run();
  by_halves.Run();
  for (int turn = 0; turn < 3; ++turn) {
    got.Poison();
    got.Run();
    CHECK(got.Damage() == "");
    const std::vector<int64_t> counts = CountsOf(c.p, in);
    std::vector<int64_t> few, many;
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t id = in.ids[static_cast<size_t>(t)];
      const int64_t count = id < 0 || id >= c.p.experts ? 0 : counts[static_cast<size_t>(id)];
      const bool is_large = IsPlanesName(main) ? hot > 0 && count > hot : count > cold;
      (is_large ? many : few).push_back(t);
    }
    REQUIRE((got.RowBytes(few) == by_planes.RowBytes(few)));
    REQUIRE((got.RowBytes(many) == by_halves.RowBytes(many)));
  }
}

TEST_CASE("mixed: a row has the bits of its expert's path", "[gpu][gpu-quick][mixed]") {
  REQUIRE_GPU();
  const std::string text = "h=160 i=96 e=40 k=1 out=f32";
  for (const Dist dist : {Dist::kUniform, Dist::kZipf, Dist::kHalf}) {
    CheckRows(text, "planes", 137, 0, dist, 4200);
    CheckRows(text, "planes", 137, 0, dist, 4200, true);
    CheckRows(text, "planes_big", 150, 80, dist, 4200);
    CheckRows(text, "bf16", 0, 120, dist, 4200);
    CheckRows(text, "f16", 0, 120, dist, 4200);
    CheckRows(text, "f16", 150, 80, dist, 4200);
  }
  // Parts without any expert: the first, the middle one, the last, and two of three.
  CheckRows(text, "planes", 100000, 0, Dist::kUniform, 4100);
  CheckRows(text, "planes", 1, 0, Dist::kUniform, 4100);
  CheckRows(text, "planes_big", 20, 19, Dist::kUniform, 4100);
  CheckRows(text, "planes_big", 4000, 20, Dist::kOne, 4100);
  CheckRows(text, "planes_big", 100000, 100, Dist::kZipf, 4100);
  CheckRows(text, "bf16", 0, 100000, Dist::kUniform, 4100);
}

TEST_CASE("mixed: rows whose experts are of several paths are right", "[gpu][mixed]") {
  REQUIRE_GPU();
  for (const char* const model :
       {"h=288 i=160 e=24 k=3", "h=640 i=224 e=24 k=4 act=gptoss clamp=7 bias=1",
        "h=160 i=96 e=24 k=3 wpos=before out=f32 slot=bf16"}) {
    for (const auto& [main, hot, cold] :
         {std::tuple("planes", 150, 0), std::tuple("planes_big", 250, 100),
          std::tuple("bf16", 0, 130), std::tuple("f16", 0, 130)}) {
      Problem p = GpuProblem(model + MixedPlan(main, hot, cold));
      const GpuLayer layer(GpuCase(p));
      for (const Dist dist : {Dist::kUniform, Dist::kZipf, Dist::kSix, Dist::kNone, Dist::kDup}) {
        p.dist = dist, p.tokens = 1400;
        CHECK(RunAndJudge(layer, MakeRouting(p)) == "");
      }
    }
  }
}

// Experts take the paths that they have in the whole chunk.
TEST_CASE("mixed: the same bits in less workspace", "[gpu][gpu-quick][mixed]") {
  REQUIRE_GPU();
  for (const auto& [words, main, hot, cold, level] :
       {std::tuple("h=160 i=96 e=24 k=4 m=1100 dist=zipf", "planes_big", 150, 100, false),
        std::tuple("h=288 i=96 e=24 k=3 m=1500 dist=zipf ids=i64 xs=296", "planes", 150, 0, false),
        std::tuple("h=288 i=160 e=24 k=3 m=1500 dist=zipf", "planes", 150, 0, true),
        std::tuple("h=160 i=96 e=24 ep=2 rank=1 k=4 m=1100 dist=half", "bf16", 0, 100, false),
        std::tuple("h=160 i=96 e=24 k=4 m=1100 dist=zipf", "f16", 0, 100, false)}) {
    const Case c = GpuCase(words + MixedPlan(main, hot, cold, level));
    const GpuLayer layer(c);
    INFO(layer.Plan(c.p.tokens));
    for (const int32_t live : {-1, 700}) {
      GpuCallOptions options;
      if (live >= 0) options.tokens_device = live;
      GpuCall whole(layer, c.in, options), parts(layer, c.in, options);
      whole.Run();
      for (const int64_t tokens : {64, 333, 1024}) {
        dsv4mx_workspace_info info = DSV4MX_WORKSPACE_INFO_INIT;
        REQUIRE_OK(dsv4mx_layer_query_workspace(layer.layer(), tokens, nullptr, &info));
        REQUIRE(info.bytes < parts.args().workspace_bytes);
        const size_t all = parts.args().workspace_bytes;
        parts.args().workspace_bytes = info.bytes;
        parts.Poison();
        parts.Run();
        parts.args().workspace_bytes = all;
        CHECK(SameRows(whole, parts) == "");
        CHECK(parts.Damage() == "");
      }
    }
  }
}

// Launches of a GEMM do not run side by side then.
TEST_CASE("mixed: the same bits on some multiprocessors, with other routing in every call",
          "[gpu][mixed]") {
  REQUIRE_GPU();
  for (const auto& [main, hot, cold, level] :
       {std::tuple("planes", 150, 0, false), std::tuple("planes", 150, 0, true),
        std::tuple("planes_big", 150, 100, false), std::tuple("bf16", 0, 100, false),
        std::tuple("f16", 0, 100, false)}) {
    Case c = GpuCase("h=160 i=96 e=24 k=4 m=1100" + MixedPlan(main, hot, cold, level));
    const GpuLayer layer(c);
    for (const Dist dist : {Dist::kZipf, Dist::kUniform, Dist::kHalf, Dist::kZipf, Dist::kOne}) {
      c.p.dist = dist, c.p.seed++;
      const Inputs in = MakeRouting(c.p);
      GpuCall whole(layer, in), some(layer, in);
      whole.Run();
      for (const int multiprocessors : {1, 7, 40}) {
        some.Poison();
        some.args().multiprocessors = multiprocessors;
        some.Run();
        CHECK(SameRows(whole, some) == "");
      }
    }
  }
}

TEST_CASE("mixed: NaN and Inf of a row stay in it", "[gpu][mixed]") {
  REQUIRE_GPU();
  for (const char* const main : {"planes", "planes_big", "bf16", "f16"}) {
    CheckNanStays(" m=2100 dist=zipf" + MixedPlan(main, 1050, 900));
  }
}

TEST_CASE("mixed: counts from the device, fewer tokens than the plan was made for",
          "[gpu][mixed]") {
  REQUIRE_GPU();
  Problem p =
      GpuProblem("h=288 i=160 e=24 k=4 dist=zipf m=1300" + MixedPlan("planes_big", 120, 60));
  const GpuLayer layer(GpuCase(p));
  for (const int32_t tokens : {0, 1, 40, 900, 1300}) {
    GpuCallOptions options;
    options.tokens_device = tokens;
    CHECK(RunAndJudge(layer, MakeRouting(p), options) == "");
  }
}

TEST_CASE("mixed: one path alone for few tokens, and where one is promised",
          "[gpu][gpu-quick][mixed]") {
  REQUIRE_GPU();
  const std::string plan = MixedPlan("planes_big", 48, 24);
  const auto plan_of = [&](const std::string& words, int64_t tokens) {
    return GpuLayer(GpuCase("h=160 i=96 e=24 k=4" + words + plan)).Plan(tokens);
  };
  CHECK(MissingWords(plan_of("", 1100), "more than 48 tokens by f16,up to 24 tokens by planes") ==
        "");
  for (const std::string& text :
       {plan_of("", 1000), plan_of(" invariant=1", 1100), plan_of(" path=bf16", 1100),
        plan_of(" path=planes", 1100), plan_of(" compute=w4a8", 1100)}) {
    INFO(text);
    CHECK(text.find("experts with") == std::string::npos);
  }
}

}  // namespace
}  // namespace dsv4mx::test
