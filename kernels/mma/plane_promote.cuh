// Where sums of planes leave the tensor cores: both planes of a token stand beside each other in one thread.
#ifndef DSV4MX_KERNELS_MMA_PLANE_PROMOTE_CUH_
#define DSV4MX_KERNELS_MMA_PLANE_PROMOTE_CUH_

#include "kernels/mma/plane_operands.cuh"

namespace dsv4mx {

// A thread's scale of h of a token j, where the first scale of the block stands at this address.
__device__ __forceinline__ float LoadHiddenScale(uint32_t scales, int j, const MmaThread& me) {
  return LoadSharedFloat(scales + (4 * j + me.t) * 4);
}

// acc += unit * scale * (high + low / 16), for the tokens 4j + t of the first `columns`; [token][row half]. scale(j) is of h, so
// that it is not asked for in GEMM1.
template <class C, int Tokens, class Scale>
__device__ __forceinline__ void PromotePlanes(float (&acc)[2 * Tokens],
                                              const float (&d)[4 * Tokens], int columns,
                                              const ExponentBases& b, Scale scale) {
#pragma unroll
  for (int j = 0; j < Tokens; j++) {
    if (8 * j >= columns) break;
    float unit0 = PlaneUnit(b.row0), unit1 = PlaneUnit(b.row1);
    if constexpr (C::kBlockScales) {
      const float of_token = scale(j);
      unit0 *= of_token;
      unit1 *= of_token;
    }
    acc[2 * j] = fmaf(unit0, fmaf(d[4 * j + 1], 0.0625f, d[4 * j]), acc[2 * j]);
    acc[2 * j + 1] = fmaf(unit1, fmaf(d[4 * j + 3], 0.0625f, d[4 * j + 2]), acc[2 * j + 1]);
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_PLANE_PROMOTE_CUH_
