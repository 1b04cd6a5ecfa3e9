// The products of one stage: a team's 64 rows times the tokens of the tile, over up to 512 of K.
#ifndef DSV4MX_KERNELS_FEW_STAGE_CUH_
#define DSV4MX_KERNELS_FEW_STAGE_CUH_

#include "kernels/few/geometry.h"
#include "kernels/mma/block.cuh"
#include "kernels/mxfp4/decode.cuh"
#include "kernels/ptx/wgmma.cuh"

namespace dsv4mx {

// The two exponent bases of a lane's rows g and g + 8.
struct RowBases {
  uint32_t row0, row1;
};
// Sums of these rows for the lane's token.
struct RowSums {
  float row0, row1;
};

// Where a stage of `k` values lies in shared memory, and which block of K it begins with.
struct FewStage {
  uint32_t weights, bases, panel;
  int first_block, k;
};

__device__ __forceinline__ RowSums JoinPlanes(const float* d) {
  return {fmaf(d[1], 0.0625f, d[0]), fmaf(d[3], 0.0625f, d[2])};
}

// The stages of one tile or of a part of it, in order. finish(number, sum, bases) takes each sum that is complete: of block
// `number` of K and of those before it that are joined with it.
template <int Gemm>
struct FewMultiplier {
  using Wgmma = WgmmaE4M3<8>;
  static constexpr int kPanelBlock =
      kFewPanelBlock >> kDescriptorUnit;  // of a block of the panel, as descriptors count
  float d[4] = {};

  // The fragments of a block.
  __device__ __forceinline__ static void Decode(const Block& b, const RowBases& base,
                                                uint32_t (*a)[4]) {
    const PlaneTable t0 = PlaneOf((b.scales & 255u) - base.row0),
                     t1 = PlaneOf((b.scales >> 8) - base.row1);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const uint4 q = b.words[k / 2];
      DecodePlane(k % 2 ? q.z : q.x, t0, a[k][0], a[k][2]);
      DecodePlane(k % 2 ? q.w : q.y, t1, a[k][1], a[k][3]);
    }
  }
  // Their products, which run when this returns.
  __device__ __forceinline__ void Start(const uint32_t (*a)[4], uint32_t panel, int more) {
    WgmmaFence();
    Wgmma::Mma(d, a[0], PanelDescriptor(panel), more);
#pragma unroll
    for (int k = 1; k < 4; k++) Wgmma::Mma(d, a[k], PanelDescriptor(panel + k * kDescriptorK32), 1);
    WgmmaCommit();
  }

  // N blocks in straight-line code, in which a block is decoded while the products of the one before it run: with so few warps
  // on a multiprocessor nothing else would fill that time.
  template <int N, class F>
  __device__ __forceinline__ void RunFull(const FewStage& stage, const RowBases& base,
                                          uint32_t panel, const MmaThread& me, F finish) {
    Block b;
    uint32_t a[2][4][4];
    LoadBlock(stage.weights, me, b);
    Decode(b, base, a[0]);
#pragma unroll
    for (int i = 0; i < N; i++) {
      if (i < N - 1) LoadBlock(stage.weights + (i + 1) * kSm90BytesPerK * kSm90BlockK, me, b);
      Start(a[i % 2], panel + i * kPanelBlock,
            Gemm == 1 && (i > 0 || (N < 4 && stage.first_block % 4 != 0)));
      if (i < N - 1) Decode(b, base, a[(i + 1) % 2]);
      WgmmaWait<0>();
      const int number = stage.first_block + i;
      if (Gemm == 2 || (i == N - 1 && (N == 4 || number % 4 == 3)))
        finish(number, JoinPlanes(d), base);
    }
  }

  template <class F>
  __device__ __forceinline__ void Run(const FewStage& stage, int joined, const MmaThread& me,
                                      F finish) {
    const uint32_t bases = stage.bases + me.warp * 16 + me.g;
    const RowBases base{LoadShared1(bases), LoadShared1(bases + 8)};
    const int full = stage.k / kSm90BlockK, tail = stage.k % kSm90BlockK;
    const uint32_t panel = PanelDescriptorLow(stage.panel);
    const int end = stage.first_block + full;
    if (Gemm == 2 || end < joined || (end == joined && joined % 4 == 0)) {
      if (full == 4) return RunFull<4>(stage, base, panel, me, finish);
      if (full == 2 && tail == 0) return RunFull<2>(stage, base, panel, me, finish);
    }
    int number = stage.first_block;
#pragma unroll 1
    for (int i = 0; i < full; i++, number++) {
      Block b;
      uint32_t a[4][4];
      LoadBlock(stage.weights + i * kSm90BytesPerK * kSm90BlockK, me, b);
      Decode(b, base, a);
      Start(a, panel + i * kPanelBlock, Gemm == 1 && number % 4 != 0 && number < joined);
      WgmmaWait<0>();
      if (Gemm == 2 || number % 4 == 3 || number >= joined - 1) finish(number, JoinPlanes(d), base);
    }
    if (tail == 0) return;
#pragma unroll 1
    for (int step = 0; step < tail / 32;) {
      const TailBlock of =
          FindTail(stage.weights, me, full * kSm90BlockK + step * 32, tail - step * 32);
      const PlaneTable t0 = PlaneOf((of.scales & 255u) - base.row0),
                       t1 = PlaneOf((of.scales >> 8) - base.row1);
#pragma unroll 1
      for (int i = 0; i < of.length / 32; i++, step++) {
        const uint32_t word = TailWord(of, me, i);
        uint32_t a[4];
        DecodePlane(LoadShared4(word), t0, a[0], a[2]);
        DecodePlane(LoadShared4(word + 4), t1, a[1], a[3]);
        WgmmaFence();
        Wgmma::Mma(d, a, PanelDescriptor(panel + full * kPanelBlock + step * kDescriptorK32),
                   step == 0 ? 0 : 1);
        WgmmaCommit();
        WgmmaWait<0>();
      }
    }
    finish(number, JoinPlanes(d), base);
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_STAGE_CUH_
