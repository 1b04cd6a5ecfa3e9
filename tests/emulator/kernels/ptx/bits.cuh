// In place of kernels/ptx/bits.cuh.
#ifndef DSV4MX_KERNELS_PTX_BITS_CUH_
#define DSV4MX_KERNELS_PTX_BITS_CUH_

#include "tests/emulator/device.h"

namespace dsv4mx {

inline uint32_t PermuteBytes(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  uint32_t r = 0;
  for (int i = 0; i < 4; i++) {
    const uint32_t nibble = selector >> 4 * i & 15;
    uint32_t byte = static_cast<uint32_t>(bytes >> 8 * (nibble & 7)) & 255;
    if ((nibble & 8) != 0) byte = (byte & 128) != 0 ? 255 : 0;
    r |= byte << 8 * i;
  }
  return r;
}
template <uint32_t Selector>
uint32_t PermuteBytes(uint32_t low, uint32_t high) {
  return PermuteBytes(low, high, Selector);
}
template <uint32_t Mask>
uint32_t SelectBits(uint32_t a, uint32_t b) {
  return (a & Mask) | (b & ~Mask);
}
// By an addition of -0, which keeps all but NaN.
inline uint32_t UpperHalves(uint32_t v) {
  const uint32_t half = v >> 16;
  return (half & 0x7FFFu) > 0x7C00u ? 0x7FFF7FFFu : half * 0x00010001u;
}
inline float Bf16Half(uint32_t pair, int half) {
  return __uint_as_float(half == 0 ? pair << 16 : pair & 0xFFFF0000u);
}
// Exact in double, so it is rounded once; bf16 keeps subnormals.
inline uint32_t MulBf16x2(uint32_t a, uint32_t b) {
  uint32_t r = 0;
  for (int half = 0; half < 2; half++) {
    const __nv_bfloat16 v = __double2bfloat16(static_cast<double>(Bf16Half(a, half)) *
                                              static_cast<double>(Bf16Half(b, half)));
    r |= static_cast<uint32_t>(__bfloat16_as_ushort(v)) << 16 * half;
  }
  return r;
}
inline uint32_t MaxPairs(uint32_t a, uint32_t b) {
  return std::max(a & 0xFFFFu, b & 0xFFFFu) | std::max(a >> 16, b >> 16) << 16;
}
inline uint32_t Bf16Pair(float low, float high) {
  return static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(low))) |
         static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(high))) << 16;
}
inline uint32_t F16Pair(float low, float high) {
  return static_cast<uint32_t>(__half_as_ushort(__float2half_rn(low))) |
         static_cast<uint32_t>(__half_as_ushort(__float2half_rn(high))) << 16;
}
inline uint32_t LargerMagnitudes(uint32_t a, uint32_t b) {
  const uint32_t signs = (a ^ b) & 0x80008000u;
  const uint32_t r = MaxPairs(a & 0x7FFF7FFFu, b & 0x7FFF7FFFu);
  const auto canonical = [](uint32_t half) { return half > 0x7F80u ? 0x7FFFu : half; };
  return signs | canonical(r & 0xFFFFu) | canonical(r >> 16) << 16;
}
inline uint32_t LargerF16(uint32_t a, uint32_t b) {
  const uint32_t signs = (a ^ b) & 0x80008000u;
  const auto larger = [](uint32_t one, uint32_t other) {
    one &= 0x7FFFu, other &= 0x7FFFu;
    if (one > 0x7C00u || other > 0x7C00u)
      return one > 0x7C00u && other > 0x7C00u ? 0x7FFFu : std::min(one, other);
    return std::max(one, other);
  };
  return signs | larger(a, b) | larger(a >> 16, b >> 16) << 16;
}
inline uint32_t E4m3Pair(float low, float high) {
  return static_cast<uint32_t>(__nv_cvt_float_to_fp8(low, __NV_SATFINITE, __NV_E4M3)) |
         static_cast<uint32_t>(__nv_cvt_float_to_fp8(high, __NV_SATFINITE, __NV_E4M3)) << 8;
}
inline uint16_t E4m3(float v) {
  return static_cast<uint16_t>(E4m3Pair(v, v));
}
inline float MinOrNan(float a, float b) {
  return std::isnan(a) || std::isnan(b) ? NAN : std::min(a, b);
}
inline float MaxOrNan(float a, float b) {
  return std::isnan(a) || std::isnan(b) ? NAN : std::max(a, b);
}
inline float Exp2Fast(float x) {
  const float r = std::exp2(x);
  return std::fpclassify(r) == FP_SUBNORMAL ? 0.0f : r;
}
inline float ReciprocalFast(float x) {
  const float r = 1.0f / x;
  return std::fpclassify(r) == FP_SUBNORMAL ? 0.0f : r;
}
inline uint32_t Anew(uint32_t value) {
  return value;
}
inline int ThreadAnew() {
  return static_cast<int>(threadIdx.x);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_PTX_BITS_CUH_
