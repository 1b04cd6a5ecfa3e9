// Values of a row of x on their way into an operand: read eight at a time, split into planes.
#ifndef DSV4MX_KERNELS_ROW_CUH_
#define DSV4MX_KERNELS_ROW_CUH_

#include <cuda_bf16.h>

#include "kernels/mxfp4/split.cuh"

namespace dsv4mx {

// Eight consecutive values, multiplied with the router weight where that belongs to the input.
__device__ __forceinline__ void LoadEight(const uint16_t* x, float weight, bool weighted,
                                          float* v) {
  const uint4 q = *reinterpret_cast<const uint4*>(x);
  const uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    v[2 * i] = __uint_as_float(words[i] << 16);
    v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
  }
  if (!weighted) return;
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = __bfloat162float(__float2bfloat16_rn(v[i] * weight));
}

// The planes of eight values of one lane and step (mxfp4/layout.h): word 0 holds the even ones, word 1, which stands 16
// bytes behind, the odd ones.
__device__ __forceinline__ void SplitEight(const float* v, float inverse, uint32_t* high,
                                           uint32_t* low) {
  high[0] = high[1] = low[0] = low[1] = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    uint8_t h, l;
    SplitPlanes(v[i] * inverse, h, l);
    high[i & 1] |= static_cast<uint32_t>(h) << (i / 2 * 8);
    low[i & 1] |= static_cast<uint32_t>(l) << (i / 2 * 8);
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_ROW_CUH_
