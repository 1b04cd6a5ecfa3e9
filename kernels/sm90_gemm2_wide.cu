// Instance: GEMM2 of the wide path.
#include "kernels/sm90_gemm_launch.cuh"

namespace dsv4mx {

using Gemm2_wide = GemmConfig<Path::kBf16Wide, 2>;

cudaError_t LoadGemm2_wide() {
  return LoadGemm<Gemm2_wide>();
}
cudaError_t LaunchGemm2_wide(const GemmArgs& args, cudaStream_t stream) {
  return LaunchGemm<Gemm2_wide>(args, stream);
}

}  // namespace dsv4mx
