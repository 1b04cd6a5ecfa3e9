// Dispatch over the GEMM instances: the only file that knows which exist.
#include <cuda_runtime.h>

#include "kernels/launch.h"

namespace dsv4mx {

cudaError_t LoadGather();
cudaError_t LoadCombine();
cudaError_t LoadReadIds();

#define DSV4MX_INSTANCES(X) \
  X(Gemm1_planes) X(Gemm2_planes) X(Gemm1_bf16) X(Gemm2_bf16) X(Gemm1_wide) X(Gemm2_wide)
#define DSV4MX_DECLARE(name) \
  cudaError_t Load##name();  \
  cudaError_t Launch##name(const GemmArgs& args, cudaStream_t stream);
DSV4MX_INSTANCES(DSV4MX_DECLARE)
#undef DSV4MX_DECLARE

int LaunchGemm1(Path path, const GemmArgs& args, KernelStream stream) {
  switch (path) {
    case Path::kPlanes:
      return LaunchGemm1_planes(args, stream);
    case Path::kBf16:
      return LaunchGemm1_bf16(args, stream);
    default:
      return LaunchGemm1_wide(args, stream);
  }
}

int LaunchGemm2(Path path, const GemmArgs& args, KernelStream stream) {
  switch (path) {
    case Path::kPlanes:
      return LaunchGemm2_planes(args, stream);
    case Path::kBf16:
      return LaunchGemm2_bf16(args, stream);
    default:
      return LaunchGemm2_wide(args, stream);
  }
}

int LoadKernels() {
  cudaError_t error = LoadGather();
  if (error == cudaSuccess) error = LoadCombine();
  if (error == cudaSuccess) error = LoadReadIds();
#define DSV4MX_LOAD(name) \
  if (error == cudaSuccess) error = Load##name();
  DSV4MX_INSTANCES(DSV4MX_LOAD)
#undef DSV4MX_LOAD
  return error;
}

}  // namespace dsv4mx
