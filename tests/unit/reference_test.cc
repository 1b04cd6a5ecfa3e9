// The tests' own reference against numbers worked out by hand: bytes of a real release, and layers small enough in
// content that the result is a formula.
#include "tests/reference.h"

#include <algorithm>
#include <cmath>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

bool Near(double a, double b) {
  return std::fabs(a - b) <= 1e-13 * std::fabs(b);
}

TEST_CASE("[A7] reference: golden bytes of a real release decode to the published values",
          "[reference]") {
  // First 16 weights of layers.0.ffn.experts.0.w1 of V4.1-Flash with their scale byte.
  const uint8_t bytes[] = {0xa0, 0xa8, 0xec, 0x4a, 0xaa, 0xdf, 0x42, 0xaa};
  const double u = 0x1p-7;
  const double want[] = {0,  -u, -0.0,   -u,     -2 * u, -4 * u, -u, 2 * u,
                         -u, -u, -6 * u, -3 * u, u,      2 * u,  -u, -u};
  for (int64_t k = 0; k < 16; ++k) {
    INFO("value " << k);
    CHECK(Weight(CodeAt(bytes, k), 0x78) == want[k]);
  }
}

TEST_CASE("[A8] reference: E8M0 bytes 0..254 mean bf16(code * 2^(b-127))", "[reference]") {
  CHECK(Weight(2, 0) == 0x1p-127);
  CHECK(Weight(1, 0) == 0x1p-128);
  CHECK(Weight(15, 127) == -6.0);
  CHECK(Weight(3, 253) == 0x1.8p126);
  CHECK(std::isfinite(Weight(5, 253)));
  CHECK(std::isinf(Weight(6, 253)));
  CHECK(std::isfinite(Weight(3, 254)));
  CHECK(std::isinf(Weight(4, 254)));
  CHECK(Weight(0, 254) == 0.0);
}

TEST_CASE("reference: bf16 rounding is to nearest, ties to even, once", "[reference]") {
  CHECK(RoundBf16(1.0 + 0x1p-8) == 1.0);               // tie, even below
  CHECK(RoundBf16(1.0 + 3 * 0x1p-8) == 1.0 + 0x1p-6);  // tie, even above
  CHECK(RoundBf16(1.0 + 0x1p-8 + 0x1p-40) ==
        1.0 + 0x1p-7);  // a float on the way would make it a tie
  CHECK(RoundBf16(0x1.ffp127) == INFINITY);
  CHECK(RoundBf16(-0x1.fdp127) == -0x1.fcp127);
  CHECK(RoundBf16(0x1.8p-134) == 0x1p-133);
  CHECK(std::isnan(RoundBf16(NAN)));
}

TEST_CASE("limits: the stated figure from 16384 numbers on, and room for the scatter of fewer",
          "[reference]") {
  for (const double n : {16384.0, 16385.0, 2e6, 1e12}) CHECK(SamplingSpread(n) == 1);
  CHECK(SamplingSpread(0) == 1);  // nothing was judged
  CHECK(std::fabs(SamplingSpread(160) - 1.285) < 1e-3);
  for (double n = 1; n < 16384; n *= 2) CHECK(SamplingSpread(n) > SamplingSpread(2 * n));
  CHECK(NumbersJudged(49, 49 * 49) == 3);  // one number, however large
  CHECK(std::fabs(NumbersJudged(1e6 + 2, 1e12 + 2) - 3) < 1e-3);
  CHECK(NumbersJudged(100, 3 * 100) == 100);  // a hundred of variance 1 and fourth moment 3
  CHECK(NumbersJudged(0, 0) == 0);
}

// Every gate and up row is `g` and `u` in k = 0 and zero elsewhere; w2 row n has code `n % 8` in k = 0.
Case OneHot(const std::string& text, int gate_code, int up_code) {
  Case c = MakeCase(text);
  for (auto& e : c.experts) {
    for (int m = 0; m < 3; ++m) {
      std::fill(e->codes[m].begin(), e->codes[m].end(), uint8_t{0});
      std::fill(e->scales[m].begin(), e->scales[m].end(), uint8_t{127});
      for (int64_t n = 0; n < e->rows[m]; ++n) {
        e->codes[m][static_cast<size_t>(n * e->k[m] / 2)] =
            static_cast<uint8_t>(m == kGate ? gate_code
                                 : m == kUp ? up_code
                                            : n % 8);
      }
    }
  }
  return c;
}

TEST_CASE("reference: a layer whose result is a formula", "[reference]") {
  Case c = OneHot("h=32 i=32 e=2 k=2 m=1 rsf=2", 4, 5);  // gate 2*x0, up 3*x0
  c.in.x[0] = ToBf16(1.5);
  c.in.ids = {1, -1};
  c.in.weights = {0.25f, 0.75f};
  const double g = 3.0, u = 4.5, h = g / (1 + std::exp(-g)) * u;
  const Reference r = Compute(c);
  for (size_t n = 0; n < 32; ++n) {
    INFO(n);
    CHECK(Near(r.truth[n], 2 * 0.25 * h * E2m1(static_cast<int>(n % 8))));
    CHECK(Near(r.spec[n], 2 * 0.25 * RoundBf16(h) * E2m1(static_cast<int>(n % 8))));
    CHECK(Near(r.bound[n], std::abs(r.truth[n])));
  }
  c.in.ids = {1, 1};  // duplicates add
  CHECK(Near(Compute(c).truth[3], 2 * 1.0 * h * E2m1(3)));
  c.p.clamp = 2.0f;
  c.in.x[0] = ToBf16(-1.5);  // the gate is clamped from above only, up from both sides
  const double down = -3.0 / (1 + std::exp(3.0)) * -2.0;
  CHECK(Near(Compute(c).truth[3], 2 * down * E2m1(3)));
  c.in.x[0] = ToBf16(1.5);
  CHECK(Near(Compute(c).truth[3], 2 * 2.0 / (1 + std::exp(-2.0)) * 2.0 * E2m1(3)));
  c.p.activation = DSV4MX_ACTIVATION_SWIGLU_GPTOSS;
  const double alpha = static_cast<double>(1.702f);
  CHECK(Near(Compute(c).truth[3], 2 * 2.0 / (1 + std::exp(-alpha * 2.0)) * 3.0 * E2m1(3)));
}

}  // namespace
}  // namespace dsv4mx::test
