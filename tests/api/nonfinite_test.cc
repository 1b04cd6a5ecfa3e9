// NaN and Inf: they go where they belong and nowhere else.
#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

constexpr uint16_t kNaN = 0x7FC1, kInf = 0x7F80, kMinusInf = 0xFF80;

// Rows other than `row` must be bit-equal to a run without the poison.
std::string OtherRowsEqual(const Output& a, const Output& b, size_t row) {
  const size_t bytes = a.raw.size() / static_cast<size_t>(a.tokens);
  for (size_t i = 0; i < a.raw.size(); ++i) {
    if (i / bytes != row && a.raw[i] != b.raw[i])
      return "row " + std::to_string(i / bytes) + " changed";
  }
  return "";
}

DEVICE_TEST_CASE("[A23] NaN or Inf in a row of x reaches that row and no other", "[nonfinite]") {
  for (const char* layer :
       {"h=96 i=64 e=3 k=3 m=8 clamp=10", "h=96 i=64 e=3 k=3 m=8",
        "h=96 i=64 e=3 k=2 m=8 act=gptoss clamp=7", "h=160 i=96 e=2 k=1 m=40"}) {
    Case c = MakeCase(layer);
    c.p.device = device;
    const Output clean = Runner(c).Apply();
    for (const uint16_t poison : {kNaN, kInf, kMinusInf}) {
      Case dirty = c;
      dirty.in.x[3 * static_cast<size_t>(c.p.hidden) + 17] = poison;
      const Output y = Runner(dirty).Apply();
      INFO(layer << " poison " << std::hex << poison);
      REQUIRE(y.damage == "");
      CHECK(OtherRowsEqual(clean, y, 3) == "");
      if (poison == kNaN) {
        for (size_t j = 0; j < static_cast<size_t>(c.p.hidden); ++j) {
          REQUIRE(std::isnan(y.y[3 * static_cast<size_t>(c.p.hidden) + j]));
        }
      }
      // Inf: weight 0 gives NaN, the others +-Inf; the clamp may make a finite number of it. The oracle knows.
      CHECK(RunAndCheck(dirty) == "");
    }
  }
}

DEVICE_TEST_CASE("[A23] NaN in a router weight reaches its row; Inf times zero is NaN",
                 "[nonfinite]") {
  Case c = MakeCase("h=64 i=64 e=3 k=2 m=5");
  c.p.device = device;
  const Output clean = Runner(c).Apply();
  for (const float poison :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Case dirty = c;
    dirty.in.weights[2 * 2 + 1] = poison;
    const Output y = Runner(dirty).Apply();
    CHECK(OtherRowsEqual(clean, y, 2) == "");
    for (size_t j = 0; j < 64; ++j) REQUIRE_FALSE(std::isfinite(y.y[2 * 64 + j]));
  }
  // A skipped slot's weight is not even looked at.
  Case skipped = c;
  skipped.in.ids[2 * 2 + 1] = -1;
  const Output want = Runner(skipped).Apply();
  skipped.in.weights[2 * 2 + 1] = std::numeric_limits<float>::quiet_NaN();
  CHECK(CheckSame(want, Runner(skipped).Apply()) == "");
}

DEVICE_TEST_CASE(
    "[A9] an expert of Inf weights that no token goes to leaves the output finite and equal",
    "[nonfinite]") {
  Case c = MakeCase("h=96 i=64 e=4 k=2 m=9 clamp=10");
  c.p.device = device;
  for (int64_t& id : c.in.ids) id = id == 2 ? -1 : id;
  // The largest scale also where all is finite: it decides which number path runs on CUDA.
  for (int m = 0; m < 3; ++m) {
    std::fill(c.experts[2]->scales[m].begin(), c.experts[2]->scales[m].end(), uint8_t{254});
    std::fill(c.experts[2]->codes[m].begin(), c.experts[2]->codes[m].end(), uint8_t{0x11});
  }
  const Output want = Runner(c).Apply();
  for (int m = 0; m < 3; ++m)
    std::fill(c.experts[2]->codes[m].begin(), c.experts[2]->codes[m].end(), uint8_t{0x77});
  const Output y = Runner(c).Apply();
  CHECK(CheckSame(want, y) == "");
  CHECK(std::all_of(y.y.begin(), y.y.end(), [](float v) { return std::isfinite(v); }));
}

DEVICE_TEST_CASE(
    "[A8][A23] weights of scale 254: Inf where bf16 overflows, and only in the rows that meet them",
    "[nonfinite]") {
  Case c = MakeCase("h=96 i=64 e=4 k=1 m=8");
  c.p.device = device;
  for (size_t t = 0; t < 8; ++t) c.in.ids[t] = static_cast<int64_t>(t % 4);
  c.experts[1]->scales[kDown][0] = 254;  // in both runs: it decides which number path runs on CUDA
  std::fill_n(c.experts[1]->codes[kDown].begin(), 16, uint8_t{0x11});
  const Output clean = Runner(c).Apply();
  c.experts[1]->codes[kDown][0] = 0x77;
  const Output y = Runner(c).Apply();
  for (size_t t = 0; t < 8; ++t) {
    if (t % 4 == 1) {
      CHECK_FALSE(std::isfinite(y.y[t * 96]));
    } else {
      CHECK(std::equal(y.raw.begin() + static_cast<int64_t>(t * 192),
                       y.raw.begin() + static_cast<int64_t>(t * 192 + 192),
                       clean.raw.begin() + static_cast<int64_t>(t * 192)));
    }
  }
  CHECK(RunAndCheck(c) == "");
}

DEVICE_TEST_CASE(
    "[A21][D6] output and workspace may hold anything: NaN, zeros and large numbers give equal "
    "bits",
    "[nonfinite]") {
  Case c = MakeCase("h=160 i=96 e=5 k=3 m=19 dist=half");
  c.p.device = device;
  const Runner run(c);
  const Output want = run.Apply();
  for (const int poison : {0x00, 0x7F, 0xC5}) {
    ApplyOptions options;
    options.poison = poison;
    CHECK(CheckSame(want, run.Apply(c.in, options)) == "");
  }
}

DEVICE_TEST_CASE("large activations overflow to Inf in bf16 as one rounding of the oracle does",
                 "[nonfinite]") {
  Case c = MakeCase("h=64 i=64 e=2 k=2 m=4 scales=140..150");
  c.p.device = device;
  for (uint16_t& v : c.in.x) v = ToBf16(0x1p20 * FromBf16(v));
  c.p.rsf = 0x1p60f;
  const Output y = Runner(c).Apply();
  CHECK(std::any_of(y.y.begin(), y.y.end(), [](float v) { return std::isinf(v); }));
  CHECK(std::none_of(y.y.begin(), y.y.end(), [](float v) { return std::isnan(v); }));
}

}  // namespace
}  // namespace dsv4mx::test
