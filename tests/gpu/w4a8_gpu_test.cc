// W4A8 on the device, row by row against a reference that rounds the same way: all of its paths and the bf16 one, every
// width of a tile, tails, options, numbers that are not finite; and that a row's bits depend on nothing but the row.
#include <algorithm>
#include <limits>

#include "tests/catch.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/gpu/gpu_plan.h"
#include "tests/gpu/gpu_rows.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

// h is levelled from 8 rows an expert on, as layers of these sizes are.
std::string PlanOf(const char* path, int width, const std::vector<std::string>& more = {}) {
  return PlanOfRule("w4a8", path, width, more);
}

// Each path at its widest and in between, the plan's choice, and bf16 for weights that E4M3 does not hold.
std::vector<std::string> Ways() {
  return {"",
          PlanOf("e4m3", 56),
          PlanOf("e4m3", 24),
          PlanOf("e4m3_big", 104),
          PlanOf("e4m3_big", 72),
          PlanOf("e4m3_wide", 208),
          PlanOf("e4m3_wide", 112),
          PlanOf("e4m3", 56, {"level,0,0"}),
          PlanOf("e4m3_big", 104, {"level,0,0"}),
          PlanOf("e4m3_wide", 208, {"level,0,0"}),
          " path=bf16",
          " scales=100..127",
          " scales=120..140"};
}

void CheckTokens(const std::string& text, const std::vector<int64_t>& tokens) {
  test::CheckTokens("compute=w4a8 " + text, "W4A8", tokens);
}

TEST_CASE("W4A8: every way on small layers, every number of tokens", "[gpu][gpu-quick][w4a8]") {
  REQUIRE_GPU();
  for (const std::string& way : Ways()) {
    INFO(way);
    CheckTokens("h=160 i=96 e=8 k=4" + way, {0, 1, 2, 7, 8, 9, 17, 33, 64, 100, 256, 1000, 4096});
    CheckTokens("h=512 i=384 e=4 k=2 out=f32" + way, {1, 3, 16, 31, 48, 57, 104, 113, 150, 300});
  }
}

TEST_CASE("W4A8: tails of K and of the rows", "[gpu][w4a8]") {
  REQUIRE_GPU();
  for (const std::string& way : Ways()) {
    INFO(way);
    for (int n = 32; n <= 544; n += 32) {
      CheckTokens("h=" + std::to_string(n) + " i=96 e=3 k=2 out=f32" + way, {5, 70});
      CheckTokens("h=96 i=" + std::to_string(n) + " e=3 k=2 out=f32" + way, {6, 71});
    }
  }
}

TEST_CASE("W4A8: rows of x that are gathered in parts", "[gpu][w4a8]") {
  REQUIRE_GPU();
  for (const char* way : {"", " path=bf16"}) {
    INFO(way);
    CheckTokens(std::string("h=8352 i=32 e=4 k=2") + way, {3, 70, 300, 2100});
  }
}

TEST_CASE("W4A8: the sizes of the models", "[gpu][w4a8]") {
  REQUIRE_GPU();
  for (const char* sizes :
       {"h=2880 i=2880 e=4 k=4", "h=4096 i=2048 e=6 k=4", "h=5120 i=288 e=8 k=6",
        "h=7168 i=192 e=8 k=7", "h=4096 i=2304 e=6 k=4"})
    CheckTokens(sizes, {1, 8, 33, 256, 1000});
}

TEST_CASE("W4A8: every option", "[gpu][gpu-quick][w4a8]") {
  REQUIRE_GPU();
  for (const std::string& way : {std::string(), PlanOf("e4m3_big", 104), PlanOf("e4m3_wide", 208),
                                 std::string(" path=bf16")}) {
    for (const char* words :
         {"clamp=0.5", "act=gptoss clamp=7 bias=f32 rsf=1.5 order=interleaved", "bias=bf16",
          "wpos=before clamp=7 rsf=2.5", "k=1 wpos=input rw=bf16", "ids=i64 rw=bf16 out=f32",
          "slot=bf16", "xs=168 os=176", "e=32 ep=4 rank=3", "invariant=1"}) {
      INFO(words << way);
      CheckTokens("h=160 i=224 e=8 k=4 " + std::string(words) + way, {3, 37, 300});
    }
  }
}

const char* const kSizes[] = {"h=1120 i=416 e=5 k=3", "h=1024 i=512 e=6 k=3",
                              "h=1536 i=1152 e=6 k=4"};

// Every path at several widths, by plans with these lines, has the bits of `all`.
void CheckPaths(const GpuLayer& layer, const Inputs& in, const GpuCall& all,
                const std::vector<std::string>& lines) {
  for (const std::string& plan :
       {PlanOf("e4m3", 8, lines), PlanOf("e4m3", 56, lines), PlanOf("e4m3_big", 64, lines),
        PlanOf("e4m3_big", 104, lines), PlanOf("e4m3_wide", 16, lines),
        PlanOf("e4m3_wide", 144, lines), PlanOf("e4m3_wide", 208, lines)}) {
    Problem p = layer.p();
    p.plan = plan.substr(6);
    const GpuLayer other(GpuCase(p), layer.raw());
    GpuCall twin(other, in);
    twin.Run();
    INFO(other.Plan(210));
    CHECK(SameRows(all, twin) == "");
  }
}

// Alone a token takes the kernels for few pairs: with stages that are alike, and with others.
TEST_CASE("W4A8: a row's bits are the same alone, in any batch and on any path",
          "[gpu][gpu-quick][w4a8]") {
  REQUIRE_GPU();
  // As a layer asks for it, and by a plan that levels nothing.
  for (const bool asked : {true, false}) {
    const std::vector<std::string> lines =
        asked ? std::vector<std::string>{} : std::vector<std::string>{"level,0,0"};
    for (const std::string sizes : kSizes) {
      if (!asked && sizes != kSizes[0]) continue;
      const Case c = GpuCase("compute=w4a8 m=210 dist=zipf out=f32 " + sizes +
                             (asked ? " invariant=1" : PlanOfLines(lines)));
      INFO(ProblemText(c.p));
      const GpuLayer layer(c);
      CHECK(layer.Plan(210).find("one scale a row of h") == std::string::npos);
      GpuCall all(layer, c.in);
      CHECK(RunAndJudge(&all) == "");
      Inputs in = c.in;
      in.x = all.X();
      CheckPaths(layer, in, all, lines);
      CHECK(MissingWords(layer.Plan(1), "few pairs") == "");
      CheckBitsAlone(layer, c.p, in, all, {0, 77, 209});
    }
  }
}

// But for the kernels for few pairs, which level nothing.
TEST_CASE("W4A8: a levelled row's bits are the same alone, in any batch and on any path",
          "[gpu][gpu-quick][w4a8]") {
  REQUIRE_GPU();
  for (const std::string sizes : kSizes) {
    const Case c = GpuCase("compute=w4a8 m=210 dist=zipf out=f32 " + sizes +
                           PlanOfLines({"few,0,0", "level,0,1"}));
    INFO(sizes);
    const GpuLayer layer(c);
    CHECK(MissingWords(layer.Plan(210), "one scale a row of h") == "");
    GpuCall all(layer, c.in);
    CHECK(RunAndJudge(&all) == "");
    Inputs in = c.in;
    in.x = all.X();
    CheckPaths(layer, in, all, {"level,0,1"});
    CheckBitsAlone(layer, c.p, in, all, {0, 77, 209});
    // Which are others.
    Problem p = c.p;
    p.plan = PlanOfLines({"few,0,0", "level,0,0"}).substr(6);
    const GpuLayer plain(GpuCase(p), layer.raw());
    GpuCall other(plain, in);
    other.Run();
    CHECK(SameRows(all, other) != "");
  }
}

TEST_CASE("W4A8: NaN and Inf of a row stay in it", "[gpu][gpu-quick][w4a8]") {
  REQUIRE_GPU();
  for (const std::string& way : {std::string(), PlanOf("e4m3", 56), PlanOf("e4m3_big", 104),
                                 PlanOf("e4m3_wide", 208), std::string(" path=bf16")}) {
    CheckNanStays(" compute=w4a8 m=40" + way);
  }
}

TEST_CASE("W4A8: what the quantiser meets: zeros, tiny and huge numbers, one large among small",
          "[gpu][gpu-quick][w4a8]") {
  REQUIRE_GPU();
  for (const std::string& way : {std::string(), PlanOf("e4m3", 56), PlanOf("e4m3_big", 104),
                                 PlanOf("e4m3_wide", 208), std::string(" path=bf16")}) {
    INFO(way);
    Case c = GpuCase("compute=w4a8 h=384 i=256 e=3 k=2 m=12 out=f32" + way);
    const GpuLayer layer(c);
    GpuCall first(layer, c.in);
    first.Run();
    Inputs in = c.in;
    in.x = first.X();
    for (int64_t k = 0; k < 384; ++k) {
      const auto at = [&](int64_t row) -> uint16_t& {
        return in.x[static_cast<size_t>(row * 384 + k)];
      };
      const double v = static_cast<double>(FromBf16(at(0)));
      at(0) = 0;
      at(1) = ToBf16(v * 1e-9);  // below the least peak
      at(2) = ToBf16(v * 1e9);
      at(3) = ToBf16(k % 128 == 5 ? 448.0 : v);  // others become subnormal or zero
      at(4) = ToBf16(k % 128 == 5 ? 449.0 : 1.0 + static_cast<double>(k % 16) / 16);  // ties
      at(5) = ToBf16(k < 128 ? v * 1e6 : k < 256 ? 0 : v * 1e-3);
    }
    CHECK(RunAndJudge(layer, in) == "");
  }
}

}  // namespace
}  // namespace dsv4mx::test
