// The ring as a main loop goes through its stages: by the address of a stage's barrier. What the ring finds anew from a stage's
// number is a multiple of that address here and costs one instruction, or none.
#ifndef DSV4MX_KERNELS_MMA_RING_WALK_CUH_
#define DSV4MX_KERNELS_MMA_RING_WALK_CUH_

#include "kernels/mma/block.cuh"

namespace dsv4mx {

// Of stages of one block, of which each warpgroup has one tile.
template <class C>
class RingWalk {
 public:
  static_assert(C::kStageBlocks == 1 && C::kTilesEach == 1, "one block of each warpgroup");

  __device__ __forceinline__ RingWalk(const Ring<C>& ring, const MmaThread& me)
      : full_(ring.Full()),
        phase_(ring.phase),
        first_(ring.full),
        end_(ring.full + kBarrierBytes * ring.a.stages),
        // Out of shuffles, so that they are in uniform registers, not found anew at each stage.
        bytes_(__shfl_sync(~0u, ring.a.stage_bytes / kBarrierBytes, 0)),
        units_(__shfl_sync(~0u, bytes_ >> kDescriptorUnit, 0)),
        block_(ring.stages_at + C::kParts * ring.PartBytes() + me.wg * C::kWeightBytes -
               first_ * bytes_),
        panel_(__shfl_sync(~0u, PanelDescriptorLow(ring.stages_at) - first_ * units_, 0)) {
    static_assert(kSwizzleBytes % (kBarrierBytes << kDescriptorUnit) == 0,
                  "a stage, which is whole swizzles, divides so");
  }

  __device__ __forceinline__ uint32_t Full() const { return full_; }
  __device__ __forceinline__ uint32_t Empty() const { return full_ + kBarrierBytes * kMaxStages; }
  __device__ __forceinline__ uint32_t Phase() const { return phase_; }
  __device__ __forceinline__ uint32_t Block() const { return block_ + full_ * bytes_; }
  __device__ __forceinline__ uint64_t Panel() const {
    return PanelDescriptor<2>(panel_ + full_ * units_);
  }
  __device__ __forceinline__ void Next() {
    full_ += kBarrierBytes;
    if (full_ == end_) full_ = first_, phase_ ^= 1;
  }
  // The ring stands where the walk ended.
  __device__ __forceinline__ void Leave(Ring<C>& ring) const {
    ring.stage = (full_ - first_) / kBarrierBytes;
    ring.phase = phase_;
  }

 private:
  static constexpr uint32_t kBarrierBytes = 8;
  uint32_t full_, phase_;   // of this stage
  uint32_t first_, end_;    // barriers of the first stage and behind the last
  uint32_t bytes_;          // of a stage, for each byte of a barrier
  uint32_t units_;          // the same as descriptors count
  uint32_t block_, panel_;  // what would stand there if there were a barrier at address 0
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_RING_WALK_CUH_
