// LaunchCopies for tools on the emulator, which compiles no file of the benchmark's own kernels.
#include <cuda_runtime_api.h>

#include "tests/bench/gpu_kernels.h"

namespace dsv4mx::bench {

int LaunchCopies(void* to0, const void* from0, size_t bytes0, void* to1, const void* from1,
                 size_t bytes1, Stream stream) {
  const cudaError_t error = cudaMemcpyAsync(to0, from0, bytes0, cudaMemcpyDeviceToDevice, stream);
  if (error != cudaSuccess) return error;
  return cudaMemcpyAsync(to1, from1, bytes1, cudaMemcpyDeviceToDevice, stream);
}

}  // namespace dsv4mx::bench
