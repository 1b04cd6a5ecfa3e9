// Launches of the kernels for few pairs.
#include <type_traits>

#include "kernels/few/gemm.cuh"
#include "kernels/ptx/launch.cuh"

namespace dsv4mx {
namespace {

// f(Blocks, Quantised), as integral constants, for the kernels that there are.
template <FewKind Kind, class F>
cudaError_t ForBlocks(int32_t straight, bool quantised, F&& f) {
  constexpr bool kFirst = Kind == FewKind::kSplit1 || Kind == FewKind::kWhole1;
  const auto with = [&](auto blocks) {
    return quantised ? f(blocks, std::true_type()) : f(blocks, std::false_type());
  };
  if constexpr (kFirst) {
    // Longer sums than W4A8 has.
    if (straight == 4) return f(std::integral_constant<int, 4>(), std::false_type());
  } else {
    if (straight == 4) return with(std::integral_constant<int, 4>());
    if (straight == 3) return with(std::integral_constant<int, 3>());
  }
  if (straight == 2) return with(std::integral_constant<int, 2>());
  return with(std::integral_constant<int, 0>());
}

// `items`: no more CTAs than there can be items, so that the rest of the chip is free for the next kernel.
template <FewKind Kind>
cudaError_t Launch(FewKernelArgs a, int64_t items, cudaStream_t stream) {
  constexpr int kCluster = Kind == FewKind::kSplit1 || FewOfTokens(Kind) ? kFewCluster : 1;
  const Routing& r = a.gemm.routing;
  const int64_t pairs = static_cast<int64_t>(r.tokens) * r.top_k;
  a.geometry = FewGeometryOf(Kind, a.gemm.k, r.experts, pairs, r.top_k, a.gemm.quantised != 0);
  if (pairs > kFewPairs || a.geometry.shared_bytes == 0) return cudaErrorInvalidValue;
  const int64_t resident = (Kind == FewKind::kLong2 ? 1 : 2) * a.gemm.ctas / kCluster;
  const int64_t clusters = items < resident ? items : resident;
  return ForBlocks<Kind>(
      a.geometry.straight, a.gemm.quantised != 0, [&](auto blocks, auto quantised) {
        return LaunchDependent(FewGemm<Kind, decltype(blocks)::value, decltype(quantised)::value>,
                               dim3(static_cast<unsigned>(clusters * kCluster)),
                               dim3(FewThreads(Kind)), a.geometry.shared_bytes, stream, a,
                               kCluster > 1 ? kCluster : 0);
      });
}

template <FewKind Kind>
cudaError_t Load() {
  cudaError_t error = cudaSuccess;
  for (int32_t i = 0; i < 10 && error == cudaSuccess; i++) {
    error = ForBlocks<Kind>(i / 2, i % 2 != 0, [](auto blocks, auto quantised) {
      // Unused where a stand-in of the runtime has no attributes.
      [[maybe_unused]] constexpr int kBlocks = decltype(blocks)::value;
      [[maybe_unused]] constexpr bool kQuantised = decltype(quantised)::value;
      const cudaError_t set = cudaFuncSetAttribute(FewGemm<Kind, kBlocks, kQuantised>,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(FewSharedLimit(Kind)));
      if (set != cudaSuccess) return set;
      // Two CTAs of the largest size need all of a multiprocessor's shared memory.
      return cudaFuncSetAttribute(FewGemm<Kind, kBlocks, kQuantised>,
                                  cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared);
    });
  }
  return error;
}

}  // namespace

cudaError_t LoadFewGemm() {
  cudaError_t error = Load<FewKind::kSplit1>();
  if (error == cudaSuccess) error = Load<FewKind::kWhole1>();
  if (error == cudaSuccess) error = Load<FewKind::kToken2>();
  if (error == cudaSuccess) error = Load<FewKind::kLong2>();
  if (error == cudaSuccess) error = Load<FewKind::kWhole2>();
  return error;
}

int LaunchFewGemm1(const GatherArgs& gather, const GemmArgs& gemm, KernelStream stream) {
  const int64_t tiles = static_cast<int64_t>(gemm.routing.tokens) * gemm.routing.top_k * gemm.tiles;
  const FewKernelArgs a{gather, gemm, {}, {}};
  return tiles <= kFewSplitTiles ? Launch<FewKind::kSplit1>(a, tiles, stream)
                                 : Launch<FewKind::kWhole1>(a, (tiles + 1) / 2, stream);
}
int LaunchFewGemm2(const GemmArgs& gemm, const CombineArgs& combine, KernelStream stream) {
  const int64_t tokens = gemm.routing.tokens;
  const FewKernelArgs a{{}, gemm, combine, {}};
  // Without an output the slots are what is wanted.
  if (tokens <= kFewTokens2 && combine.out != nullptr) {
    return FewTokenKind(gemm.k) == FewKind::kToken2
               ? Launch<FewKind::kToken2>(a, tokens * gemm.tiles, stream)
               : Launch<FewKind::kLong2>(a, tokens * gemm.tiles, stream);
  }
  return Launch<FewKind::kWhole2>(a, tokens * gemm.routing.top_k * ((gemm.tiles + 1) / 2), stream);
}

}  // namespace dsv4mx
