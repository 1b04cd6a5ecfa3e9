// In place of kernels/ptx/cluster.cuh.
#ifndef DSV4MX_KERNELS_PTX_CLUSTER_CUH_
#define DSV4MX_KERNELS_PTX_CLUSTER_CUH_

#include "kernels/ptx/sync.cuh"

namespace dsv4mx {

inline uint32_t ClusterRank() {
  return emulator::ClusterRank();
}
inline void ClusterBegin() {
  emulator::ClusterBarrier();
}
inline uint32_t ClusterAddress(uint32_t address, uint32_t rank) {
  return emulator::ClusterAddress(address, rank);
}
inline void SendFloats(uint32_t to, float x, float y, uint32_t bar) {
  const float words[2] = {x, y};
  emulator::Send(to, words, sizeof words, bar);
}
inline void SendWord(uint32_t to, uint32_t x, uint32_t bar) {
  emulator::Send(to, &x, sizeof x, bar);
}
inline void BarrierArriveCluster(uint32_t bar) {
  emulator::BarrierArrive(bar);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_PTX_CLUSTER_CUH_
