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

// Slots of a levelled h (launch.h), of which none is beyond f16.
__device__ __forceinline__ uint16_t* LevelSlotsAt(const GemmKernelArgs& a, int row, int column) {
  // Of numbers without a sign: the product is one instruction.
  return static_cast<uint16_t*>(a.slots) +
         (static_cast<uint64_t>(static_cast<uint32_t>(row)) * static_cast<uint32_t>(2 * a.hidden) +
          static_cast<uint32_t>(column));
}
__device__ __forceinline__ void StoreLevelSlot(uint16_t* to, float v0, float v1, float factor) {
  *reinterpret_cast<uint32_t*>(to) = F16Pair(v0 * factor, v1 * factor);
}

// The bf16 paths' sums: [8 tokens][row half][2]. A tile takes the narrowest loop that holds its tokens, so that only the last eight
// columns are in doubt, and most stores stand behind no condition.
template <class C, int Width, class Store>
__device__ __forceinline__ void ForBf16Tokens(const WorkTile& work, const MmaThread& me,
                                              Store store) {
#pragma unroll
  for (int j = 0; j < Width / 8; j++) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      if (j < Width / 8 - 1 || 8 * j + 2 * me.t + i < work.count) store(j, i);
    }
  }
}

template <class C, class Slot, int Width>
__device__ __forceinline__ void StoreBf16PathAs(const Bf16Loop<C, Width>& loop,
                                                const GemmKernelArgs& a, const WorkTile& work,
                                                const MmaThread& me, int column) {
  Slot* const to = static_cast<Slot*>(a.slots) +
                   (work.panel_row + 2 * me.t) * static_cast<int64_t>(a.hidden) + column;
  ForBf16Tokens<C, Width>(work, me, [&](int j, int i) {
    StoreSlot(to + (8 * j + i) * static_cast<int64_t>(a.hidden), loop.acc[4 * j + i],
              loop.acc[4 * j + 2 + i]);
  });
}

// Slots of f16 (launch.h), and whether it holds them as well as bf16 would, which is asked of them as CheckF16 asks it of h: nothing
// is beyond its range, and no token has 16 values, all that a warp holds in the first tile, so small that f16's steps of 2^-24 are
// more than their last bits. Zeros are fine, and so is NaN.
inline constexpr uint32_t kF16Infinity = 0x7C00, kF16Magnitude = 0x7FFF;
inline constexpr uint32_t kHalfSlotLeastPeak = 0x0800;  // 2^-13
template <class C, int Width>
__device__ __forceinline__ void StoreHalfSlots(const Bf16Loop<C, Width>& loop,
                                               const GemmKernelArgs& a, const WorkTile& work,
                                               const MmaThread& me, int column) {
  const auto pair = [&](int j, int i) {
    return F16Pair(loop.acc[4 * j + i], loop.acc[4 * j + 2 + i]);
  };
  bool unfit = false;
  if (work.tile == 0) {
    // A bit for each of the thread's tokens, together with the seven other lanes that have them.
    uint32_t any[2] = {}, large[2] = {};
#pragma unroll
    for (int n = 0; n < Width / 4; n++) {
      const uint32_t values = pair(n / 2, n % 2), bit = 1u << n % 32;
      const uint32_t v0 = values & kF16Magnitude, v1 = values >> 16 & kF16Magnitude;
      const bool real = n / 2 * 8 + 2 * me.t + n % 2 < work.count;
      // As they were before f16 rounded them, perhaps to zero.
      const float* const exact = loop.acc + n / 2 * 4 + n % 2;
      if (real && (exact[0] != 0.0f || exact[2] != 0.0f)) any[n / 32] |= bit;
      if (max(v0, v1) >= kHalfSlotLeastPeak) large[n / 32] |= bit;
    }
#pragma unroll
    for (int i = 0; i < (Width > 128 ? 2 : 1); i++) {
#pragma unroll
      for (int x = 4; x < 32; x *= 2) {
        any[i] |= __shfl_xor_sync(~0u, any[i], x);
        large[i] |= __shfl_xor_sync(~0u, large[i], x);
      }
      if ((any[i] & ~large[i]) != 0) unfit = true;
    }
  }
  uint32_t most = 0;
  uint8_t* const to = static_cast<uint8_t*>(a.slots) +
                      (work.panel_row + 2 * me.t) * static_cast<int64_t>(a.hidden) * 4 + column * 2;
  ForBf16Tokens<C, Width>(work, me, [&](int j, int i) {
    const uint32_t values = pair(j, i);
    most = LargerF16(most, values);
    *reinterpret_cast<uint32_t*>(to + (8 * j + i) * static_cast<int64_t>(a.hidden) * 4) = values;
  });
  const uint32_t high = most >> 16 & kF16Magnitude, low = most & kF16Magnitude;
  if (high == kF16Infinity || low == kF16Infinity) unfit = true;
  if (unfit) *a.unfit = 1;
}

// The same to rows anywhere, other devices' memory included.
template <class C, int Width>
__device__ __forceinline__ void StoreBf16PathTargets(const Bf16Loop<C, Width>& loop,
                                                     const GemmKernelArgs& a, const WorkTile& work,
                                                     const MmaThread& me, int column) {
  void* const* targets = a.targets + work.panel_row + 2 * me.t;
  ForBf16Tokens<C, Width>(work, me, [&](int j, int i) {
    StoreSlot(static_cast<__nv_bfloat16*>(targets[8 * j + i]) + column, loop.acc[4 * j + i],
              loop.acc[4 * j + 2 + i]);
  });
}

template <class C, int Width>
__device__ __forceinline__ void StoreSlots(Bf16Loop<C, Width>& loop, const GemmKernelArgs& a,
                                           const WorkTile& work, const MmaThread& me,
                                           const uint8_t* slab) {
  // A warp's 16 columns are there or not together; said so, for what follows counts on whole warps.
  const int first = work.tile * 64 + me.warp * 16, column = first + me.g * 2;
  if (work.tile >= a.tiles || first >= a.hidden) return;
  if constexpr (C::kF16) loop.Multiply(a.h_factor);
  if (a.bias >= 0) {
    RowBias bias = LoadBias(a, slab, work.tile, me);
    if (C::kF16 && a.half_slots != 0) bias.row0 *= kHalfSlotFactor, bias.row1 *= kHalfSlotFactor;
    loop.Add(bias);
  }
  if constexpr (C::kF16) {
    if (a.half_slots != 0) {
      StoreHalfSlots(loop, a, work, me, column);
      return;
    }
  }
  if (a.targets != nullptr) {
    StoreBf16PathTargets(loop, a, work, me, column);
  } else if (a.slots_are_bf16) {
    StoreBf16PathAs<C, __nv_bfloat16>(loop, a, work, me, column);
  } else {
    StoreBf16PathAs<C, float>(loop, a, work, me, column);
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_SLOTS_CUH_
