// A running sum over the threads of a block.
#ifndef DSV4MX_KERNELS_SCAN_CUH_
#define DSV4MX_KERNELS_SCAN_CUH_

#include <cstdint>

namespace dsv4mx {

// The sum of `v` over lower lanes and this one.
__device__ __forceinline__ uint64_t InclusiveSumOfLanes(uint64_t v) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const uint64_t up = __shfl_up_sync(~0u, v, d);
    if (static_cast<int>(threadIdx.x % 32) >= d) v += up;
  }
  return v;
}

// The sum of `own` over lower threads plus carry, which grows by the sum over all. All threads of the block take part.
template <int Threads>
__device__ __forceinline__ uint64_t ExclusiveSum(uint64_t own, uint64_t& carry) {
  constexpr int kWarps = Threads / 32;
  static_assert(kWarps <= 32, "a lane for each warp");
  __shared__ uint64_t sums[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint64_t sum = InclusiveSumOfLanes(own);
  if (lane == 31) sums[warp] = sum;
  __syncthreads();
  // In every warp, a lane for each: one load after the other would take long.
  const uint64_t warps = InclusiveSumOfLanes(lane < kWarps ? sums[lane] : 0);
  const uint64_t before = carry + __shfl_sync(~0u, warps, warp) - __shfl_sync(~0u, sum, 31);
  carry += __shfl_sync(~0u, warps, 31);
  __syncthreads();
  return before + sum - own;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SCAN_CUH_
