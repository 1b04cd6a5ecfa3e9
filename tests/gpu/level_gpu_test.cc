// Layers whose rows of h get one scale each between the GEMMs, on the device: right by themselves on planes and on each path of
// W4A8, with the same bits however tiles are cut, where h or slots are as large or as uneven as they can be, and beside f16.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/catch.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/gpu/gpu_plan.h"
#include "tests/gpu/gpu_rows.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

const char* const kLevelled = "with one scale a row of h:";

struct Way {
  const char* path;
  int widest, step;
};
constexpr Way kPlanesWay{"planes", 32, 4};
constexpr Way kWays[] = {kPlanesWay, {"e4m3", 56, 8}, {"e4m3_big", 104, 8}, {"e4m3_wide", 208, 16}};

// Words of a problem.
std::string LevelPlan(const Way& way, int width = 0) {
  const bool w4a8 = way.path[0] == 'e';
  return (w4a8 ? " compute=w4a8" : "") + PlanOfRule(w4a8 ? "w4a8" : "path", way.path,
                                                    width == 0 ? way.widest : width, {"level,0,1"});
}

void CheckTokens(const std::string& text, const std::vector<int64_t>& tokens) {
  test::CheckTokens(text, kLevelled, tokens);
}

TEST_CASE("level: every number of tokens of an expert", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  for (const Way& way : kWays) {
    INFO(way.path);
    std::vector<int64_t> tokens(static_cast<size_t>(way.widest + way.widest / 4 + 8));
    std::iota(tokens.begin(), tokens.end(), 1);
    tokens.insert(tokens.end(), {2 * way.widest, 2 * way.widest + 1, 3 * way.widest - 1});
    CheckTokens("h=96 i=160 e=1 k=1 out=f32" + LevelPlan(way), tokens);
  }
}

// W4A8 on all of its paths.
TEST_CASE("level: every width of a tile gives the same bits", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  const std::string text = "h=288 i=672 e=3 k=2 dist=zipf out=f32 m=230";
  for (const bool w4a8 : {false, true}) {
    const Case c = GpuCase(text + LevelPlan(kWays[w4a8 ? 1 : 0]));
    const GpuLayer layer(c);
    GpuCall want(layer, c.in);
    CHECK(RunAndJudge(&want) == "");
    for (const Way& way : kWays) {
      if ((way.path[0] == 'e') != w4a8) continue;
      for (int width = way.step; width <= way.widest; width += way.step) {
        const GpuLayer other(
            GpuCase(text + " seed=" + std::to_string(c.p.seed) + LevelPlan(way, width)),
            layer.raw());
        GpuCall got(other, c.in);
        got.Run();
        INFO(other.Plan(230));
        CHECK(SameRows(want, got) == "");
        CHECK(got.Damage() == "");
      }
    }
  }
}

TEST_CASE("level: a row's bits are the same alone and in any batch", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  for (const Way& way : kWays) {
    const Case c = GpuCase("h=288 i=672 e=5 k=3 dist=zipf out=f32 m=210" + LevelPlan(way));
    INFO(way.path);
    const GpuLayer layer(c);
    GpuCall all(layer, c.in);
    all.Run();
    Inputs in = c.in;
    in.x = all.X();
    CheckBitsAlone(layer, c.p, in, all, {0, 1, 77, 209});
  }
}

// Of GEMM2's K: whole blocks of 512, then 256, 128 and less by themselves, and more than the lanes that level a row have.
TEST_CASE("level: tails of K and of the rows", "[gpu][level]") {
  REQUIRE_GPU();
  for (const Way& way : kWays) {
    INFO(way.path);
    for (int n = 32; n <= 1056; n += 32) {
      CheckTokens("h=96 i=" + std::to_string(n) + " e=3 k=2 out=f32" + LevelPlan(way), {6, 71});
      if (n <= 416)
        CheckTokens("h=" + std::to_string(n) + " i=96 e=3 k=2 out=f32" + LevelPlan(way), {5, 70});
    }
    CheckTokens("h=96 i=4128 e=2 k=1 out=f32" + LevelPlan(way), {40});
    CheckTokens("h=64 i=4384 e=2 k=1 out=f32" + LevelPlan(way), {3});
  }
}

TEST_CASE("level: small layers, row by row", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  for (const Way& way : kWays) {
    for (const int width : {way.widest, (way.widest / 2 + way.step - 1) / way.step * way.step}) {
      CheckTokens("h=160 i=96 e=8 k=4" + LevelPlan(way, width),
                  {0, 1, 2, 7, 8, 9, 17, 33, 64, 100, 256, 1000});
      CheckTokens("h=160 i=384 e=4 k=2 out=f32 scales=120..128" + LevelPlan(way, width),
                  {1, 16, 48, 104, 300});
    }
  }
}

TEST_CASE("level: the sizes of the models", "[gpu][level]") {
  REQUIRE_GPU();
  for (const Way& way : {kWays[0], kWays[3]}) {
    for (const char* sizes : {"h=2880 i=2880 e=4 k=4", "h=4096 i=2048 e=6 k=4",
                              "h=5120 i=288 e=8 k=6", "h=7168 i=192 e=8 k=7"})
      CheckTokens(sizes + LevelPlan(way), {8, 33, 100, 256});
  }
}

TEST_CASE("level: every option", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  for (const Way& way : kWays) {
    for (const std::string words :
         {"clamp=0.5", "act=gptoss clamp=7 rsf=1.5 order=interleaved", "bias13=bf16",
          "wpos=before clamp=7 rsf=2.5", "k=1 wpos=input rw=bf16", "ids=i64 rw=bf16 out=f32",
          "xs=168 os=176", "e=32 ep=4 rank=3"})
      CheckTokens("h=160 i=224 e=8 k=4 " + words + LevelPlan(way), {3, 37, 300});
  }
}

TEST_CASE("level: counts from the device", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  for (const Way& way : kWays) {
    Case c = GpuCase("h=160 i=224 e=12 ep=3 k=3 m=300" + LevelPlan(way));
    c.placement = {3, 6, 10, 1};
    const GpuLayer layer(c);
    for (const int32_t tokens : {-1, 0, 1, 40, 299, 300, 301}) {
      GpuCallOptions options;
      options.tokens_device = tokens;
      INFO(way.path << " " << tokens);
      CHECK(RunAndJudge(layer, c.in, options) == "");
    }
  }
}

// --- What h and slots can be -------------------------------------------------------------------------------------------

TEST_CASE("level: rows of x of any magnitude", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  for (const Way& way : kWays) {
    std::vector<Factor> factors = {[](int64_t) { return 0x1p20f; }, [](int64_t) { return 0x1p50f; },
                                   [](int64_t t) { return t % 7 == 3 ? 0x1p-24f : 1.0f; },
                                   [](int64_t t) { return t % 7 == 3 ? 0x1p40f : 0x1p-10f; },
                                   [](int64_t t) { return t % 5 == 1 ? 0x1p18f : 1.0f; }};
    // W4A8 has its own, below.
    if (way.path == kPlanesWay.path)
      factors.insert(factors.end(), {Factor([](int64_t) { return 0x1p-20f; }),
                                     Factor([](int64_t) { return 0x1p-50f; })});
    // Not clamped: where nearly every gate and up is beyond the limits, those that are not decide, and of planes they are what cancels.
    for (const char* const words : {" m=90 out=f32", " m=130 rsf=1.5"}) {
      const Case c = GpuCase(std::string("h=288 i=416 e=4 k=2") + words + LevelPlan(way));
      INFO(ProblemText(c.p));
      const GpuLayer layer(c);
      const GpuCall plain(layer, c.in);
      for (const Factor factor : factors) {
        GpuCall call(layer, Scaled(plain, c.p, factor));
        CHECK(RunAndJudge(&call) == "");
      }
    }
  }
}

TEST_CASE("level: the ends of the weights' range", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  for (const Way& way : kWays) {
    for (const std::string scales : {"110..110", "110..112", "120..128", "126..128"}) {
      const std::string text = "h=288 i=544 e=4 k=2 out=f32 scales=" + scales;
      CheckTokens(text + LevelPlan(way), {3, 70});
      const Case c = GpuCase(text + " m=30" + LevelPlan(way));
      const GpuLayer layer(c);
      const GpuCall plain(layer, c.in);
      for (const Factor factor : {Factor([](int64_t) { return 0x1p12f; }),
                                  Factor([](int64_t t) { return t % 7 == 3 ? 0x1p-12f : 1.0f; })}) {
        GpuCall call(layer, Scaled(plain, c.p, factor));
        CHECK(RunAndJudge(&call) == "");
      }
    }
    for (const std::string scales : {"109..111", "115..128"}) {
      const GpuLayer other(GpuCase("h=288 i=544 e=4 k=2 m=50 scales=" + scales + LevelPlan(way)));
      CHECK(MissingWords(other.Plan(50), kLevelled) != "");
      CHECK(RunAndJudge(other, other.c().in) == "");
    }
  }
}

// Weights of one value each, so that each h of a row is the same and each product of GEMM2 has one sign.
Case Uniform(const std::string& text, uint8_t up_scale, uint8_t down_code, uint8_t down_scale) {
  Case c = MakeCase(GpuProblem(text));
  for (auto& e : c.experts) {
    for (int m = 0; m < 3; ++m) {
      const uint8_t code = m == kDown ? down_code : 0x2;  // 1.0
      std::fill(e->codes[m].begin(), e->codes[m].end(), static_cast<uint8_t>(code * 0x11));
      std::fill(e->scales[m].begin(), e->scales[m].end(),
                m == kDown ? down_scale
                : m == kUp ? up_scale
                           : uint8_t{127});
    }
  }
  return c;
}

// The largest sums there are: 352 channels of nearly 448, times 12, are 0.9 of what f16 holds in the units that a layer of so many
// channels has. The smallest of one sign: one channel's of 0.5 * 2^-12.
TEST_CASE("level: slots as large and as small as they can be", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  constexpr int kHidden = 256;
  for (const Way& way : kWays) {
    for (const int channels : {352, 32, 704, 192}) {
      const std::string text = "h=256 e=2 k=2 m=40 out=f32 i=" + std::to_string(channels);
      for (const uint8_t code : {uint8_t{0x7}, uint8_t{0xF}, uint8_t{0x1}}) {
        const uint8_t scale = code == 0x1 ? 115 : 128;
        const Case c = Uniform(text + LevelPlan(way), 127, code, scale);
        const GpuLayer layer(c);
        CHECK(MissingWords(layer.Plan(40), kLevelled) == "");
        Inputs in = c.in;
        // h = (256 x)^2, whose peak is a row's: from just above 224 of its scale to just below 448.
        for (int64_t t = 0; t < c.p.tokens; ++t) {
          const double x = (0.5 + static_cast<double>(t % 20) / 20) * std::exp2(t / 20);
          std::fill_n(in.x.begin() + t * kHidden, kHidden, ToBf16(t % 20 == 19 ? 1.3203125 : x));
        }
        INFO(ProblemText(c.p) << " code " << int{code});
        CHECK(RunAndJudge(layer, in) == "");
      }
    }
  }
}

// One block of 128 channels has an h that is 2^8 times or 2^-8 times that of the others, and weights of w2 that make up for it, so
// that each block counts.
TEST_CASE("level: a block of h that is much larger or smaller than the others",
          "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  constexpr int kBlocks = 5, kHidden = 160, kChannels = 128 * kBlocks - 32;
  for (const Way& way : kWays) {
    for (int odd = 0; odd < kBlocks; ++odd) {
      for (const bool larger : {false, true}) {
        Case c = MakeCase(
            GpuProblem("h=160 i=608 e=3 k=2 m=60 out=f32 scales=119..119" + LevelPlan(way)));
        for (auto& e : c.experts) {
          for (int64_t row = 0; row < kChannels; ++row) {
            const bool is_odd = row / 128 == odd;
            for (int64_t g = 0; g < kHidden / 32; ++g) {
              uint8_t& up = e->scales[kUp][static_cast<size_t>(row * (kHidden / 32) + g)];
              if (is_odd == larger) up = static_cast<uint8_t>(up + 8);
            }
          }
          for (int64_t row = 0; row < kHidden; ++row) {
            for (int64_t g = 0; g < kChannels / 32; ++g) {
              uint8_t& down = e->scales[kDown][static_cast<size_t>(row * (kChannels / 32) + g)];
              if ((g / 4 == odd) != larger) down = static_cast<uint8_t>(down + 8);
            }
          }
        }
        const GpuLayer layer(c);
        INFO(way.path << " block " << odd << " larger " << larger);
        CHECK(MissingWords(layer.Plan(60), kLevelled) == "");
        CHECK(RunAndJudge(layer, c.in) == "");
      }
    }
  }
}

// Gates of the second block are far below zero, down to where its scale is so much less than the row's that no power of two of fp32
// is their quotient. Weights of w2 let it count if it were taken for more.
TEST_CASE("level: a block of h that is next to nothing", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  for (const Way& way : kWays) {
    Case c = MakeCase(GpuProblem("h=256 i=256 e=1 k=1 m=24 out=f32" + LevelPlan(way)));
    ExpertData& e = *c.experts[0];
    for (int m = 0; m < 3; ++m) {
      std::fill(e.codes[m].begin(), e.codes[m].end(), uint8_t{0x22});  // 1.0
      std::fill(e.scales[m].begin(), e.scales[m].end(), uint8_t{127});
    }
    std::fill(e.codes[kGate].begin() + 128 * 128, e.codes[kGate].end(), uint8_t{0xAA});
    std::fill(e.scales[kUp].begin(), e.scales[kUp].begin() + 128 * 8, uint8_t{128});
    std::fill(e.scales[kUp].begin() + 128 * 8, e.scales[kUp].end(), uint8_t{116});
    for (size_t g = 0; g < e.scales[kDown].size(); ++g)
      e.scales[kDown][g] = g % 8 < 4 ? uint8_t{116} : uint8_t{127};
    const GpuLayer layer(c);
    CHECK(MissingWords(layer.Plan(24), kLevelled) == "");
    Inputs in = c.in;
    for (int64_t t = 0; t < c.p.tokens; ++t)
      std::fill_n(in.x.begin() + t * 256, 256, ToBf16(static_cast<double>(10 + 4 * t) / 256));
    INFO(way.path);
    CHECK(RunAndJudge(layer, in) == "");
  }
}

TEST_CASE("level: NaN and Inf of a row stay in it", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  for (const Way& way : kWays) CheckNanStays(" m=80" + LevelPlan(way));
}

TEST_CASE("level: rows of zeros are zeros and change no others", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  for (const Way& way : kWays) {
    const Case c = GpuCase("h=288 i=160 e=4 k=2 m=100 out=f32" + LevelPlan(way));
    const GpuLayer layer(c);
    GpuCall plain(layer, c.in);
    plain.Run();
    GpuCall call(layer, Scaled(plain, c.p, [](int64_t t) { return t % 4 == 1 ? 0.0f : 1.0f; }));
    call.Run();
    INFO(way.path);
    std::vector<int64_t> zeros, others;
    for (int64_t t = 0; t < c.p.tokens; ++t) (t % 4 == 1 ? zeros : others).push_back(t);
    CHECK((call.RowBytes(others) == plain.RowBytes(others)));
    const std::vector<float> y = call.Rows(zeros).y;
    CHECK(std::all_of(y.begin(), y.end(), [](float v) { return v == 0.0f; }));
  }
}

// --- Beside other things -----------------------------------------------------------------------------------------------

// Hot experts are of f16, with slots in units of their own, or of fp32 where f16 cannot hold h or slots.
TEST_CASE("level: beside hot experts of f16", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  const std::string plan = PlanOfLines({"few,0,0", "path,0,planes", "mixed,0,0", "hot,0,150",
                                        "cold,0,0", "level,0,1", "f16,0,64", "f16,200,144"});
  for (const char* const words : {"", " rsf=1.5 out=f32 ids=i64"}) {
    const Case c = GpuCase("h=160 i=160 e=24 k=4 m=1100 dist=zipf" + plan + words);
    const GpuLayer layer(c);
    INFO(layer.Plan(1100));
    CHECK(MissingWords(layer.Plan(1100), std::string(kLevelled) + ",more than 150 tokens by f16") ==
          "");
    GpuCall plain(layer, c.in);
    CHECK(RunAndJudge(&plain) == "");
    for (const Factor factor :
         {Factor([](int64_t) { return 0x1p-20f; }), Factor([](int64_t) { return 0x1p20f; }),
          Factor([](int64_t t) { return t % 7 == 3 ? 0x1p-24f : 1.0f; }),
          Factor([](int64_t t) { return t % 5 == 1 ? 0x1p18f : 1.0f; })}) {
      GpuCall call(layer, Scaled(plain, c.p, factor));
      for (int turn = 0; turn < 2; ++turn) {
        call.Poison();
        call.args().multiprocessors = turn == 0 ? 0 : 7;
        CHECK(RunAndJudge(&call) == "");
      }
    }
  }
}

TEST_CASE("level: the same bits in less workspace, on some multiprocessors and on any poison",
          "[gpu][level]") {
  REQUIRE_GPU();
  for (const Way& way : kWays) {
    const Case c = GpuCase("h=160 i=288 e=12 k=4 m=700 dist=zipf" + LevelPlan(way));
    INFO(way.path);
    const GpuLayer layer(c);
    GpuCall whole(layer, c.in), other(layer, c.in);
    CHECK(RunAndJudge(&whole) == "");
    for (const int multiprocessors : {1, 7, 40}) {
      other.Poison();
      other.args().multiprocessors = multiprocessors;
      other.Run();
      CHECK(SameRows(whole, other) == "");
    }
    other.args().multiprocessors = 0;
    const size_t all = other.args().workspace_bytes;
    for (const int64_t tokens : {64, 333}) {
      dsv4mx_workspace_info info = DSV4MX_WORKSPACE_INFO_INIT;
      REQUIRE_OK(dsv4mx_layer_query_workspace(layer.layer(), tokens, nullptr, &info));
      REQUIRE(info.bytes < all);
      other.args().workspace_bytes = info.bytes;
      other.Poison();
      other.Run();
      CHECK(SameRows(whole, other) == "");
      CHECK(other.Damage() == "");
    }
    // Again in the same workspace, and behind calls with other tokens, as a graph is replayed.
    for (const int poison : {0x00, 0x7F, 0xFF}) {
      GpuCallOptions options;
      options.poison = poison;
      GpuCall again(layer, c.in, options);
      again.Run();
      CHECK(SameRows(whole, again) == "");
      Problem p = c.p;
      p.seed++;
      Inputs in = MakeRouting(p);
      in.x = whole.X();
      std::reverse(in.x.begin(), in.x.end());
      again.SetInputs(in);
      again.Run();
      CHECK(SameRows(whole, again) != "");
      in = c.in;
      in.x = whole.X();
      again.SetInputs(in);
      again.Run();
      CHECK(SameRows(whole, again) == "");
    }
  }
}

// As against slots of fp32, which are of an h with a scale for each block.
// Relative L2 of a layer to its twin without levels, of inputs whose rows are multiplied with a factor; both are judged.
double DistanceToTwin(const std::string& text, Factor factor) {
  const GpuLayer layer(GpuCase(text)), exact(GpuCase(text + " slot=f32"), layer.raw());
  const Problem& p = layer.c().p;
  CHECK(MissingWords(layer.Plan(p.tokens), kLevelled) == "");
  CHECK(MissingWords(exact.Plan(p.tokens), kLevelled) != "");
  const GpuCall plain(layer, layer.c().in);
  const Inputs in = Scaled(plain, p, factor);
  GpuCall got(layer, in), want(exact, in);
  CHECK(RunAndJudge(&got) == "");
  CHECK(RunAndJudge(&want) == "");
  std::vector<int64_t> rows(static_cast<size_t>(p.tokens));
  std::iota(rows.begin(), rows.end(), 0);
  double most = 0;
  // By rows, of which some may be far smaller than others.
  for (const int64_t row : rows) {
    const auto a = got.Rows({row}).y, b = want.Rows({row}).y;
    double error = 0, all = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      error += std::pow(double{a[i]} - double{b[i]}, 2);
      all += std::pow(double{b[i]}, 2);
    }
    if (error > 0) most = std::max(most, std::sqrt(error / all));
  }
  return most;
}

// A rounding to 11 bits, and products whose sums are added to fp32 a quarter or half as often.
TEST_CASE("level: how far it is from the same layer without", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  for (const Way& way : kWays) {
    for (const std::string words : {"", " rsf=1.5 clamp=10", " rw=bf16 xs=296 os=304"}) {
      const std::string text =
          "h=288 i=672 e=12 k=4 dist=zipf out=f32 m=200" + words + LevelPlan(way);
      const double distance = DistanceToTwin(text, [](int64_t) { return 1.0f; });
      INFO(text);
      CHECK(distance > 0);
      CHECK(distance < 1.5e-3);
    }
  }
}

// An h below 1e-4 is in units of the least scale that W4A8 has, and slots in units of it would be numbers of f16 without all their bits.
TEST_CASE("level: rows of h below W4A8's least scale", "[gpu][gpu-quick][level]") {
  REQUIRE_GPU();
  for (const Way& way : kWays) {
    if (way.path == kPlanesWay.path) continue;
    const std::string text = "h=160 i=1056 e=3 k=2 m=40 out=f32 scales=110..112" + LevelPlan(way);
    // h goes by the square of x: some 3e-5 to 1e-7.
    const double distance = DistanceToTwin(text, [](int64_t t) {
      return t % 8 == 0 ? 1.0f : std::exp2(-8.0f - static_cast<float>(t % 8) / 1.5f);
    });
    INFO(text);
    CHECK(distance > 0);
    CHECK(distance < 1.5e-3);
  }
}

}  // namespace
}  // namespace dsv4mx::test
