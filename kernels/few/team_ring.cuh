// A team's ring of weights in the kernels for few pairs. A stage is up to 256 of K of a tile, and its exponent bases. The thread
// that fills it and the team walk the same sequence of stages. (One ring for both teams goes wrong: a barrier tells phases
// apart by parity, so who does not wait for every phase of it takes an old one for a new one.)
#ifndef DSV4MX_KERNELS_FEW_TEAM_RING_CUH_
#define DSV4MX_KERNELS_FEW_TEAM_RING_CUH_

#include "kernels/few/geometry.h"
#include "kernels/launch.h"
#include "kernels/ptx/sync.cuh"

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
  uint32_t stages_at, full, empty;  // shared addresses
  int stage;
  uint32_t phase;
  __device__ __forceinline__ FewRing(const FewGeometry& geometry, uint8_t* shared,
                                     uint64_t* barriers, int team)
      : g(geometry),
        stages_at(SharedAddress(shared + geometry.ring) +
                  team * geometry.stages * geometry.stage_bytes),
        full(SharedAddress(barriers + team * kFewBarriers)),
        empty(full + kFewMaxStages * 8),
        stage(0),
        phase(0) {}
  __device__ __forceinline__ void Init() const {
    for (int i = 0; i < g.stages; i++) {
      BarrierInit(full + i * 8, 1);
      BarrierInit(empty + i * 8, 4);  // the team's warps
    }
  }
  __device__ __forceinline__ uint32_t Weights() const { return stages_at + stage * g.stage_bytes; }
  __device__ __forceinline__ uint32_t Bases() const {
    return Weights() + g.stage_bytes - kFewBasesBytes;
  }
  __device__ __forceinline__ void Next() {
    if (++stage == g.stages) stage = 0, phase ^= 1;
  }
  __device__ __forceinline__ void WaitFull() const { BarrierWait(full + stage * 8, phase); }
  __device__ __forceinline__ void Release(int lane) const {
    __syncwarp();
    if (lane == 0) BarrierArrive(empty + stage * 8);
  }
  // Asks for stage `index` of a tile.
  __device__ __forceinline__ void Fill(const GemmArgs& m, int expert, int row_tile, int index,
                                       uint64_t policy) {
    const int k = index * g.stage_blocks * kSm90BlockK;
    const int bytes = kSm90BytesPerK * min(g.stage_blocks * kSm90BlockK, m.k - k);
    const uint8_t* slab = m.slabs + expert * m.slab_bytes;
    BarrierWait(empty + stage * 8, phase ^ 1);
    BarrierArriveExpect(full + stage * 8, bytes + kSm90TileRows);
    BulkCopy(Weights(),
             slab + m.matrix + row_tile * Sm90TileBytes(m.k) + kSm90BytesPerK * int64_t{k}, bytes,
             full + stage * 8, policy);
    BulkCopy(
        Bases(),
        slab + m.bases + (row_tile * Sm90BaseBlocks(m.k) + k / kSm90BaseK) * int64_t{kSm90TileRows},
        kSm90TileRows, full + stage * 8, policy);
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
