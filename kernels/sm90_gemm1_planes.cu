// Instance: GEMM1 of the planes path.
#include "kernels/sm90_gemm_launch.cuh"

namespace dsv4mx {

using Gemm1_planes = GemmConfig<Path::kPlanes, 1>;

cudaError_t LoadGemm1_planes() {
  return LoadGemm<Gemm1_planes>();
}
cudaError_t LaunchGemm1_planes(const GemmArgs& args, cudaStream_t stream) {
  return LaunchGemm<Gemm1_planes>(args, stream);
}

}  // namespace dsv4mx
