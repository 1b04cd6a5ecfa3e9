// Main loop of W4A8: a warpgroup's one or two tiles of 64 rows times a tile of up to `Width` tokens over the whole of K, one
// column a token. Products accumulate in the tensor core and are promoted to fp32 every 256 of K (GEMM1, where x has one
// scale a row) or every 128 (GEMM2, where a scale of h ends). Both shapes of CTA promote at the same places, so that every
// width of either gives the same bits.
#ifndef DSV4MX_KERNELS_MMA_E4M3_LOOP_CUH_
#define DSV4MX_KERNELS_MMA_E4M3_LOOP_CUH_

#include "kernels/mma/block.cuh"
#include "kernels/mxfp4/decode.cuh"
#include "kernels/ptx/wgmma.cuh"

namespace dsv4mx {

template <class C, int Width>
struct E4m3Loop {
  static constexpr int kColumns = Width;
  static constexpr int kTiles = C::kTilesEach;
  static constexpr int kBaseBlocks = kSm90BaseK / kSm90BlockK;
  // k32 steps to a group of products, of one tile a warpgroup; four where registers allow.
  static constexpr int kGroupSteps = Width > 40 ? 2 : 4;
  using Wgmma = WgmmaE4M3<Width>;
  float acc[kTiles][Width / 2];  // [8 tokens][row half][2]: tokens 8j + 2t and 8j + 2t + 1
  float d[Width / 2];

  __device__ __forceinline__ static constexpr int Columns() { return Width; }
  __device__ __forceinline__ const float* Sums(int which) const { return acc[which]; }

  __device__ __forceinline__ E4m3Loop() {
#pragma unroll
    for (int which = 0; which < kTiles; which++) {
#pragma unroll
      for (int i = 0; i < Width / 2; i++) acc[which][i] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < Width / 2; i++) d[i] = 0.0f;
  }

  // The exponent bases of the lane's two rows of a tile, for a block of 512 of K.
  struct ExponentBases {
    uint32_t row0, row1;
    __device__ __forceinline__ void Load(const Ring<C>& ring, const MmaThread& me, int which) {
      const uint32_t at = ring.Bases() + (me.wg * kTiles + which) * 64 + me.warp * 16 + me.g;
      row0 = LoadShared1(at);
      row1 = LoadShared1(at + 8);
    }
  };
  struct Tables {
    PlaneTable row0, row1;
    __device__ __forceinline__ Tables(uint32_t scales, const ExponentBases& bases)
        : row0(PlaneOf((scales & 255u) - bases.row0)), row1(PlaneOf((scales >> 8) - bases.row1)) {}
  };
  __device__ __forceinline__ static void Decode(const Block& b, int step, const Tables& t,
                                                uint32_t* a) {
    const uint4 q = b.words[step / 2];
    DecodePlane(step % 2 ? q.z : q.x, t.row0, a[0], a[2]);
    DecodePlane(step % 2 ? q.w : q.y, t.row1, a[1], a[3]);
  }

  // acc += unit * scale * d
  __device__ __forceinline__ void Promote(float* sums, const ExponentBases& b, uint32_t scales,
                                          const MmaThread& me) {
    const float unit0 = PlaneUnit(b.row0), unit1 = PlaneUnit(b.row1);
#pragma unroll
    for (int j = 0; j < Width / 8; j++) {
      float2 scale0 = make_float2(unit0, unit0), scale1 = make_float2(unit1, unit1);
      if constexpr (C::kGemm == 2) {
        const float2 scale = LoadSharedFloat2(scales + (8 * j + 2 * me.t) * 4);
        scale0 = make_float2(unit0 * scale.x, unit0 * scale.y);
        scale1 = make_float2(unit1 * scale.x, unit1 * scale.y);
      }
      sums[4 * j] = fmaf(scale0.x, d[4 * j], sums[4 * j]);
      sums[4 * j + 1] = fmaf(scale0.y, d[4 * j + 1], sums[4 * j + 1]);
      sums[4 * j + 2] = fmaf(scale1.x, d[4 * j + 2], sums[4 * j + 2]);
      sums[4 * j + 3] = fmaf(scale1.y, d[4 * j + 3], sums[4 * j + 3]);
    }
  }

  // One full stage of one tile. kb counts blocks of K; b holds the stage's first block, and afterwards the next stage's.
  __device__ __forceinline__ void Stage(Ring<C>& ring, const MmaThread& me, ExponentBases& bases,
                                        Block& b, int kb, bool more, bool release) {
    const uint32_t panel = PanelDescriptorLow(ring.Panel()),
                   part = ring.PartBytes() >> kDescriptorUnit;
    const uint32_t own = ring.Empty(), scales = ring.Scales();
#pragma unroll
    for (int i = 0; i < C::kStageBlocks; i++, kb++) {
      if (i == 0 && kb % kBaseBlocks == 0) bases.Load(ring, me, 0);
      const Tables tables(b.scales, bases);
      const bool fresh = C::kGemm == 2 || i == 0;
#pragma unroll
      for (int group = 0; group < 4 / kGroupSteps; group++) {
        uint32_t a[kGroupSteps][4];
#pragma unroll
        for (int k = 0; k < kGroupSteps; k++) Decode(b, group * kGroupSteps + k, tables, a[k]);
        const uint32_t at = panel + i * part + group * kGroupSteps * kDescriptorK32;
        WgmmaFence();
        Wgmma::Mma(d, a[0], PanelDescriptor(at), group == 0 && fresh ? 0 : 1);
#pragma unroll
        for (int k = 1; k < kGroupSteps; k++)
          Wgmma::Mma(d, a[k], PanelDescriptor(at + k * kDescriptorK32), 1);
        WgmmaCommit();
        if (group < 4 / kGroupSteps - 1) WgmmaWait<0>();
      }
      if (i + 1 < C::kStageBlocks) {
        LoadBlock(ring, me, i + 1, b);
      } else {
        ring.Next();
        if (more) {
          BarrierWait(ring.Full(), ring.phase);
          LoadBlock(ring, me, 0, b);
        }
      }
      WgmmaWait<0>();
      if (C::kGemm == 2 || i == C::kStageBlocks - 1)
        Promote(acc[0], bases, scales + i * 4 * ring.a.width, me);
    }
    __syncwarp();
    if (release && me.lane == 0) BarrierArrive(own);
  }

  // Two tiles: while the products of a block run, the words of the next become operands. With two warpgroups a scheduler has
  // two warps, too few to hide the one behind the other. A stage goes tile by tile, so that one set of sums serves both.
  __device__ __forceinline__ void RunPairs(const GemmKernelArgs& a, Ring<C>& ring,
                                           const MmaThread& me, ExponentBases (&bases)[kTiles],
                                           int full, bool tail) {
    constexpr int kBlocks = C::kStageBlocks;
    uint32_t operand[2][4][4];
    // Block i of tile `which` of the stage that the ring stands at.
    const auto decode = [&](int which, int i, int stage, uint32_t(&to)[4][4]) {
      Block b;
      LoadBlock(ring, me, i, b, which);
      if (i == 0 && stage % (kBaseBlocks / kBlocks) == 0) bases[which].Load(ring, me, which);
      const Tables tables(b.scales, bases[which]);
#pragma unroll
      for (int k = 0; k < 4; k++) Decode(b, k, tables, to[k]);
    };
    BarrierWait(ring.Full(), ring.phase);
    decode(0, 0, 0, operand[0]);
    for (int stage = 0; stage < full; stage++) {
      const uint32_t panel = PanelDescriptorLow(ring.Panel()),
                     part = ring.PartBytes() >> kDescriptorUnit;
      const uint32_t own = ring.Empty(), scales = ring.Scales();
      const bool more = stage + 1 < full;
#pragma unroll
      for (int index = 0; index < kTiles * kBlocks; index++) {
        const int which = index / kBlocks, i = index % kBlocks, next = index + 1;
        const auto& now = operand[index % 2];
        WgmmaFence();
        Wgmma::Mma(d, now[0], PanelDescriptor(panel + i * part), C::kGemm == 2 || i == 0 ? 0 : 1);
#pragma unroll
        for (int k = 1; k < 4; k++)
          Wgmma::Mma(d, now[k], PanelDescriptor(panel + i * part + k * kDescriptorK32), 1);
        WgmmaCommit();
        if (next < kTiles * kBlocks) {
          decode(next / kBlocks, next % kBlocks, stage, operand[next % 2]);
        } else {
          ring.Next();
          if (more) {
            BarrierWait(ring.Full(), ring.phase);
            decode(0, 0, stage + 1, operand[next % 2]);
          }
        }
        WgmmaWait<0>();
        if (C::kGemm == 2 || i == kBlocks - 1)
          Promote(acc[which], bases[which], scales + i * 4 * a.width, me);
      }
      __syncwarp();
      if ((more || tail) && me.lane == 0) BarrierArrive(own);
    }
  }

  // A stage shorter than the others: it is at most one of a tile's.
  __device__ __forceinline__ void Tail(Ring<C>& ring, const MmaThread& me,
                                       ExponentBases (&bases)[kTiles], int kb, int length) {
    const uint32_t panel = PanelDescriptorLow(ring.Panel());
    BarrierWait(ring.Full(), ring.phase);
#pragma unroll
    for (int which = 0; which < kTiles; which++) {
      if (kb % kBaseBlocks == 0) bases[which].Load(ring, me, which);
      for (int step = 0; step < length / 32;) {
        const TailBlock b = FindTail(ring, me, step * 32, length - step * 32, which);
        const Tables tables(b.scales, bases[which]);
        for (int i = 0; i < b.length / 32; i++, step++) {
          const uint32_t word = TailWord(b, me, i);
          uint32_t a[4];
          DecodePlane(LoadShared4(word), tables.row0, a[0], a[2]);
          DecodePlane(LoadShared4(word + 4), tables.row1, a[1], a[3]);
          const uint32_t at =
              panel + (step / 4 * ring.PartBytes() >> kDescriptorUnit) + step % 4 * kDescriptorK32;
          WgmmaFence();
          Wgmma::Mma(d, a, PanelDescriptor(at), step % 4 == 0 ? 0 : 1);
          WgmmaCommit();
          WgmmaWait<0>();
          if (step % 4 == 3 || step == length / 32 - 1)
            Promote(acc[which], bases[which], ring.Scales() + step / 4 * 4 * ring.a.width, me);
        }
      }
    }
    ring.Next();
  }

  // The whole K of one tile. Leaves the last stage unreleased: the epilogue reads its header and scales.
  __device__ __forceinline__ void Run(const GemmKernelArgs& a, Ring<C>& ring, const MmaThread& me) {
    static_assert(kBaseBlocks % C::kStageBlocks == 0,
                  "a stage lies in one block of 512, which has one set of exponent bases");
    const int full = a.k / C::kStageK, tail = a.k % C::kStageK;
    ExponentBases bases[kTiles];
    if (full > 0) {
      if constexpr (kTiles > 1) {
        RunPairs(a, ring, me, bases, full, tail != 0);
      } else {
        Block b;
        BarrierWait(ring.Full(), ring.phase);
        LoadBlock(ring, me, 0, b);
        for (int c = 0; c < full; c++) {
          const bool more = c + 1 < full;
          Stage(ring, me, bases[0], b, c * C::kStageBlocks, more, more || tail != 0);
        }
      }
    }
    if (tail != 0) Tail(ring, me, bases, full * C::kStageBlocks, tail);
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_E4M3_LOOP_CUH_
