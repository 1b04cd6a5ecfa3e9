// Epilogue of GEMM1 of the planes: what hidden.cuh says, for tiles of all widths. What it computes of rows behind the tile's tokens
// stays in shared memory, or in the panel's rows between two experts, so that no value needs to be chosen.
#ifndef DSV4MX_KERNELS_EPILOGUE_PLANE_HIDDEN_CUH_
#define DSV4MX_KERNELS_EPILOGUE_PLANE_HIDDEN_CUH_

#include "kernels/epilogue/hidden.cuh"
#include "kernels/mma/plane_sums.cuh"

namespace dsv4mx {

// The largest magnitudes of four tokens among the eight lanes g: each exchange halves the tokens that a lane answers for, and in
// the end lane 8i + 4k + t holds one of token i, for the caller to compare with the other k.
__device__ __forceinline__ float LargestOfFour(const float h[4], const MmaThread& me) {
  const bool upper = (me.lane & 16) != 0, odd = (me.lane & 8) != 0;
  float kept[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const float other = __shfl_xor_sync(~0u, upper ? h[i] : h[2 + i], 16);
    kept[i] = MaxOrNan(fabsf(upper ? h[2 + i] : h[i]), fabsf(other));
  }
  const float other = __shfl_xor_sync(~0u, odd ? kept[0] : kept[1], 8);
  return MaxOrNan(odd ? kept[1] : kept[0], other);
}

// h of 128 channels and all tokens of the tile; one scale per token from the CTA's largest magnitude. `peak_set` goes round the
// sets: while one is read, the next is in use and the one after it is cleared. Releases the last stage, whose scales it reads.
template <class C>
__device__ __forceinline__ void StoreHidden(const PlaneSums<C>& sums, const GemmKernelArgs& a,
                                            const WorkTile& work, const MmaThread& me,
                                            const Ring<C>& stage, const HiddenScratch& scratch,
                                            int& peak_set) {
  using Sums = PlaneSums<C>;
  constexpr int kThreads = C::kWarpgroups * 128, kStep = Sums::kStep, kTiles = Sums::kTiles;
  constexpr int kPeakWords = PeakWords<C>(0);
  const bool first_warp = me.wg == 0 && me.warp == 0;
  static_assert(kPeakWords % 32 == 0, "a warp clears a set, and writes its scales");
  const uint32_t peaks = scratch.peaks + peak_set * (4 * kPeakWords);
  peak_set = peak_set == 2 ? 0 : peak_set + 1;
  const uint32_t next_peaks = scratch.peaks + peak_set * (4 * kPeakWords);
  const uint32_t scales = stage.Scales() + me.t * 4;
  RowBias bias[kTiles];
#pragma unroll
  for (int which = 0; which < kTiles; which++) {
    bias[which] = {0.0f, 0.0f};
    if (work.tile + which < a.tiles)
      bias[which] = LoadBias(a, a.slabs + work.expert * a.slab_bytes, work.tile + which, me);
  }
  float h[kTiles][Sums::kTokens];
  ActivateAll(MakeActivation(a), [&](auto activate) {
    Sums::ForSteps(work.count, [&](int first) {
#pragma unroll
      for (int j = first; j < first + kStep; j++) {
        const float scale = LoadSharedFloat(scales + 16 * j);
#pragma unroll
        for (int which = 0; which < kTiles; which++) {
          h[which][j] = activate(fmaf(sums.at[which][2 * j], scale, bias[which].row0),
                                 fmaf(sums.at[which][2 * j + 1], scale, bias[which].row1));
        }
      }
    });
  });
  __syncwarp();
  if (Releases(me.lane)) BarrierArrive(stage.Empty());
  if (a.hidden_weight != nullptr) {
    Sums::ForSteps(work.count, [&](int first) {
#pragma unroll
      for (int j = first; j < first + kStep; j++) {
        const int m = 4 * j + me.t;
        const float weight = m < work.count ? a.hidden_weight[work.panel_row + m] : 1.0f;
#pragma unroll
        for (int which = 0; which < kTiles; which++) h[which][j] *= weight;
      }
    });
  }
  Sums::ForSteps(work.count, [&](int first) {
    float top[kStep];
#pragma unroll
    for (int i = 0; i < kStep; i++) {
      top[i] = h[0][first + i];
#pragma unroll
      for (int which = 1; which < kTiles; which++)
        top[i] = MaxOrNan(fabsf(top[i]), fabsf(h[which][first + i]));
    }
    SharedMax(peaks + first * 16 + me.lane / 8 * 16 + me.t * 4,
              __float_as_uint(LargestOfFour(top, me)));
  });
  if (first_warp) {
    // The tile of the work before this one must have left, and its readers have passed their last barrier.
    if (me.lane == 0) BulkStoreWait();
#pragma unroll
    for (int i = 0; i < kPeakWords; i += 32)
      StoreShared4(next_peaks + (i + me.lane) * 4, FirstPeak<C>());
  }
  NamedBarrier(1, kThreads);
  // A token's two lines are swizzled as lines 2m and 2m + 1, of which 8j is no matter.
  const uint32_t line = scratch.tile + me.t * 256 + 4 * (me.g >> 1) + me.warp;
  uint32_t high_at[kTiles], low_at[kTiles];
#pragma unroll
  for (int which = 0; which < kTiles; which++) {
    const uint32_t chunk = (me.wg * kTiles + which) * 2 + (me.g & 1);
    high_at[which] = line + (chunk ^ (2 * me.t)) * 16;
    low_at[which] = line + 128 + (chunk ^ (2 * me.t + 1)) * 16;
  }
  Sums::ForSteps(work.count, [&](int first) {
#pragma unroll
    for (int j = first; j < first + kStep; j += 2) {
      const uint32_t peak = peaks + me.t * 4 + 16 * j;
      const float inverse0 = PeakInverse(LoadShared4(peak)),
                  inverse1 = PeakInverse(LoadShared4(peak + 16));
#pragma unroll
      for (int which = 0; which < kTiles; which++) {
        uint32_t high, low;
        SplitPlanePair(h[which][j] * inverse0, h[which][j + 1] * inverse1, high, low);
        StoreShared1(high_at[which] + j * 1024, high);
        StoreShared1(low_at[which] + j * 1024, low);
        StoreShared1(high_at[which] + j * 1024 + 1024, high >> 8);
        StoreShared1(low_at[which] + j * 1024 + 1024, low >> 8);
      }
    }
  });
  FenceAsyncProxy();
  NamedBarrier(1, kThreads);
  if (first_warp) {
    const int block = work.tile / C::kTiles;
    const int64_t row = block * a.panel_rows + work.panel_row;
    if (me.lane == 0) BulkStore(a.h + row * 256, scratch.tile, work.count * 256);
      // GEMM2 copies scales four at a time.
#pragma unroll
    for (int i = 0; i < kPeakWords; i += 32) {
      const int m = i + me.lane;
      if (m < ((work.count + 3) & ~3)) a.h_scale[row + m] = PlaneScale(LoadShared4(peaks + m * 4));
    }
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_PLANE_HIDDEN_CUH_
