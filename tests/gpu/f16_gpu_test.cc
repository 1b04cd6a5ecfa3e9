// The f16 path on the device: right by itself at every number of tokens and width of a tile, and where f16 cannot hold h.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/catch.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/gpu/gpu_plan.h"
#include "tests/gpu/gpu_rows.h"

namespace dsv4mx::test {
namespace {

std::string F16Plan(int width = 144) {
  return PlanOfRule("path", "f16", width);
}

void CheckTokens(const std::string& text, const std::vector<int64_t>& tokens) {
  test::CheckTokens(text, "sm_90a f16:", tokens);
}

TEST_CASE("f16: every number of tokens of an expert", "[gpu][gpu-quick][f16]") {
  REQUIRE_GPU();
  std::vector<int64_t> tokens(300);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int64_t>(i + 1);
  CheckTokens("h=384 i=160 e=1 k=1 out=f32" + F16Plan(), tokens);
}

TEST_CASE("f16: every width of a tile gives the same bits", "[gpu][gpu-quick][f16]") {
  REQUIRE_GPU();
  Case c = GpuCase("h=1120 i=416 e=3 k=2 dist=zipf out=f32 m=250" + F16Plan());
  const GpuLayer layer(c);
  GpuCall want(layer, c.in);
  CHECK(RunAndJudge(&want) == "");
  for (int width = 8; width < 144; width += 8) {
    Problem p = c.p;
    p.plan = F16Plan(width).substr(6);
    const GpuLayer other(GpuCase(p), layer.raw());
    GpuCall got(other, c.in);
    got.Run();
    INFO(other.Plan(250));
    CHECK(SameRows(want, got) == "");
    CHECK(got.Damage() == "");
  }
}

TEST_CASE("f16: tails of K and of the rows", "[gpu][f16]") {
  REQUIRE_GPU();
  for (int n = 32; n <= 1056; n += 32) {
    CheckTokens("h=" + std::to_string(n) + " i=96 e=3 k=2 out=f32" + F16Plan(), {5, 70});
    CheckTokens("h=96 i=" + std::to_string(n) + " e=3 k=2 out=f32" + F16Plan(), {6, 71});
  }
}

TEST_CASE("f16: small layers, row by row", "[gpu][gpu-quick][f16]") {
  REQUIRE_GPU();
  for (const int width : {144, 64, 24}) {
    CheckTokens("h=160 i=96 e=8 k=4" + F16Plan(width),
                {0, 1, 2, 7, 8, 9, 17, 33, 64, 100, 256, 1000, 4096});
    CheckTokens("h=512 i=384 e=4 k=2 out=f32 scales=115..128" + F16Plan(width),
                {1, 16, 48, 104, 150, 300});
  }
}

TEST_CASE("f16: the sizes of the models", "[gpu][f16]") {
  REQUIRE_GPU();
  for (const char* sizes : {"h=2880 i=2880 e=4 k=4", "h=4096 i=2048 e=6 k=4",
                            "h=5120 i=288 e=8 k=6", "h=7168 i=192 e=8 k=7"})
    CheckTokens(sizes + F16Plan(), {8, 33, 100, 256, 700});
}

TEST_CASE("f16: every option", "[gpu][gpu-quick][f16]") {
  REQUIRE_GPU();
  for (const std::string words :
       {"clamp=0.5", "act=gptoss clamp=7 bias=f32 rsf=1.5 order=interleaved", "bias=bf16",
        "clamp=7 rsf=2.5", "k=1 wpos=input rw=bf16", "ids=i64 rw=bf16 out=f32", "slot=bf16",
        "slot=bf16 bias=f32", "xs=168 os=176", "e=32 ep=4 rank=3"})
    CheckTokens("h=160 i=224 e=8 k=4 " + words + F16Plan(), {3, 37, 300});
}

// All scale bytes that f16 holds, the least and the largest weights in one product.
TEST_CASE("f16: the ends of the weights' range", "[gpu][gpu-quick][f16]") {
  REQUIRE_GPU();
  for (const std::string scales : {"102..104", "102..128", "126..128"})
    CheckTokens("h=544 i=288 e=4 k=2 out=f32 scales=" + scales + F16Plan(), {3, 40, 200});
  for (const std::string scales : {"101..110", "120..129"}) {
    const GpuLayer layer(GpuCase("h=544 i=288 e=4 k=2 m=9 scales=" + scales + F16Plan()));
    CHECK(MissingWords(layer.Plan(9), "sm_90a f16:") != "");
    CHECK(RunAndJudge(layer, layer.c().in) == "");
  }
}

// Rows of x of any magnitude: some make an h that f16 cannot hold, and the bf16 path computes then.
TEST_CASE("f16: h that is too large or too small for it", "[gpu][gpu-quick][f16]") {
  REQUIRE_GPU();
  const std::string mixed = PlanOfLines(
      {"few,0,0", "path,0,f16", "mixed,0,0", "hot,0,150", "cold,0,80", "f16,0,64", "f16,200,144"});
  for (const std::string& text : {"h=288 i=160 e=4 k=2 m=90 out=f32" + F16Plan(),
                                  "h=288 i=160 e=4 k=2 m=700 clamp=10 slot=bf16" + F16Plan(),
                                  "h=288 i=160 e=24 k=4 m=1100 dist=zipf" + F16Plan(),
                                  "h=160 i=96 e=24 k=4 m=1100 dist=zipf" + mixed}) {
    const Case c = GpuCase(text);
    const GpuLayer layer(c);
    GpuCall plain(layer, c.in);
    CHECK(RunAndJudge(&plain) == "");
    for (const Factor factor :
         {Factor([](int64_t) { return 0x1p-20f; }), Factor([](int64_t) { return 0x1p-60f; }),
          Factor([](int64_t) { return 0x1p20f; }),
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

// h fits, and what GEMM2 makes of it does not: slots are fp32 then. Rows are by their own magnitude; x alone brings gates and ups to
// some 3, whatever the weights' scales are.
TEST_CASE("f16: slots that are too large or too small for it", "[gpu][gpu-quick][f16]") {
  REQUIRE_GPU();
  const std::string small = "h=544 i=288 e=4 k=2 out=f32 ",
                    mixed = PlanOfLines({"few,0,0", "path,0,f16", "mixed,0,0", "hot,0,150",
                                         "cold,0,80", "f16,0,64", "f16,200,144"});
  const struct {
    std::string text;
    Factor factor;
  } cases[] = {
      {small + "m=90 clamp=30 scales=126..128" + F16Plan(), [](int64_t) { return 0x1p10f; }},
      {small + "m=200 clamp=30 scales=126..128 bias=f32" + F16Plan(),
       [](int64_t t) { return t % 7 == 3 ? 0x1p10f : 1.0f; }},
      {small + "m=90 clamp=10 scales=110..114" + F16Plan(), [](int64_t) { return 0x1p-8f; }},
      {small + "m=200 clamp=10 scales=110..114" + F16Plan(),
       [](int64_t t) { return t % 7 == 3 ? 0x1p-8f : 1.0f; }},
      // Those that f16 would make zeros.
      {small + "m=90 clamp=10 scales=102..104" + F16Plan(), [](int64_t) { return 0x1p-9f; }},
      {small + "m=200 clamp=10 scales=102..104" + F16Plan(),
       [](int64_t t) { return t % 7 == 3 ? 0x1p-9f : 0x1p6f; }},
      {"h=160 i=96 e=24 k=4 m=1100 dist=zipf clamp=30 scales=126..128" + mixed,
       [](int64_t) { return 0x1p10f; }},
  };
  for (const auto& c : cases) {
    INFO(c.text);
    const Case made = GpuCase(c.text);
    const GpuLayer layer(made);
    const GpuCall plain(layer, made.in);
    GpuCall call(layer, Scaled(plain, made.p, c.factor));
    for (int turn = 0; turn < 2; ++turn) {
      call.Poison();
      call.args().multiprocessors = turn == 0 ? 0 : 7;
      CHECK(RunAndJudge(&call) == "");
    }
  }
}

// A chunk of 1,100 tokens in four parts of 275, of which the second and the last have what f16 does not hold. Only these run again.
bool OfSome(int64_t token) {
  return (token >= 300 && token < 306) || token == 1000;
}
TEST_CASE("f16: h and slots that some parts of a chunk have and it does not hold",
          "[gpu][gpu-quick][f16]") {
  REQUIRE_GPU();
  const std::string mixed = PlanOfLines(
      {"few,0,0", "path,0,f16", "mixed,0,0", "hot,0,150", "cold,0,80", "f16,0,64", "f16,200,144"});
  const struct {
    const char* words;
    Factor factor;
  } cases[] = {
      // h. With a clamp it fits, and slots do not.
      {"", [](int64_t t) { return OfSome(t) ? 0x1p18f : 1.0f; }},
      {"clamp=10 slot=bf16", [](int64_t t) { return OfSome(t) ? 0x1p-24f : 1.0f; }},
      {"clamp=30 scales=126..128 out=f32", [](int64_t t) { return OfSome(t) ? 0x1p10f : 1.0f; }},
      {"clamp=10 scales=110..114", [](int64_t t) { return OfSome(t) ? 0x1p-8f : 1.0f; }},
  };
  for (const auto& c : cases) {
    for (const std::string& plan : {F16Plan(), mixed}) {
      const Case made =
          GpuCase(std::string("h=160 i=96 e=24 k=4 m=1100 dist=zipf ") + c.words + plan);
      const GpuLayer layer(made);
      INFO(ProblemText(made.p) << "; " << layer.Plan(1100));
      GpuCall plain(layer, made.in);
      plain.Run();
      GpuCall call(layer, Scaled(plain, made.p, c.factor));
      std::vector<int64_t> again, once;  // rows as they were, of parts that run again and of others
      for (int64_t t = 0; t < 1100; ++t) {
        if (!OfSome(t)) (t / 275 % 2 == 1 ? again : once).push_back(t);
      }
      const auto same = [&](const std::vector<int64_t>& rows) {
        return call.RowBytes(rows) == plain.RowBytes(rows);
      };
      call.Run();
      CHECK_FALSE(same(again));
      CHECK_FALSE(same(once));
      dsv4mx_workspace_info info = DSV4MX_WORKSPACE_INFO_INIT;
      REQUIRE_OK(dsv4mx_layer_query_workspace(layer.layer(), 275, nullptr, &info));
      call.args().workspace_bytes = info.bytes;
      for (const int multiprocessors : {0, 7}) {
        INFO("multiprocessors " << multiprocessors);
        call.args().multiprocessors = multiprocessors;
        call.Poison();
        CHECK(RunAndJudge(&call) == "");
        CHECK_FALSE(same(again));
        CHECK(same(once));
      }
    }
  }
}

// By default slots are of f16, which moves the last bits of fp32 outputs and no more.
TEST_CASE("f16: slots as f16 and as asked for", "[gpu][gpu-quick][f16]") {
  REQUIRE_GPU();
  for (const std::string words : {"", " bias=f32 rsf=1.5", " rw=bf16 xs=296 os=304"}) {
    for (const int tokens : {40, 300, 1100}) {
      const std::string text =
          "h=288 i=160 e=24 k=4 dist=zipf out=f32 m=" + std::to_string(tokens) + words + F16Plan();
      const GpuLayer layer(GpuCase(text)), exact(GpuCase(text + " slot=f32"), layer.raw());
      GpuCall got(layer, layer.c().in);
      Inputs in = layer.c().in;
      in.x = got.X();
      GpuCall want(exact, in);
      CHECK(RunAndJudge(&got) == "");
      CHECK(RunAndJudge(&want) == "");
      INFO(text);
      std::vector<int64_t> rows(static_cast<size_t>(tokens));
      std::iota(rows.begin(), rows.end(), 0);
      const auto a = got.Rows(rows).y, b = want.Rows(rows).y;
      double error = 0, all = 0;
      for (size_t i = 0; i < a.size(); ++i) {
        error += std::pow(double{a[i]} - double{b[i]}, 2);
        all += std::pow(double{b[i]}, 2);
      }
      CHECK(error > 0);
      CHECK(std::sqrt(error / all) < 2.5e-4);  // a rounding to 11 bits: 2^-12 of a value at most
    }
  }
}

// As in calls that are padded to a fixed number of tokens: what the bf16 path would change shows in the bits of others.
TEST_CASE("f16: rows of zeros do not take the bf16 path", "[gpu][gpu-quick][f16]") {
  REQUIRE_GPU();
  const Case c = GpuCase("h=288 i=160 e=4 k=2 m=200 out=f32" + F16Plan());
  const GpuLayer layer(c);
  GpuCall plain(layer, c.in);
  plain.Run();
  const auto others = [&](Factor factor) {
    GpuCall call(layer, Scaled(plain, c.p, factor));
    call.Run();
    std::vector<int64_t> rows;
    for (int64_t t = 0; t < c.p.tokens; ++t) {
      if (t % 4 != 1) rows.push_back(t);
    }
    return call.RowBytes(rows) == plain.RowBytes(rows);
  };
  CHECK(others([](int64_t t) { return t % 4 == 1 ? 0.0f : 1.0f; }));
  CHECK_FALSE(others([](int64_t t) { return t % 4 == 1 ? 0x1p-24f : 1.0f; }));
}

TEST_CASE("f16: NaN and Inf of a row stay in it", "[gpu][gpu-quick][f16]") {
  REQUIRE_GPU();
  CheckNanStays(" m=80" + F16Plan());
}

TEST_CASE("f16: the same bits in less workspace and on some multiprocessors", "[gpu][f16]") {
  REQUIRE_GPU();
  const Case c = GpuCase("h=288 i=160 e=24 k=4 m=1500 dist=zipf" + F16Plan());
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
  dsv4mx_workspace_info info = DSV4MX_WORKSPACE_INFO_INIT;
  REQUIRE_OK(dsv4mx_layer_query_workspace(layer.layer(), 400, nullptr, &info));
  const size_t all = other.args().workspace_bytes;
  other.args().workspace_bytes = info.bytes;
  other.Poison();
  other.Run();
  other.args().workspace_bytes = all;
  CHECK(SameRows(whole, other) == "");
  CHECK(other.Damage() == "");
}

}  // namespace
}  // namespace dsv4mx::test
