// Launching helpers of the kernels of launch_weights.h: grids over elements, and errors from the launch itself, so that an
// error that the host program left behind in the runtime is never taken for one of ours.
#ifndef DSV4MX_KERNELS_WEIGHTS_CUH_
#define DSV4MX_KERNELS_WEIGHTS_CUH_

#include <cuda_runtime.h>

#include <cstdint>

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

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_WEIGHTS_CUH_
