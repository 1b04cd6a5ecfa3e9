// In place of CUDA's header: the one group that kernels/ takes from it.
#ifndef DSV4MX_TESTS_EMULATOR_COOPERATIVE_GROUPS_H_
#define DSV4MX_TESTS_EMULATOR_COOPERATIVE_GROUPS_H_

#include "tests/emulator/machine.h"

namespace cooperative_groups {

struct Cluster {
  unsigned block_rank() const { return dsv4mx::emulator::ClusterRank(); }
  void sync() const { dsv4mx::emulator::ClusterBarrier(); }
  template <class T>
  T* map_shared_rank(T* pointer, unsigned rank) const {
    return static_cast<T*>(dsv4mx::emulator::ClusterPointer(pointer, rank));
  }
};
inline Cluster this_cluster() {
  return {};
}

}  // namespace cooperative_groups

#endif  // DSV4MX_TESTS_EMULATOR_COOPERATIVE_GROUPS_H_
