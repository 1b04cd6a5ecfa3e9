// A team's ring of weights in the kernels for few pairs. A stage is up to 256 of K of a tile, and its exponent bases. The thread
// that fills it and the team walk the same sequence of stages. (One ring for both teams goes wrong: a barrier tells phases
// apart by parity, so who does not wait for every phase of it takes an old one for a new one.)
#ifndef DSV4MX_KERNELS_FEW_TEAM_RING_CUH_
#define DSV4MX_KERNELS_FEW_TEAM_RING_CUH_

#include "kernels/few/geometry.h"
#include "kernels/launch.h"
#include "kernels/ptx/sync.cuh"
#include "kernels/sched/release.cuh"

namespace dsv4mx {

struct FewKernelArgs {
  GatherArgs gather;  // GEMM1
  GemmArgs
      gemm;  // h by pair: fp32 [pairs, intermediate], in the order of planes inside each block of 128
  CombineArgs combine;  // kToken2
  FewGeometry geometry;
};

DSV4MX_HD constexpr int FewThreads(FewKind kind) {
  return FewTeams(kind) * (128 + 32);  // each team has a warp that asks for its weights
}
inline constexpr int kFewBarriers = 2 * kFewMaxStages;  // of a ring

struct FewRing {
  const FewGeometry& g;
  uint32_t first_at, first_full;  // shared addresses: where stage 0 and its barrier stand
  uint32_t at, full;  // of the stage at the head; `empty` is kFewMaxStages barriers behind `full`
  uint32_t end, phase;
  int begun = 0;  // stages asked for, up to all
  // By whole warps: addresses that come out of a shuffle stay in registers, where the compiler would work them out anew.
  __device__ __forceinline__ FewRing(const FewGeometry& geometry, uint8_t* shared,
                                     uint64_t* barriers, int team)
      : g(geometry),
        first_at(__shfl_sync(
            ~0u,
            SharedAddress(shared + geometry.ring) + team * geometry.stages * geometry.stage_bytes,
            0)),
        first_full(__shfl_sync(~0u, SharedAddress(barriers + team * kFewBarriers), 0)),
        at(first_at),
        full(first_full),
        end(first_full + 8 * geometry.stages),
        phase(0) {}
  // By one thread, and only what is used: an init takes 20 to 30 ns, whichever lanes of a warp do it.
  __device__ __forceinline__ static void Init(const FewGeometry& g, uint64_t* barriers, int team) {
    const uint32_t first = SharedAddress(barriers + team * kFewBarriers);
    for (int i = 0; i < g.stages; i++) {
      BarrierInit(first + i * 8, 1);
      BarrierInit(first + (kFewMaxStages + i) * 8, 4 * kLanesThatRelease);  // the team's warps
    }
  }
  __device__ __forceinline__ uint32_t Empty() const { return full + kFewMaxStages * 8; }
  __device__ __forceinline__ void Next() {
    at += g.stage_bytes;
    full += 8;
    if (full == end) at = first_at, full = first_full, phase ^= 1;
  }
  __device__ __forceinline__ void WaitFull() const { BarrierWait(full, phase); }
  // One answer for the whole warp.
  __device__ __forceinline__ bool IsFull() const {
    return __ballot_sync(~0u, BarrierTest(full, phase)) != 0;
  }
  __device__ __forceinline__ void Release(int lane) const {
    __syncwarp();
    if (Releases(lane)) BarrierArrive(Empty());
  }
  // Asks for stage `index` of a tile.
  __device__ __forceinline__ void Fill(const GemmArgs& m, int expert, int row_tile, int index,
                                       uint64_t policy) {
    const int k = index * g.stage_blocks * kSm90BlockK;
    const int bytes = kSm90BytesPerK * min(g.stage_blocks * kSm90BlockK, m.k - k);
    const uint8_t* slab = m.slabs + expert * m.slab_bytes;
    BarrierWait(Empty(), phase ^ 1);
    // At first one stage at a time: else what two CTAs of a multiprocessor ask for stands in a queue, all of the first before any
    // of the second, and so do reads of x and h behind it.
    if (begun < g.stages) {
      if (begun > 0) BarrierWait(full - 8, 0);
      begun++;
    }
    BarrierArriveExpect(full, bytes + kSm90TileRows);
    BulkCopy(at, slab + m.matrix + row_tile * Sm90TileBytes(m.k) + kSm90BytesPerK * int64_t{k},
             bytes, full, policy);
    BulkCopy(
        at + g.stage_bytes - kFewBasesBytes,
        slab + m.bases + (row_tile * Sm90BaseBlocks(m.k) + k / kSm90BaseK) * int64_t{kSm90TileRows},
        kSm90TileRows, full, policy);
    Next();
  }
};

// A CTA's or cluster's items: neighbours, so that few of them change the tokens.
struct FewItems {
  int begin, end;
  __device__ __forceinline__ FewItems(int total, int parts, int part) {
    const int each = total / parts, rest = total % parts;
    begin = part * each + min(part, rest);
    end = begin + each + (part < rest);
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_TEAM_RING_CUH_
