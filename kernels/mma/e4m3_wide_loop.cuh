// Main loop of W4A8 for one tile of 64 rows a warpgroup times up to twice `Width` tokens: what is decoded serves both halves of
// the tokens. While products run, they keep the register file busy, and an instruction of the ALU takes twice as long; so from some
// hundred tokens an expert on decoding is what limits the others.
#ifndef DSV4MX_KERNELS_MMA_E4M3_WIDE_LOOP_CUH_
#define DSV4MX_KERNELS_MMA_E4M3_WIDE_LOOP_CUH_

#include "kernels/mma/e4m3_sums.cuh"

namespace dsv4mx {

template <class C, int Width>
struct E4m3WideLoop : E4m3Sums<C, Width> {
  using Parts = E4m3Sums<C, Width>;
  using Parts::acc, Parts::d, Parts::Promote, Parts::Tail;
  using Parts::kBaseBlocks, Parts::kHalfPanel, Parts::kHalfScales;
  using typename Parts::Wgmma;

  // A stage that products still read.
  struct Held {
    uint32_t panel, scales, empty;
    __device__ __forceinline__ explicit Held(const Ring<C>& ring)
        : panel(PanelDescriptorLow(ring.Panel())), scales(ring.Scales()), empty(ring.Empty()) {}
  };

  __device__ __forceinline__ void Multiply(const Held& stage, int half, bool fresh,
                                           const uint32_t (&operand)[4][4]) {
    // As one number of 64 bits, to which one instruction adds.
    const uint64_t panel = PanelDescriptor(stage.panel + half * kHalfPanel);
    WgmmaFence();
    Wgmma::Mma(d, operand[0], panel, fresh ? 0 : 1);
#pragma unroll
    for (int k = 1; k < 4; k++) Wgmma::Mma(d, operand[k], panel + k * kDescriptorK32, 1);
    WgmmaCommit();
  }
  __device__ __forceinline__ static void Release(const MmaThread& me, const Held& stage) {
    __syncwarp();
    if (Releases(me.lane)) BarrierArrive(stage.empty);
  }

  // Two stages at a time, of a block each. While products run, words become operands where those before have been used, and the
  // next words are asked for. Leaves the last stage unreleased if `last`.
  __device__ __forceinline__ void RunPairs(Ring<C>& ring, const MmaThread& me, ExponentBases& bases,
                                           int pairs, bool last) {
    uint32_t operand[2][4][4];
    Block words;  // asked for, not yet decoded
    ExponentBases next_bases;
    const auto ask = [&](bool begins) {
      LoadBlock(ring, me, 0, words);
      if (begins) next_bases.Load(ring, me, 0);
    };
    const auto decode = [&](const ExponentBases& with, uint32_t(&to)[4][4]) {
      const PlaneTables tables(words.scales, with);
#pragma unroll
      for (int k = 0; k < 4; k++) tables.Decode(words, k, to[k]);
    };
    const auto promote = [&](int half, const Held& stage) {
      // The branch, which is always taken, keeps ptxas from loading scales and multiplying them while products run, for which GEMM2
      // has no registers.
      if (!C::kBlockScales || ring.a.stages > 0)
        Promote(acc[half], bases, stage.scales + half * kHalfScales, me);
    };
    BarrierWait(ring.Full(), ring.phase);
    Held first(ring);
    ask(true);
    bases = next_bases;
    decode(bases, operand[0]);
    ring.Next();
    BarrierWait(ring.Full(), ring.phase);
    ask(false);
    for (int pair = 0; pair < pairs; pair++) {
      const bool more = pair + 1 < pairs;
      const Held second(ring);
      Multiply(first, 0, true, operand[0]);
      decode(bases, operand[1]);
      WgmmaWait<0>();
      if (C::kBlockScales) promote(0, first);

      Multiply(second, 0, C::kBlockScales, operand[1]);
      ring.Next();
      WgmmaWait<0>();
      promote(0, second);

      Multiply(first, 1, true, operand[0]);
      if (more) {
        BarrierWait(ring.Full(), ring.phase);
        ask(2 * (pair + 1) % kBaseBlocks == 0);
      }
      WgmmaWait<0>();
      if (C::kBlockScales) promote(1, first);
      Release(me, first);

      Multiply(second, 1, C::kBlockScales, operand[1]);
      if (more) {
        first = Held(ring);
        decode(next_bases, operand[0]);
        ring.Next();
        BarrierWait(ring.Full(), ring.phase);
        ask(false);
      }
      WgmmaWait<0>();
      promote(1, second);
      bases = next_bases;
      if (more || !last) Release(me, second);
    }
  }

  // The whole K of one tile. Leaves the last stage unreleased: the epilogue reads its header and scales.
  __device__ __forceinline__ void Run(const GemmKernelArgs& a, Ring<C>& ring, const MmaThread& me) {
    static_assert(C::kStageBlocks == 1 && kBaseBlocks % 2 == 0,
                  "a pair of stages lies in one block of 512, which has one set of exponent bases");
    const int full = a.k / kSm90BlockK, tail = a.k % kSm90BlockK;
    ExponentBases bases[1];
    if (full > 1) RunPairs(ring, me, bases[0], full / 2, full % 2 == 0 && tail == 0);
    if (full % 2 != 0) {
      const uint32_t own = ring.Empty();
      Tail(ring, me, bases, full - 1, kSm90BlockK);
      __syncwarp();
      if (tail != 0 && Releases(me.lane)) BarrierArrive(own);
    }
    if (tail != 0) Tail(ring, me, bases, full, tail);
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_E4M3_WIDE_LOOP_CUH_
