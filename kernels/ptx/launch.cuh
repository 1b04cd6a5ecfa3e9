// A launch that may begin before the kernel in front of it has ended (programmatic dependent launch), in clusters of
// `cluster` CTAs where that is given.
#ifndef DSV4MX_KERNELS_PTX_LAUNCH_CUH_
#define DSV4MX_KERNELS_PTX_LAUNCH_CUH_

#include <cuda_runtime.h>

namespace dsv4mx {

template <class Args>
cudaError_t LaunchDependent(void (*kernel)(Args), dim3 grid, dim3 block, size_t shared_bytes,
                            cudaStream_t stream, const Args& args, int cluster = 0) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(cluster);
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = cluster > 0 ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, args);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_PTX_LAUNCH_CUH_
