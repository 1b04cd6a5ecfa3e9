// Epilogue of W4A8's GEMM2: all of a warpgroup's sums in one go, whose dispatch is one. A tile takes the narrowest loop that
// holds its tokens, so that of most columns no thread asks whether they have tokens. The other paths have no registers for this.
#ifndef DSV4MX_KERNELS_EPILOGUE_E4M3_SLOTS_CUH_
#define DSV4MX_KERNELS_EPILOGUE_E4M3_SLOTS_CUH_

#include "kernels/epilogue/slots.cuh"
#include "kernels/mma/e4m3_sums.cuh"

namespace dsv4mx {

// Part of a tile: half `Half` of its tokens, or all.
template <class C, int Width, int Half>
struct E4m3Part {
  const GemmKernelArgs& a;
  const MmaThread& me;
  int panel_row, count;  // of this part

  // Whether the thread's token i of column block j is one. Of a tile that is not the narrowest, the first half is full, and of
  // the rest the last eight columns are in doubt, or sixteen of two halves.
  __device__ __forceinline__ bool IsToken(int j, int i) const {
    constexpr int kDoubtful = C::kHalves == 1 ? 1 : 2 * Half;
    return (Width > C::kLeastLoop && j < Width / 8 - kDoubtful) || 8 * j + 2 * me.t + i < count;
  }

  template <class Slot>
  __device__ __forceinline__ void StoreAs(const float* sums, int column, RowBias bias) const {
    Slot* to = static_cast<Slot*>(a.slots) +
               (panel_row + 2 * me.t) * static_cast<int64_t>(a.hidden) + column;
#pragma unroll
    for (int j = 0; j < Width / 8; j++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        if (!IsToken(j, i)) continue;
        Slot* const row = to + i * static_cast<int64_t>(a.hidden);
        StoreSlot(row, sums[4 * j + i] + bias.row0, sums[4 * j + 2 + i] + bias.row1);
      }
      to += 8 * static_cast<int64_t>(a.hidden);
    }
  }

  __device__ __forceinline__ void StoreLevelled(const float* sums, int column) const {
    uint16_t* to = LevelSlotsAt(a, panel_row + 2 * me.t, column);
#pragma unroll
    for (int j = 0; j < Width / 8; j++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        if (!IsToken(j, i)) continue;
        StoreLevelSlot(to + i * 2 * static_cast<int64_t>(a.hidden), sums[4 * j + i],
                       sums[4 * j + 2 + i], a.h_factor);
      }
      to += 8 * 2 * static_cast<int64_t>(a.hidden);
    }
  }

  // To rows anywhere. Where registers allow, addresses are asked for some at a time, so that stores do not wait for one after the
  // other.
  __device__ __forceinline__ void StoreAtTargets(const float* sums, int column,
                                                 RowBias bias) const {
    constexpr int kAhead = C::kWarpgroups == 2 ? 2 : 1;
    void* const* targets = a.targets + panel_row + 2 * me.t;
#pragma unroll
    for (int first = 0; first < Width / 8; first += kAhead) {
      void* to[kAhead][2];
#pragma unroll
      for (int ahead = 0; ahead < kAhead; ahead++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const int j = first + ahead;
          if (j < Width / 8 && IsToken(j, i)) to[ahead][i] = targets[8 * j + i];
        }
      }
#pragma unroll
      for (int ahead = 0; ahead < kAhead; ahead++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const int j = first + ahead;
          if (j < Width / 8 && IsToken(j, i)) {
            StoreSlot(static_cast<__nv_bfloat16*>(to[ahead][i]) + column,
                      sums[4 * j + i] + bias.row0, sums[4 * j + 2 + i] + bias.row1);
          }
        }
      }
    }
  }
};

template <class C, int Width>
__device__ __forceinline__ void StoreE4m3Slots(const E4m3Sums<C, Width>& loop,
                                               const GemmKernelArgs& a, const WorkTile& work,
                                               const MmaThread& me, const uint8_t* slab) {
  // store(part, sums, column, bias) for each of the warpgroup's tiles, and each half of the tokens.
  const auto each = [&](auto store) {
#pragma unroll
    for (int which = 0; which < C::kTilesEach; which++) {
      const int tile = work.tile + which, column = tile * 64 + me.warp * 16 + me.g * 2;
      if (tile >= a.tiles || column >= a.hidden) return;
      RowBias bias{0.0f, 0.0f};
      if constexpr (!C::kLevelled) bias = LoadBias(a, slab, tile, me);
      store(E4m3Part<C, Width, 0>{a, me, work.panel_row, work.count}, loop.Sums(which), column,
            bias);
      if constexpr (C::kHalves == 2) {
        store(E4m3Part<C, Width, 1>{a, me, work.panel_row + Width, work.count - Width},
              loop.Sums(C::kTilesEach + which), column, bias);
      }
    }
  };
  if constexpr (C::kLevelled) {
    each([](const auto& part, const float* sums, int column, RowBias) {
      part.StoreLevelled(sums, column);
    });
  } else if (a.targets != nullptr) {
    each([](const auto& part, const float* sums, int column, RowBias bias) {
      part.StoreAtTargets(sums, column, bias);
    });
  } else if (a.slots_are_bf16) {
    each([](const auto& part, const float* sums, int column, RowBias bias) {
      part.template StoreAs<__nv_bfloat16>(sums, column, bias);
    });
  } else {
    each([](const auto& part, const float* sums, int column, RowBias bias) {
      part.template StoreAs<float>(sums, column, bias);
    });
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_E4M3_SLOTS_CUH_
