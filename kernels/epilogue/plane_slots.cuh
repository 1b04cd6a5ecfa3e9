// Epilogue of GEMM2 of the planes, for tiles of all widths.
#ifndef DSV4MX_KERNELS_EPILOGUE_PLANE_SLOTS_CUH_
#define DSV4MX_KERNELS_EPILOGUE_PLANE_SLOTS_CUH_

#include "kernels/epilogue/slots.cuh"
#include "kernels/mma/plane_sums.cuh"

namespace dsv4mx {

template <class C, class Slot>
__device__ __forceinline__ void StoreSlotsAs(const float* sums, const GemmKernelArgs& a,
                                             const WorkTile& work, const MmaThread& me, int column,
                                             RowBias bias) {
  using Sums = PlaneSums<C>;
  // Of numbers without a sign: the product is one instruction.
  Slot* to = static_cast<Slot*>(a.slots) +
             (static_cast<uint64_t>(static_cast<uint32_t>(work.panel_row + me.t)) *
                  static_cast<uint32_t>(a.hidden) +
              static_cast<uint32_t>(column));
  const int left = work.count - me.t;
  Sums::ForSteps(work.count, [&](int first) {
#pragma unroll
    for (int j = first; j < first + Sums::kStep; j++) {
      if (4 * j < left) StoreSlot(to, sums[2 * j] + bias.row0, sums[2 * j + 1] + bias.row1);
      to += 4 * static_cast<int64_t>(a.hidden);
    }
  });
}

// Of a levelled h.
template <class C>
__device__ __forceinline__ void StoreLevelSlots(const float* sums, const GemmKernelArgs& a,
                                                const WorkTile& work, const MmaThread& me,
                                                int column) {
  using Sums = PlaneSums<C>;
  uint16_t* to = LevelSlotsAt(a, work.panel_row + me.t, column);
  const int left = work.count - me.t;
  Sums::ForSteps(work.count, [&](int first) {
#pragma unroll
    for (int j = first; j < first + Sums::kStep; j++) {
      if (4 * j < left) StoreLevelSlot(to, sums[2 * j], sums[2 * j + 1], a.h_factor);
      to += 4 * 2 * static_cast<int64_t>(a.hidden);
    }
  });
}

template <class C>
__device__ __forceinline__ void StoreTargets(const float* sums, const GemmKernelArgs& a,
                                             const WorkTile& work, const MmaThread& me, int column,
                                             RowBias bias) {
  using Sums = PlaneSums<C>;
  void* const* targets = a.targets + work.panel_row;
  Sums::ForSteps(work.count, [&](int first) {
#pragma unroll
    for (int j = first; j < first + Sums::kStep; j++) {
      const int row = 4 * j + me.t;
      if (row < work.count) {
        StoreSlot(static_cast<__nv_bfloat16*>(targets[row]) + column, sums[2 * j] + bias.row0,
                  sums[2 * j + 1] + bias.row1);
      }
    }
  });
}

template <class C>
__device__ __forceinline__ void StoreTileSlots(const PlaneSums<C>& sums, int which,
                                               const GemmKernelArgs& a, const WorkTile& work,
                                               const MmaThread& me) {
  const int tile = work.tile + which, column = tile * 64 + me.warp * 16 + me.g * 2;
  if (column >= a.hidden) return;  // as in all tiles behind the matrix
  if constexpr (C::kLevelled) {
    StoreLevelSlots<C>(sums.at[which], a, work, me, column);
    return;
  }
  // What most layers want stands by itself: as one with the rest, it would go through the search for a bias.
  if (a.plain_slots != 0) {
    const RowBias none{0.0f, 0.0f};
    if (a.slots_are_bf16) {
      StoreSlotsAs<C, __nv_bfloat16>(sums.at[which], a, work, me, column, none);
    } else {
      StoreSlotsAs<C, float>(sums.at[which], a, work, me, column, none);
    }
    return;
  }
  const RowBias bias = LoadBias(a, a.slabs + work.expert * a.slab_bytes, tile, me);
  if (a.targets != nullptr) {
    StoreTargets<C>(sums.at[which], a, work, me, column, bias);
  } else if (a.slots_are_bf16) {
    StoreSlotsAs<C, __nv_bfloat16>(sums.at[which], a, work, me, column, bias);
  } else {
    StoreSlotsAs<C, float>(sums.at[which], a, work, me, column, bias);
  }
}

template <class C>
__device__ __forceinline__ void StoreSlots(const PlaneSums<C>& sums, const GemmKernelArgs& a,
                                           const WorkTile& work, const MmaThread& me) {
#pragma unroll
  for (int which = 0; which < C::kTilesEach; which++) StoreTileSlots(sums, which, a, work, me);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_PLANE_SLOTS_CUH_
