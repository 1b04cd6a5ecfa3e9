// Every option of the layer against the oracle, on each device, and against the option's own meaning.
#include <cmath>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

Output Run(const Case& c) {
  return Runner(c).Apply();
}

DEVICE_TEST_CASE("[A4] three orders of w13 and separate w1, w3 give equal bits", "[api]") {
  Case c = MakeCase("h=160 i=96 e=3 k=2 m=7 clamp=10");
  c.p.device = device;
  const Output first = Run(c);
  CHECK(RunAndCheck(c) == "");
  for (const char* order : {"gate_up", "up_gate", "interleaved"}) {
    INFO(order);
    Case other = c;
    other.p.order = Parse(std::string("order=") + order).order;
    CHECK(CheckSame(first, Run(other)) == "");
  }
}

DEVICE_TEST_CASE("[A7] both nibble orders give equal bits for the same codes", "[api]") {
  Case c = MakeCase("h=160 i=96 e=3 k=2 m=7 order=gate_up");
  c.p.device = device;
  const Output low = Run(c);
  c.p.nibble = DSV4MX_NIBBLE_ORDER_HIGH_FIRST;
  CHECK(CheckSame(low, Run(c)) == "");
  CHECK(RunAndCheck(c) == "");
}

DEVICE_TEST_CASE("[A7] golden bytes of a real release come out as the published weights", "[api]") {
  // w1 row 0 of V4.1-Flash, layers.0.ffn.experts.0: one-hot tokens read weight k out of gate row 0.
  const uint8_t bytes[] = {0xa0, 0xa8, 0xec, 0x4a, 0xaa, 0xdf, 0x42, 0xaa,
                           0xcc, 0x82, 0x25, 0x6f, 0xfa, 0x05, 0x45, 0x44};
  const double u = 0x1p-7;
  const double want[16] = {0,  -u, -0.0,   -u,     -2 * u, -4 * u, -u, 2 * u,
                           -u, -u, -6 * u, -3 * u, u,      2 * u,  -u, -u};
  Case c = MakeCase("h=32 i=32 e=1 k=1 m=16 out=f32");
  c.p.device = device;
  ExpertData& e = *c.experts[0];
  for (int m = 0; m < 3; ++m) {
    std::fill(e.codes[m].begin(), e.codes[m].end(), uint8_t{0});
    std::fill(e.scales[m].begin(), e.scales[m].end(), uint8_t{127});
  }
  std::copy(std::begin(bytes), std::end(bytes), e.codes[kGate].begin());
  e.scales[kGate][0] = 0x78;
  // x = 32 at k; u row 0 = 1 * x; w2 element (0, 0) = 1, so y[0] = silu(32 w) * 32.
  for (int64_t k = 0; k < 32; ++k) e.codes[kUp][static_cast<size_t>(k / 2)] = 0x22;
  e.codes[kDown][0] = 0x02;
  std::fill(c.in.x.begin(), c.in.x.end(), uint16_t{0});
  for (size_t t = 0; t < 16; ++t) c.in.x[t * 32 + t] = ToBf16(32);
  std::fill(c.in.ids.begin(), c.in.ids.end(), 0);
  std::fill(c.in.weights.begin(), c.in.weights.end(), 1.0f);
  const Output y = Run(c);
  REQUIRE(y.damage == "");
  for (size_t t = 0; t < 16; ++t) {
    const double g = 32 * want[t], h = RoundBf16(g / (1 + std::exp(-g)) * 32);
    INFO("weight " << t);
    CHECK(std::fabs(static_cast<double>(y.y[t * 32]) - h) <= 0x1p-7 * std::fabs(h));
  }
}

DEVICE_TEST_CASE("[A13] clamp on both branches with each activation, values far beyond the limit",
                 "[api]") {
  for (const char* act : {"swiglu", "gptoss"}) {
    for (const char* clamp : {"0", "0.5", "7", "10"}) {
      Problem p = Parse(std::string("h=128 i=96 e=3 k=2 m=9 act=") + act + " clamp=" + clamp);
      p.device = device;
      p.amp = 2 * p.Amplitude();  // gate and up of about 6
      CHECK(RunAndCheck(MakeCase(p)) == "");
    }
  }
}

TEST_CASE("[A13] the gate is clamped from above only, up from both sides, before the activation",
          "[api]") {
  // Gate 4*x0, up 4*x1; w2 picks intermediate 0.
  Case c = MakeCase("h=32 i=32 e=1 k=1 m=4 out=f32 clamp=2");
  ExpertData& e = *c.experts[0];
  for (int m = 0; m < 3; ++m) {
    std::fill(e.codes[m].begin(), e.codes[m].end(), uint8_t{0});
    std::fill(e.scales[m].begin(), e.scales[m].end(), uint8_t{127});
  }
  e.codes[kGate][0] = 0x06;
  e.codes[kUp][0] = 0x60;
  e.codes[kDown][0] = 0x02;
  std::fill(c.in.ids.begin(), c.in.ids.end(), 0);
  std::fill(c.in.weights.begin(), c.in.weights.end(), 1.0f);
  std::fill(c.in.x.begin(), c.in.x.end(), uint16_t{0});
  const double x0[] = {3, -3, 3, -3}, x1[] = {3, 3, -3, -3};
  for (size_t t = 0; t < 4; ++t) c.in.x[t * 32] = ToBf16(x0[t]), c.in.x[t * 32 + 1] = ToBf16(x1[t]);
  for (const bool oss : {false, true}) {
    c.p.activation = oss ? DSV4MX_ACTIVATION_SWIGLU_GPTOSS : DSV4MX_ACTIVATION_SWIGLU;
    const Output y = Run(c);
    for (size_t t = 0; t < 4; ++t) {
      const double g = x0[t] > 0 ? 2 : -12, u = x1[t] > 0 ? 2 : -2;
      const double h = g / (1 + std::exp(-(oss ? 1.702 : 1.0) * g)) * (u + (oss ? 1 : 0));
      INFO("token " << t << (oss ? " gptoss" : " swiglu"));
      CHECK(std::fabs(static_cast<double>(y.y[t * 32]) - h) <= 0x1p-8 * std::fabs(h) + 1e-12);
    }
  }
}

DEVICE_TEST_CASE("GPT-OSS activation: alpha and beta", "[api]") {
  for (const char* text :
       {"alpha=1.702 beta=1", "alpha=0.5 beta=-2", "alpha=3 beta=0.125 clamp=7", ""}) {
    CHECK(RunAndCheck(std::string("h=96 i=64 e=2 k=2 m=5 act=gptoss ") + text, device) == "");
  }
}

DEVICE_TEST_CASE("[A14] bias of either matrix, bf16 or f32, on and off", "[api]") {
  for (const char* b13 : {"0", "bf16", "f32"}) {
    for (const char* b2 : {"0", "bf16", "f32"}) {
      for (const char* order : {"gate_up", "interleaved", "up_gate"}) {
        CHECK(RunAndCheck(std::string("h=96 i=64 e=3 k=2 m=5 bias13=") + b13 + " bias2=" + b2 +
                              " order=" + order + " act=gptoss clamp=7",
                          device) == "");
      }
    }
  }
}

DEVICE_TEST_CASE("[A15] routed scaling factor is applied once", "[api]") {
  Case c = MakeCase("h=128 i=64 e=4 k=3 m=6 out=f32");
  c.p.device = device;
  const Output one = Run(c);
  for (const float rsf : {1.0f, 1.5f, 2.5f, -0.25f}) {
    c.p.rsf = rsf;
    CHECK(RunAndCheck(c) == "");
    const Output y = Run(c);
    float worst = 0;
    for (size_t i = 0; i < y.y.size(); ++i)
      worst = std::max(worst, std::fabs(y.y[i] - rsf * one.y[i]) / std::fabs(rsf * one.y[i]));
    INFO("rsf " << rsf);
    CHECK(worst <= 0x1p-22f);
  }
}

DEVICE_TEST_CASE("router weight positions", "[api]") {
  CHECK(RunAndCheck("h=96 i=96 e=4 k=3 m=8 wpos=before clamp=10 rsf=1.5", device) == "");
  CHECK(RunAndCheck("h=96 i=96 e=4 k=3 m=8 wpos=before bias13=1 act=gptoss", device) == "");
  CHECK(RunAndCheck("h=96 i=96 e=4 k=1 m=8 wpos=input rsf=2.5", device) == "");
  CHECK(RunAndCheck("h=96 i=96 e=4 k=1 m=8 wpos=input bias=f32 act=gptoss rw=bf16", device) == "");
  Case c = MakeCase("h=96 i=96 e=4 k=1 m=8 out=f32");
  c.p.device = device;
  for (float& w : c.in.weights) w = 0.5f;
  const Output after = Run(c);
  c.p.wpos = DSV4MX_ROUTER_WEIGHT_BEFORE_W2;
  CHECK(CheckSame(after, Run(c)) == "");  // 0.5 commutes with every rounding
  c.p.wpos = DSV4MX_ROUTER_WEIGHT_ON_INPUT;
  CHECK(CheckSame(after, Run(c)) != "");  // but not with the activation
}

DEVICE_TEST_CASE("dtypes of ids, router weights, slots and output", "[api]") {
  for (const char* ids : {"i32", "i64"}) {
    for (const char* rw : {"f32", "bf16"}) {
      for (const char* out : {"bf16", "f32"}) {
        CHECK(RunAndCheck(
                  std::string("h=96 i=64 e=4 k=3 m=6 ids=") + ids + " rw=" + rw + " out=" + out,
                  device) == "");
      }
    }
  }
  Case c = MakeCase("h=96 i=64 e=4 k=3 m=6 slot=bf16");
  c.p.device = device;
  Limits bf16_slots;  // one rounding more on CUDA (architecture.md section 7)
  bf16_slots.truth = 3.5e-3;
  bf16_slots.spec = 3.5e-3;
  CHECK(RunAndCheck(c, bf16_slots) == "");
}

DEVICE_TEST_CASE("[A22] strides of x and out: same numbers, gaps neither read nor written",
                 "[api]") {
  Case c = MakeCase("h=96 i=64 e=4 k=2 m=5");
  c.p.device = device;
  const Output dense = Run(c);
  for (const char* strides : {"xs=104", "os=104", "xs=128 os=96", "xs=1000 os=2000"}) {
    const Problem s = Parse(std::string("h=96 ") + strides);
    c.p.x_stride = s.x_stride;
    c.p.out_stride = s.out_stride;
    for (const char* out : {"bf16", "f32"}) {
      c.p.out = Parse(std::string("out=") + out).out;
      INFO(strides << " " << out);
      CHECK(RunAndCheck(c) == "");
    }
    c.p.out = 0;
    CHECK(CheckSame(dense, Run(c)) == "");
  }
}

DEVICE_TEST_CASE("[A20] every argument counts: changing any one of them changes the output",
                 "[api]") {
  Case c = MakeCase("h=64 i=64 e=2 k=2 m=3 bias=1 act=gptoss clamp=7 order=gate_up");
  c.p.device = device;
  const Output base = Run(c);
  const auto differs = [&](const char* what, auto change) {
    Case other = MakeCase(c.p);
    change(other);
    INFO(what);
    CHECK(CheckSame(base, Run(other)) != "");
  };
  differs("x", [](Case& o) { o.in.x[3] = ToBf16(FromBf16(o.in.x[3]) + 1.0); });
  differs("an id", [](Case& o) { o.in.ids[2] = -1; });
  differs("a router weight", [](Case& o) { o.in.weights[1] += 0.125f; });
  differs("rsf", [](Case& o) { o.p.rsf = 1.5f; });
  differs("clamp", [](Case& o) { o.p.clamp = 0.5f; });
  differs("alpha", [](Case& o) { o.p.alpha = 1.0f; });
  differs("beta", [](Case& o) { o.p.beta = 0.5f; });
  differs("activation", [](Case& o) { o.p.activation = DSV4MX_ACTIVATION_SWIGLU; });
  for (size_t m = 0; m < 3; ++m) {
    differs("codes",
            [&](Case& o) { o.experts[0]->codes[m][5] ^= 0x77, o.experts[1]->codes[m][5] ^= 0x77; });
    differs("scales",
            [&](Case& o) { o.experts[0]->scales[m][1] ^= 3, o.experts[1]->scales[m][1] ^= 3; });
    differs("bias", [&](Case& o) { o.experts[0]->bias[m][0] += 4, o.experts[1]->bias[m][0] += 4; });
  }
}

}  // namespace
}  // namespace dsv4mx::test
