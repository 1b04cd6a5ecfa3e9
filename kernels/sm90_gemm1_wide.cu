// Instance: GEMM1 of the wide path.
#include "kernels/sm90_gemm_launch.cuh"

namespace dsv4mx {

using Gemm1_wide = GemmConfig<Path::kBf16Wide, 1>;

cudaError_t LoadGemm1_wide() {
  return LoadGemm<Gemm1_wide>();
}
cudaError_t LaunchGemm1_wide(const GemmArgs& args, cudaStream_t stream) {
  return LaunchGemm<Gemm1_wide>(args, stream);
}

}  // namespace dsv4mx
