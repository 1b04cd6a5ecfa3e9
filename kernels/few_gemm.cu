// Launches of the kernels for few pairs.
#include "kernels/few/gemm.cuh"
#include "kernels/ptx/launch.cuh"

namespace dsv4mx {
namespace {

// `items`: no more CTAs than there can be items, so that the rest of the chip is free for the next kernel.
template <FewKind Kind>
cudaError_t Launch(FewKernelArgs a, int64_t items, cudaStream_t stream) {
  constexpr int kCluster = Kind == FewKind::kSplit1 || FewOfTokens(Kind) ? kFewCluster : 1;
  const Routing& r = a.gemm.routing;
  const int64_t pairs = static_cast<int64_t>(r.tokens) * r.top_k;
  a.geometry = FewGeometryOf(Kind, a.gemm.k, r.experts, pairs);
  if (pairs > kFewPairs || a.geometry.shared_bytes == 0) return cudaErrorInvalidValue;
  const int64_t resident = (Kind == FewKind::kLong2 ? 1 : 2) * a.gemm.ctas / kCluster;
  const int64_t clusters = items < resident ? items : resident;
  return LaunchDependent(FewGemm<Kind>, dim3(static_cast<unsigned>(clusters * kCluster)),
                         dim3(FewThreads(Kind)), a.geometry.shared_bytes, stream, a,
                         kCluster > 1 ? kCluster : 0);
}

template <FewKind Kind>
cudaError_t Load() {
  const cudaError_t error =
      cudaFuncSetAttribute(FewGemm<Kind>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(FewSharedLimit(Kind)));
  if (error != cudaSuccess) return error;
  // Two CTAs of the largest size need all of a multiprocessor's shared memory.
  return cudaFuncSetAttribute(FewGemm<Kind>, cudaFuncAttributePreferredSharedMemoryCarveout,
                              cudaSharedmemCarveoutMaxShared);
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
