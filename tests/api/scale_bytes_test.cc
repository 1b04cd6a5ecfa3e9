// E8M0 scales: every byte but 255, bytes and numbers alike, and what is refused with its position.
#include <algorithm>
#include <cmath>
#include <functional>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/numbers.h"
#include "tests/random.h"

namespace dsv4mx::test {
namespace {

DEVICE_TEST_CASE("[A8] scale bytes 0, 1, 127, 253, 254 mean bf16(code * 2^(b-127))", "[scales]") {
  // x is scaled against the byte, so that the products stay in range; codes 4 and 6 of 253 and 2..6 of 254 are Inf.
  const struct {
    int byte, x_exponent;
    uint8_t keep;  // largest magnitude code
  } cases[] = {{0, 120, 7},  {1, 119, 7},   {64, 60, 7},    {127, 0, 7},   {128, 0, 7},
               {129, -2, 7}, {200, -75, 7}, {253, -126, 5}, {254, -126, 3}};
  for (const auto& s : cases) {
    Case c = MakeCase("h=96 i=64 e=2 k=2 m=4 out=f32");
    c.p.device = device;
    for (auto& e : c.experts) {
      for (const int m : {kGate, kUp}) {
        std::fill(e->scales[m].begin(), e->scales[m].end(), static_cast<uint8_t>(s.byte));
        for (uint8_t& b : e->codes[m]) {
          const auto limit = [&](int code) {
            return (code & 7) > s.keep ? (code & 8) | s.keep : code;
          };
          b = static_cast<uint8_t>(limit(b & 15) | limit(b >> 4) << 4);
        }
      }
    }
    Rng rng(7);
    for (uint16_t& v : c.in.x) v = ToBf16(std::ldexp(rng.Normal(), s.x_exponent - 5));
    INFO("byte " << s.byte);
    CHECK(RunAndCheck(c) == "");
  }
}

DEVICE_TEST_CASE("[A8] tiny scales of w2 are not flushed: the output keeps 2^-127 times the sum",
                 "[scales]") {
  Case c = MakeCase("h=32 i=32 e=1 k=1 m=1 out=f32 order=gate_up bias13=f32");
  c.p.device = device;
  ExpertData& e = *c.experts[0];
  std::fill(e.scales[kDown].begin(), e.scales[kDown].end(), uint8_t{0});
  std::fill(e.bias[kGate].begin(), e.bias[kGate].end(),
            0x1p20f);  // h near 2^40 lifts y out of the subnormals
  std::fill(e.bias[kUp].begin(), e.bias[kUp].end(), 0x1p20f);
  c.in.ids = {0};
  CHECK(RunAndCheck(c) == "");
  const Output y = Runner(c).Apply();
  float largest = 0;
  for (float v : y.y) largest = std::max(largest, std::fabs(v));
  CHECK(largest > 0x1p-90f);
}

TEST_CASE("[A8] every byte 0..254 in every group position is kept by the oracle", "[scales]") {
  // One-hot tokens read the weights of gate row 0 one by one: y = silu(w x) * 1.
  Case c = MakeCase("h=1024 i=32 e=1 k=1 m=8 out=f32 oracle=truth");
  ExpertData& e = *c.experts[0];
  for (int start = 0; start < 255; start += 32) {
    for (int m = 0; m < 3; ++m) {
      std::fill(e.codes[m].begin(), e.codes[m].end(), uint8_t{0});
      std::fill(e.scales[m].begin(), e.scales[m].end(), uint8_t{127});
    }
    for (int g = 0; g < 32; ++g) {
      e.codes[kGate][static_cast<size_t>(g * 16)] = 0x02;
      e.codes[kUp][static_cast<size_t>(g * 16)] = 0x02;
      e.scales[kGate][static_cast<size_t>(g)] = static_cast<uint8_t>(std::min(start + g, 254));
    }
    e.codes[kDown][0] = 0x02;
    c.p.tokens = 32;
    c.in.x.assign(32 * 1024, 0);
    c.in.ids.assign(32, 0);
    c.in.weights.assign(32, 1.0f);
    for (size_t g = 0; g < 32; ++g) c.in.x[g * 1024 + g * 32] = ToBf16(1.0);
    const Output y = Runner(c).Apply();
    for (size_t g = 0; g < 32; ++g) {
      const int byte = std::min(start + static_cast<int>(g), 254);
      const double w = std::ldexp(1.0, byte - 127), h = w / (1 + std::exp(-w));
      INFO("byte " << byte << " group " << g);
      CHECK(std::fabs(static_cast<double>(y.y[g * 1024]) - h) <= 0x1p-23 * h);
    }
  }
}

// One whole layer's scales in another dtype.
template <typename T, typename F>
void SetScalesAs(dsv4mx_weights* weights, const Case& c, dsv4mx_dtype dtype, F value) {
  const char* names[] = {"w1.scale", "w3.scale", "w2.scale"};
  for (int32_t e = 0; e < c.p.experts; ++e) {
    const ExpertData& d = *c.experts[static_cast<size_t>(e)];
    for (int m = 0; m < 3; ++m) {
      std::vector<T> numbers(d.scales[m].size());
      for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = value(d.scales[m][i]);
      const dsv4mx_tensor t = Tensor(numbers.data(), dtype, {d.rows[m], d.k[m] / 32});
      REQUIRE_OK(dsv4mx_weights_set(weights, names[m], e, &t, nullptr, nullptr));
    }
  }
}

Output ApplyWith(const Case& c, const std::function<void(dsv4mx_weights*)>& set_scales) {
  const Runner plain(c);
  const WeightsPtr weights = MakeWeights(plain.layer());
  for (int32_t e = 0; e < c.p.experts; ++e)
    SetExpert(weights.get(), c.p, e, *c.experts[static_cast<size_t>(e)]);
  set_scales(weights.get());
  REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr));
  return ApplyGuarded(plain.context(), plain.layer(), weights.get(), c.p, c.in);
}

DEVICE_TEST_CASE(
    "[A5] scales as bytes (E8M0, I8, U8) and as numbers (f32, bf16, f16) give equal bits",
    "[scales]") {
  Case c = MakeCase("h=96 i=64 e=2 k=2 m=4 scales=104..141");  // what f16 can hold
  c.p.device = device;
  const Output want = Runner(c).Apply();
  const auto number = [](uint8_t b) { return std::ldexp(1.0f, b - 127); };
  const auto byte = [](uint8_t b) { return b; };
  CHECK(CheckSame(want, ApplyWith(c, [&](dsv4mx_weights* w) {
                    SetScalesAs<uint8_t>(w, c, DSV4MX_DTYPE_I8, byte);
                  })) == "");
  CHECK(CheckSame(want, ApplyWith(c, [&](dsv4mx_weights* w) {
                    SetScalesAs<uint8_t>(w, c, DSV4MX_DTYPE_U8, byte);
                  })) == "");
  CHECK(CheckSame(want, ApplyWith(c, [&](dsv4mx_weights* w) {
                    SetScalesAs<float>(w, c, DSV4MX_DTYPE_F32, number);
                  })) == "");
  CHECK(CheckSame(want, ApplyWith(c, [&](dsv4mx_weights* w) {
                    SetScalesAs<uint16_t>(w, c, DSV4MX_DTYPE_BF16,
                                          [&](uint8_t b) { return ToBf16(number(b)); });
                  })) == "");
  CHECK(CheckSame(want, ApplyWith(c, [&](dsv4mx_weights* w) {
                    SetScalesAs<uint16_t>(w, c, DSV4MX_DTYPE_F16,
                                          [](uint8_t b) { return PowerOfTwoF16(b - 127); });
                  })) == "");
}

TEST_CASE("[A5] numeric scales at the ends of the range: 2^-127 and 2^127 are taken", "[scales]") {
  Case c = MakeCase("h=32 i=32 e=1 k=1 m=1");
  const Runner run(c);
  const WeightsPtr weights = MakeWeights(run.layer());
  for (const float v : {0x1p-127f, 0x1p-126f, 0x1p127f}) {
    const std::vector<float> numbers(32, v);
    const dsv4mx_tensor t = Tensor(numbers.data(), DSV4MX_DTYPE_F32, {32, 1});
    REQUIRE_OK(dsv4mx_weights_set(weights.get(), "w1.scale", 0, &t, nullptr, nullptr));
  }
}

TEST_CASE("[A5] numbers that are no power of two in range are refused with their position",
          "[scales]") {
  Case c = MakeCase("h=128 i=64 e=3 k=1 m=1");
  const Runner run(c);
  const WeightsPtr weights = MakeWeights(run.layer());
  const struct {
    float value;
    const char* shown;
  } cases[] = {{3.0f, "3"},
               {0.0f, "0"},
               {-1.0f, "-1"},
               {NAN, "nan"},
               {INFINITY, "inf"},
               {0x1p-128f, "e-39"},
               {0x1.000002p0f, "1.0000001"}};
  for (const auto& bad : cases) {
    std::vector<float> numbers(64 * 4, 0.5f);
    numbers[17 * 4 + 2] = bad.value;
    const dsv4mx_tensor t = Tensor(numbers.data(), DSV4MX_DTYPE_F32, {64, 4});
    REQUIRE_REFUSED(dsv4mx_weights_set(weights.get(), "w3.scale", 1, &t, nullptr, nullptr),
                    DSV4MX_STATUS_INVALID_SCALE,
                    std::string("expert 1,w3,row 17,group 2,power of two,") + bad.shown);
  }
}

TEST_CASE(
    "[A8] byte 255 is refused with its position, wherever it stands, and the tensor counts as not "
    "set",
    "[scales]") {
  Case c = MakeCase("h=128 i=96 e=3 k=1 m=1 order=up_gate");
  const Runner run(c);
  const WeightsPtr weights = MakeWeights(run.layer());
  for (int32_t e = 0; e < 3; ++e)
    SetExpert(weights.get(), c.p, e, *c.experts[static_cast<size_t>(e)]);
  for (const int64_t at : {int64_t{0}, int64_t{3 * 192 * 4 - 1}, int64_t{(192 + 96 + 5) * 4 + 1}}) {
    std::vector<uint8_t> scales(3 * 192 * 4, 120);
    scales[static_cast<size_t>(at)] = 255;
    const dsv4mx_tensor t = Tensor(scales.data(), DSV4MX_DTYPE_E8M0, {3, 192, 4});
    const int64_t expert = at / (192 * 4), row = at / 4 % 192;
    const std::string where = std::string(row < 96 ? "w3" : "w1") + ",row " +
                              std::to_string(row % 96) + ",group " + std::to_string(at % 4) +
                              ",expert " + std::to_string(expert) + ",255";
    REQUIRE_REFUSED(dsv4mx_weights_set(weights.get(), "w13_weight_scale", -1, &t, nullptr, nullptr),
                    DSV4MX_STATUS_INVALID_SCALE, where);
    dsv4mx_weights_info info{};
    info.struct_size = sizeof info;
    REQUIRE_OK(dsv4mx_weights_query(weights.get(), &info));
    CHECK(info.tensors_missing > 0);
    REQUIRE_REFUSED(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr),
                    DSV4MX_STATUS_NOT_FOUND, "scale");
  }
  for (int32_t e = 0; e < 3; ++e)
    SetExpert(weights.get(), c.p, e, *c.experts[static_cast<size_t>(e)]);
  REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr));
}

TEST_CASE(
    "[A28] the census of scales: smallest, largest, span inside 512 of K, all-zero groups ignored",
    "[scales]") {
  const auto census = [](const Case& c) {
    const Runner run(c);
    const WeightsFacts facts = FactsOf(run.weights());
    CHECK(facts.info.state == DSV4MX_WEIGHTS_PREPARED);
    return facts;
  };
  Case c = MakeCase("h=1024 i=64 e=2 k=1 m=0 scales=120..120");
  WeightsFacts f = census(c);
  CHECK((f.info.scale_min == 120 && f.info.scale_max == 120 && f.census.span_max == 0 &&
         f.census.planes_exact == 1));
  // 12, 14, 17 binades in one block of 512; the same distance in two blocks is no span.
  for (const int span : {11, 12, 14, 17}) {
    Case wide = MakeCase("h=1024 i=64 e=2 k=1 m=0 scales=110..110");
    wide.experts[1]->scales[kUp][5 * 32 + 3] = static_cast<uint8_t>(110 + span);
    f = census(wide);
    INFO("span " << span);
    CHECK(f.census.span_max == span);
    CHECK(f.info.scale_max == 110 + span);
    CHECK(f.census.planes_exact == (span <= 11 ? 1 : 0));
  }
  Case apart = MakeCase("h=1024 i=64 e=1 k=1 m=0 scales=110..110");
  for (int g = 16; g < 32; ++g) apart.experts[0]->scales[kGate][static_cast<size_t>(g)] = 127;
  f = census(apart);
  CHECK((f.census.span_max == 0 && f.census.planes_exact == 1));
  // A group of zero codes (either sign) does not count.
  Case zero = MakeCase("h=1024 i=64 e=1 k=1 m=0 scales=110..110");
  zero.experts[0]->scales[kDown][0] = 200;
  for (size_t b = 0; b < 16; ++b) zero.experts[0]->codes[kDown][b] = b % 2 ? 0x80 : 0x08;
  f = census(zero);
  CHECK((f.info.scale_max == 110 && f.census.span_max == 0 && f.census.planes_exact == 1));
  // A byte above 128 rules the planes out even without a span.
  Case large = MakeCase("h=1024 i=64 e=1 k=1 m=0 scales=129..129");
  CHECK(census(large).census.planes_exact == 0);
}

}  // namespace
}  // namespace dsv4mx::test
