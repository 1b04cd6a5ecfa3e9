// The ring of stages between the producer threads and the math warps of a GEMM, and what a stage holds:
//
//     [rows: K/64 or K/128 parts of `width` rows]  [weights of each tile of 64 rows: 34 bytes a k]  [header]
//     planes, E4M3:  [exponent bases of each tile's 64 rows, where a block of 512 begins]  [scales of the rows]
//
//   full[s]   one arrival and the bytes of the weights, one arrival and the bytes of the rows
//   empty[s]  one arrival of each math warp
//
// The header says what the stage belongs to, so that the math warps keep nothing of it across the main loop, where every
// register counts; 0 pairs ends the work.
#ifndef DSV4MX_KERNELS_SCHED_RING_CUH_
#define DSV4MX_KERNELS_SCHED_RING_CUH_

#include "kernels/ptx/bits.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/sched/gemm_config.cuh"

namespace dsv4mx {

// What a math warp knows of its place. Volatile, so that what depends on it is computed where it is used: kept
// across the main loop it would spill.
struct Seat {
  int wg, warp, lane, g, t;
};
__device__ __forceinline__ Seat TakeSeat() {
  const int thread = ThreadAnew();
  const int lane = thread & 31, warp = __shfl_sync(~0u, thread / 32, 0);
  return {warp / 4, warp & 3, lane, lane / 4, lane & 3};
}

// Sizes come from the kernel's arguments each time, which costs a constant operand instead of a register.
template <class C>
struct Ring {
  const GemmKernelArgs& a;
  uint32_t base, full;  // shared addresses
  int stage;
  uint32_t phase;
  __device__ __forceinline__ uint32_t Rows() const { return base + stage * a.stage_bytes; }
  __device__ __forceinline__ uint32_t PartBytes() const { return C::kTokenBytes * a.width; }
  __device__ __forceinline__ uint32_t Weights() const { return Rows() + C::kParts * PartBytes(); }
  // Weights of one of a warpgroup's tiles.
  __device__ __forceinline__ uint32_t Tile(const Seat& s, int which = 0) const {
    return Weights() + (s.wg * C::kTilesEach + which) * C::kWeightBytes;
  }
  __device__ __forceinline__ uint32_t Header() const {
    return Weights() + C::kTiles * C::kWeightBytes;
  }
  __device__ __forceinline__ uint32_t Bases() const { return Header() + kHeaderBytes; }
  __device__ __forceinline__ uint32_t Scales() const { return Bases() + C::kBaseBytes; }
  __device__ __forceinline__ uint32_t Full() const { return full + stage * 8; }
  __device__ __forceinline__ uint32_t Empty() const { return full + 8 * kMaxStages + stage * 8; }
  __device__ __forceinline__ void Next() {
    if (++stage == a.stages) stage = 0, phase ^= 1;
  }
  __device__ __forceinline__ Ring Before() const {
    Ring r = *this;
    r.stage = stage == 0 ? a.stages - 1 : stage - 1;
    return r;
  }
};

// A stage's header.
struct Job {
  int expert, tile, position, count;
};
__device__ __forceinline__ void StoreJob(uint32_t header, const Job& j) {
  StoreShared16(header, j.expert, j.tile, j.position, j.count);
}
// The values come out of a shuffle so that the compiler knows them to be the same in all lanes: what follows from them, the
// ring's stage with all its addresses and wgmma's descriptors, then lives in uniform registers.
__device__ __forceinline__ Job LoadJob(uint32_t header) {
  const uint4 j = LoadShared16(header);
  return {static_cast<int>(__shfl_sync(~0u, j.x, 0)), static_cast<int>(__shfl_sync(~0u, j.y, 0)),
          static_cast<int>(__shfl_sync(~0u, j.z, 0)), static_cast<int>(__shfl_sync(~0u, j.w, 0))};
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SCHED_RING_CUH_
