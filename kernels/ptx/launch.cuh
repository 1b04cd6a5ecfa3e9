// A launch that may begin before the kernel in front of it has ended (programmatic dependent launch).
#ifndef DSV4MX_KERNELS_PTX_LAUNCH_CUH_
#define DSV4MX_KERNELS_PTX_LAUNCH_CUH_

#include <cuda_runtime.h>

namespace dsv4mx {

template <class Args>
cudaError_t LaunchDependent(void (*kernel)(Args), dim3 grid, dim3 block, size_t shared_bytes,
                            cudaStream_t stream, const Args& args) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, args);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_PTX_LAUNCH_CUH_
