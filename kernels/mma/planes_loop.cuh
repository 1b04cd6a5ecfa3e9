// Main loop of the plane path: a warpgroup's 64 rows times a tile's tokens over the whole of K. Each token is two columns,
// high and low, next to each other, so that one thread holds both; their products accumulate in the tensor core and are
// promoted to fp32 every 512 of K (GEMM1) or every 128, where a scale of h ends (GEMM2). The width is a run-time value, as
// mma/bf16_loop.cuh explains.
#ifndef DSV4MX_KERNELS_MMA_PLANES_LOOP_CUH_
#define DSV4MX_KERNELS_MMA_PLANES_LOOP_CUH_

#include "kernels/mxfp4/decode.cuh"
#include "kernels/ptx/wgmma.cuh"
#include "kernels/sched/ring.cuh"

namespace dsv4mx {

template <class C>
struct PlanesLoop {
  static constexpr int kColumns = C::kColumns, kTokens = kColumns / 8;  // of this thread: 4j + t
  int columns;             // two a token, rounded up to 8; the same in all lanes
  float acc[2 * kTokens];  // [token][row half]
  float d[kColumns / 2];

  __device__ __forceinline__ explicit PlanesLoop(int count)
      : columns(__shfl_sync(~0u, (count + 3) / 4 * 8, 0)) {
#pragma unroll
    for (int i = 0; i < 2 * kTokens; i++) acc[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < kColumns / 2; i++) d[i] = 0.0f;
  }

  // What stays the same for a block of 512: tables with the rows' exponent base folded in, and the base's value.
  struct Base {
    PlaneTable origin0, origin1;
    float unit0, unit1;
  };

  // acc += unit * scale * (high + low / 16)
  __device__ __forceinline__ void Promote(const Base& b, uint32_t scales, const Seat& s) {
#pragma unroll
    for (int j = 0; j < kTokens; j++) {
      if (8 * j >= columns) break;
      float unit0 = b.unit0, unit1 = b.unit1;
      if constexpr (C::kGemm == 2) {
        const float scale = LoadSharedFloat(scales + (4 * j + s.t) * 4);
        unit0 *= scale;
        unit1 *= scale;
      }
      acc[2 * j] = fmaf(unit0, fmaf(d[4 * j + 1], 0.0625f, d[4 * j]), acc[2 * j]);
      acc[2 * j + 1] = fmaf(unit1, fmaf(d[4 * j + 3], 0.0625f, d[4 * j + 2]), acc[2 * j + 1]);
    }
  }

  // One full stage of two blocks. kFirst, kLast: of its block of 512. v0 and scale0 hold the stage's first words and
  // scales, and afterwards the next one's.
  template <bool kFirst, bool kLast>
  __device__ __forceinline__ void Stage(Ring<C>& ring, const Seat& s, const Base& base, uint4& v0,
                                        uint32_t& scale0, bool more, bool release) {
    const uint32_t words = ring.Words(s), scales = ring.Scales();
    const uint64_t rows = RowsDescriptor(ring.Rows());
    const uint64_t part = ring.PartBytes() >> 4;
    const uint32_t own = ring.Empty(), before = ring.Before().Empty();
    const uint32_t scale[2] = {scale0, LoadShared2(ring.BlockScales(s) + C::kBlockBytes)};
    uint4 v[2];
    v[0] = v0;
    uint32_t a[2][2][4];
#pragma unroll
    for (int u = 0; u < 4; u++) {
      const int block = u / 2, j = u % 2;
      const PlaneTable t0 = PlaneOf(base.origin0, scale[block] & 255u);
      const PlaneTable t1 = PlaneOf(base.origin1, scale[block] >> 8);
      const uint4 x = v[u & 1];
      if (u < 3)
        v[(u + 1) & 1] = LoadShared16(words + (u + 1) / 2 * C::kBlockBytes + (u + 1) % 2 * 512);
      DecodePlane(x.x, t0, a[j][0][0], a[j][0][2]);
      DecodePlane(x.y, t1, a[j][0][1], a[j][0][3]);
      DecodePlane(x.z, t0, a[j][1][0], a[j][1][2]);
      DecodePlane(x.w, t1, a[j][1][1], a[j][1][3]);
      const bool fresh = C::kGemm == 2 ? j == 0 : (u == 0 && kFirst);
      const uint64_t b = rows + (block == 0 ? 0 : part) + j * 4;
      ForWidth<8, kColumns>(columns, [&](auto width) {
        using Wgmma = WgmmaE4M3<decltype(width)::value>;
        WgmmaFence();
        Wgmma::Mma(d, a[j][0], b, fresh ? 0 : 1);
        Wgmma::Mma(d, a[j][1], b + 2, 1);
        WgmmaCommit();
      });
      if (u == 3) {
        ring.Next();
        if (more) {  // the next stage's first words arrive while this stage's last products run
          BarrierWait(ring.Full(), ring.phase);
          v0 = LoadShared16(ring.Words(s));
          scale0 = LoadShared2(ring.BlockScales(s));
        }
      }
      const bool promote = C::kGemm == 2 ? j == 1 : (u == 3 && kLast);
      if (promote) {
        WgmmaWait<0>();
        Promote(base, scales + block * 4 * ring.a.width, s);
      } else {
        WgmmaWait<1>();
      }
      // One group in flight and that is this stage's: the stage before has been read.
      if (C::kGemm == 1 && !kFirst && u == 0 && s.lane == 0) BarrierArrive(before);
    }
    if ((C::kGemm == 2 || kLast) && release) {
      __syncwarp();
      if (s.lane == 0) BarrierArrive(own);
    }
  }

  // A stage shorter than two blocks, without overlap: it is at most one of a tile's.
  __device__ __forceinline__ void Tail(Ring<C>& ring, const Seat& s, int length, const Base& base) {
    const uint32_t weights = ring.Tile(s);
    const uint64_t rows = RowsDescriptor(ring.Rows());
    BarrierWait(ring.Full(), ring.phase);
    for (int step = 0; step < length / 32;) {
      const int first = step * 32, left = length - first;
      const int block = left >= 128 ? 128 : left >= 64 ? 64 : 32;
      const uint32_t at = weights + 34 * first, words = at + s.warp * block * 8;
      const uint32_t scale = LoadShared2(
          at + 32 * block + ((s.warp * 8 + s.g) * (block / 32) + s.t * block / 128) * 2);
      const PlaneTable t0 = PlaneOf(base.origin0, scale & 255u),
                       t1 = PlaneOf(base.origin1, scale >> 8);
      for (int i = 0; i < block / 32; i++, step++) {
        const uint32_t word =
            words + (block == 32 ? s.lane * 8 : i / 2 * 512 + s.lane * 16 + i % 2 * 8);
        uint32_t a[4];
        DecodePlane(LoadShared4(word), t0, a[0], a[2]);
        DecodePlane(LoadShared4(word + 4), t1, a[1], a[3]);
        const uint64_t b = rows + (step / 4 * ring.PartBytes() >> 4) + step % 4 * 2;
        ForWidth<8, kColumns>(columns, [&](auto width) {
          WgmmaFence();
          WgmmaE4M3<decltype(width)::value>::Mma(d, a, b, step % 4 == 0 ? 0 : 1);
          WgmmaCommit();
        });
        WgmmaWait<0>();
        if (step % 4 == 3 || step == length / 32 - 1)
          Promote(base, ring.Scales() + step / 4 * 4 * ring.a.width, s);
      }
    }
    ring.Next();
  }

  // The whole K of one tile. Leaves the last stage unreleased: the epilogue reads its header and scales.
  __device__ __forceinline__ void Run(const GemmKernelArgs& a, Ring<C>& ring, const Seat& s,
                                      const uint8_t* slab, int tile) {
    const int bases = static_cast<int>(Sm90BaseBlocks(a.k)), full = a.k / C::kStageK,
              tail = a.k % C::kStageK;
    const uint8_t* base_at =
        slab + a.base + static_cast<int64_t>(tile) * bases * 64 + s.warp * 16 + s.g;
    uint32_t b0 = __ldg(base_at), b1 = __ldg(base_at + 8);
    uint4 v0 = make_uint4(0, 0, 0, 0);
    uint32_t scale0 = 0;
    if (full > 0) {
      BarrierWait(ring.Full(), ring.phase);
      v0 = LoadShared16(ring.Words(s));
      scale0 = LoadShared2(ring.BlockScales(s));
    }
    for (int i = 0; i < bases; i++) {
      const Base base{PlaneOrigin(b0), PlaneOrigin(b1), PlaneUnit(b0), PlaneUnit(b1)};
      const bool last = i + 1 == bases;
      if (!last) {
        base_at += 64;
        b0 = __ldg(base_at);
        b1 = __ldg(base_at + 8);
      }
      const int here = min(2, full - 2 * i);
      if (here == 2) {
        Stage<true, false>(ring, s, base, v0, scale0, true, true);
        Stage<false, true>(ring, s, base, v0, scale0, 2 * i + 2 < full, !last);
      } else {
        if (here == 1) Stage<true, true>(ring, s, base, v0, scale0, false, tail != 0);
        if (tail != 0) Tail(ring, s, tail, base);
      }
    }
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_PLANES_LOOP_CUH_
