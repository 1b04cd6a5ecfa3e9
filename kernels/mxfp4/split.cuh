// Numbers as E4M3: in two planes, or in one.
//
// A number as two E4M3 planes: x / s = high + low / 16. With s a power of two and |x / s| <= 448 the sum is exact for a
// bf16 x within about 14 binades of the row's maximum, and off by less than 2^-21 of the maximum below that.
#ifndef DSV4MX_KERNELS_MXFP4_SPLIT_CUH_
#define DSV4MX_KERNELS_MXFP4_SPLIT_CUH_

#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/ptx/bits.cuh"

namespace dsv4mx {

// The scale of a row whose largest magnitude has these fp32 bits: the least power of two >= max / 448, at least 2^-126.
// A row that holds Inf or NaN gets NaN, so that every output it reaches is NaN.
__device__ __forceinline__ float PlaneScale(uint32_t max_bits) {
  if (max_bits >= 0x7F800000u) return __uint_as_float(0x7FC00000u);
  // max = m * 2^(e-127) with 1 <= m < 2; 448 = 1.75 * 2^8.
  const int e = static_cast<int>(max_bits >> 23) + ((max_bits & 0x7FFFFFu) > 0x600000u ? 1 : 0) - 8;
  return __uint_as_float(static_cast<uint32_t>(max(e, 1)) << 23);
}
// 1 / s for a finite scale; 0 for NaN, whose row is NaN by its scale whatever its planes hold.
__device__ __forceinline__ float PlaneInverse(float s) {
  const uint32_t e = __float_as_uint(s) >> 23;
  return e >= 255u ? 0.0f : __uint_as_float((254u - e) << 23);
}
// A largest magnitude below this one has its scale, the least.
inline constexpr uint32_t kPlaneLeastPeak = (9u << 23) - 0x1FFFFFu;
// 1 / PlaneScale of a peak that is not less than the least; any number where the scale is NaN. The carry is that of a mantissa
// above 1.75.
__device__ __forceinline__ float PeakInverse(uint32_t max_bits) {
  return __uint_as_float((262u << 23) - ((max_bits + 0x1FFFFFu) & 0xFF800000u));
}
// The scale of a row as f16, whose largest magnitude it brings to 2^14 .. 2^15: what is 2^-31 of that keeps the eight bits of bf16.
// As PlaneScale otherwise.
inline constexpr float kF16LeastRowScale = 0x1p-126f;  // of zeros, and of peaks below 2^-111
__device__ __forceinline__ float F16Scale(uint32_t max_bits) {
  if (max_bits >= 0x7F800000u) return __uint_as_float(0x7FC00000u);
  return __uint_as_float(static_cast<uint32_t>(max(static_cast<int>(max_bits >> 23) - 14, 1))
                         << 23);
}
// Two numbers, the first in the low byte.
__device__ __forceinline__ void SplitPlanePair(float y0, float y1, uint32_t& high, uint32_t& low) {
  high = E4m3Pair(y0, y1);
  const float2 back = __half22float2(
      __half2(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(high), __NV_E4M3)));
  low = E4m3Pair((y0 - back.x) * 16.0f, (y1 - back.y) * 16.0f);
}

// W4A8, as DeepSeek's inference quantises (act_quant, scale_fmt ue8m0): the scale of a token's 128 values whose largest
// magnitude has these fp32 bits. A peak below 1e-4 counts as that, so the scale is a normal number.
inline constexpr uint32_t kE4m3LeastPeak = 0x38D1B717u;
__device__ __forceinline__ float E4m3Scale(uint32_t max_bits) {
  return PlaneScale(max(max_bits, kE4m3LeastPeak));
}
// A peak that is not less than the least, as a word that falls as the peak grows. Its upper nine bits are those of
// 1 / E4m3Scale, since a mantissa above 1.75 has borrowed from the exponent; of any number where the scale is NaN.
inline constexpr uint32_t kE4m3PeakWord = (262u << 23) + 0x600000u;
__device__ __forceinline__ constexpr uint32_t E4m3PeakWord(uint32_t max_bits) {
  return kE4m3PeakWord - max_bits;
}
__device__ __forceinline__ float E4m3ScaleOfWord(uint32_t word) {
  const bool finite = word > kE4m3PeakWord - 0x7F800000u;
  return __uint_as_float(finite ? (254u << 23) - (word & 0xFF800000u) : 0x7FC00000u);
}
// 1 / scale of two such words, as a pair of bf16.
__device__ __forceinline__ uint32_t E4m3Inverses(uint32_t word0, uint32_t word1) {
  return PermuteBytes<0x7632>(word0, word1) & 0xFF80FF80u;
}
// A number with the precision and range of E4M3.
__device__ __forceinline__ float RoundE4m3(float y) {
  return __half2float(__half(
      __nv_cvt_fp8_to_halfraw(__nv_cvt_float_to_fp8(y, __NV_SATFINITE, __NV_E4M3), __NV_E4M3)));
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MXFP4_SPLIT_CUH_
