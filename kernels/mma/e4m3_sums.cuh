// What the main loops of W4A8 share: a warpgroup's sums, how words become operands, and how products become sums. Products
// accumulate in the tensor core and are promoted to fp32 every 256 of K (GEMM1, where x has one scale a row) or every 128
// (GEMM2, where a scale of h ends, unless it is levelled). All shapes of CTA promote at the same places, so that every width of any gives the same bits.
#ifndef DSV4MX_KERNELS_MMA_E4M3_SUMS_CUH_
#define DSV4MX_KERNELS_MMA_E4M3_SUMS_CUH_

#include "kernels/mma/plane_operands.cuh"
#include "kernels/ptx/wgmma.cuh"

namespace dsv4mx {

template <class C, int Width>
struct E4m3Sums {
  static constexpr int kTiles = C::kTilesEach, kSums = kTiles * C::kHalves;
  static constexpr int kBaseBlocks = kSm90BaseK / kSm90BlockK;
  using Wgmma = WgmmaE4M3<Width>;
  // Of each tile, or of each half of the tokens: [8 tokens][row half][2]: tokens 8j + 2t and 8j + 2t + 1.
  float acc[kSums][Width / 2];
  float d[Width / 2];

  __device__ __forceinline__ const float* Sums(int which) const { return acc[which]; }

  __device__ __forceinline__ E4m3Sums() {
#pragma unroll
    for (int which = 0; which < kSums; which++) {
#pragma unroll
      for (int i = 0; i < Width / 2; i++) acc[which][i] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < Width / 2; i++) d[i] = 0.0f;
  }

  // What a panel's second half adds to its descriptor, and to the address of its scales.
  static constexpr uint32_t kHalfPanel = Width * C::kTokenBytes >> kDescriptorUnit;
  static constexpr uint32_t kHalfScales = Width * 4;

  // sums += unit * scale * d
  __device__ __forceinline__ void Promote(float* sums, const ExponentBases& b, uint32_t scales,
                                          const MmaThread& me) {
    const float unit0 = PlaneUnit(b.row0), unit1 = PlaneUnit(b.row1);
#pragma unroll
    for (int j = 0; j < Width / 8; j++) {
      float2 scale0 = make_float2(unit0, unit0), scale1 = make_float2(unit1, unit1);
      if constexpr (C::kBlockScales) {
        const float2 scale = LoadSharedFloat2(scales + (8 * j + 2 * me.t) * 4);
        scale0 = make_float2(unit0 * scale.x, unit0 * scale.y);
        scale1 = make_float2(unit1 * scale.x, unit1 * scale.y);
      }
      sums[4 * j] = fmaf(scale0.x, d[4 * j], sums[4 * j]);
      sums[4 * j + 1] = fmaf(scale0.y, d[4 * j + 1], sums[4 * j + 1]);
      sums[4 * j + 2] = fmaf(scale1.x, d[4 * j + 2], sums[4 * j + 2]);
      sums[4 * j + 3] = fmaf(scale1.y, d[4 * j + 3], sums[4 * j + 3]);
    }
  }

  // A stage of less than the loops take at a time.
  __device__ __forceinline__ void Tail(Ring<C>& ring, const MmaThread& me,
                                       ExponentBases (&bases)[kTiles], int kb, int length) {
    const uint32_t panel = PanelDescriptorLow(ring.Panel());
    BarrierWait(ring.Full(), ring.phase);
#pragma unroll
    for (int sum = 0; sum < kSums; sum++) {
      const int which = sum % kTiles, half = sum / kTiles;
      if (kb % kBaseBlocks == 0) bases[which].Load(ring, me, which);
      for (int step = 0; step < length / 32;) {
        const TailBlock b = FindTail(ring, me, step * 32, length - step * 32, which);
        const PlaneTables tables(b.scales, bases[which]);
        for (int i = 0; i < b.length / 32; i++, step++) {
          uint32_t a[4];
          tables.DecodeTail(b, me, i, a);
          const uint32_t at = panel + half * kHalfPanel +
                              (step / 4 * ring.PartBytes() >> kDescriptorUnit) +
                              step % 4 * kDescriptorK32;
          WgmmaFence();
          Wgmma::Mma(d, a, PanelDescriptor(at), step % 4 == 0 ? 0 : 1);
          WgmmaCommit();
          WgmmaWait<0>();
          if (step % 4 == 3 || step == length / 32 - 1)
            Promote(acc[sum], bases[which],
                    ring.Scales() + half * kHalfScales + step / 4 * 4 * ring.a.width, me);
        }
      }
    }
    ring.Next();
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_E4M3_SUMS_CUH_
