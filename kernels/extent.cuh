// The least and the largest number of pairs that any expert has.
#ifndef DSV4MX_KERNELS_EXTENT_CUH_
#define DSV4MX_KERNELS_EXTENT_CUH_

#include <cstdint>

#include "kernels/launch.h"

namespace dsv4mx {

// Of the counts that a thread has seen and that are not 0; of none kAnyCount and 0.
struct Extent {
  int least = kAnyCount, most = 0;
  __device__ __forceinline__ void Add(int count) {
    if (count == 0) return;
    least = min(least, count);
    most = max(most, count);
  }
};

// Of all threads of the block, which all take part.
template <int Threads>
__device__ __forceinline__ void StoreExtent(const Extent& own, int32_t* to) {
  constexpr int kWarps = Threads / 32;
  static_assert(kWarps <= 32, "a lane for each warp");
  __shared__ uint32_t of_warps[2][kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  // The minimum as a maximum, too, so that one reduction serves both.
  const uint32_t most[2] = {static_cast<uint32_t>(kAnyCount - own.least),
                            static_cast<uint32_t>(own.most)};
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const uint32_t of_warp = __reduce_max_sync(~0u, most[i]);
    if (lane == 0) of_warps[i][warp] = of_warp;
  }
  __syncthreads();
  if (warp != 0) return;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int all = static_cast<int>(__reduce_max_sync(~0u, lane < kWarps ? of_warps[i][lane] : 0));
    if (lane == 0) to[i] = i == 0 ? kAnyCount - all : all;
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EXTENT_CUH_
