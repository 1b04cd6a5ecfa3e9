// Instance: GEMM2 of the planes path.
#include "kernels/sm90_gemm_launch.cuh"

namespace dsv4mx {

using Gemm2_planes = GemmConfig<Path::kPlanes, 2>;

cudaError_t LoadGemm2_planes() {
  return LoadGemm<Gemm2_planes>();
}
cudaError_t LaunchGemm2_planes(const GemmArgs& args, cudaStream_t stream) {
  return LaunchGemm<Gemm2_planes>(args, stream);
}

}  // namespace dsv4mx
