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

// acc holds [8 columns][row half][2]; on the plane path the two columns are one token's and already one value.
template <class C>
__device__ __forceinline__ void StoreTile(const float* acc, int columns, const GemmKernelArgs& a,
                                          int tile, const Job& job, const Seat& s, const uint8_t* slab) {
  constexpr int kEach = C::kPlanes ? 1 : 2;  // tokens of this thread in a group of 8 columns
  const int column = tile * 64 + s.warp * 16 + s.g * 2;
  if (tile >= a.tiles || column >= a.hidden) return;
  const RowBias bias = LoadBias(a, slab, tile, s);
  const int64_t at = static_cast<int64_t>(job.position) * a.hidden + column;
#pragma unroll
  for (int j = 0; j < C::kColumns / 8; j++) {
    if (8 * j >= columns) break;
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      const int m = C::kPlanes ? 4 * j + s.t : 8 * j + 2 * s.t + i;
      if (m >= job.count) continue;
      StoreSlot(a, at + static_cast<int64_t>(m) * a.hidden, acc[2 * kEach * j + i] + bias.row0,
                acc[2 * kEach * j + kEach + i] + bias.row1);
    }
  }
}

template <class C>
__device__ __forceinline__ void StoreSlots(PlanesLoop<C>& loop, const GemmKernelArgs& a,
                                           const Job& job, const Seat& s, const uint8_t* slab) {
  StoreTile<C>(loop.acc, loop.columns, a, job.tile, job, s, slab);
}
template <class C>
__device__ __forceinline__ void StoreSlots(Bf16Loop<C>& loop, const GemmKernelArgs& a,
                                           const Job& job, const Seat& s, const uint8_t* slab) {
#pragma unroll
  for (int tile = 0; tile < C::kTiles; tile++)
    StoreTile<C>(loop.acc[tile], loop.columns, a, job.tile + tile, job, s, slab);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_SLOTS_CUH_
