// A launch without nvcc's brackets, so that the emulator's compiler reads it too.
#ifndef DSV4MX_TESTS_GPU_GPU_LAUNCH_CUH_
#define DSV4MX_TESTS_GPU_GPU_LAUNCH_CUH_

#include <cuda_runtime.h>

#include "tests/gpu/cuda_must.h"

namespace dsv4mx::test {

template <class... Params, class... Args>
void Launch(void (*kernel)(Params...), int64_t blocks, int threads, cudaStream_t stream,
            const Args&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  CUDA_MUST(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...));
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_GPU_LAUNCH_CUH_
