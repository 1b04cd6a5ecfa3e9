// Main loop of the bf16 and f16 paths: a warpgroup's 64 rows times a tile of up to `Width` tokens over the whole of K, one column a
// token.
#ifndef DSV4MX_KERNELS_MMA_BF16_LOOP_CUH_
#define DSV4MX_KERNELS_MMA_BF16_LOOP_CUH_

#include "kernels/epilogue/bias.cuh"
#include "kernels/mma/block.cuh"
#include "kernels/mma/ring_walk.cuh"
#include "kernels/mxfp4/decode.cuh"
#include "kernels/ptx/wgmma.cuh"

namespace dsv4mx {

template <class C, int Width>
struct Bf16Loop {
  static_assert(C::kStageBlocks == 1, "a stage of this loop is one block");
  // k16 steps to a group of products. Fewer cost a little time, more cost registers, which wide tiles do not have.
  static constexpr int kGroupSteps = Width > 128 ? 2 : 4;
  // From 64 values of eight rows to the next 64, as descriptors count.
  static constexpr uint32_t kLine = kSwizzleBytes >> kDescriptorUnit;
  float acc[Width / 2];  // [8 tokens][row half][2]: tokens 8j + 2t and 8j + 2t + 1

  __device__ __forceinline__ Bf16Loop() {
#pragma unroll
    for (int i = 0; i < Width / 2; i++) acc[i] = 0.0f;
  }

  __device__ __forceinline__ void Multiply(float factor) {
#pragma unroll
    for (int i = 0; i < Width / 2; i++) acc[i] *= factor;
  }
  // By a factor for each token, at shared address `factors`.
  __device__ __forceinline__ void MultiplyTokens(uint32_t factors, const MmaThread& me) {
#pragma unroll
    for (int j = 0; j < Width / 8; j++) {
      const float2 factor = LoadSharedFloat2(factors + (8 * j + 2 * me.t) * 4);
#pragma unroll
      for (int i = 0; i < 4; i++) acc[4 * j + i] *= i % 2 == 0 ? factor.x : factor.y;
    }
  }
  // To all sums of the thread's two rows.
  __device__ __forceinline__ void Add(RowBias bias) {
#pragma unroll
    for (int i = 0; i < Width / 2; i++) acc[i] += i % 4 < 2 ? bias.row0 : bias.row1;
  }

  // The panel comes as the whole descriptor: to its 64 bits one instruction adds, while of two halves the upper one, which is
  // always the same, is moved into place for each product.
  // ptxas takes an instruction of more than 128 columns only where the launch has more registers a thread: two then.
  __device__ __forceinline__ void Mma(const uint32_t* a, uint64_t panel) {
    if constexpr (Width <= 128) {
      MmaOf<Width>(acc, a, panel);
    } else {
      constexpr int kFirst = (Width / 2 + 7) / 8 * 8;
      MmaOf<kFirst>(acc, a, panel);
      MmaOf<Width - kFirst>(acc + kFirst / 2, a,
                            panel + (kFirst * C::kTokenBytes >> kDescriptorUnit));
    }
  }
  template <int Columns>
  __device__ __forceinline__ static void MmaOf(float* sums, const uint32_t* a, uint64_t panel) {
    if constexpr (C::kF16) {
      WgmmaF16<Columns>::Mma(sums, a, panel, 1);
    } else {
      WgmmaBf16<Columns>::Mma(sums, a, panel, 1);
    }
  }

  __device__ __forceinline__ static uint32_t Scale(uint32_t b) {
    // Wide weights (a byte above 128) take two multiplies: 2^126 first, then 2^(b-127), whose field is b (b = 0:
    // subnormal).
    if constexpr (C::kF16) return b;
    if constexpr (C::kWideScales) return (b == 0 ? 0x0040u : b << 7) * 0x00010001u;
    return Bf16Scale(b);
  }
  // A step's two words (rows g and g + 8) as the fragments of its two k16 steps.
  __device__ __forceinline__ static void Decode(uint32_t q0, uint32_t q1, uint32_t scale0,
                                                uint32_t scale1, uint32_t (*a)[4]) {
    const uint32_t q[2] = {q0, q1}, scale[2] = {scale0, scale1};
#pragma unroll
    for (int row = 0; row < 2; row++) {
      uint32_t pair[4];
      if constexpr (C::kF16) {
        DecodeF16(q[row], F16Of(scale[row]), pair);
#pragma unroll
        for (int i = 0; i < 4; i++) a[i / 2][row + i % 2 * 2] = pair[i];
        continue;
      }
      UnpackBf16(q[row], pair);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if constexpr (C::kWideScales) pair[i] = MulBf16x2(pair[i], 0x7E807E80u);
        a[i / 2][row + i % 2 * 2] = MulBf16x2(pair[i], scale[row]);
      }
    }
  }

  // One full block. b holds it, and afterwards the next one. `release`: whether this lane tells that the stage is free.
  __device__ __forceinline__ void Stage(RingWalk<C>& walk, const MmaThread& me, BlockOfRows& b,
                                        bool more, bool release) {
    constexpr int kGroups = 8 / kGroupSteps;
    const uint64_t panel = walk.Panel();
    const uint32_t own = walk.Empty();
    const uint32_t scale0 = Scale(b.scale[0]), scale1 = Scale(b.scale[1]);
#pragma unroll
    for (int group = 0; group < kGroups; group++) {
      uint32_t a[kGroupSteps][4];
#pragma unroll
      for (int i = 0; i < kGroupSteps; i += 2) {
        const int step = (group * kGroupSteps + i) / 2;  // of four k32 steps
        const uint4 q = b.words[step / 2];
        Decode(step % 2 ? q.z : q.x, step % 2 ? q.w : q.y, scale0, scale1, a + i);
      }
      WgmmaFence();
#pragma unroll
      for (int i = 0; i < kGroupSteps; i++) {
        const int k = group * kGroupSteps + i;
        Mma(a[i], panel + k / 4 * kLine + k % 4 * kDescriptorK32);
      }
      WgmmaCommit();
      if (group == kGroups - 1) {
        walk.Next();
        if (more) {
          BarrierWait(walk.Full(), walk.Phase());
          LoadBlock(walk.Block(), me, b);
        }
      }
      WgmmaWait<0>();
    }
    __syncwarp();
    if (release) BarrierArrive(own);
  }

  // What is left of K after full blocks: 64, 32 or both.
  __device__ __forceinline__ void Tail(Ring<C>& ring, const MmaThread& me, int length) {
    const uint64_t panel = PanelDescriptor<2>(PanelDescriptorLow(ring.Panel()));
    BarrierWait(ring.Full(), ring.phase);
    for (int step = 0; step < length / 32;) {
      const TailBlock b = FindTail(ring, me, step * 32, length - step * 32);
      for (int i = 0; i < b.length / 32; i++, step++) {
        const uint32_t word = TailWord(b, me, i);
        uint32_t a[2][4];
        Decode(LoadShared4(word), LoadShared4(word + 4), Scale(b.scales & 255u),
               Scale(b.scales >> 8), a);
        const uint64_t at = panel + step / 2 * kLine + step % 2 * 2 * kDescriptorK32;
        WgmmaFence();
        Mma(a[0], at);
        Mma(a[1], at + kDescriptorK32);
        WgmmaCommit();
        WgmmaWait<0>();
      }
    }
    ring.Next();
  }

  // The whole K of one tile. Leaves the last stage unreleased: the epilogue reads its header.
  __device__ __forceinline__ void Run(const GemmKernelArgs& a, Ring<C>& ring, const MmaThread& me) {
    const int full = a.k / C::kStageK, tail = a.k % C::kStageK;
    if (full > 0) {
      BlockOfRows b;
      BarrierWait(ring.Full(), ring.phase);
      RingWalk<C> walk(ring, me);
      LoadBlock(walk.Block(), me, b);
      // One comparison says whether the lane releases a block's stage. Wide tiles have no register for that.
      const int released = !Releases(me.lane) ? -full : tail != 0 ? 1 : 0;
      for (int c = 1 - full; c <= 0; c++) {
        Stage(walk, me, b,
              c<0, Width> 128 ? (c < 0 || tail != 0) && Releases(me.lane) : c < released);
      }
      walk.Leave(ring);
    }
    if (tail != 0) Tail(ring, me, tail);
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_BF16_LOOP_CUH_
