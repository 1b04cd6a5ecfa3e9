// Every option of the layer on the device, in each number path and in both ways of counting pairs (1024 of them are the
// border): what the epilogues branch on at run time, types, strides, and which experts are held.
#include <algorithm>
#include <climits>
#include <numeric>

#include "tests/catch.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/gpu/gpu_plan.h"
#include "tests/numbers.h"
#include "tests/random.h"

namespace dsv4mx::test {
namespace {

const char* const kPaths[] = {"path=planes", "path=bf16", "path=bf16 scales=120..140"};

// The options on a shape without tails and one with them, few and many tokens.
void CheckOptions(const std::string& words) {
  for (const char* path : kPaths) {
    for (const char* sizes : {"h=128 i=128 e=8 k=4", "h=160 i=96 e=8 k=4"}) {
      // Amplitude 2: gate and up of about 6 reach the clamps.
      Problem p = GpuProblem(std::string(sizes) + " " + words + " " + path);
      p.amp = 2 * p.Amplitude();
      const GpuLayer layer(GpuCase(p));
      for (const int64_t m : {3, 37, 300 * 4 / p.top_k}) {
        p.tokens = m;
        CHECK(RunAndJudge(layer, MakeRouting(p)) == "");
      }
    }
  }
}

TEST_CASE("[A13] clamp and both activations", "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  for (const char* act : {"act=swiglu", "act=gptoss", "act=gptoss alpha=0.5 beta=-2"}) {
    for (const char* clamp : {"", " clamp=0.5", " clamp=7"}) CheckOptions(std::string(act) + clamp);
  }
}

TEST_CASE("[A14] biases of both matrices in both types", "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  for (const char* bias : {"bias=bf16", "bias=f32", "bias13=bf16", "bias13=f32 order=up_gate",
                           "bias2=bf16", "bias2=f32", "bias13=f32 bias2=bf16 order=interleaved",
                           "bias=f32 act=gptoss clamp=7 rsf=1.5 order=interleaved"})
    CheckOptions(bias);
}

TEST_CASE("[A15] router weights before, after and on the input, and the scaling factor",
          "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  for (const char* words :
       {"wpos=before", "wpos=before clamp=7 rsf=2.5", "wpos=before act=gptoss bias13=1 rw=bf16",
        "rsf=1.5", "rsf=-0.25 clamp=10", "k=1 wpos=input", "k=1 wpos=input rw=bf16 rsf=2.5",
        "k=1 wpos=input bias=f32 act=gptoss", "k=1 wpos=before", "k=1"})
    CheckOptions(words);
}

TEST_CASE("types of ids, router weights, slots and output", "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  for (const char* words :
       {"ids=i64", "rw=bf16", "ids=i64 rw=bf16 out=f32", "out=f32", "slot=bf16",
        "slot=bf16 out=f32", "slot=bf16 bias=1 rsf=1.5", "slot=bf16 wpos=before"})
    CheckOptions(words);
}

TEST_CASE("orders of w13 given as one tensor", "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  for (const char* words : {"order=gate_up", "order=up_gate", "order=interleaved"})
    CheckOptions(words);
}

TEST_CASE("strides of x and out: gaps are neither read nor written", "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  for (const char* words : {"xs=168", "os=168", "xs=1000 os=2000", "xs=176 os=168 out=f32",
                            "xs=160 os=160", "k=1 xs=168 os=200 wpos=input"})
    CheckOptions(words);
}

TEST_CASE("[H1] one rank of an expert-parallel group", "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  for (const char* words : {"e=32 ep=4 rank=0", "e=32 ep=4 rank=3 ids=i64", "e=32 ep=32 rank=17",
                            "e=24 ep=3 rank=1 dist=zipf", "e=16 ep=2 rank=1 dist=half"})
    CheckOptions(words);
}

// Few pairs, of which most are computed elsewhere, with the bits of the kernels for many pairs, which a call on part of the device
// takes.
TEST_CASE("a few tokens of a rank that holds few of their experts", "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  for (const char* words : {"h=4352 i=1024 e=16 ep=8 rank=2 k=6 path=planes",
                            "h=4352 i=288 e=16 ep=8 rank=7 k=6 slot=bf16 path=planes",
                            "h=2208 i=1056 e=12 ep=4 rank=1 k=6 compute=w4a8"}) {
    for (const char* tokens : {"m=1", "m=2", "m=4"}) {
      const Case c = GpuCase(std::string(words) + " " + tokens);
      INFO(ProblemText(c.p));
      const GpuLayer layer(c);
      GpuCall whole(layer, c.in), part(layer, c.in);
      part.args().multiprocessors = 60;
      CHECK(RunAndJudge(&whole) == "");
      part.Run();
      CHECK(SameRows(whole, part) == "");
    }
  }
}

// The stages of a token's slots, one or all of them, are shared out to eight teams, which is 0 to 16 for each and up to three slots of
// one team; the ends of K are in stages of their own length.
TEST_CASE("up to four tokens of a layer whose K is long", "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  uint64_t turn = 0;
  for (const int i : {1024, 1056, 1152, 1248, 1536, 2048, 2880, 3072}) {
    for (const char* words :
         {"e=12 ep=4 rank=1 k=6 path=planes", "e=6 k=6 bias=f32 path=planes",
          "e=16 k=16 rsf=1.5 path=planes", "e=4 k=1 slot=bf16 path=planes",
          "e=3 k=2 out=f32 scales=110..120 path=planes", "e=24 ep=2 rank=1 k=8 compute=w4a8"}) {
      const Case c =
          GpuCase("h=" + std::to_string(96 + 32 * (turn % 5)) + " i=" + std::to_string(i) + " " +
                  words + " m=" + std::to_string(1 + turn % 4));
      turn++;
      INFO(ProblemText(c.p));
      const GpuLayer layer(c);
      GpuCall whole(layer, c.in);
      CHECK(RunAndJudge(&whole) == "");
      for (const float factor : {1.0f, 0x1p-50f, 0x1p-63f, 0x1p40f}) {
        Inputs in = c.in;
        in.x = whole.X();
        for (uint16_t& v : in.x) v = ToBf16(FromBf16(v) * factor);
        GpuCall scaled(layer, in);
        scaled.Run();
        GpuCall other(layer, in);
        other.args().multiprocessors = 60;
        other.Run();
        INFO("x times " << factor);
        CHECK(SameRows(scaled, other) == "");
      }
    }
  }
}

// The longest K that a team's warps can look up, 32 stages of it: of two slots of sixteen, of one of eight, and shared out among all.
TEST_CASE("up to four tokens with as many stages of long K as a warp has lanes",
          "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  const std::string few = PlanOfLines({"few,0,1000000"});
  for (const std::string words :
       {"h=96 i=4096 e=16 k=16 m=3 path=planes", "h=64 i=4096 e=16 k=16 m=2 dist=half path=planes",
        "h=64 i=8192 e=8 k=8 m=2 slot=bf16 path=planes",
        "h=96 i=8192 e=8 k=6 m=3 dist=half path=planes",
        "h=64 i=7936 e=16 ep=2 rank=1 k=8 m=4 path=planes",
        "h=64 i=4032 e=16 k=16 m=1 compute=w4a8"}) {
    const Case c = GpuCase(words + few);
    const GpuLayer layer(c);
    INFO(ProblemText(c.p));
    CHECK(MissingWords(layer.Plan(c.p.tokens), " for few pairs") == "");
    GpuCall whole(layer, c.in), other(layer, c.in);
    CHECK(RunAndJudge(&whole) == "");
    other.args().multiprocessors = 60;
    other.Run();
    CHECK(SameRows(whole, other) == "");
  }
}

// Kernels are chosen by the host's bound; of eight tokens they write slots, of four none, whatever the device says.
TEST_CASE("up to four and to eight tokens of long K and fewer by the device integer",
          "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  const std::string few = PlanOfLines({"few,0,1000000"});
  for (const std::string words :
       {"h=160 i=1056 e=12 ep=4 rank=1 k=6 path=planes", "h=96 i=2048 e=6 k=6 bias=f32 path=planes",
        "h=128 i=1152 e=16 k=16 rsf=1.5 os=136 path=planes",
        "h=96 i=3072 e=4 k=1 slot=bf16 out=f32 path=planes",
        "h=160 i=1248 e=24 ep=2 rank=1 k=8 compute=w4a8"}) {
    const Case c = GpuCase(words + " m=8" + few);
    const GpuLayer layer(c);
    GpuCall all(layer, c.in);
    CHECK(RunAndJudge(&all) == "");
    Inputs in = c.in;
    in.x = all.X();
    for (const int64_t m : {1, 2, 4, 8}) {
      INFO(ProblemText(c.p) << ", up to " << m);
      CHECK(MissingWords(layer.Plan(m), " for few pairs") == "");
      std::vector<int64_t> tokens(static_cast<size_t>(m));
      std::iota(tokens.begin(), tokens.end(), 0);
      GpuCallOptions options;
      options.tokens_device = 0;
      GpuCall call(layer, TakeRows(c.p, in, tokens), options);
      for (int64_t n = -1; n <= m + 1; ++n) {
        INFO("tokens_device " << n);
        call.SetCount(static_cast<int32_t>(n));
        call.Poison();
        CHECK(RunAndJudge(&call) == "");
        tokens.resize(static_cast<size_t>(std::clamp<int64_t>(n, 0, m)));
        std::iota(tokens.begin(), tokens.end(), 0);
        CHECK((call.RowBytes(tokens) == all.RowBytes(tokens)));
      }
    }
  }
}

TEST_CASE("batch invariance in all paths judges as well as without", "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  CheckOptions("invariant=1");
  CheckOptions("invariant=1 act=gptoss clamp=7 bias=1");
}

TEST_CASE("[H1][H4] placements: any order, redundant copies, ids that nobody holds",
          "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  for (const char* path : kPaths) {
    for (const char* ids : {"i32", "i64"}) {
      Case c = GpuCase(std::string("h=96 i=64 e=24 ep=3 k=5 m=230 ids=") + ids + " " + path);
      Rng rng(c.p.seed);
      for (int32_t s = 0; s < 8; ++s) c.placement.push_back(static_cast<int32_t>(rng.Below(24)));
      const GpuLayer layer(c);
      CHECK(RunAndJudge(layer, c.in) == "");
      // Ids of no meaning, some far outside.
      const int64_t odd[] = {-1, -7, 24, 25, 1 << 20, INT32_MAX, INT32_MIN};
      const int64_t wide[] = {INT64_MIN, INT64_MAX, INT64_C(1) << 32, (INT64_C(1) << 32) + 3};
      Inputs in = c.in;
      for (int64_t& id : in.ids) {
        const int64_t draw = rng.Below(22);
        if (draw < 7) id = odd[draw];
        if (draw >= 18 && c.p.ids == DSV4MX_DTYPE_I64) id = wide[draw - 18];
      }
      CHECK(RunAndJudge(layer, in) == "");
    }
  }
}

TEST_CASE("[A16] router weights are multiplied as they are: negative, zero, above one, tiny",
          "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  for (const char* path : kPaths) {
    for (const char* position : {"after", "before"}) {
      Case c = GpuCase(std::string("h=96 i=64 e=6 k=4 m=33 out=f32 wpos=") + position + " " + path);
      const float values[] = {-1.0f, 0.0f, 8.08f, 1e-20f, 0.25f, -0.0f, 1000.0f};
      Rng rng(c.p.seed);
      for (float& w : c.in.weights) w = values[rng.Below(7)];
      for (size_t s = 0; s < 4; ++s) c.in.weights[7 * 4 + s] = 0.0f;
      const GpuLayer layer(c);
      CHECK(RunAndJudge(layer, c.in) == "");
    }
  }
}

TEST_CASE("tokens given by the device: clamped, other rows left alone",
          "[gpu][gpu-quick][options]") {
  REQUIRE_GPU();
  for (const char* path : kPaths) {
    for (const int64_t m : {9, 700}) {
      Case c = GpuCase("h=160 i=96 e=6 k=3 m=" + std::to_string(m) + " " + path);
      const GpuLayer layer(c);
      for (const int64_t n : {int64_t{0}, int64_t{1}, m / 2, m - 1, m, m + 1, int64_t{INT32_MAX},
                              int64_t{-1}, int64_t{INT32_MIN}}) {
        INFO("tokens_device " << n);
        GpuCallOptions options;
        options.tokens_device = static_cast<int32_t>(n);
        CHECK(RunAndJudge(layer, c.in, options) == "");
      }
    }
  }
}

TEST_CASE("a count below zero is no token in a later chunk either", "[gpu][options]") {
  REQUIRE_GPU();
  const Case c = GpuCase("h=32 i=32 e=2 k=1 m=20000");
  const GpuLayer layer(c);
  CHECK(MissingWords(layer.Plan(20000), "2 chunks") == "");
  for (const int32_t n : {INT32_MIN, INT32_MIN + 1, -1}) {
    INFO("tokens_device " << n);
    GpuCallOptions options;
    options.tokens_device = n;
    CHECK(RunAndJudge(layer, c.in, options) == "");
  }
}

}  // namespace
}  // namespace dsv4mx::test
