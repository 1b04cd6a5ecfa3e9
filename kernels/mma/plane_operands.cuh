// From words of a block to operands of E4M3, which planes and W4A8 share: the exponent bases of a lane's two rows, and the tables
// that they make of a block's scales.
#ifndef DSV4MX_KERNELS_MMA_PLANE_OPERANDS_CUH_
#define DSV4MX_KERNELS_MMA_PLANE_OPERANDS_CUH_

#include "kernels/mma/block.cuh"
#include "kernels/mxfp4/decode.cuh"

namespace dsv4mx {

// Of one of the warpgroup's tiles, for a block of 512 of K.
struct ExponentBases {
  uint32_t row0, row1;
  // Of a stage's bases at this address.
  template <class C>
  __device__ __forceinline__ void LoadAt(uint32_t stage, const MmaThread& me, int which) {
    const uint32_t at = stage + (me.wg * C::kTilesEach + which) * 64 + me.warp * 16 + me.g;
    row0 = LoadShared1(at);
    row1 = LoadShared1(at + 8);
  }
  template <class C>
  __device__ __forceinline__ void Load(const Ring<C>& ring, const MmaThread& me, int which = 0) {
    LoadAt<C>(ring.Bases(), me, which);
  }
};

struct PlaneTables {
  PlaneTable row0, row1;
  __device__ __forceinline__ PlaneTables(uint32_t scales, const ExponentBases& bases)
      : row0(PlaneOf((scales & 255u) - bases.row0)), row1(PlaneOf((scales >> 8) - bases.row1)) {}

  // The operand of a block's step of 32.
  __device__ __forceinline__ void Decode(const Block& b, int step, uint32_t* a) const {
    const uint4 q = b.words[step / 2];
    DecodePlane(step % 2 ? q.z : q.x, row0, a[0], a[2]);
    DecodePlane(step % 2 ? q.w : q.y, row1, a[1], a[3]);
  }
  __device__ __forceinline__ void DecodeTail(const TailBlock& b, const MmaThread& me, int step,
                                             uint32_t* a) const {
    const uint32_t word = TailWord(b, me, step);
    DecodePlane(LoadShared4(word), row0, a[0], a[2]);
    DecodePlane(LoadShared4(word + 4), row1, a[1], a[3]);
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_PLANE_OPERANDS_CUH_
