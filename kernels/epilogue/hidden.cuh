// Epilogue of GEMM1: bias, clamp and activation in fp32 where gate and up of a channel meet in one thread, then h into the
// panel that GEMM2 reads. The order of w13's rows (mxfp4/layout.h) makes warp, lane and tile the place inside h.
#ifndef DSV4MX_KERNELS_EPILOGUE_HIDDEN_CUH_
#define DSV4MX_KERNELS_EPILOGUE_HIDDEN_CUH_

#include <cuda_bf16.h>

#include "kernels/epilogue/activation.cuh"
#include "kernels/epilogue/bias.cuh"
#include "kernels/mma/bf16_loop.cuh"
#include "kernels/mma/e4m3_loop.cuh"
#include "kernels/mxfp4/split.cuh"

namespace dsv4mx {

// Shared memory where h is E4M3: three sets of the tokens' largest magnitudes, and the tile of h on its way out. Planes write
// their tile in steps of 16 tokens.
struct HiddenScratch {
  uint32_t peaks, tile;  // shared addresses: 3 * PeakWords words; rows of 128 channels
};
template <class C>
__host__ __device__ constexpr int PeakWords(int width) {
  return C::kPlanes ? C::kWidest : width;
}
template <class C>
__host__ __device__ constexpr int HiddenRows(int width) {
  return C::kPlanes ? (width + 15) & ~15 : width;
}
template <class C>
__host__ __device__ constexpr int HiddenScratchBytes(int width) {
  return C::kFp8 && C::kGemm == 1
             ? C::kTokenBytes * HiddenRows<C>(width) + 3 * 4 * PeakWords<C>(width)
             : 0;
}
template <class C>
__host__ __device__ constexpr uint32_t LeastPeak() {
  return C::kE4m3 ? kE4m3LeastPeak : kPlaneLeastPeak;
}

// W4A8: h as W4A16 has it, rounded to bf16, then as E4M3 with one scale per token and 128 channels. Magnitudes of a thread's
// two tokens travel together as a pair of bf16, whose bits order as they do.
template <class C, int Width>
__device__ __forceinline__ void StoreHidden(E4m3Loop<C, Width>& loop, const GemmKernelArgs& a,
                                            const WorkTile& work, const MmaThread& me,
                                            const uint8_t* slab, uint32_t scales,
                                            const HiddenScratch& scratch, int& peak_set) {
  constexpr int kThreads = C::kWarpgroups * 128;
  const uint32_t peaks = scratch.peaks + peak_set * 4 * a.width;
  peak_set = peak_set == 2 ? 0 : peak_set + 1;
  const uint32_t next_peaks = scratch.peaks + peak_set * 4 * a.width;
  RowBias bias[C::kTilesEach];
#pragma unroll
  for (int which = 0; which < C::kTilesEach; which++) {
    bias[which] = work.tile + which < a.tiles ? LoadBias(a, slab, work.tile + which, me)
                                              : RowBias{0.0f, 0.0f};
  }
  ActivateAll(MakeActivation(a), [&](auto activate) {
#pragma unroll
    for (int j = 0; j < Width / 8; j++) {
      const float2 scale = LoadSharedFloat2(scales + (8 * j + 2 * me.t) * 4);
#pragma unroll
      for (int which = 0; which < C::kTilesEach; which++) {
        float* const acc = loop.acc[which] + 4 * j;
        const float row0 = bias[which].row0, row1 = bias[which].row1;
        acc[0] = activate(fmaf(acc[0], scale.x, row0), fmaf(acc[2], scale.x, row1));
        acc[1] = activate(fmaf(acc[1], scale.y, row0), fmaf(acc[3], scale.y, row1));
      }
    }
  });
  if (a.hidden_weight != nullptr) {
#pragma unroll
    for (int j = 0; j < Width / 8; j++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int m = 8 * j + 2 * me.t + i;
        const float weight = m < work.count ? a.hidden_weight[work.panel_row + m] : 0.0f;
#pragma unroll
        for (int which = 0; which < C::kTilesEach; which++) loop.acc[which][4 * j + i] *= weight;
      }
    }
  }
#pragma unroll
  for (int j = 0; j < Width / 8; j++) {
    const int m = 8 * j + 2 * me.t;
    uint32_t top = 0;
#pragma unroll
    for (int which = 0; which < C::kTilesEach; which++) {
      const bool live = work.tile + which < a.tiles;
      uint32_t pair = 0;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const bool real = live && m + i < work.count;
        float& h = loop.acc[which][4 * j + i];
        const __nv_bfloat16 rounded = __float2bfloat16_rn(real ? h : 0.0f);
        h = __bfloat162float(rounded);
        pair |= static_cast<uint32_t>(__bfloat16_as_ushort(rounded)) << (16 * i);
      }
      top = __vmaxu2(top, pair & 0x7FFF7FFFu);
    }
#pragma unroll
    for (int x = 4; x < 32; x *= 2) top = __vmaxu2(top, __shfl_xor_sync(~0u, top, x));
    SharedMax(peaks + m * 4, top << 16, me.g == 0 && m < work.count);
    SharedMax(peaks + m * 4 + 4, top & 0xFFFF0000u, me.g == 0 && m + 1 < work.count);
  }
  // The tile of the work before this one must have left, and its readers have passed their last barrier.
  if (threadIdx.x == 0) BulkStoreWait();
  if (threadIdx.x < a.width) StoreShared4(next_peaks + threadIdx.x * 4, kE4m3LeastPeak);
  NamedBarrier(1, kThreads);
  const int block = work.tile / C::kTiles;
#pragma unroll
  for (int j = 0; j < Width / 8; j++) {
    const int m = 8 * j + 2 * me.t;
    if (8 * j >= work.count) break;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      if (m + i >= a.width) break;
      const float inverse = E4m3Inverse(LoadShared4(peaks + (m + i) * 4));
      const uint32_t row = scratch.tile + (m + i) * 128 + 4 * (me.g >> 1) + me.warp;
#pragma unroll
      for (int which = 0; which < C::kTilesEach; which++) {
        const int chunk = (work.tile + which) % C::kTiles * 2 + (me.g & 1);
        StoreShared1(row + (chunk ^ ((m + i) & 7)) * 16,
                     static_cast<uint8_t>(E4m3Pair(loop.acc[which][4 * j + i] * inverse, 0.0f)));
      }
    }
  }
  // GEMM2 copies scales four at a time.
  if (threadIdx.x < (work.count + 3) / 4 * 4) {
    a.h_scale[block * a.panel_rows + work.panel_row + threadIdx.x] =
        E4m3Scale(LoadShared4(peaks + threadIdx.x * 4));
  }
  FenceAsyncProxy();
  NamedBarrier(1, kThreads);
  if (threadIdx.x == 0) {
    BulkStore(a.h + (block * a.panel_rows + work.panel_row) * 128, scratch.tile, work.count * 128);
  }
}

// A warp's eight lanes g hold 16 neighbouring bytes of a token.
template <class C, int Width>
__device__ __forceinline__ void StoreHidden(Bf16Loop<C, Width>& loop, const GemmKernelArgs& a,
                                            const WorkTile& work, const MmaThread& me,
                                            const uint8_t* slab, uint32_t, const HiddenScratch&,
                                            int&) {
  // Two tiles share a line, which GEMM2 copies whole: the second is zeros where there is none.
  const bool live = work.tile < a.tiles;
  if (!live && (work.tile > a.tiles || a.tiles % 2 == 0)) return;
  const RowBias bias = live ? LoadBias(a, slab, work.tile, me) : RowBias{0.0f, 0.0f};
  // As two loops to choose from, as above, this spills: SiTU comes first, and the other is left aside.
  const Activation act = MakeActivation(a);
  const bool situ = IsSitu(act);
  if (situ) {
#pragma unroll
    for (int j = 0; j < Width / 8; j++) {
      float* const acc = loop.acc + 4 * j;
      acc[0] = SituOf(acc[0] + bias.row0, acc[2] + bias.row1, act);
      acc[1] = SituOf(acc[1] + bias.row0, acc[3] + bias.row1, act);
    }
  }
  const int chunk = work.tile % 2 * 4 + me.warp;
  uint8_t* to = a.h + (work.tile / 2 * a.panel_rows + work.panel_row) * 128 + me.g * 2;
#pragma unroll
  for (int j = 0; j < Width / 8; j++) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int m = 8 * j + 2 * me.t + i;
      const bool real = m < work.count;
      const float* const acc = loop.acc + 4 * j + i;
      float h = GatedOf(acc[0] + bias.row0, acc[2] + bias.row1, act);
      if (situ) h = acc[0];
      if (!live) h = 0.0f;
      if (a.hidden_weight != nullptr && real) h *= a.hidden_weight[work.panel_row + m];
      __nv_bfloat16* const at =
          reinterpret_cast<__nv_bfloat16*>(to + m * 128 + (chunk ^ (m & 7)) * 16);
      if (real) *at = __float2bfloat16_rn(h);
    }
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_HIDDEN_CUH_
