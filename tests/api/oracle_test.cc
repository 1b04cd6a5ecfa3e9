// The library's two oracles against the tests' own reference: everything else is judged by the oracles.
#include "tests/check.h"

#include <cmath>

#include "tests/catch.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

const char* const kLayers[] = {
    "h=96 i=64 e=3 k=2 m=5 clamp=10 rsf=1.5",
    "h=256 i=160 e=4 k=3 m=9 order=up_gate rsf=2.5 clamp=2",
    "h=128 i=96 e=4 k=4 m=6 act=gptoss clamp=7 bias=1 order=interleaved",
    "h=128 i=96 e=4 k=2 m=6 act=gptoss alpha=0.5 beta=0.25 bias=f32 ids=i64 rw=bf16",
    "h=64 i=32 e=2 k=2 m=4 wpos=before nibble=high",
    "h=64 i=64 e=5 k=1 m=4 wpos=input rsf=0.5",
    "h=64 i=64 e=8 k=4 m=8 ep=2 rank=1 dist=half",
    "h=64 i=64 e=4 k=4 m=8 dist=dup scales=100..140",
};

TEST_CASE("oracles: truth equals the reference to fp32's last bit", "[oracle]") {
  for (const char* text : kLayers) {
    Case c = MakeCase(std::string(text) + " oracle=truth out=f32");
    const Reference want = Compute(c);
    const Output got = Runner(c).Apply();
    INFO(ProblemText(c.p));
    REQUIRE(got.damage == "");
    double worst = 0;
    for (size_t i = 0; i < got.y.size(); ++i) {
      // Rounding to fp32, and fp64 sums in another order.
      const double allowed = 0x1p-24 * std::fabs(want.truth[i]) + 1e-14 * want.bound[i];
      worst = std::max(
          worst, std::fabs(static_cast<double>(got.y[i]) - want.truth[i]) / (allowed + 1e-300));
    }
    CHECK(worst <= 1.0);
  }
}

TEST_CASE("oracles: spec rounds h once to bf16 and the output once", "[oracle]") {
  for (const char* text : kLayers) {
    for (const char* out : {"f32", "bf16"}) {
      Case c = MakeCase(std::string(text) + " oracle=spec out=" + out);
      const Reference want = Compute(c);
      const Output got = Runner(c).Apply();
      INFO(ProblemText(c.p));
      REQUIRE(got.damage == "");
      // An h that falls on a tie may round either way with another order of fp64 sums: rare, so most elements are equal.
      size_t different = 0;
      for (size_t i = 0; i < got.y.size(); ++i) {
        const double y = want.spec[i];
        const double rounded =
            c.p.out == DSV4MX_DTYPE_F32 ? static_cast<double>(static_cast<float>(y)) : RoundBf16(y);
        different += static_cast<double>(got.y[i]) != rounded;
        REQUIRE(std::fabs(static_cast<double>(got.y[i]) - y) <=
                0x1p-8 * (std::fabs(y) + want.bound[i]));
      }
      CHECK(different * 100 <= got.y.size());
    }
  }
}

TEST_CASE("oracles: they differ from each other and say so in the plan", "[A18][oracle]") {
  Case truth = MakeCase("h=128 i=128 m=4 out=f32 oracle=truth"), spec = truth;
  spec.p.oracle = DSV4MX_ORACLE_SPEC;
  const Runner a(truth), b(spec);
  CHECK(a.Apply().raw != b.Apply().raw);
  char one[512], two[512];
  REQUIRE_OK(dsv4mx_layer_query_plan(a.layer(), a.weights(), 4, one, sizeof one));
  REQUIRE_OK(dsv4mx_layer_query_plan(b.layer(), b.weights(), 4, two, sizeof two));
  CHECK(MissingWords(one, "truth") == "");
  CHECK(MissingWords(two, "spec") == "");
}

}  // namespace
}  // namespace dsv4mx::test
