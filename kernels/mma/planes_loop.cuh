// Main loop of the plane path: a warpgroup's 64 rows times a tile's tokens over the whole of K. Each token is two columns,
// high and low, next to each other, so that one thread holds both; their products accumulate in the tensor core and are
// promoted to fp32 every 512 of K (GEMM1, and GEMM2 of a levelled h) or every 128, where a scale of h ends (GEMM2).
#ifndef DSV4MX_KERNELS_MMA_PLANES_LOOP_CUH_
#define DSV4MX_KERNELS_MMA_PLANES_LOOP_CUH_

#include "kernels/mma/plane_promote.cuh"
#include "kernels/ptx/wgmma.cuh"

namespace dsv4mx {

// Width 0: any number of columns up to the widest tile, known when the tile begins.
template <class C, int Width>
struct PlanesLoop {
  static constexpr int kColumns = Width > 0 ? Width : C::kColumns;
  static constexpr int kTokens = kColumns / 8;  // of this thread: 4j + t
  static constexpr int kBaseBlocks = kSm90BaseK / kSm90BlockK;
  // k32 steps to a group of products; four where registers allow.
  static constexpr int kGroupSteps = C::kBlockScales && (Width == 0 || Width > 40) ? 2 : 4;
  float acc[1][2 * kTokens];  // [tile][token][row half]
  float d[kColumns / 2];
  int known_late;

  // Two columns a token, rounded up to 8; the same in all lanes.
  __device__ __forceinline__ int Columns() const { return Width > 0 ? Width : known_late; }

  __device__ __forceinline__ explicit PlanesLoop(int columns) : known_late(columns) {
#pragma unroll
    for (int i = 0; i < 2 * kTokens; i++) acc[0][i] = 0.0f;
#pragma unroll
    for (int i = 0; i < kColumns / 2; i++) d[i] = 0.0f;
  }

  __device__ __forceinline__ void Promote(const ExponentBases& b, uint32_t scales,
                                          const MmaThread& me) {
    PromotePlanes<C, kTokens>(acc[0], d, Columns(), b,
                              [&](int j) { return LoadHiddenScale(scales, j, me); });
  }

  // One full stage. kb counts blocks of K; b holds the stage's first block, and afterwards the next stage's.
  __device__ __forceinline__ void Stage(Ring<C>& ring, const MmaThread& me, ExponentBases& bases,
                                        Block& b, int kb, bool more, bool release) {
    const uint32_t panel = PanelDescriptorLow(ring.Panel()),
                   part = ring.PartBytes() >> kDescriptorUnit;
    const uint32_t own = ring.Empty(), scales = ring.Scales();
#pragma unroll
    for (int i = 0; i < C::kStageBlocks; i++, kb++) {
      const bool last = i == C::kStageBlocks - 1;
      if (i == 0 && kb % kBaseBlocks == 0) bases.Load(ring, me);
      const PlaneTables tables(b.scales, bases);
      const int fresh = C::kBlockScales || kb % kBaseBlocks == 0;
#pragma unroll
      for (int group = 0; group < 4 / kGroupSteps; group++) {
        uint32_t a[kGroupSteps][4];
#pragma unroll
        for (int k = 0; k < kGroupSteps; k++) tables.Decode(b, group * kGroupSteps + k, a[k]);
        const uint32_t at = panel + i * part + group * kGroupSteps * kDescriptorK32;
        ForWidth<kColumns>(Columns(), [&](auto width) {
          using Wgmma = WgmmaE4M3<decltype(width)::value>;
          WgmmaFence();
          Wgmma::Mma(d, a[0], PanelDescriptor(at), group == 0 && fresh ? 0 : 1);
#pragma unroll
          for (int k = 1; k < kGroupSteps; k++)
            Wgmma::Mma(d, a[k], PanelDescriptor(at + k * kDescriptorK32), 1);
          WgmmaCommit();
        });
        if (group < 4 / kGroupSteps - 1) WgmmaWait<0>();
      }
      if (!last) {
        LoadBlock(ring, me, i + 1, b);
      } else {
        ring.Next();
        if (more) {
          BarrierWait(ring.Full(), ring.phase);
          LoadBlock(ring, me, 0, b);
        }
      }
      WgmmaWait<0>();
      // A tail follows with bases of its own only where K % 512 < 128 * blocks; else it goes on in this one, freshly.
      if (C::kBlockScales || kb % kBaseBlocks == kBaseBlocks - 1 || (last && !more))
        Promote(bases, scales + i * 4 * ring.a.width, me);
    }
    __syncwarp();
    if (release && Releases(me.lane)) BarrierArrive(own);
  }

  // A stage shorter than the others: it is at most one of a tile's.
  __device__ __forceinline__ void Tail(Ring<C>& ring, const MmaThread& me, ExponentBases& bases,
                                       int kb, int length) {
    const uint32_t panel = PanelDescriptorLow(ring.Panel());
    if (kb != 0) BarrierWait(ring.Full(), ring.phase);
    if (kb % kBaseBlocks == 0) bases.Load(ring, me);
    for (int step = 0; step < length / 32;) {
      const TailBlock b = FindTail(ring, me, step * 32, length - step * 32);
      const PlaneTables tables(b.scales, bases);
      for (int i = 0; i < b.length / 32; i++, step++) {
        uint32_t a[4];
        tables.DecodeTail(b, me, i, a);
        const uint32_t at =
            panel + (step / 4 * ring.PartBytes() >> kDescriptorUnit) + step % 4 * kDescriptorK32;
        ForWidth<kColumns>(Columns(), [&](auto width) {
          WgmmaFence();
          WgmmaE4M3<decltype(width)::value>::Mma(d, a, PanelDescriptor(at), step % 4 == 0 ? 0 : 1);
          WgmmaCommit();
        });
        WgmmaWait<0>();
        if (step % 4 == 3 || step == length / 32 - 1)
          Promote(bases, ring.Scales() + step / 4 * 4 * ring.a.width, me);
      }
    }
    const uint32_t own = ring.Empty();
    ring.Next();
    if (C::kReleasesAll) {
      __syncwarp();
      if (Releases(me.lane)) BarrierArrive(own);
    }
  }

  // The whole K of one tile, whose first stage is full. GEMM1 leaves the last stage unreleased: the epilogue reads its scales.
  __device__ __forceinline__ void Run(const GemmKernelArgs& a, Ring<C>& ring, const MmaThread& me) {
    static_assert(kBaseBlocks % C::kStageBlocks == 0,
                  "a stage lies in one block of 512, whose sum is promoted once");
    const int full = a.k / C::kStageK, tail = a.k % C::kStageK;
    ExponentBases bases;
    if (full > 0) {
      Block b;
      LoadBlock(ring, me, 0, b);
      for (int c = 0; c < full; c++) {
        const bool more = c + 1 < full;
        Stage(ring, me, bases, b, c * C::kStageBlocks, more, C::kReleasesAll || more || tail != 0);
      }
    }
    if (tail != 0) Tail(ring, me, bases, full * C::kStageBlocks, tail);
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_PLANES_LOOP_CUH_
