// Epilogue of GEMM2: bias, then a thread's two neighbouring values of each of its tokens to the slot of the position.
#ifndef DSV4MX_KERNELS_EPILOGUE_SLOTS_CUH_
#define DSV4MX_KERNELS_EPILOGUE_SLOTS_CUH_

#include <cuda_bf16.h>

#include "kernels/epilogue/bias.cuh"
#include "kernels/mma/bf16_loop.cuh"
#include "kernels/mma/planes_loop.cuh"

namespace dsv4mx {

__device__ __forceinline__ void StoreSlot(const GemmKernelArgs& a, int64_t at, float v0, float v1) {
  if (a.slots_are_bf16) {
    static_cast<__nv_bfloat162*>(a.slots)[at / 2] = __floats2bfloat162_rn(v0, v1);
  } else {
    static_cast<float2*>(a.slots)[at / 2] = make_float2(v0, v1);
  }
}

template <class C, class Loop>
__device__ __forceinline__ void StoreSlots(Loop& loop, const GemmKernelArgs& a, const Job& job,
                                           const Seat& s, const uint8_t* slab) {
  // acc holds [8 columns][row half][2]; on the plane path the two columns are one token's and already one value.
  constexpr int kEach = C::kPlanes ? 1 : 2;
  const int column = job.tile * 64 + s.warp * 16 + s.g * 2;
  if (job.tile >= a.tiles || column >= a.hidden) return;
  const RowBias bias = LoadBias(a, slab, job.tile, s);
  const int64_t at = static_cast<int64_t>(job.position) * a.hidden + column;
#pragma unroll
  for (int j = 0; j < Loop::kColumns / 8; j++) {
    if (8 * j >= loop.columns) break;
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      const int m = C::kPlanes ? 4 * j + s.t : 8 * j + 2 * s.t + i;
      if (m >= job.count) continue;
      StoreSlot(a, at + static_cast<int64_t>(m) * a.hidden, loop.acc[2 * kEach * j + i] + bias.row0,
                loop.acc[2 * kEach * j + kEach + i] + bias.row1);
    }
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_SLOTS_CUH_
