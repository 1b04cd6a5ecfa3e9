// Host side of one GEMM instance: its shared memory, its attributes, its launch behind the kernel before it.
#ifndef DSV4MX_KERNELS_SM90_GEMM_LAUNCH_CUH_
#define DSV4MX_KERNELS_SM90_GEMM_LAUNCH_CUH_

#include "kernels/sm90_moe_gemm.cuh"

namespace dsv4mx {

inline constexpr int kSharedLimit =
    232448 - 1024;  // opt-in limit of SM 9.0 less the static part and alignment

template <class C>
int GemmStages(int width, int experts) {
  int stages = kMaxStages;
  while (stages > 1 &&
         GemmSharedBytes(C::kPlanes, C::kWarpgroups, width, stages, experts) > kSharedLimit)
    stages--;
  return stages;
}

template <class C>
cudaError_t LoadGemm() {
  return cudaFuncSetAttribute(MoeGemm<C>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kSharedLimit);
}

template <class C>
cudaError_t LaunchGemm(GemmArgs args, cudaStream_t stream) {
  args.stages = GemmStages<C>(args.width, args.experts);
  args.stage_bytes = StageBytes(C::kPlanes, C::kWarpgroups, args.width);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(args.ctas);
  config.blockDim = dim3(C::kThreads);
  config.dynamicSmemBytes =
      GemmSharedBytes(C::kPlanes, C::kWarpgroups, args.width, args.stages, args.experts);
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, MoeGemm<C>, args);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SM90_GEMM_LAUNCH_CUH_
