// Instance: GEMM2 of the bf16 path.
#include "kernels/sm90_gemm_launch.cuh"

namespace dsv4mx {

using Gemm2_bf16 = GemmConfig<Path::kBf16, 2>;

cudaError_t LoadGemm2_bf16() {
  return LoadGemm<Gemm2_bf16>();
}
cudaError_t LaunchGemm2_bf16(const GemmArgs& args, cudaStream_t stream) {
  return LaunchGemm<Gemm2_bf16>(args, stream);
}

}  // namespace dsv4mx
