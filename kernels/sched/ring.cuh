// The ring of stages between the producer warps and the math warps of a GEMM, and what a stage holds:
//
//     [panel: K/128 parts of `width` rows]  [weights of each tile of 64 rows: 34 bytes per k]  [header]
//     planes, E4M3:  [exponent bases of each tile's 64 rows, where a block of 512 begins]  [scales of the panel rows]
//     f16, GEMM1:  [scales of the panel rows, with the last stage]
//
//   full[s]   one arrival of each producer warp, and the bytes of its copies
//   empty[s]  one arrival of each math warp (sched/release.cuh)
//   landed[s] f16, GEMM1: one arrival of each lane that fetches the panel, when its copies are there (sched/fetch.cuh)
//
// The header says what the stage belongs to, so that the math warps keep nothing of it across the main loop, where every
// register counts; 0 pairs ends the work.
#ifndef DSV4MX_KERNELS_SCHED_RING_CUH_
#define DSV4MX_KERNELS_SCHED_RING_CUH_

#include "kernels/ptx/bits.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/sched/gemm_config.cuh"
#include "kernels/sched/release.cuh"

namespace dsv4mx {

// A math thread as wgmma counts it: warpgroup, warp of it, lane, and the two numbers that say which part of a fragment a lane
// holds, groupID (g, the row, and the row 8 below) and threadID_in_group (t, the columns), as PTX calls them. Volatile, so
// that what depends on it is computed where it is used: kept across the main loop it would spill.
struct MmaThread {
  int wg, warp, lane, g, t;
};
// Which of the math warps this is, known to be the same in all lanes.
__device__ __forceinline__ uint32_t ThisMmaWarp() {
  return __shfl_sync(~0u, static_cast<uint32_t>(ThreadAnew()) / 32, 0);
}
__device__ __forceinline__ MmaThread MmaThreadOf(uint32_t mma_warp) {
  const uint32_t lane = static_cast<uint32_t>(ThreadAnew()) % 32;
  return {static_cast<int>(mma_warp / 4), static_cast<int>(mma_warp % 4), static_cast<int>(lane),
          static_cast<int>(lane / 4), static_cast<int>(lane % 4)};
}
__device__ __forceinline__ MmaThread ThisMmaThread() {
  const int thread = ThreadAnew();
  const int lane = thread & 31, warp = __shfl_sync(~0u, thread / 32, 0);
  return {warp / 4, warp & 3, lane, lane / 4, lane & 3};
}

// Sizes come from the kernel's arguments each time, which costs a constant operand instead of a register.
template <class C>
struct Ring {
  const GemmKernelArgs& a;
  uint32_t stages_at, full;  // shared addresses
  int stage;
  uint32_t phase;
  __device__ __forceinline__ uint32_t Panel() const { return stages_at + stage * a.stage_bytes; }
  __device__ __forceinline__ uint32_t PartBytes() const { return C::kTokenBytes * a.width; }
  __device__ __forceinline__ uint32_t Weights() const { return Panel() + C::kParts * PartBytes(); }
  // Weights of one of a warpgroup's tiles.
  __device__ __forceinline__ uint32_t Tile(const MmaThread& me, int which = 0) const {
    return Weights() + (me.wg * C::kTilesEach + which) * C::kWeightBytes;
  }
  __device__ __forceinline__ uint32_t Header() const {
    return Weights() + C::kStageTiles * C::kWeightBytes;
  }
  __device__ __forceinline__ uint32_t Bases() const { return Header() + kHeaderBytes; }
  __device__ __forceinline__ uint32_t Scales() const { return Bases() + C::kBaseBytes; }
  __device__ __forceinline__ uint32_t Full() const { return full + stage * 8; }
  __device__ __forceinline__ uint32_t Empty() const { return full + 8 * kMaxStages + stage * 8; }
  // Two more barriers, of the items that are shared out (sched/share.cuh).
  __device__ __forceinline__ uint32_t Shared() const { return full + 16 * kMaxStages; }
  // One for each stage, where rows are fetched.
  __device__ __forceinline__ uint32_t Landed() const {
    return full + 16 * kMaxStages + 16 + stage * 8;
  }
  __device__ __forceinline__ void Next() {
    if (++stage == a.stages) stage = 0, phase ^= 1;
  }
  __device__ __forceinline__ Ring Before() const {
    Ring r = *this;
    r.stage = stage == 0 ? a.stages - 1 : stage - 1;
    return r;
  }
};

// A stage's header: what its weights and tokens belong to.
struct WorkTile {
  int expert;
  int tile;       // of 64 weight rows; the first of the stage, or of a warpgroup (OwnWorkTile)
  int panel_row;  // of the first pair
  int count;      // pairs
};
static_assert(sizeof(WorkTile) == kHeaderBytes, "a header is stored and loaded in one piece");
__device__ __forceinline__ void StoreWorkTile(uint32_t header, const WorkTile& j) {
  StoreShared16(header, j.expert, j.tile, j.panel_row, j.count);
}
// The values come out of a shuffle so that the compiler knows them to be the same in all lanes: what follows from them, the
// ring's stage with all its addresses and wgmma's descriptors, then lives in uniform registers.
__device__ __forceinline__ WorkTile LoadWorkTile(uint32_t header) {
  const uint4 j = LoadShared16(header);
  return {static_cast<int>(__shfl_sync(~0u, j.x, 0)), static_cast<int>(__shfl_sync(~0u, j.y, 0)),
          static_cast<int>(__shfl_sync(~0u, j.z, 0)), static_cast<int>(__shfl_sync(~0u, j.w, 0))};
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SCHED_RING_CUH_
