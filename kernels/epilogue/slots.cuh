// Epilogue of GEMM2: bias, then a thread's two neighbouring values of each of its tokens to the slot of its pair.
#ifndef DSV4MX_KERNELS_EPILOGUE_SLOTS_CUH_
#define DSV4MX_KERNELS_EPILOGUE_SLOTS_CUH_

#include <cuda_bf16.h>

#include "kernels/epilogue/bias.cuh"
#include "kernels/mma/bf16_loop.cuh"
#include "kernels/ptx/sync.cuh"

namespace dsv4mx {

__device__ __forceinline__ void StoreSlot(__nv_bfloat16* to, float v0, float v1) {
  *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(v0, v1);
}
__device__ __forceinline__ void StoreSlot(float* to, float v0, float v1) {
  StoreGlobalFloat2(to, v0, v1);
}

template <class C, class Slot, class Loop>
__device__ __forceinline__ void StoreSlotsAs(const Loop& loop, const float* acc,
                                             const GemmKernelArgs& a, const WorkTile& work,
                                             const MmaThread& me, int column, RowBias bias) {
  // acc holds [8 columns][row half][2]; on the plane path the two columns are one token's and already one value.
  constexpr int kEach = C::kPlanes ? 1 : 2;
  Slot* to = static_cast<Slot*>(a.slots) +
             (work.panel_row + kEach * me.t) * static_cast<int64_t>(a.hidden) + column;
#pragma unroll
  for (int j = 0; j < Loop::kColumns / 8; j++) {
    if (8 * j >= loop.Columns()) break;
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      if (4 * kEach * j + kEach * me.t + i < work.count) {
        StoreSlot(to + i * static_cast<int64_t>(a.hidden), acc[2 * kEach * j + i] + bias.row0,
                  acc[2 * kEach * j + kEach + i] + bias.row1);
      }
    }
    to += 4 * kEach * static_cast<int64_t>(a.hidden);
  }
}

// The same to rows anywhere, other devices' memory included.
template <class C, class Loop>
__device__ __forceinline__ void StoreTargets(const Loop& loop, const float* acc,
                                             const GemmKernelArgs& a, const WorkTile& work,
                                             const MmaThread& me, int column, RowBias bias) {
  constexpr int kEach = C::kPlanes ? 1 : 2;
  void* const* targets = a.targets + work.panel_row;
#pragma unroll
  for (int j = 0; j < Loop::kColumns / 8; j++) {
    if (8 * j >= loop.Columns()) break;
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      const int row = 4 * kEach * j + kEach * me.t + i;
      if (row < work.count) {
        StoreSlot(static_cast<__nv_bfloat16*>(targets[row]) + column,
                  acc[2 * kEach * j + i] + bias.row0, acc[2 * kEach * j + kEach + i] + bias.row1);
      }
    }
  }
}

template <class C, class Loop>
__device__ __forceinline__ void StoreSlots(Loop& loop, const GemmKernelArgs& a,
                                           const WorkTile& work, const MmaThread& me,
                                           const uint8_t* slab) {
#pragma unroll
  for (int which = 0; which < C::kTilesEach; which++) {
    const int tile = work.tile + which, column = tile * 64 + me.warp * 16 + me.g * 2;
    if (tile >= a.tiles || column >= a.hidden) return;
    const RowBias bias = LoadBias(a, slab, tile, me);
    const float* acc = loop.Sums(which);
    if (a.targets != nullptr) {
      StoreTargets<C>(loop, acc, a, work, me, column, bias);
    } else if (a.slots_are_bf16) {
      StoreSlotsAs<C, __nv_bfloat16>(loop, acc, a, work, me, column, bias);
    } else {
      StoreSlotsAs<C, float>(loop, acc, a, work, me, column, bias);
    }
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_SLOTS_CUH_
