// Main loop of W4A8: a warpgroup's one or two tiles of 64 rows times a tile of up to `Width` tokens over the whole of K, one
// column a token. Products accumulate in the tensor core over a block of 128, where the scales of the tokens end, and are
// promoted to fp32 there, so that every width and both shapes of CTA give the same bits.
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
  // k32 steps to a group of products; four where registers allow.
  static constexpr int kGroup = C::kTilesEach == 1 && Width > 40 ? 2 : 4;
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

  // The exponent bases of the lane's two rows of each tile, for a block of 512 of K.
  struct Base {
    uint32_t row0, row1;
  };
  __device__ __forceinline__ static void LoadBases(const Ring<C>& ring, const Seat& s,
                                                   Base (&base)[kTiles]) {
    const uint32_t at = ring.Bases() + s.wg * kTiles * 64 + s.warp * 16 + s.g;
#pragma unroll
    for (int which = 0; which < kTiles; which++) {
      base[which].row0 = LoadShared1(at + which * 64);
      base[which].row1 = LoadShared1(at + which * 64 + 8);
    }
  }

  // acc += unit * scale * d
  __device__ __forceinline__ void Promote(float* sums, const Base& b, uint32_t scales,
                                          const Seat& s) {
    const float unit0 = PlaneUnit(b.row0), unit1 = PlaneUnit(b.row1);
#pragma unroll
    for (int j = 0; j < Width / 8; j++) {
      const float2 scale = LoadSharedFloat2(scales + (8 * j + 2 * s.t) * 4);
      sums[4 * j] = fmaf(unit0 * scale.x, d[4 * j], sums[4 * j]);
      sums[4 * j + 1] = fmaf(unit0 * scale.y, d[4 * j + 1], sums[4 * j + 1]);
      sums[4 * j + 2] = fmaf(unit1 * scale.x, d[4 * j + 2], sums[4 * j + 2]);
      sums[4 * j + 3] = fmaf(unit1 * scale.y, d[4 * j + 3], sums[4 * j + 3]);
    }
  }

  // One full stage. kb counts blocks of K; b holds the stage's first block, and afterwards the next stage's.
  __device__ __forceinline__ void Stage(Ring<C>& ring, const Seat& s, Base (&base)[kTiles],
                                        Block& b, int kb, bool more, bool release) {
    using Wgmma = WgmmaE4M3<Width>;
    const uint32_t rows = RowsAt(ring.Rows()), part = ring.PartBytes() >> 4;
    const uint32_t own = ring.Empty(), scales = ring.Scales();
#pragma unroll
    for (int i = 0; i < C::kStageBlocks; i++, kb++) {
      if (i == 0 && kb % kBaseBlocks == 0) LoadBases(ring, s, base);
#pragma unroll
      for (int which = 0; which < kTiles; which++) {
        const PlaneTable t0 = PlaneOf((b.scales & 255u) - base[which].row0),
                         t1 = PlaneOf((b.scales >> 8) - base[which].row1);
#pragma unroll
        for (int group = 0; group < 4 / kGroup; group++) {
          uint32_t a[kGroup][4];
#pragma unroll
          for (int k = 0; k < kGroup; k++) {
            const int step = group * kGroup + k;
            const uint4 q = b.words[step / 2];
            DecodePlane(step % 2 ? q.z : q.x, t0, a[k][0], a[k][2]);
            DecodePlane(step % 2 ? q.w : q.y, t1, a[k][1], a[k][3]);
          }
          const uint32_t at = rows + i * part + group * kGroup * 2;
          WgmmaFence();
#pragma unroll
          for (int k = 0; k < kGroup; k++)
            Wgmma::Mma(d, a[k], RowsDescriptor(at + k * 2), group + k > 0 ? 1 : 0);
          WgmmaCommit();
          if (group < 4 / kGroup - 1) WgmmaWait<0>();
        }
        if (which + 1 < kTiles) {
          LoadBlock(ring, s, i, b, which + 1);
        } else if (i + 1 < C::kStageBlocks) {
          LoadBlock(ring, s, i + 1, b);
        } else {
          ring.Next();
          if (more) {
            BarrierWait(ring.Full(), ring.phase);
            LoadBlock(ring, s, 0, b);
          }
        }
        WgmmaWait<0>();
        Promote(acc[which], base[which], scales + i * 4 * ring.a.width, s);
      }
    }
    __syncwarp();
    if (release && s.lane == 0) BarrierArrive(own);
  }

  // A stage shorter than the others: it is at most one of a tile's.
  __device__ __forceinline__ void Tail(Ring<C>& ring, const Seat& s, Base (&base)[kTiles], int kb,
                                       int length) {
    const uint32_t rows = RowsAt(ring.Rows());
    BarrierWait(ring.Full(), ring.phase);
    if (kb % kBaseBlocks == 0) LoadBases(ring, s, base);
#pragma unroll
    for (int which = 0; which < kTiles; which++) {
      for (int step = 0; step < length / 32;) {
        const TailBlock b = FindTail(ring, s, step * 32, length - step * 32, which);
        const PlaneTable t0 = PlaneOf((b.scales & 255u) - base[which].row0),
                         t1 = PlaneOf((b.scales >> 8) - base[which].row1);
        for (int i = 0; i < b.length / 32; i++, step++) {
          const uint32_t word = TailWord(b, s, i);
          uint32_t a[4];
          DecodePlane(LoadShared4(word), t0, a[0], a[2]);
          DecodePlane(LoadShared4(word + 4), t1, a[1], a[3]);
          const uint32_t at = rows + (step / 4 * ring.PartBytes() >> 4) + step % 4 * 2;
          WgmmaFence();
          WgmmaE4M3<Width>::Mma(d, a, RowsDescriptor(at), step % 4 == 0 ? 0 : 1);
          WgmmaCommit();
          WgmmaWait<0>();
          if (step % 4 == 3 || step == length / 32 - 1)
            Promote(acc[which], base[which], ring.Scales() + step / 4 * 4 * ring.a.width, s);
        }
      }
    }
    ring.Next();
  }

  // The whole K of one tile. Leaves the last stage unreleased: the epilogue reads its header.
  __device__ __forceinline__ void Run(const GemmKernelArgs& a, Ring<C>& ring, const Seat& s) {
    static_assert(kBaseBlocks % C::kStageBlocks == 0, "a stage lies in one block of 512");
    const int full = a.k / C::kStageK, tail = a.k % C::kStageK;
    Base base[kTiles];
    if (full > 0) {
      Block b;
      BarrierWait(ring.Full(), ring.phase);
      LoadBlock(ring, s, 0, b);
      for (int c = 0; c < full; c++) {
        const bool more = c + 1 < full;
        Stage(ring, s, base, b, c * C::kStageBlocks, more, more || tail != 0);
      }
    }
    if (tail != 0) Tail(ring, s, base, full * C::kStageBlocks, tail);
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_E4M3_LOOP_CUH_
