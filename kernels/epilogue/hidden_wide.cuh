// W4A8's h where an item goes through K twice (E4m3WideLoop): 64 of the 128 channels that share a scale at a time. The first time
// leaves its values, as bf16, where the tile of h is made in the end.
#ifndef DSV4MX_KERNELS_EPILOGUE_HIDDEN_WIDE_CUH_
#define DSV4MX_KERNELS_EPILOGUE_HIDDEN_WIDE_CUH_

#include "kernels/epilogue/hidden.cuh"
#include "kernels/mma/e4m3_wide_loop.cuh"

namespace dsv4mx {

template <class C, int Width>
__device__ __forceinline__ void StoreHidden(E4m3WideLoop<C, Width>& loop, const GemmKernelArgs& a,
                                            const WorkTile& work, const MmaThread& me,
                                            const uint8_t* slab, uint32_t scales,
                                            const HiddenScratch& scratch, int& peak_set) {
  constexpr int kThreads = C::kWarpgroups * 128, kPairs = Width / 8;
  static_assert(C::kTilesEach == 1 && C::kPasses == 2, "a thread has one channel each time");
  const int set_bytes = 4 * PeakWords<C>(a.width);
  const uint32_t peaks = scratch.peaks + peak_set * set_bytes;
  uint32_t now[C::kHalves][kPairs];
  HiddenPairs(loop, a, work, me, slab, scales, now);
#pragma unroll
  for (int half = 0; half < C::kHalves; half++) {
    uint32_t top[kPairs];
#pragma unroll
    for (int j = 0; j < kPairs; j++) top[j] = now[half][j];
    StoreWarpPeaks<kPairs>(top, peaks + half * Width * 4, me);
  }
  const uint32_t own = scratch.tile + threadIdx.x * 4;
  if (work.tile % C::kTiles < C::kStageTiles) {
    // The tile of the item before this one must have left.
    if (threadIdx.x == 0) BulkStoreWait();
    NamedBarrier(1, kThreads);
#pragma unroll
    for (int half = 0; half < C::kHalves; half++) {
#pragma unroll
      for (int j = 0; j < kPairs; j++)
        StoreShared4(own + (half * kPairs + j) * kThreads * 4, now[half][j]);
    }
    return;
  }
  uint32_t before[C::kHalves][kPairs];
#pragma unroll
  for (int half = 0; half < C::kHalves; half++) {
#pragma unroll
    for (int j = 0; j < kPairs; j++)
      before[half][j] = LoadShared4(own + (half * kPairs + j) * kThreads * 4);
  }
  peak_set = peak_set == 2 ? 0 : peak_set + 1;
  if (threadIdx.x < a.width)
    StoreShared4(scratch.peaks + peak_set * set_bytes + threadIdx.x * 4, FirstPeak<C>());
  NamedBarrier(1, kThreads);
  uint32_t to[2][2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
#pragma unroll
    for (int pass = 0; pass < 2; pass++) {
      const int m = 2 * me.t + i, chunk = (pass * C::kStageTiles + me.wg) * 2 + (me.g & 1);
      to[i][pass] = scratch.tile + m * 128 + (chunk ^ m) * 16 + 4 * (me.g >> 1) + me.warp;
    }
  }
#pragma unroll
  for (int half = 0; half < C::kHalves; half++) {
#pragma unroll
    for (int j = 0; j < kPairs; j++) {
      const uint2 words = LoadShared8(peaks + half * Width * 4 + j * 32 + me.t * 8);
      const uint32_t inverses = E4m3Inverses(words.x, words.y);
      const uint32_t first = MulBf16x2(before[half][j], inverses);
      const uint32_t second = MulBf16x2(now[half][j], inverses);
      const uint32_t at = (half * Width + 8 * j) * 128;
      StoreShared1(to[0][0] + at, E4m3(__uint_as_float(first << 16)));
      StoreShared1(to[1][0] + at, E4m3(__uint_as_float(first & 0xFFFF0000u)));
      StoreShared1(to[0][1] + at, E4m3(__uint_as_float(second << 16)));
      StoreShared1(to[1][1] + at, E4m3(__uint_as_float(second & 0xFFFF0000u)));
    }
  }
  SendHidden<C>(a, work, peaks, scratch.tile);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_HIDDEN_WIDE_CUH_
