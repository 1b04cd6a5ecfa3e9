// The activations of W4A8 on the host: E4M3 with one power of two for each token and 128 of K, as DeepSeek's own inference
// quantises them (act_quant with scale_fmt ue8m0). A quantised number is exact in bf16, so the kernels for bf16 take it.
#ifndef DSV4MX_LIB_BASE_E4M3_H_
#define DSV4MX_LIB_BASE_E4M3_H_

#include <algorithm>
#include <cstdint>
#include <limits>

#include "lib/base/float_bits.h"

namespace dsv4mx {

inline constexpr int64_t kE4m3Group =
    128;  // of K to a scale; the last group of a row may be shorter
inline constexpr float kE4m3LeastPeak = 1e-4f;  // a smaller peak counts as this
inline constexpr float kE4m3Max = 448.0f;

// The least power of two that brings a peak to 448 or less.
inline float E4m3Scale(float peak) {
  // peak = m * 2^(e-127) with 1 <= m < 2; 448 = 1.75 * 2^8. The least peak keeps the scale a normal number.
  const uint32_t bits = BitsOfFloat(std::max(peak, kE4m3LeastPeak));
  return FloatFromBits(((bits >> 23) - 8 + ((bits & 0x7fffffu) > 0x600000u ? 1 : 0)) << 23);
}

// Nearest E4M3 number, ties to even, for |y| <= 448.
inline float RoundE4m3(float y) {
  const uint32_t bits = BitsOfFloat(y);
  constexpr uint32_t kRest = (1u << 20) - 1;  // what 3 bits of mantissa leave
  if ((bits & 0x7fffffffu) >= BitsOfFloat(0x1p-6f))
    return FloatFromBits((bits + kRest / 2 + ((bits >> 20) & 1u)) & ~kRest);
  constexpr float kUnit = 0x1.8p14f;  // its last bit is 2^-9, that of E4M3's subnormals
  return (y + kUnit) - kUnit;
}

// v[0], v[stride], ... become what W4A8 computes with. A group that holds NaN or Inf becomes NaN.
inline void QuantiseE4m3(float* v, int64_t count, int64_t stride) {
  for (int64_t first = 0; first < count; first += kE4m3Group) {
    float* group = v + first * stride;
    const int64_t n = std::min(kE4m3Group, count - first);
    uint32_t peak = 0;
    for (int64_t i = 0; i < n; ++i)
      peak = std::max(peak, BitsOfFloat(group[i * stride]) & 0x7fffffffu);
    if (peak >= 0x7f800000u) {
      for (int64_t i = 0; i < n; ++i) group[i * stride] = std::numeric_limits<float>::quiet_NaN();
      continue;
    }
    const float scale = E4m3Scale(FloatFromBits(peak)), inverse = 1.0f / scale;
    for (int64_t i = 0; i < n; ++i)
      group[i * stride] = RoundE4m3(group[i * stride] * inverse) * scale;
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_E4M3_H_
