// Main loop of the bf16 path: the rows of a warpgroup's tiles times a tile of tokens over the whole of K, one column a token.
//
// The width of wgmma is a run-time value: one loop, and a branch that all lanes take alike around each group of products.
// A loop for each width instead costs registers, since ptxas gives each loop's weight fragments registers of their own: with
// four widths it found none left and serialised all of them.
#ifndef DSV4MX_KERNELS_MMA_BF16_LOOP_CUH_
#define DSV4MX_KERNELS_MMA_BF16_LOOP_CUH_

#include "kernels/mxfp4/decode.cuh"
#include "kernels/ptx/wgmma.cuh"
#include "kernels/sched/ring.cuh"

namespace dsv4mx {

template <class C>
struct Bf16Loop {
  static constexpr int kTiles = C::kTiles, kColumns = C::kColumns;
  int columns;                       // tokens rounded up to 8; the same in all lanes
  float acc[kTiles][kColumns / 2];  // [8 tokens][row half][2]: tokens 8j + 2t and 8j + 2t + 1

  __device__ __forceinline__ explicit Bf16Loop(int count)
      : columns(__shfl_sync(~0u, (count + 7) / 8 * 8, 0)) {
#pragma unroll
    for (int i = 0; i < kTiles; i++) {
#pragma unroll
      for (int j = 0; j < kColumns / 2; j++) acc[i][j] = 0.0f;
    }
  }

  __device__ __forceinline__ static uint32_t Scale(uint32_t b) {
    // Wide weights (a byte above 128) take two multiplies: 2^126 first, then 2^(b-127), whose field is b (b = 0:
    // subnormal).
    if constexpr (C::kWide) return (b == 0 ? 0x0040u : b << 7) * 0x00010001u;
    return Bf16Scale(b);
  }
  __device__ __forceinline__ static void Decode(uint32_t q, uint32_t scale, uint32_t* pair) {
    UnpackBf16(q, pair);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if constexpr (C::kWide) pair[i] = MulBf16x2(pair[i], 0x7E807E80u);
      pair[i] = MulBf16x2(pair[i], scale);
    }
  }
  // The two words of a step (rows g and g + 8) as the fragments of two k16 steps.
  __device__ __forceinline__ static void DecodeStep(uint32_t q0, uint32_t q1, uint32_t s0,
                                                    uint32_t s1, uint32_t (*a)[4]) {
    uint32_t p0[4], p1[4];
    Decode(q0, s0, p0);
    Decode(q1, s1, p1);
#pragma unroll
    for (int k = 0; k < 2; k++) {
      a[k][0] = p0[2 * k];
      a[k][1] = p1[2 * k];
      a[k][2] = p0[2 * k + 1];
      a[k][3] = p1[2 * k + 1];
    }
  }

  // What the lane keeps of a tile between stages: its first words and scales of the next one.
  struct Ahead {
    uint4 words;
    uint32_t scale;
  };
  __device__ __forceinline__ static void LoadAhead(const Ring<C>& ring, const Seat& s,
                                                   Ahead* ahead) {
#pragma unroll
    for (int i = 0; i < kTiles; i++) {
      ahead[i].words = LoadShared16(ring.Words(s) + i * C::kWeightBytes);
      ahead[i].scale = LoadShared2(ring.BlockScales(s) + i * C::kWeightBytes);
    }
  }

  // One full block: four steps of 32, each a wgmma group of two k16 steps of every tile.
  __device__ __forceinline__ void Stage(Ring<C>& ring, const Seat& s, Ahead* ahead, bool more,
                                        bool release_before) {
    static_assert(C::kStageBlocks == 1, "a stage of this loop is one block");
    const uint64_t rows = RowsDescriptor(ring.Rows()), part = ring.PartBytes() >> 4;
    const uint32_t before = ring.Before().Empty(), words = ring.Words(s);
    uint4 v[kTiles];
    uint32_t scale[kTiles][2], a[2][kTiles][2][4];
#pragma unroll
    for (int i = 0; i < kTiles; i++) {
      v[i] = ahead[i].words;
      scale[i][0] = Scale(ahead[i].scale & 255u);
      scale[i][1] = Scale(ahead[i].scale >> 8);
    }
#pragma unroll
    for (int step = 0; step < 4; step++) {
      const int f = step & 1;
#pragma unroll
      for (int i = 0; i < kTiles; i++) {
        if (f == 0)
          DecodeStep(v[i].x, v[i].y, scale[i][0], scale[i][1], a[f][i]);
        else
          DecodeStep(v[i].z, v[i].w, scale[i][0], scale[i][1], a[f][i]);
        if (step == 1) v[i] = LoadShared16(words + i * C::kWeightBytes + 512);
      }
      const uint64_t b = rows + (step < 2 ? 0 : part) + f * 4;
      ForWidth<8, kColumns>(columns, [&](auto width) {
        using Wgmma = WgmmaBf16<decltype(width)::value>;
        WgmmaFence();
#pragma unroll
        for (int k = 0; k < 2; k++) {
#pragma unroll
          for (int i = 0; i < kTiles; i++) Wgmma::Mma(acc[i], a[f][i][k], b + k * 2, 1);
        }
        WgmmaCommit();
      });
      if (step == 3) {
        ring.Next();
        if (more) {
          BarrierWait(ring.Full(), ring.phase);
          LoadAhead(ring, s, ahead);
        }
      }
      WgmmaWait<1>();
      if (step == 0 && release_before && s.lane == 0) BarrierArrive(before);
    }
  }

  // What is left of K after full blocks: 64, 32 or both, without overlap.
  __device__ __forceinline__ void Tail(Ring<C>& ring, const Seat& s, int length) {
    const uint64_t rows = RowsDescriptor(ring.Rows());
    BarrierWait(ring.Full(), ring.phase);
#pragma unroll
    for (int tile = 0; tile < kTiles; tile++) {
      const uint32_t weights = ring.Tile(s) + tile * C::kWeightBytes;
      for (int step = 0; step < length / 32;) {
        const int first = step * 32, block = length - first >= 64 ? 64 : 32;
        const uint32_t at = weights + 34 * first, words = at + s.warp * block * 8;
        const uint32_t scale = LoadShared2(
            at + 32 * block + ((s.warp * 8 + s.g) * (block / 32) + s.t * block / 128) * 2);
        const uint32_t s0 = Scale(scale & 255u), s1 = Scale(scale >> 8);
        for (int i = 0; i < block / 32; i++, step++) {
          const uint32_t word = words + (block == 32 ? s.lane * 8 : s.lane * 16 + i * 8);
          uint32_t a[2][4];
          DecodeStep(LoadShared4(word), LoadShared4(word + 4), s0, s1, a);
          const uint64_t b = rows + (step / 2 * ring.PartBytes() >> 4) + step % 2 * 4;
          ForWidth<8, kColumns>(columns, [&](auto width) {
            using Wgmma = WgmmaBf16<decltype(width)::value>;
            WgmmaFence();
            Wgmma::Mma(acc[tile], a[0], b, 1);
            Wgmma::Mma(acc[tile], a[1], b + 2, 1);
            WgmmaCommit();
          });
          WgmmaWait<0>();
        }
      }
    }
    ring.Next();
  }

  // The whole K of one tile. Leaves the last stage unreleased: the epilogue reads its header.
  __device__ __forceinline__ void Run(const GemmKernelArgs& a, Ring<C>& ring, const Seat& s,
                                      const uint8_t*, int) {
    const int full = a.k / C::kStageK, tail = a.k % C::kStageK;
    if (full > 0) {
      BarrierWait(ring.Full(), ring.phase);
      Ahead ahead[kTiles];
      LoadAhead(ring, s, ahead);
      for (int c = 0; c < full; c++) Stage(ring, s, ahead, c + 1 < full, c > 0);
      WgmmaWait<0>();
    }
    if (tail != 0) {
      if (full > 0 && s.lane == 0) BarrierArrive(ring.Before().Empty());
      Tail(ring, s, tail);
    }
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_BF16_LOOP_CUH_
