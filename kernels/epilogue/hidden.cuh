// Epilogue of GEMM1: bias, clamp and activation in fp32 where gate and up of a channel meet in one thread, then h into the
// panel that GEMM2 reads. The order of w13's rows (mxfp4/layout.h) makes warp, lane and tile the place inside h.
#ifndef DSV4MX_KERNELS_EPILOGUE_HIDDEN_CUH_
#define DSV4MX_KERNELS_EPILOGUE_HIDDEN_CUH_

#include <cuda_bf16.h>

#include "kernels/epilogue/activation.cuh"
#include "kernels/epilogue/bias.cuh"
#include "kernels/epilogue/hidden_pairs.cuh"
#include "kernels/epilogue/token_peaks.cuh"
#include "kernels/mma/bf16_loop.cuh"
#include "kernels/mma/e4m3_loop.cuh"
#include "kernels/mxfp4/split.cuh"

namespace dsv4mx {

// Shared memory where h is E4M3: three sets of the tokens' largest magnitudes (planes), or of words that fall as these grow
// (E4m3PeakWord), and the tile of h on its way out. Planes write their tile in steps of 16 tokens; a loop of E4M3 that has more
// columns than the launch's tiles have tokens writes there too.
struct HiddenScratch {
  uint32_t peaks, tile;  // shared addresses: 3 * PeakWords words; HiddenRows rows of 128 channels
};
template <class C>
__host__ __device__ constexpr int HiddenRows(int width) {
  if (C::kPlanes) return (width + 15) & ~15;
  return C::kE4m3 && width < C::kHalves * C::kLeastLoop ? C::kHalves * C::kLeastLoop : width;
}
template <class C>
__host__ __device__ constexpr int PeakWords(int width) {
  return C::kPlanes ? C::kWidest : HiddenRows<C>(width);
}
template <class C>
__host__ __device__ constexpr int HiddenScratchBytes(int width) {
  return C::kFp8 && C::kGemm == 1
             ? C::kTokenBytes * HiddenRows<C>(width) + 3 * 4 * PeakWords<C>(width)
             : 0;
}
// What a set holds before any token.
template <class C>
__device__ __forceinline__ constexpr uint32_t FirstPeak() {
  return C::kE4m3 ? E4m3PeakWord(kE4m3LeastPeak) : kPlaneLeastPeak;
}

// Into a set of peaks what a warp's tokens have, a pair of them for every eight.
template <int Pairs>
__device__ __forceinline__ void StoreWarpPeaks(uint32_t (&top)[Pairs], uint32_t peaks,
                                               const MmaThread& me) {
  const uint32_t at = peaks + WarpPeaks<Pairs>(top, me.lane) * 32 + me.t * 8;
#pragma unroll
  for (int i = 0; i < PeaksLeft(Pairs); i++) {
    SharedMin(at + i * 32, E4m3PeakWord(top[i] << 16 & 0x7FFF0000u));
    SharedMin(at + i * 32 + 4, E4m3PeakWord(top[i] & 0x7FFF0000u));
  }
}

// What a tile of E4M3 leaves: its scales, then, when all threads have written theirs, itself.
template <class C>
__device__ __forceinline__ void SendHidden(const GemmKernelArgs& a, const WorkTile& work,
                                           uint32_t peaks, uint32_t tile) {
  const int block = work.tile / C::kTiles;
  // GEMM2 copies scales four at a time.
  if (threadIdx.x < (work.count + 3) / 4 * 4) {
    a.h_scale[block * a.panel_rows + work.panel_row + threadIdx.x] =
        E4m3ScaleOfWord(LoadShared4(peaks + threadIdx.x * 4));
  }
  FenceAsyncProxy();
  NamedBarrier(1, C::kWarpgroups * 128);
  if (threadIdx.x == 0)
    BulkStore(a.h + (block * a.panel_rows + work.panel_row) * 128, tile, work.count * 128);
}

// W4A8: h as W4A16 has it, rounded to bf16, then as E4M3 with one scale per token and 128 channels. What is computed from rows
// past the last token stays in their columns, and nothing of it leaves. The code is long and runs once a tile, so it costs what
// it takes to fetch it: few instructions, and no branches that are taken.
template <class C, int Width>
__device__ __forceinline__ void StoreHidden(E4m3Loop<C, Width>& loop, const GemmKernelArgs& a,
                                            const WorkTile& work, const MmaThread& me,
                                            const uint8_t* slab, uint32_t scales,
                                            const HiddenScratch& scratch, int& peak_set) {
  constexpr int kThreads = C::kWarpgroups * 128, kEach = C::kTilesEach, kPairs = Width / 8;
  const int set_bytes = 4 * PeakWords<C>(a.width);
  const uint32_t peaks = scratch.peaks + peak_set * set_bytes;
  peak_set = peak_set == 2 ? 0 : peak_set + 1;
  const uint32_t next_peaks = scratch.peaks + peak_set * set_bytes;
  // Two tokens of one channel, as a pair of bf16.
  uint32_t h[kEach][kPairs], top[kPairs];
  HiddenPairs(loop, a, work, me, slab, scales, h);
#pragma unroll
  for (int j = 0; j < kPairs; j++) {
    top[j] = h[0][j];
#pragma unroll
    for (int which = 1; which < kEach; which++) top[j] = LargerMagnitudes(top[j], h[which][j]);
  }
  StoreWarpPeaks<kPairs>(top, peaks, me);
  // The tile of the work before this one must have left, and its readers have passed their last barrier.
  if (threadIdx.x == 0) BulkStoreWait();
  if (threadIdx.x < a.width) StoreShared4(next_peaks + threadIdx.x * 4, FirstPeak<C>());
  NamedBarrier(1, kThreads);
  uint32_t to[2][kEach];
#pragma unroll
  for (int i = 0; i < 2; i++) {
#pragma unroll
    for (int which = 0; which < kEach; which++) {
      const int m = 2 * me.t + i, chunk = (me.wg * kEach + which) * 2 + (me.g & 1);
      to[i][which] = scratch.tile + m * 128 + (chunk ^ m) * 16 + 4 * (me.g >> 1) + me.warp;
    }
  }
  uint2 words[kPairs];
#pragma unroll
  for (int j = 0; j < kPairs; j++) words[j] = LoadShared8(peaks + j * 32 + me.t * 8);
#pragma unroll
  for (int j = 0; j < kPairs; j++) {
    const uint32_t inverses = E4m3Inverses(words[j].x, words[j].y);
#pragma unroll
    for (int which = 0; which < kEach; which++) {
      const uint32_t scaled = MulBf16x2(h[which][j], inverses);
      StoreShared1(to[0][which] + j * 1024, E4m3(__uint_as_float(scaled << 16)));
      StoreShared1(to[1][which] + j * 1024, E4m3(__uint_as_float(scaled & 0xFFFF0000u)));
    }
  }
  SendHidden<C>(a, work, peaks, scratch.tile);
}

// The bf16 paths' sums to h, in place of the gates. Rows past the last token are computed like others. What few layers want are loops
// of their own, so that it costs the others nothing; as two loops to choose from, as ActivateAll makes them, activations spill.
template <class C, int Width>
__device__ __forceinline__ void ActivateBf16(Bf16Loop<C, Width>& loop, const GemmKernelArgs& a,
                                             const WorkTile& work, const MmaThread& me) {
  const Activation act = MakeActivation(a);
  const bool situ = IsSitu(act);
  const auto each = [&](auto activate) {
#pragma unroll
    for (int j = 0; j < Width / 8; j++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float* const acc = loop.acc + 4 * j + i;
        acc[0] = activate(acc[0], acc[2], 8 * j + 2 * me.t + i);
      }
    }
  };
  if (situ) each([&](float g, float u, int) { return SituOf(g, u, act); });
  each([&](float g, float u, int) { return situ ? g : GatedOf(g, u, act); });
  if (a.hidden_weight != nullptr) {
    each([&](float h, float, int m) {
      return m < work.count ? h * a.hidden_weight[work.panel_row + m] : h;
    });
  }
  // Four tiles share a block of K, which GEMM2 copies whole: zeros where there is none.
  if (work.tile >= a.tiles) each([](float, float, int) { return 0.0f; });
}

// h as one of two 16-bit numbers, `pair` of two tokens' values, to the rows of a tile's tokens from `at` on in each group of eight.
// What is behind the tile's tokens goes to the panel's rows between two experts, so that no store stands behind a condition.
template <class C, int Width, class Pair>
__device__ __forceinline__ void StoreHalves(const Bf16Loop<C, Width>& loop, const GemmKernelArgs& a,
                                            const WorkTile& work, const MmaThread& me, int chunk,
                                            int byte, Pair pair) {
  // A tile begins at a multiple of eight panel rows.
  uint8_t* const to = a.h + (work.tile / 4 * a.panel_rows + work.panel_row) * 256 +
                      work.tile / 2 % 2 * kSwizzleBytes + byte;
  uint8_t* const row[2] = {to + 2 * me.t * 128 + (chunk ^ 2 * me.t) * 16,
                           to + (2 * me.t + 1) * 128 + (chunk ^ (2 * me.t + 1)) * 16};
#pragma unroll
  for (int j = 0; j < Width / 8; j++) {
    const uint32_t values = pair(loop.acc[4 * j], loop.acc[4 * j + 1]);
    *reinterpret_cast<uint16_t*>(row[0] + j * 2 * kSwizzleBytes) = static_cast<uint16_t>(values);
    *reinterpret_cast<uint16_t*>(row[1] + j * 2 * kSwizzleBytes) =
        static_cast<uint16_t>(values >> 16);
  }
}

// Whether f16 holds h, times its factor, as well as bf16 would: nothing is beyond its range, and no token's values are so small that
// steps of 2^-24 count. The latter is seen by the first warp of the first tile, from eight values of each token: below 2^-10 all of them
// are next to never, unless the whole row is. A row of zeros does not count.
inline constexpr float kF16Most = 65504.0f, kF16LeastPeak = 0x1p-10f;
template <class C, int Width>
__device__ __forceinline__ void CheckF16(const Bf16Loop<C, Width>& loop, const GemmKernelArgs& a,
                                         const WorkTile& work, const MmaThread& me,
                                         uint32_t scales) {
  float most = 0.0f;
#pragma unroll
  for (int j = 0; j < Width / 8; j++) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const bool real = j < Width / 8 - 1 || 8 * j + 2 * me.t + i < work.count;
      if (real) most = fmaxf(most, fabsf(loop.acc[4 * j + i]));
    }
  }
  bool unfit = most * a.h_factor > kF16Most;
  if (work.tile == 0 && me.warp == 0) {
#pragma unroll
    for (int j = 0; j < Width / 8; j++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int m = 8 * j + 2 * me.t + i;
        float peak = fabsf(loop.acc[4 * j + i]);
#pragma unroll
        for (int x = 4; x < 32; x *= 2) peak = MaxOrNan(peak, __shfl_xor_sync(~0u, peak, x));
        const bool zero =
            peak == 0.0f && LoadSharedFloat(scales + m * 4) <= kF16LeastRowScale * kF16Unit;
        if (m < work.count && peak * a.h_factor < kF16LeastPeak && !zero) unfit = true;
      }
    }
  }
  if (__any_sync(~0u, unfit) && me.lane == 0) *a.unfit = 1;
}

template <class C, int Width>
__device__ __forceinline__ void StoreHidden(Bf16Loop<C, Width>& loop, const GemmKernelArgs& a,
                                            const WorkTile& work, const MmaThread& me,
                                            const uint8_t* slab, uint32_t scales,
                                            const HiddenScratch&, int&) {
  if constexpr (C::kF16) loop.MultiplyTokens(scales, me);
  if (a.bias >= 0 && work.tile < a.tiles) loop.Add(LoadBias(a, slab, work.tile, me));
  ActivateBf16(loop, a, work, me);
  if constexpr (C::kF16) {
    if (a.again == 0) {
      CheckF16(loop, a, work, me, scales);
      // Sm90F16Index of the place that bf16 has it in.
      StoreHalves(loop, a, work, me, work.tile % 2 * 4 + (me.g & 1) * 2 + me.warp / 2,
                  me.g / 2 * 4 + me.warp % 2 * 2, [&](float low, float high) {
                    return F16Pair(low * a.h_factor, high * a.h_factor);
                  });
      return;
    }
  }
  // A warp's eight lanes g hold 16 neighbouring bytes of a token.
  StoreHalves(loop, a, work, me, work.tile % 2 * 4 + me.warp, me.g * 2,
              [](float low, float high) { return Bf16Pair(low, high); });
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_HIDDEN_CUH_
