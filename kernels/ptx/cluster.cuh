// Shared memory and barriers of the other CTAs of a cluster. A cluster of one is no special case.
#ifndef DSV4MX_KERNELS_PTX_CLUSTER_CUH_
#define DSV4MX_KERNELS_PTX_CLUSTER_CUH_

#include "kernels/ptx/sync.cuh"

namespace dsv4mx {

__device__ __forceinline__ uint32_t ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// Behind it the other CTAs are there and their barriers, if FenceBarrierInit came before; all threads of all CTAs. Relaxed:
// it orders nothing else.
__device__ __forceinline__ void ClusterBegin() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::
                   : "memory");
}
// The address in CTA `rank` of what stands at `address` in this one.
__device__ __forceinline__ uint32_t ClusterAddress(uint32_t address, uint32_t rank) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}

// Stores into a CTA of the cluster that count as bytes of a barrier there: who waits on it sees them, and no fence is needed,
// which would wait for all that this thread has under way (a release at cluster scope does: 5 us an item of work).
__device__ __forceinline__ void SendFloats(uint32_t to, float x, float y, uint32_t bar) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
          to),
      "f"(x), "f"(y), "r"(bar)
      : "memory");
}
__device__ __forceinline__ void SendWord(uint32_t to, uint32_t x, uint32_t bar) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to), "r"(x),
      "r"(bar)
      : "memory");
}
// For what this thread read there: the other CTAs may write it again.
__device__ __forceinline__ void BarrierArriveCluster(uint32_t bar) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(bar) : "memory");
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_PTX_CLUSTER_CUH_
