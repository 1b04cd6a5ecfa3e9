// Values of a row of x on their way into an operand: read eight at a time, split into planes.
#ifndef DSV4MX_KERNELS_ROW_CUH_
#define DSV4MX_KERNELS_ROW_CUH_

#include <cuda_bf16.h>

#include "kernels/mxfp4/split.cuh"

namespace dsv4mx {

__device__ __forceinline__ float RoundBf16(float v) {
  return __bfloat162float(__float2bfloat16_rn(v));
}

// Eight values of bf16, multiplied with the router weight where that belongs to the input.
__device__ __forceinline__ void WidenEight(const uint4& q, float weight, bool weighted, float* v) {
  const uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    v[2 * i] = __uint_as_float(words[i] << 16);
    v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
  }
  if (!weighted) return;
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = RoundBf16(v[i] * weight);
}
__device__ __forceinline__ void LoadEight(const uint16_t* x, float weight, bool weighted,
                                          float* v) {
  WidenEight(*reinterpret_cast<const uint4*>(x), weight, weighted, v);
}

// The planes of eight values of one lane and step (mxfp4/layout.h): word 0 holds the even ones, word 1, which stands 16
// bytes behind, the odd ones.
__device__ __forceinline__ void SplitEight(const float* v, float inverse, uint32_t* high,
                                           uint32_t* low) {
#pragma unroll
  for (int odd = 0; odd < 2; odd++) {
    uint32_t high0, low0, high1, low1;
    SplitPlanePair(v[odd] * inverse, v[2 + odd] * inverse, high0, low0);
    SplitPlanePair(v[4 + odd] * inverse, v[6 + odd] * inverse, high1, low1);
    high[odd] = high0 | high1 << 16;
    low[odd] = low0 | low1 << 16;
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_ROW_CUH_
