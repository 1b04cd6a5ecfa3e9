// Main loop of the plane path: a warpgroup's 64 rows times a tile's tokens over the whole of K. Each token is two columns,
// high and low, next to each other, so that one thread holds both; their products accumulate in the tensor core and are
// promoted to fp32 every 512 of K (GEMM1) or every 128, where a scale of h ends (GEMM2).
#ifndef DSV4MX_KERNELS_MMA_PLANES_LOOP_CUH_
#define DSV4MX_KERNELS_MMA_PLANES_LOOP_CUH_

#include "kernels/mma/block.cuh"
#include "kernels/mxfp4/decode.cuh"
#include "kernels/ptx/wgmma.cuh"

namespace dsv4mx {

// Width 0: any number of columns up to the widest tile, known when the tile begins.
template <class C, int Width>
struct PlanesLoop {
  static constexpr int kColumns = Width > 0 ? Width : C::kColumns;
  static constexpr int kTokens = kColumns / 8;  // of this thread: 4j + t
  static constexpr int kBaseBlocks = kSm90BaseK / kSm90BlockK;
  // k32 steps to a group of products; four where registers allow.
  static constexpr int kGroupSteps = C::kGemm == 2 && (Width == 0 || Width > 40) ? 2 : 4;
  float acc[2 * kTokens];  // [token][row half]
  float d[kColumns / 2];
  int known_late;

  // Two columns a token, rounded up to 8; the same in all lanes.
  __device__ __forceinline__ int Columns() const { return Width > 0 ? Width : known_late; }

  __device__ __forceinline__ explicit PlanesLoop(int columns) : known_late(columns) {
#pragma unroll
    for (int i = 0; i < 2 * kTokens; i++) acc[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < kColumns / 2; i++) d[i] = 0.0f;
  }

  // The exponent bases of the lane's two rows, for a block of 512 of K.
  struct ExponentBases {
    uint32_t row0, row1;
    __device__ __forceinline__ void Load(const Ring<C>& ring, const MmaThread& me) {
      const uint32_t at = ring.Bases() + me.wg * 64 + me.warp * 16 + me.g;
      row0 = LoadShared1(at);
      row1 = LoadShared1(at + 8);
    }
  };

  // acc += unit * scale * (high + low / 16)
  __device__ __forceinline__ void Promote(const ExponentBases& b, uint32_t scales,
                                          const MmaThread& me) {
#pragma unroll
    for (int j = 0; j < kTokens; j++) {
      if (8 * j >= Columns()) break;
      float unit0 = PlaneUnit(b.row0), unit1 = PlaneUnit(b.row1);
      if constexpr (C::kGemm == 2) {
        const float scale = LoadSharedFloat(scales + (4 * j + me.t) * 4);
        unit0 *= scale;
        unit1 *= scale;
      }
      acc[2 * j] = fmaf(unit0, fmaf(d[4 * j + 1], 0.0625f, d[4 * j]), acc[2 * j]);
      acc[2 * j + 1] = fmaf(unit1, fmaf(d[4 * j + 3], 0.0625f, d[4 * j + 2]), acc[2 * j + 1]);
    }
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
      const PlaneTable t0 = PlaneOf((b.scales & 255u) - bases.row0),
                       t1 = PlaneOf((b.scales >> 8) - bases.row1);
      const int fresh = C::kGemm == 2 || kb % kBaseBlocks == 0;
#pragma unroll
      for (int group = 0; group < 4 / kGroupSteps; group++) {
        uint32_t a[kGroupSteps][4];
#pragma unroll
        for (int k = 0; k < kGroupSteps; k++) {
          const int step = group * kGroupSteps + k;
          const uint4 q = b.words[step / 2];
          DecodePlane(step % 2 ? q.z : q.x, t0, a[k][0], a[k][2]);
          DecodePlane(step % 2 ? q.w : q.y, t1, a[k][1], a[k][3]);
        }
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
      if (C::kGemm == 2 || kb % kBaseBlocks == kBaseBlocks - 1 || (last && !more))
        Promote(bases, scales + i * 4 * ring.a.width, me);
    }
    __syncwarp();
    if (release && me.lane == 0) BarrierArrive(own);
  }

  // A stage shorter than the others: it is at most one of a tile's.
  __device__ __forceinline__ void Tail(Ring<C>& ring, const MmaThread& me, ExponentBases& bases,
                                       int kb, int length) {
    const uint32_t panel = PanelDescriptorLow(ring.Panel());
    if (kb != 0) BarrierWait(ring.Full(), ring.phase);
    if (kb % kBaseBlocks == 0) bases.Load(ring, me);
    for (int step = 0; step < length / 32;) {
      const TailBlock b = FindTail(ring, me, step * 32, length - step * 32);
      const PlaneTable t0 = PlaneOf((b.scales & 255u) - bases.row0),
                       t1 = PlaneOf((b.scales >> 8) - bases.row1);
      for (int i = 0; i < b.length / 32; i++, step++) {
        const uint32_t word = TailWord(b, me, i);
        uint32_t a[4];
        DecodePlane(LoadShared4(word), t0, a[0], a[2]);
        DecodePlane(LoadShared4(word + 4), t1, a[1], a[3]);
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
      if (me.lane == 0) BarrierArrive(own);
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
