// Host side of one GEMM instance: its shared memory, its attributes, its launch behind the kernel before it.
#ifndef DSV4MX_KERNELS_SM90_GEMM_LAUNCH_CUH_
#define DSV4MX_KERNELS_SM90_GEMM_LAUNCH_CUH_

#include "kernels/ptx/launch.cuh"
#include "kernels/sm90_moe_gemm.cuh"

namespace dsv4mx {

// Opt-in limit of SM 9.0 less what the kernels declare themselves.
inline constexpr int kSharedLimit = 232448 - 1024;

template <class C>
cudaError_t LoadGemm() {
  static_assert(GemmSharedBytes<C>(C::kWidest, C::kLeastStages, kMostExperts) <= kSharedLimit,
                "the widest tile of the most experts leaves room for the least stages");
  return cudaFuncSetAttribute(MoeGemm<C>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kSharedLimit);
}

// As many stages as there is room for. Returns the bytes; 0 = a width that the path has not, or no room.
template <class C>
int DivideShared(GemmKernelArgs& a) {
  if (a.width <= 0 || a.width % C::kGrain != 0) return 0;
  a.width = a.width < C::kWidest ? a.width : C::kWidest;
  a.stage_bytes = StageBytes<C>(a.width);
  const auto used = [&] { return GemmSharedBytes<C>(a.width, a.stages, a.routing.experts); };
  a.stages = kMaxStages;
  while (used() > kSharedLimit) a.stages--;
  if (a.stages < C::kLeastStages) return 0;
  return used();
}

template <class C>
cudaError_t LaunchGemm(const GemmArgs& args, cudaStream_t stream) {
  GemmKernelArgs a{args, 0, 0, 0, args.bias < 0 && args.targets == nullptr};
  const int shared = DivideShared<C>(a);
  if (shared == 0) return cudaErrorInvalidValue;
  const Routing& r = a.routing;
  const int64_t hit = std::min<int64_t>(r.experts, int64_t{r.tokens} * r.top_k);
  a.taken_each = TakenEach<C>(a, hit * ((a.tiles + C::kTiles - 1) / C::kTiles));
  return LaunchDependent(MoeGemm<C>, dim3(a.ctas), dim3(C::kThreads), shared, stream, a);
}

}  // namespace dsv4mx

// The two functions of one instance, which launch.cu calls.
#define DSV4MX_GEMM_FUNCTIONS(name, ...)                                    \
  namespace dsv4mx {                                                        \
  cudaError_t LoadGemm##name() {                                            \
    return LoadGemm<GemmConfig<__VA_ARGS__>>();                             \
  }                                                                         \
  cudaError_t LaunchGemm##name(const GemmArgs& args, cudaStream_t stream) { \
    return LaunchGemm<GemmConfig<__VA_ARGS__>>(args, stream);               \
  }                                                                         \
  }
#define DSV4MX_GEMM_INSTANCE(gemm, path, name) \
  DSV4MX_GEMM_FUNCTIONS(gemm##_##name, Path::path, gemm)
#define DSV4MX_GEMM_INSTANCE_LEVELLED(gemm, path, name) \
  DSV4MX_GEMM_FUNCTIONS(gemm##_levelled_##name, Path::path, gemm, true)

#endif  // DSV4MX_KERNELS_SM90_GEMM_LAUNCH_CUH_
