// W4A8: activations in E4M3, asked for by name. Judged tightly by an oracle that rounds the same way (RunAndCheck), and by
// how far that may be from W4A16's truth.
#include <cmath>

#include "lib/base/e4m3.h"
#include "tests/catch.h"
#include "tests/check.h"
#include "tests/numbers.h"
#include "tests/random.h"

namespace dsv4mx::test {
namespace {

// What W4A8 is away from the truth of W4A16.
double ErrorOf(const std::string& text, dsv4mx_device device) {
  Case c = MakeCase(text);
  c.p.device = device;
  return Judge(c.p, Runner(c).Apply(), Compute(c)).truth;
}

TEST_CASE("W4A8: the host's quantiser gives the numbers of the format", "[w4a8]") {
  Rng rng(7);
  for (const int count : {32, 96, 128, 160, 288}) {
    for (int draw = 0; draw < 200; ++draw) {
      std::vector<float> fast(static_cast<size_t>(count));
      std::vector<double> plain(fast.size());
      // Every magnitude from far below the least peak to far above it, ties (few bits) included.
      const int exponent = static_cast<int>(rng.Below(60)) - 40;
      for (size_t i = 0; i < fast.size(); ++i) {
        const double v = std::ldexp(static_cast<double>(rng.Below(1025)) - 512,
                                    exponent - static_cast<int>(rng.Below(14)));
        fast[i] = static_cast<float>(v);
        plain[i] = v;
      }
      QuantiseE4m3(fast.data(), count, 1);
      QuantiseRow(plain.data(), plain.size());
      for (size_t i = 0; i < fast.size(); ++i) REQUIRE(static_cast<double>(fast[i]) == plain[i]);
    }
  }
  // Each E4M3 number is itself, and what lies between two goes to the nearer or the even one.
  for (int code = 0; code < 126; ++code) {
    const auto value = [](int n) {
      return n < 8 ? n * 0x1p-9 : (8 + n % 8) * std::ldexp(1.0, n / 8 - 10);
    };
    const double low = value(code), high = value(code + 1);
    for (const double sign : {1.0, -1.0}) {
      const auto round = [&](double v) {
        CHECK(static_cast<double>(RoundE4m3(static_cast<float>(v))) == RoundE4m3(v));
        return RoundE4m3(v);
      };
      CHECK(round(sign * low) == sign * low);
      CHECK(round(sign * (low + high) / 2) == sign * (code % 2 == 0 ? low : high));
      CHECK(round(sign * (0.51 * low + 0.49 * high)) == sign * low);
      CHECK(round(sign * (0.49 * low + 0.51 * high)) == sign * high);
    }
  }
  CHECK(E4m3Scale(448.0f) == 1.0f);
  CHECK(E4m3Scale(448.5f) == 2.0f);
  CHECK(E4m3Scale(0.0f) == 0x1p-22f);  // 1e-4 / 448 = 2^-22.1
  CHECK(E4m3Scale(std::numeric_limits<float>::max()) == 0x1p120f);
}

TEST_CASE("W4A8: the oracle equals the reference but for ties", "[w4a8][oracle]") {
  for (const char* text :
       {"h=256 i=160 e=4 k=3 m=9 clamp=2", "h=96 i=288 e=3 k=2 m=7 act=gptoss bias=1",
        "h=160 i=128 e=2 k=1 m=5 wpos=input", "h=128 i=96 e=4 k=2 m=6 wpos=before"}) {
    const Case c = MakeCase(std::string(text) + " compute=w4a8 oracle=spec out=f32");
    const Reference want = Compute(c);
    const Output got = Runner(c).Apply();
    INFO(text);
    REQUIRE(got.damage == "");
    CHECK(CheckOutput(c, got, want) == "");
    size_t different = 0;
    for (size_t i = 0; i < got.y.size(); ++i)
      different += got.y[i] != static_cast<float>(want.spec[i]);
    CHECK(different * 100 <= got.y.size());
  }
}

DEVICE_TEST_CASE("[C1] W4A8 on every shape: tails of 64 and 32 in both matrices", "[w4a8]") {
  for (int h = 32; h <= 288; h += 64) {
    for (int i = 32; i <= 288; i += 32) {
      CHECK(
          RunAndCheck("compute=w4a8 e=2 k=2 m=5 h=" + std::to_string(h) + " i=" + std::to_string(i),
                      device) == "");
    }
  }
}

DEVICE_TEST_CASE("W4A8 with every option", "[w4a8]") {
  for (const char* words : {"clamp=2 rsf=1.5", "act=gptoss clamp=7 bias=1 order=interleaved",
                            "bias=f32 ids=i64 rw=bf16", "wpos=before", "k=1 wpos=input", "out=f32",
                            "slot=bf16", "dist=half", "dist=dup", "dist=none", "e=8 ep=2 rank=1",
                            "scales=100..128", "scales=120..140", "path=bf16", "invariant=1"}) {
    CHECK(RunAndCheck(std::string("compute=w4a8 h=160 i=224 e=4 k=3 m=17 ") + words, device) == "");
  }
}

DEVICE_TEST_CASE("W4A8 is off by what E4M3 costs, and by more than W4A16", "[w4a8]") {
  const std::string layer = "h=512 i=384 e=4 k=2 m=16 clamp=10";
  const double error = ErrorOf(layer + " compute=w4a8", device);
  INFO(error);
  CHECK(error > 3e-2);
  CHECK(error < kQuantisedTruth);
  CHECK(ErrorOf(layer, device) < 3e-3);
}

}  // namespace
}  // namespace dsv4mx::test
