// A running sum over the threads of a block.
#ifndef DSV4MX_KERNELS_SCAN_CUH_
#define DSV4MX_KERNELS_SCAN_CUH_

#include <cstdint>

namespace dsv4mx {

// The sum of `own` over lower threads plus carry, which grows by the sum over all. All threads of the block take part.
template <int Threads>
__device__ __forceinline__ uint64_t ExclusiveSum(uint64_t own, uint64_t& carry) {
  __shared__ uint64_t sums[Threads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint64_t sum = own;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const uint64_t up = __shfl_up_sync(~0u, sum, d);
    if (lane >= d) sum += up;
  }
  if (lane == 31) sums[warp] = sum;
  __syncthreads();
  uint64_t before = carry;
#pragma unroll 1  // ptxas serialises wgmma in a kernel that has this unrolled (C7511)
  for (int w = 0; w < Threads / 32; w++) {
    before += w < warp ? sums[w] : 0;
    carry += sums[w];
  }
  __syncthreads();
  return before + sum - own;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SCAN_CUH_
