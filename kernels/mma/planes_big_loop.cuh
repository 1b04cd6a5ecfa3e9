// Main loop of planes where a warpgroup has two tiles of 64 rows (PlanesLoop says how planes become sums). Both use the same sums in
// the tensor cores, so those of the one are promoted before the other's begin: each 512 of K of GEMM1, in stages of 128, is gone
// through twice, which keeps the panel's way from L2 as short as that of four tiles. All promotions stand where PlanesLoop has
// them, so that the bits are the same.
#ifndef DSV4MX_KERNELS_MMA_PLANES_BIG_LOOP_CUH_
#define DSV4MX_KERNELS_MMA_PLANES_BIG_LOOP_CUH_

#include "kernels/mma/plane_promote.cuh"
#include "kernels/ptx/wgmma.cuh"

namespace dsv4mx {

template <class C, int Width>
struct PlanesBigLoop {
  static constexpr int kTiles = C::kTilesEach, kTurn = C::kTurnStages;
  static constexpr int kTokens = Width / 8;  // of this thread: 4j + t
  static constexpr int kBaseBlocks = kSm90BaseK / kSm90BlockK;
  using Wgmma = WgmmaE4M3<Width>;
  float acc[kTiles][2 * kTokens];  // [tile][token][row half]
  float d[Width / 2];

  __device__ __forceinline__ explicit PlanesBigLoop(int) {
#pragma unroll
    for (int which = 0; which < kTiles; which++) {
#pragma unroll
      for (int i = 0; i < 2 * kTokens; i++) acc[which][i] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < Width / 2; i++) d[i] = 0.0f;
  }

  // A stage that is in use.
  struct Held {
    uint32_t panel, tile, bases, scales, empty;
    __device__ __forceinline__ Held() {}
    __device__ __forceinline__ Held(const Ring<C>& ring, const MmaThread& me)
        : panel(PanelDescriptorLow(ring.Panel())),
          tile(ring.Tile(me)),
          bases(ring.Bases()),
          scales(ring.Scales()),
          empty(ring.Empty()) {}
  };

  __device__ __forceinline__ void Multiply(uint32_t panel, bool fresh,
                                           const uint32_t (&operand)[4][4]) {
    WgmmaFence();
    Wgmma::Mma(d, operand[0], PanelDescriptor(panel), fresh ? 0 : 1);
#pragma unroll
    for (int k = 1; k < 4; k++)
      Wgmma::Mma(d, operand[k], PanelDescriptor(panel + k * kDescriptorK32), 1);
    WgmmaCommit();
  }
  // GEMM2: the scales of a stage's tokens, which serve both tiles.
  struct HiddenScales {
    float of[kTokens];
    __device__ __forceinline__ void Load(uint32_t scales, const MmaThread& me) {
      if constexpr (C::kBlockScales) {
#pragma unroll
        for (int j = 0; j < kTokens; j++) of[j] = LoadHiddenScale(scales, j, me);
      }
    }
  };
  __device__ __forceinline__ void Promote(int which, const ExponentBases& bases,
                                          const HiddenScales& scales) {
    PromotePlanes<C, kTokens>(acc[which], d, Width, bases, [&](int j) { return scales.of[j]; });
  }
  __device__ __forceinline__ static void Release(const MmaThread& me, uint32_t empty) {
    __syncwarp();
    if (Releases(me.lane)) BarrierArrive(empty);
  }

  // Turns of kTurn stages of a block each, with one tile and then with the other. A block becomes operands while the products of the
  // one before it run, which are the only ones that it waits for the end of but at a promotion. Releases the last stage if `last`.
  __device__ __forceinline__ void RunTurns(Ring<C>& ring, const MmaThread& me,
                                           ExponentBases (&bases)[kTiles], int turns, bool last) {
    constexpr int kBlocks = kTiles * kTurn;
    uint32_t operand[2][4][4];
    Held held[kTurn];
    HiddenScales scales;
    const auto enter = [&](int i) {
      BarrierWait(ring.Full(), ring.phase);
      held[i] = Held(ring, me);
    };
    // Block i of a turn, with which 512 of K may begin.
    const auto decode = [&](int which, int i, bool begun, uint32_t(&to)[4][4]) {
      Block b;
      LoadBlock(held[i].tile + which * C::kWeightBytes, me, b);
      if (begun) bases[which].template LoadAt<C>(held[i].bases, me, which);
      const PlaneTables tables(b.scales, bases[which]);
#pragma unroll
      for (int k = 0; k < 4; k++) tables.Decode(b, k, to[k]);
    };
    // ptxas puts decoding between the products before it or off until behind a wait, and mixes promotion with it, for which there are
    // no registers. It moves nothing across a branch, of which it does not know that it is always taken.
    const auto beside = [&](auto work) {
      if (ring.a.stages > 0) work();
    };
    const auto begins = [](int turn) { return turn % (kBaseBlocks / kTurn) == 0; };
    enter(0);
    decode(0, 0, true, operand[0]);
    for (int turn = 0; turn < turns; turn++) {
      const bool more = turn + 1 < turns;
#pragma unroll
      for (int index = 0; index < kBlocks; index++) {
        const int which = index / kTurn, i = index % kTurn, next = index + 1;
        const Held now = held[i];
        Multiply(now.panel, C::kBlockScales || i == 0, operand[index % 2]);
        if (i > 0) {
          WgmmaWait<1>();
          if (which == kTiles - 1) Release(me, held[i - 1].empty);
        }
        if (next < kBlocks) {
          if (next < kTurn) ring.Next(), enter(next);
          const auto other = [&] {
            if (next == kTurn) scales.Load(now.scales, me);
            decode(next / kTurn, next % kTurn, next == kTurn && begins(turn), operand[next % 2]);
          };
          // Elsewhere it stands between two waits.
          if (next == kTurn || next == kTurn + 1) {
            beside(other);
          } else {
            other();
          }
        } else {
          ring.Next();
          if (more) {
            enter(0);
            decode(0, 0, begins(turn + 1), operand[next % 2]);
          }
        }
        if (i == kTurn - 1) {
          WgmmaWait<0>();
          beside([&] { Promote(which, bases[which], scales); });
          if (which == kTiles - 1 && (more || last)) Release(me, now.empty);
        }
      }
    }
  }

  // One sum over what is left of K, of one or two blocks or of less than one. Releases the last stage if `last`.
  __device__ __forceinline__ void Rest(Ring<C>& ring, const MmaThread& me,
                                       ExponentBases (&bases)[kTiles], int kb, int length,
                                       bool last) {
    HiddenScales scales;
#pragma unroll
    for (int which = 0; which < kTiles; which++) {
      Ring<C> at = ring;
      for (int done = 0; done < length; done += kSm90BlockK, at.Next()) {
        BarrierWait(at.Full(), at.phase);
        if (done == 0 && kb % kBaseBlocks == 0) bases[which].Load(at, me, which);
        const uint32_t panel = PanelDescriptorLow(at.Panel());
        const int here = min(kSm90BlockK, length - done);
        for (int step = 0; step < here / 32;) {
          const TailBlock b = FindTail(at, me, step * 32, here - step * 32, which);
          const PlaneTables tables(b.scales, bases[which]);
#pragma unroll 1
          for (int i = 0; i < b.length / 32; i++, step++) {
            uint32_t a[4];
            tables.DecodeTail(b, me, i, a);
            WgmmaFence();
            Wgmma::Mma(d, a, PanelDescriptor(panel + step * kDescriptorK32),
                       done == 0 && step == 0 ? 0 : 1);
            WgmmaCommit();
            WgmmaWait<0>();
          }
        }
      }
      scales.Load(ring.Scales(), me);
      Promote(which, bases[which], scales);
    }
    for (int done = 0; done < length; done += kSm90BlockK) {
      const uint32_t own = ring.Empty();
      ring.Next();
      if (last || done + kSm90BlockK < length) Release(me, own);
    }
  }

  // The whole K of a warpgroup's tiles, whose first stage is full. GEMM1 leaves the last stage unreleased: the epilogue reads its
  // scales.
  __device__ __forceinline__ void Run(const GemmKernelArgs& a, Ring<C>& ring, const MmaThread& me) {
    static_assert(C::kStageBlocks == 1, "a turn has a block of each stage");
    constexpr int kTurnK = kTurn * kSm90BlockK, kPlanesStageK = 2 * kSm90BlockK;
    const int turns = a.k / kTurnK;
    ExponentBases bases[kTiles];
    if (turns > 0) RunTurns(ring, me, bases, turns, C::kReleasesAll || a.k % kTurnK != 0);
    for (int k = turns * kTurnK; k < a.k;) {
      // What PlanesLoop goes through as a stage is one sum, and what it has behind its stages is promoted every 128.
      const int left = a.k - k;
      const int length =
          kTurnK >= kPlanesStageK && left >= kPlanesStageK ? kPlanesStageK : min(left, kSm90BlockK);
      Rest(ring, me, bases, k / kSm90BlockK, length, C::kReleasesAll || length < left);
      k += length;
    }
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_PLANES_BIG_LOOP_CUH_
