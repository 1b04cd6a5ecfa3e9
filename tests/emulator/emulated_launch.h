// Launches of kernels that are compiled for the host. They run before the call returns, in the order of the calls.
#ifndef DSV4MX_TESTS_EMULATOR_EMULATED_LAUNCH_H_
#define DSV4MX_TESTS_EMULATOR_EMULATED_LAUNCH_H_

#include <cuda_runtime_api.h>

#include "tests/emulator/machine.h"

namespace dsv4mx::emulator {

// In runtime.cc: runs it now, or when the graph does that the stream is capturing.
cudaError_t Enqueue(Launch launch, cudaStream_t stream);

template <class... Params, class... Args>
cudaError_t LaunchEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
  Launch launch;
  launch.grid = {config->gridDim.x, config->gridDim.y, config->gridDim.z};
  launch.block = {config->blockDim.x, config->blockDim.y, config->blockDim.z};
  launch.shared_bytes = config->dynamicSmemBytes;
  for (unsigned i = 0; i < config->numAttrs; i++) {
    if (config->attrs[i].id == cudaLaunchAttributeClusterDimension) {
      launch.cluster = config->attrs[i].val.clusterDim.x;
    }
  }
  launch.thread = [kernel, args...] { kernel(args...); };
  return Enqueue(std::move(launch), config->stream);
}

}  // namespace dsv4mx::emulator

#endif  // DSV4MX_TESTS_EMULATOR_EMULATED_LAUNCH_H_
