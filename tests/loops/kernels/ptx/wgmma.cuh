// In place of kernels/ptx/wgmma.cuh: products are done when they are asked for.
#ifndef DSV4MX_KERNELS_PTX_WGMMA_CUH_
#define DSV4MX_KERNELS_PTX_WGMMA_CUH_

#include "tests/loops/lanes.h"

namespace dsv4mx {

template <int N>
struct WgmmaE4M3 {
  static void Mma(float* d, const uint32_t* a, uint64_t b, int accumulate) {
    test::Multiply(N, d, a, b, accumulate);
  }
};
inline void WgmmaFence() {}
inline void WgmmaCommit() {}
template <int Pending>
void WgmmaWait() {}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_PTX_WGMMA_CUH_
