// What the kernels of launch_weights.h share: launches over elements, with errors from the launch itself, so that an error that
// the host program left behind in the runtime is never taken for one of ours; and how elements of a slab are counted out.
#ifndef DSV4MX_KERNELS_WEIGHTS_CUH_
#define DSV4MX_KERNELS_WEIGHTS_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/launch_weights.h"

namespace dsv4mx {

constexpr int kElementThreads = 256;

__device__ __forceinline__ int64_t ThreadIndex() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

template <class... Params, class... Args>
cudaError_t LaunchGrid(void (*kernel)(Params...), int64_t x, int64_t y, int64_t z, int threads,
                       cudaStream_t stream, Args... args) {
  cudaLaunchConfig_t config{};
  config.gridDim =
      dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}

// One thread per element, `lines` lines of them (at most 65,535: the tiles of any legal size).
template <class... Params, class... Args>
int LaunchElements(void (*kernel)(Params...), int64_t elements, int64_t lines, cudaStream_t stream,
                   Args... args) {
  if (elements <= 0 || lines <= 0) return cudaSuccess;
  return LaunchGrid(kernel, (elements + kElementThreads - 1) / kElementThreads, lines, 1,
                    kElementThreads, stream, args...);
}

// Loads kernels into the current device: the first launch of each would else allocate.
template <class... Kernels>
int LoadAll(Kernels... kernels) {
  for (const void* kernel : {reinterpret_cast<const void*>(kernels)...}) {
    cudaFuncAttributes unused;
    if (const cudaError_t error = cudaFuncGetAttributes(&unused, kernel); error != cudaSuccess) {
      return error;
    }
  }
  return cudaSuccess;
}

// Scale bytes of w13's tiles alternate between gate and up.
__device__ __forceinline__ int64_t OwnElement(const SlabMatrix& m, int64_t index) {
  return m.down() ? index : 2 * index + m.matrix;
}

constexpr int kLanesPerBlock = 128;  // of a tile's 64 rows: 16 to a warp, two to a lane

// Block `number` of K, and how many there are.
__device__ __forceinline__ Sm90Block BlockAt(int64_t k, int64_t number) {
  const int64_t first = number * kSm90BlockK;
  return first < k ? Sm90BlockOf(k, first) : Sm90BlockOf(k, first - 64);
}
inline int64_t BlocksOf(int64_t k) {
  return k / kSm90BlockK + (k % kSm90BlockK >= 64) + (k % 64 != 0);
}

// Tiles that a run of rows fills: 32 rows of w13's matrices each, 64 of w2; padding belongs to the last row's tile.
inline void TilesOf(const SlabMatrix& m, int64_t first_row, int64_t rows, int64_t* first,
                    int64_t* count) {
  const int64_t per = m.down() ? kSm90TileRows : kSm90TileRows / 2;
  *first = first_row / per;
  *count = (first_row + rows + per - 1) / per - *first;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_WEIGHTS_CUH_
