// How the teams of a cluster hand each other sums.
#ifndef DSV4MX_KERNELS_FEW_TEAM_EXCHANGE_CUH_
#define DSV4MX_KERNELS_FEW_TEAM_EXCHANGE_CUH_

#include "kernels/few/geometry.h"
#include "kernels/ptx/cluster.cuh"

namespace dsv4mx {

inline constexpr int kFewExchangeBarriers = 1 + kFewCluster;

// Barriers of the exchange between the teams of a cluster, shared addresses in each CTA: `sums` counts the bytes that come to
// the buffer here, `added` tells that the buffer of CTA r is free again. A barrier tells phases apart by parity alone, so
// every warp of both CTAs that waits for a phase of `added` also arrives in the next one, in both: a warp that has nothing to
// send could otherwise be left two phases behind, and wait for ever. Only what somebody waits for is told: then nothing is on
// its way to a CTA that ends.
struct FewExchange {
  uint32_t sums, added;
  __device__ __forceinline__ explicit FewExchange(uint64_t* barriers)
      : sums(__shfl_sync(~0u, SharedAddress(barriers), 0)), added(sums + 8) {}
  // `adders` warps of a CTA read its buffer, `warps` of each fill buffers.
  __device__ __forceinline__ void Init(int adders, int warps) const {
    BarrierInit(sums, 1);
    for (int i = 0; i < kFewCluster; i++) BarrierInit(added + 8 * i, adders + kFewCluster * warps);
  }
  // Before anything is sent for item i of the cluster, whose buffer is in CTA i % 2.
  __device__ __forceinline__ void WaitFree(int i) const {
    if (i >= kFewCluster) BarrierWait(added + i % kFewCluster * 8, (i / kFewCluster - 1) & 1);
  }
  // By a warp that has sent what it has of item i, or read the buffer of item i, of `count`.
  __device__ __forceinline__ void Pass(int i, int count, int lane) const {
    __syncwarp();
    if (i + kFewCluster < count && lane < kFewCluster)
      BarrierArriveCluster(ClusterAddress(added + i % kFewCluster * 8, lane));
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_TEAM_EXCHANGE_CUH_
