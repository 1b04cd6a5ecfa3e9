// What is finite: the output is wherever every weight and every fp32 partial sum is, however large x, and however small
// the scale that brings it back.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

// The number paths of a device; on the CPU the instruction sets that it has, and the oracles.
std::vector<std::string> Paths(dsv4mx_device device) {
  if (device == DSV4MX_DEVICE_CUDA) return {" path=bf16", " path=planes", ""};
  std::vector<std::string> paths = {" oracle=truth", " oracle=spec"};
  for (const char* isa : {" isa=portable", " isa=avx2", " isa=avx512", " isa=avx512bf16"}) {
    try {
      ContextOf(Parse(isa));
      paths.push_back(isa);
    } catch (const Refused&) {
    }
  }
  return paths;
}

void Fill(ExpertData* e, int m, uint8_t two_codes, int scale_byte) {
  std::fill(e->codes[m].begin(), e->codes[m].end(), two_codes);
  std::fill(e->scales[m].begin(), e->scales[m].end(), static_cast<uint8_t>(scale_byte));
}

// Every output is `want`, within what rounding h to bf16 and two fp32 sums allow.
void CheckAll(const Case& c, double want) {
  INFO(ProblemText(c.p));
  const Output y = Runner(c).Apply();
  REQUIRE(y.damage == "");
  for (const float v : y.y) {
    if (!(std::fabs(static_cast<double>(v) - want) <= 0x1p-7 * want)) {
      FAIL_CHECK("got " << v << ", wanted " << want);
      break;
    }
  }
}

DEVICE_TEST_CASE("[J4] large x under small scales: gate and up are finite, and so is the output",
                 "[overflow]") {
  for (const std::string& path : Paths(device)) {
    // gate = up = 64 * 6 * 2^-100 * 2^121 = 8.05e8, h = gate * up; w2 brings it to 64 * 2^-60 * h.
    Case c = MakeCase("h=64 i=64 e=1 k=1 m=3 out=f32 rw=f32" + path);
    c.p.device = device;
    Fill(c.experts[0].get(), kGate, 0x77, 27);
    Fill(c.experts[0].get(), kUp, 0x77, 27);
    Fill(c.experts[0].get(), kDown, 0x22, 67);
    std::fill(c.in.x.begin(), c.in.x.end(), ToBf16(0x1p121));
    std::fill(c.in.ids.begin(), c.in.ids.end(), 0);
    std::fill(c.in.weights.begin(), c.in.weights.end(), 1.0f);
    const double gate = 64 * 6 * 0x1p21;
    CheckAll(c, 64 * 0x1p-60 * gate * gate);
  }
}

DEVICE_TEST_CASE("[J4] large h under small scales of w2: the output is finite", "[overflow]") {
  for (const std::string& path : Paths(device)) {
    // h = gate * up = 2^121 from the biases alone.
    Case c = MakeCase("h=64 i=64 e=1 k=1 m=3 out=f32 rw=f32 order=gate_up bias13=f32" + path);
    c.p.device = device;
    ExpertData& e = *c.experts[0];
    Fill(&e, kGate, 0x00, 127);
    Fill(&e, kUp, 0x00, 127);
    Fill(&e, kDown, 0x77, 27);
    std::fill(e.bias[kGate].begin(), e.bias[kGate].end(), 0x1p60f);
    std::fill(e.bias[kUp].begin(), e.bias[kUp].end(), 0x1p61f);
    std::fill(c.in.ids.begin(), c.in.ids.end(), 0);
    std::fill(c.in.weights.begin(), c.in.weights.end(), 1.0f);
    CheckAll(c, 64 * 6 * 0x1p21);
  }
}

// Where 1 + e^-gate is beyond fp32 the product with gate and up need not be.
DEVICE_TEST_CASE("[J4] gates below -88: h is what it should be, not 0", "[overflow]") {
  std::vector<std::string> paths = Paths(device);
  // On planes the kernels for few pairs and the others.
  for (std::string& path : paths) path += " m=3";
  if (device == DSV4MX_DEVICE_CUDA) paths.emplace_back(" path=planes m=1025");
  for (const std::string& path : paths) {
    for (const bool situ : {false, true}) {
      for (const float gate :
           {-65.0f, -69.0f, -80.0f, -87.0f, -88.5f, -89.0f, -95.0f, -103.0f, -110.0f, -150.0f}) {
        // At -150 h is a normal number only beside an up near the end of fp32.
        const float up = gate > -111.0f ? -0x1p60f : -0x1p120f;
        Case c = MakeCase(
            "h=64 i=64 e=1 k=1 out=f32 rw=f32 order=gate_up bias13=f32" + path +
            (situ ? " act=situ situb=4 situl=" + std::string(up < -0x1p100f ? "0x1p120" : "0x1p60")
                  : ""));
        c.p.device = device;
        ExpertData& e = *c.experts[0];
        Fill(&e, kGate, 0x00, 127);
        Fill(&e, kUp, 0x00, 127);
        Fill(&e, kDown, 0x22, 127);
        std::fill(e.bias[kGate].begin(), e.bias[kGate].end(), gate);
        std::fill(e.bias[kUp].begin(), e.bias[kUp].end(), up);
        std::fill(c.in.ids.begin(), c.in.ids.end(), 0);
        std::fill(c.in.weights.begin(), c.in.weights.end(), 0x1p60f);
        const double g = gate, most = -static_cast<double>(up);
        CheckAll(c,
                 64 * 0x1p60 * most * (situ ? 4 * std::exp(g) * std::tanh(1.0) : -g * std::exp(g)));
      }
    }
  }
}

DEVICE_TEST_CASE("[J4] large x under small scales beside small x under scales up to 2^127",
                 "[overflow]") {
  std::vector<std::string> paths = Paths(device);
  // CUDA takes the wide form by itself; planes are not exact here and are refused.
  if (device == DSV4MX_DEVICE_CUDA) paths = {" path=bf16", ""};
  for (const std::string& path : paths) {
    for (const int byte : {200, 246, 247, 252, 254}) {
      // Half of K: 32 * 6 * 2^-100 * 2^121; the other half: 32 * 1 * 2^(byte - 127) * 2^(148 - byte).
      Case c = MakeCase("h=64 i=64 e=1 k=1 m=3 out=f32 rw=f32" + path);
      c.p.device = device;
      ExpertData& e = *c.experts[0];
      for (const int m : {kGate, kUp}) {
        for (size_t row = 0; row < 64; ++row) {
          std::fill_n(e.codes[m].begin() + static_cast<std::ptrdiff_t>(row * 32), 16, 0x77);
          std::fill_n(e.codes[m].begin() + static_cast<std::ptrdiff_t>(row * 32 + 16), 16, 0x22);
          e.scales[m][row * 2] = 27;
          e.scales[m][row * 2 + 1] = static_cast<uint8_t>(byte);
        }
      }
      Fill(&e, kDown, 0x22, 67);
      for (size_t i = 0; i < c.in.x.size(); ++i) {
        c.in.x[i] = ToBf16(i % 64 < 32 ? 0x1p121 : std::ldexp(1.0, 148 - byte));
      }
      std::fill(c.in.ids.begin(), c.in.ids.end(), 0);
      std::fill(c.in.weights.begin(), c.in.weights.end(), 1.0f);
      const double gate = 32 * 6 * 0x1p21 + 32 * 0x1p21;
      CheckAll(c, 64 * 0x1p-60 * gate * gate);
    }
  }
}

}  // namespace
}  // namespace dsv4mx::test
