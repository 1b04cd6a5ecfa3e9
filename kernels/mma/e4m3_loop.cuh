// Main loops of W4A8 for one or two tiles of 64 rows a warpgroup times a tile of up to `Width` tokens over the whole of K, one
// column a token.
#ifndef DSV4MX_KERNELS_MMA_E4M3_LOOP_CUH_
#define DSV4MX_KERNELS_MMA_E4M3_LOOP_CUH_

#include "kernels/mma/e4m3_sums.cuh"

namespace dsv4mx {

template <class C, int Width>
struct E4m3Loop : E4m3Sums<C, Width> {
  using Parts = E4m3Sums<C, Width>;
  using Parts::acc, Parts::d, Parts::Promote, Parts::Tail;
  using Parts::kTiles, Parts::kBaseBlocks;
  using typename Parts::Wgmma;
  // k32 steps to a group of products, of one tile a warpgroup; four where registers allow.
  static constexpr int kGroupSteps = Width > 40 ? 2 : 4;

  // One full stage of one tile. kb counts blocks of K; b holds the stage's first block, and afterwards the next stage's.
  __device__ __forceinline__ void Stage(Ring<C>& ring, const MmaThread& me, ExponentBases& bases,
                                        Block& b, int kb, bool more, bool release) {
    const uint32_t panel = PanelDescriptorLow(ring.Panel()),
                   part = ring.PartBytes() >> kDescriptorUnit;
    const uint32_t own = ring.Empty(), scales = ring.Scales();
#pragma unroll
    for (int i = 0; i < C::kStageBlocks; i++, kb++) {
      if (i == 0 && kb % kBaseBlocks == 0) bases.Load(ring, me, 0);
      const PlaneTables tables(b.scales, bases);
      const bool fresh = C::kBlockScales || i == 0;
#pragma unroll
      for (int group = 0; group < 4 / kGroupSteps; group++) {
        uint32_t a[kGroupSteps][4];
#pragma unroll
        for (int k = 0; k < kGroupSteps; k++) tables.Decode(b, group * kGroupSteps + k, a[k]);
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
      if (C::kBlockScales || i == C::kStageBlocks - 1)
        Promote(acc[0], bases, scales + i * 4 * ring.a.width, me);
    }
    __syncwarp();
    if (release && Releases(me.lane)) BarrierArrive(own);
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
      const PlaneTables tables(b.scales, bases[which]);
#pragma unroll
      for (int k = 0; k < 4; k++) tables.Decode(b, k, to[k]);
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
        Wgmma::Mma(d, now[0], PanelDescriptor(panel + i * part), C::kBlockScales || i == 0 ? 0 : 1);
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
        if (C::kBlockScales || i == kBlocks - 1)
          Promote(acc[which], bases[which], scales + i * 4 * a.width, me);
      }
      __syncwarp();
      if ((more || tail) && Releases(me.lane)) BarrierArrive(own);
    }
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
