// Instance: GEMM1 of the bf16 path.
#include "kernels/sm90_gemm_launch.cuh"

namespace dsv4mx {

using Gemm1_bf16 = GemmConfig<Path::kBf16, 1>;

cudaError_t LoadGemm1_bf16() {
  return LoadGemm<Gemm1_bf16>();
}
cudaError_t LaunchGemm1_bf16(const GemmArgs& args, cudaStream_t stream) {
  return LaunchGemm<Gemm1_bf16>(args, stream);
}

}  // namespace dsv4mx
