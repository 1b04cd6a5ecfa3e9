// Turns words of the sm90 layout into wgmma A fragments: E4M3 bytes with the group's exponent folded into a byte-permute
// table (the plane path), f16 pairs likewise, or bf16 pairs with the scale in one multiply (the bf16 path).
#ifndef DSV4MX_KERNELS_MXFP4_DECODE_CUH_
#define DSV4MX_KERNELS_MXFP4_DECODE_CUH_

#include <cstdint>

#include "kernels/launch.h"
#include "kernels/ptx/bits.cuh"

namespace dsv4mx {

// The eight E4M3 magnitudes of one group: entry c holds value(c) * 2^(e-5) for e = scale byte - base in 0..11. Entry 0
// stays 0x00 whatever e is, so all-zero groups may lie outside the range.
struct PlaneTable {
  uint32_t low, high;
};
inline constexpr uint32_t kPlaneLow = 0x14100800u, kPlaneHigh = 0x24201C18u;
inline constexpr uint32_t kPlaneLowStep = 0x08080800u, kPlaneHighStep = 0x08080808u;

// step = scale byte - base; modulo 2^32 where an all-zero group lies outside.
__device__ __forceinline__ PlaneTable PlaneOf(uint32_t step) {
  return {kPlaneLow + step * kPlaneLowStep, kPlaneHigh + step * kPlaneHighStep};
}
// Weight = table value * 2^(base - 122).
__device__ __forceinline__ float PlaneUnit(uint32_t base) {
  return __uint_as_float((base + 5u) << 23);
}

// One word -> the row's two registers of a k32 fragment.
__device__ __forceinline__ void DecodePlane(uint32_t q, PlaneTable t, uint32_t& k_low,
                                            uint32_t& k_high) {
  const uint32_t m = q & 0x77777777u;
  const uint32_t a = PermuteBytes(t.low, t.high, m), b = PermuteBytes(t.low, t.high, m >> 16);
  k_low = a | (q & 0x80808080u);
  k_high = b | ((q * 16u) & 0x80808080u);
}

// The same as f16, of which E2M1 needs the upper byte alone: entry c holds value(c) * 2^(b - 115) for a scale byte b from
// kF16LeastScale to kF16MostScale (launch.h), where all are normal numbers, and entry 0 is 0 whatever b is.
struct F16Table {
  uint32_t low, high;
};
__device__ __forceinline__ F16Table F16Of(uint32_t b) {
  constexpr uint32_t kLowStep = 0x04040400u, kHighStep = 0x04040404u;
  return {0x0A080400u - kF16LeastScale * kLowStep + b * kLowStep,
          0x12100E0Cu - kF16LeastScale * kHighStep + b * kHighStep};
}
// One word -> the row's registers of two k16 fragments: pairs of i = 0, 1 and of i = 2, 3, first those with h = 0.
__device__ __forceinline__ void DecodeF16(uint32_t q, F16Table t, uint32_t* pair) {
  // As DecodePlane does it, but for the shift: what limits the loop is the ALU. Masked, a half is no NaN of f16.
  const uint32_t m = q & 0x77777777u;
  const uint32_t a = PermuteBytes(t.low, t.high, m);
  const uint32_t b = PermuteBytes(t.low, t.high, UpperHalves(m));
  const uint32_t even = a | (q & 0x80808080u), odd = b | ((q * 16u) & 0x80808080u);
  pair[0] = PermuteBytes<0x1404>(even, 0u);
  pair[1] = PermuteBytes<0x3424>(even, 0u);
  pair[2] = PermuteBytes<0x1404>(odd, 0u);
  pair[3] = PermuteBytes<0x3424>(odd, 0u);
}

// The bf16 multiplier of a scale byte b <= 128: 2^(b-1) = 2^(b-127) * 2^126, twice.
__device__ __forceinline__ uint32_t Bf16Scale(uint32_t b) {
  return (min(b, 128u) + 126u) * 0x00800080u;  // beside zeros any byte may stand
}

// One word -> four bf16 pairs: pair i holds (h = 0, h = 1) of the layout's index i. A magnitude in bits 8..6 of a bf16
// reads as value * 2^-126, subnormals included, so one exact multiply gives the weight.
__device__ __forceinline__ void UnpackBf16(uint32_t q, uint32_t* pair) {
  constexpr uint32_t kMagnitude = 0x01C001C0u;
  // Signs to bits 15 and 31: byte i of each half's sign word, whose other bits are 0.
  const uint32_t s0 = q & 0x80808080u, s1 = (q * 16u) & 0x80808080u;
  const uint32_t sign[4] = {PermuteBytes<0x4000>(s0, s1), PermuteBytes<0x5111>(s0, s1),
                            PermuteBytes<0x6222>(s0, s1), PermuteBytes<0x7333>(s0, s1)};
  const uint32_t shifted[4] = {q * 64u, q * 4u, q >> 2, q >> 6};
#pragma unroll
  for (int i = 0; i < 4; i++) pair[i] = SelectBits<kMagnitude>(shifted[i], sign[i]);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MXFP4_DECODE_CUH_
