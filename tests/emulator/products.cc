// wgmma: what a warpgroup multiplies.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "tests/emulator/cta.h"

namespace dsv4mx::emulator {

double FromE4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::nan("");
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (bits & 128) != 0 ? -magnitude : magnitude;
}

namespace {

constexpr int kMostColumns = 128;

struct E4m3Table {
  float value[256];
  E4m3Table() {
    for (int i = 0; i < 256; i++) value[i] = static_cast<float>(FromE4m3(static_cast<uint8_t>(i)));
  }
};

float FromBf16(uint32_t bits) {
  const uint32_t word = bits << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

float FromF16(uint32_t bits) {
  const bool finite = (bits & 0x7C00) != 0x7C00;
  // The exponent's field lands 112 too low, in subnormal numbers as well.
  const uint32_t word = (bits & 0x8000) << 16 | (bits & 0x7FFF) << 13 | (finite ? 0 : 0x7F800000u);
  float value;
  std::memcpy(&value, &word, sizeof value);
  return finite ? value * 0x1p112f : value;
}

// Hopper's tensor cores keep few bits of a sum of E4M3 products: all are cut off at the same place, 2^-13 of the largest of
// them and of the sum so far. Of bf16 and f16 they keep what fp32 holds, cut off and not rounded. DSV4MX_EMULATED_SUM_BITS=13 does the
// same here; without it sums are those of fp32, in which faults stand out.
int KeptBits() {
  static const int bits = [] {
    const char* text = std::getenv("DSV4MX_EMULATED_SUM_BITS");
    return text != nullptr ? std::atoi(text) : 0;
  }();
  return bits;
}
}  // namespace
}  // namespace dsv4mx::emulator

// Asked by tests/check.cc.
extern "C" bool DeviceSumsAreExact() {
  return dsv4mx::emulator::KeptBits() == 0;
}

namespace dsv4mx::emulator {
namespace {

float ShortSum(const float* products, float before) {
  float most = std::fabs(before);
  for (int k = 0; k < 32; k++) most = std::max(most, std::fabs(products[k]));
  if (most == 0 || !std::isfinite(most)) {
    for (int k = 0; k < 32; k++) before += products[k];
    return before;
  }
  int exponent;
  std::frexp(most, &exponent);  // most < 2^exponent
  const float unit = std::ldexp(1.0f, exponent - 1 - KeptBits());
  double sum = std::trunc(before / unit);
  for (int k = 0; k < 32; k++) sum += std::trunc(products[k] / unit);
  return static_cast<float>(sum * unit);
}

float CutSum(const float* products, float before) {
  double sum = double{before};
  for (int k = 0; k < 16; k++) sum += double{products[k]};
  const float rounded = static_cast<float>(sum);
  const bool outwards = std::isfinite(rounded) && std::fabs(double{rounded}) > std::fabs(sum);
  return outwards ? std::nextafter(rounded, 0.0f) : rounded;
}

// Products are exact in fp32; their sum is rounded as fp32 rounds, which is finer than what the device keeps.
__attribute__((target_clones("arch=haswell", "default"))) void Compute(Cta& cta, const Product& p) {
  static const E4m3Table table;
  const bool e4m3 = p.number == Number::kE4m3, f16 = p.number == Number::kF16;
  const auto half = [f16](uint32_t bits) { return f16 ? FromF16(bits) : FromBf16(bits); };
  const int k_all = e4m3 ? 32 : 16;
  float a[64][32], b[32][kMostColumns];
  for (int lane = 0; lane < 128; lane++) {
    const int row = lane / 32 * 16 + lane % 32 / 4, t = lane % 4;
    for (int r = 0; r < 4; r++) {
      const uint32_t word = p.lanes[lane].a[r];
      float* to = a[row + r % 2 * 8] + (r / 2 * (k_all / 2) + t * (k_all / 8));
      if (e4m3) {
        for (int i = 0; i < 4; i++) to[i] = table.value[word >> 8 * i & 255];
      } else {
        to[0] = half(word & 0xFFFF);
        to[1] = half(word >> 16);
      }
    }
  }
  const uint32_t base = static_cast<uint32_t>(p.b & 0x3FFF) << 4;
  const uint32_t eight = static_cast<uint32_t>(p.b >> 32 & 0x3FFF)
                         << 4;  // from eight rows to the next
  for (int column = 0; column < p.columns; column++) {
    for (uint32_t byte = 0; byte < 32; byte += 16) {
      const uint32_t row = static_cast<uint32_t>(column);
      uint32_t at = base + row / 8 * eight + row % 8 * 128 + byte;
      at ^= (at >> 7 & 7) << 4;
      const uint8_t* from = Find(cta, at, 16);
      for (uint32_t i = 0; i < 16; i++) {
        if (e4m3) {
          b[byte + i][column] = table.value[from[i]];
        } else if (i % 2 == 0) {
          b[(byte + i) / 2][column] = half(static_cast<uint32_t>(from[i] | from[i + 1] << 8));
        }
      }
    }
  }
  const int columns = p.columns;
  float sums[kMostColumns];
  for (int row = 0; row < 64; row++) {
    if (KeptBits() > 0) {
      const int first = row / 16 * 32 + row % 8 * 4, lower = row % 16 / 8;
      for (int column = 0; column < columns; column++) {
        float& d = p.lanes[first + column % 8 / 2].d[column / 8 * 4 + lower * 2 + column % 2];
        float products[32];
        for (int k = 0; k < k_all; k++) products[k] = a[row][k] * b[k][column];
        const float before = p.accumulate ? d : 0.0f;
        d = e4m3 ? ShortSum(products, before) : CutSum(products, before);
      }
      continue;
    }
    std::fill_n(sums, columns, 0.0f);
    for (int k = 0; k < k_all; k++) {
      const float factor = a[row][k];
      for (int column = 0; column < columns; column++) sums[column] += factor * b[k][column];
    }
    const int lane_row = row / 16 * 32 + row % 8 * 4, lower = row % 16 / 8;
    for (int column = 0; column < columns; column++) {
      float& d = p.lanes[lane_row + column % 8 / 2].d[column / 8 * 4 + lower * 2 + column % 2];
      d = p.accumulate ? d + sums[column] : sums[column];
    }
  }
}

}  // namespace

void Multiply(Number number, int columns, float* d, const uint32_t* a, uint64_t b,
              bool accumulate) {
  Cta& cta = *self->cta;
  Product& p = cta.products[static_cast<size_t>(self->number / 128)];
  const uint64_t generation = p.generation;
  if (((b >> 32) != 0x40000040u && (b >> 32) != 0x40000080u) || (b >> 16 & 0xFFFF) != 1) {
    Fail("wgmma with the descriptor %#llx", static_cast<unsigned long long>(b));
  }
  if (p.arrived == 0) {
    p.number = number, p.columns = columns, p.b = b, p.accumulate = accumulate;
  } else if (p.number != number || p.columns != columns || p.b != b || p.accumulate != accumulate) {
    Fail("wgmma of %d columns where other warps do another", columns);
  }
  p.lanes[self->number % 128] = {a, d};
  if (++p.arrived == 128) {
    Compute(cta, p);
    p.arrived = 0;
    p.generation.fetch_add(1, std::memory_order_release);
    return;
  }
  WaitUntil(p.generation, ~uint64_t{0}, generation);
}

}  // namespace dsv4mx::emulator
