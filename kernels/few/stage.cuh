// The products of one stage: a team's 64 rows times the tokens of the tile, over up to 512 of K.
#ifndef DSV4MX_KERNELS_FEW_STAGE_CUH_
#define DSV4MX_KERNELS_FEW_STAGE_CUH_

#include "kernels/few/team_ring.cuh"
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

// Where a lane's part of a block and of a stage's exponent bases stands, from the stage's begin.
struct FewLane {
  uint32_t words, scales, bases;
  int lane;
  __device__ __forceinline__ FewLane(const MmaThread& me, const FewGeometry& g)
      : words(me.warp * kWarpCodeBytes + me.lane * kLaneCodeBytes),
        scales(kBlockCodeBytes + me.warp * kWarpScaleBytes + me.lane * kLaneScaleBytes),
        bases(g.stage_bytes - kFewBasesBytes + me.warp * 16 + me.g),
        lane(me.lane) {}
  __device__ __forceinline__ Block Load(uint32_t stage, int index) const {
    const int block = index * kSm90BytesPerK * kSm90BlockK;
    return {
        {LoadShared16(stage + words + block), LoadShared16(stage + words + kTwoStepBytes + block)},
        LoadShared2(stage + scales + block)};
  }
  __device__ __forceinline__ RowBases Bases(uint32_t stage) const {
    return {LoadShared1(stage + bases), LoadShared1(stage + bases + 8)};
  }
};

__device__ __forceinline__ RowSums JoinPlanes(const float* d) {
  return {fmaf(d[1], 0.0625f, d[0]), fmaf(d[3], 0.0625f, d[2])};
}

// How a team multiplies, stage by stage in the order of its ring: Begin before the first stage, then Multiply for each one, which
// leaves the ring at the next; `more` says that there is one. finish(number, sum, bases) takes each sum that is complete: of
// block `number` of K and of those before it that are joined with it.
//
// With `Blocks` in every stage this is straight-line code that never waits for what it has just asked for: a block becomes
// operands while the products of the one before it run, and the first of the next stage while those of the last one do, across
// stages and tiles. With so few warps on a multiprocessor nothing else would fill that time.
template <int Gemm, int Blocks>
struct FewMultiplier {
  using Wgmma = WgmmaE4M3<8>;
  static constexpr int kPanelBlock =
      kFewPanelBlock >> kDescriptorUnit;           // of a block of the panel, as descriptors count
  static constexpr int kSums = Gemm == 2 ? 2 : 1;  // GEMM2 takes one while the next is made
  uint32_t operands[2][4][4];  // of the block that is multiplied next, and of the one behind it
  RowBases bases;              // of the stage at the ring's head
  int turn = 0;                // which operands are next, where a stage has an odd number of blocks
  float d[kSums][4] = {};

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
  __device__ __forceinline__ static void Start(float* d, const uint32_t (*a)[4], uint32_t panel,
                                               int more) {
    WgmmaFence();
    Wgmma::Mma(d, a[0], PanelDescriptor(panel), more);
#pragma unroll
    for (int k = 1; k < 4; k++) Wgmma::Mma(d, a[k], PanelDescriptor(panel + k * kDescriptorK32), 1);
    WgmmaCommit();
  }
  __device__ __forceinline__ void DecodeFirst(const FewRing& ring, const FewLane& me,
                                              uint32_t (*to)[4]) {
    ring.WaitFull();
    bases = me.Bases(ring.at);
    Decode(me.Load(ring.at, 0), bases, to);
  }

  __device__ __forceinline__ void Begin(const FewRing& ring, const FewLane& me) {
    DecodeFirst(ring, me, operands[0]);
  }
  // `panel`: descriptor of the stage's part of it; `first`: the stage's first block, of all that K has.
  template <class F>
  __device__ __forceinline__ void Multiply(FewRing& ring, uint32_t panel, int first, int k_all,
                                           bool more, const FewLane& me, F finish) {
    if (Blocks % 2 == 0 || turn == 0) {
      MultiplyFrom<0>(ring, panel, first, k_all, more, me, finish);
    } else {
      MultiplyFrom<1>(ring, panel, first, k_all, more, me, finish);
    }
    if (Blocks % 2 == 1) turn ^= 1;
  }
  template <int Turn, class F>
  __device__ __forceinline__ void MultiplyFrom(FewRing& ring, uint32_t panel, int first, int k_all,
                                               bool more, const FewLane& me, F finish) {
    static_assert(Blocks == 2 || Blocks == 4 || (Blocks == 3 && Gemm == 2), "FewStraight");
    const uint32_t weights = ring.at;
    const RowBases own = bases;
#pragma unroll
    for (int i = 0; i < Blocks; i++) {
      Block b;
      if (i < Blocks - 1) b = me.Load(weights, i + 1);
      Start(d[i % kSums], operands[(i + Turn) % 2], panel + i * kPanelBlock,
            Gemm == 1 && (i > 0 || (Blocks < 4 && (first & (ring.g.sum_blocks - 1)) != 0)));
      if (i > 0) {
        WgmmaWait<1>();
        if (Gemm == 2) finish(first + i - 1, JoinPlanes(d[(i - 1) % kSums]), own);
      }
      if (i < Blocks - 1) {
        Decode(b, own, operands[(i + 1 + Turn) % 2]);
      } else {
        ring.Release(me.lane);
        ring.Next();
        if (more) DecodeFirst(ring, me, operands[(i + 1 + Turn) % 2]);
      }
    }
    WgmmaWait<0>();
    const int last = first + Blocks - 1;
    if (Gemm == 2 || Blocks == 4 || ((last + 1) & (ring.g.sum_blocks - 1)) == 0 ||
        last == k_all / kSm90BlockK - 1)
      finish(last, JoinPlanes(d[(Blocks - 1) % kSums]), own);
  }
};

// Stages of any length, one block after the other.
template <int Gemm>
struct FewMultiplier<Gemm, 0> {
  using Straight = FewMultiplier<Gemm, 2>;
  using Wgmma = typename Straight::Wgmma;
  static constexpr int kPanelBlock = Straight::kPanelBlock;
  float d[4] = {};

  __device__ __forceinline__ void Begin(const FewRing&, const FewLane&) {}
  template <class F>
  __device__ __forceinline__ void Multiply(FewRing& ring, uint32_t panel, int first, int k_all,
                                           bool, const FewLane& lane, F finish) {
    ring.WaitFull();
    const uint32_t weights = ring.at;
    const RowBases base = lane.Bases(weights);
    const int k = min(ring.g.stage_blocks * kSm90BlockK, k_all - first * kSm90BlockK),
              joined = FewJoinedBlocks(k_all), full = k / kSm90BlockK, tail = k % kSm90BlockK;
    int number = first;
#pragma unroll 1
    for (int i = 0; i < full; i++, number++) {
      uint32_t a[4][4];
      Straight::Decode(lane.Load(weights, i), base, a);
      Straight::Start(d, a, panel + i * kPanelBlock,
                      Gemm == 1 && (number & (ring.g.sum_blocks - 1)) != 0 && number < joined);
      WgmmaWait<0>();
      if (Gemm == 2 || ((number + 1) & (ring.g.sum_blocks - 1)) == 0 || number >= joined - 1)
        finish(number, JoinPlanes(d), base);
    }
    if (tail != 0) {
      const MmaThread me = ThisMmaThread();
#pragma unroll 1
      for (int step = 0; step < tail / 32;) {
        const TailBlock of =
            FindTail(weights, me, full * kSm90BlockK + step * 32, tail - step * 32);
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
    ring.Release(lane.lane);
    ring.Next();
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_STAGE_CUH_
