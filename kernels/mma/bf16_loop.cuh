// Main loop of the bf16 path: a warpgroup's 64 rows times a tile's tokens over the whole of K, one column a token.
#ifndef DSV4MX_KERNELS_MMA_BF16_LOOP_CUH_
#define DSV4MX_KERNELS_MMA_BF16_LOOP_CUH_

#include "kernels/mma/block.cuh"
#include "kernels/mxfp4/decode.cuh"
#include "kernels/ptx/wgmma.cuh"

namespace dsv4mx {

template <class C>
struct Bf16Loop {
  static constexpr int kColumns = C::kColumns;
  static_assert(C::kStageBlocks == 1, "a stage of this loop is one block");
  int columns;              // tokens rounded up to 8; the same in all lanes
  float acc[kColumns / 2];  // [8 tokens][row half][2]: tokens 8j + 2t and 8j + 2t + 1

  __device__ __forceinline__ explicit Bf16Loop(int count) : columns((count + 7) / 8 * 8) {
#pragma unroll
    for (int i = 0; i < kColumns / 2; i++) acc[i] = 0.0f;
  }

  __device__ __forceinline__ static uint32_t Scale(uint32_t b) {
    // Wide weights (a byte above 128) take two multiplies: 2^126 first, then 2^(b-127), whose field is b (b = 0:
    // subnormal).
    if constexpr (C::kWide) return (b == 0 ? 0x0040u : b << 7) * 0x00010001u;
    return Bf16Scale(b);
  }
  // A step's two words (rows g and g + 8) as the fragments of its two k16 steps.
  __device__ __forceinline__ static void Decode(uint32_t q0, uint32_t q1, uint32_t scale0,
                                                uint32_t scale1, uint32_t (*a)[4]) {
    const uint32_t q[2] = {q0, q1}, scale[2] = {scale0, scale1};
#pragma unroll
    for (int row = 0; row < 2; row++) {
      uint32_t pair[4];
      UnpackBf16(q[row], pair);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if constexpr (C::kWide) pair[i] = MulBf16x2(pair[i], 0x7E807E80u);
        a[i / 2][row + i % 2 * 2] = MulBf16x2(pair[i], scale[row]);
      }
    }
  }

  // One full block in two groups of four k16 steps. b holds it, and afterwards the next one.
  __device__ __forceinline__ void Stage(Ring<C>& ring, const Seat& s, Block& b, bool more,
                                        bool release) {
    const uint64_t rows = RowsDescriptor(ring.Rows()), part = ring.PartBytes() >> 4;
    const uint32_t own = ring.Empty();
    const uint32_t scale0 = Scale(b.scales & 255u), scale1 = Scale(b.scales >> 8);
#pragma unroll
    for (int group = 0; group < 2; group++) {
      const uint4 q = b.words[group];
      uint32_t a[4][4];
      Decode(q.x, q.y, scale0, scale1, a);
      Decode(q.z, q.w, scale0, scale1, a + 2);
      const uint64_t at = rows + group * part;
      ForWidth<kColumns>(columns, [&](auto width) {
        WgmmaFence();
#pragma unroll
        for (int k = 0; k < 4; k++)
          WgmmaBf16<decltype(width)::value>::Mma(acc, a[k], at + k * 2, 1);
        WgmmaCommit();
      });
      if (group == 1) {
        ring.Next();
        if (more) {
          BarrierWait(ring.Full(), ring.phase);
          LoadBlock(ring, s, 0, b);
        }
      }
      WgmmaWait<0>();
    }
    __syncwarp();
    if (release && s.lane == 0) BarrierArrive(own);
  }

  // What is left of K after full blocks: 64, 32 or both.
  __device__ __forceinline__ void Tail(Ring<C>& ring, const Seat& s, int length) {
    const uint64_t rows = RowsDescriptor(ring.Rows());
    BarrierWait(ring.Full(), ring.phase);
    for (int step = 0; step < length / 32;) {
      const TailBlock b = FindTail(ring, s, step * 32, length - step * 32);
      for (int i = 0; i < b.length / 32; i++, step++) {
        const uint32_t word = TailWord(b, s, i);
        uint32_t a[2][4];
        Decode(LoadShared4(word), LoadShared4(word + 4), Scale(b.scales & 255u),
               Scale(b.scales >> 8), a);
        const uint64_t at = rows + (step / 2 * ring.PartBytes() >> 4) + step % 2 * 4;
        ForWidth<kColumns>(columns, [&](auto width) {
          WgmmaFence();
          WgmmaBf16<decltype(width)::value>::Mma(acc, a[0], at, 1);
          WgmmaBf16<decltype(width)::value>::Mma(acc, a[1], at + 2, 1);
          WgmmaCommit();
        });
        WgmmaWait<0>();
      }
    }
    ring.Next();
  }

  // The whole K of one tile. Leaves the last stage unreleased: the epilogue reads its header.
  __device__ __forceinline__ void Run(const GemmKernelArgs& a, Ring<C>& ring, const Seat& s,
                                      const uint8_t*, int) {
    const int full = a.k / C::kStageK, tail = a.k % C::kStageK;
    if (full > 0) {
      Block b;
      BarrierWait(ring.Full(), ring.phase);
      LoadBlock(ring, s, 0, b);
      for (int c = 1; c <= full; c++) Stage(ring, s, b, c < full, c < full || tail != 0);
    }
    if (tail != 0) Tail(ring, s, tail);
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_BF16_LOOP_CUH_
