// Pairs of each expert in a chunk that is computed in parts, by one block: what follows takes far longer.
#include "kernels/extent.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/routing.cuh"

namespace dsv4mx {
namespace {

constexpr int kThreads = 1024;

__global__ void __launch_bounds__(kThreads) Sizes(const __grid_constant__ SizesArgs a) {
  __shared__ int count[kMostExperts];
  const Routing& r = a.routing;
  for (int e = threadIdx.x; e < r.experts; e += kThreads) count[e] = 0;
  __syncthreads();
  WaitForPrimary();  // the workspace may still be read by what is in front
  LaunchDependents();
  const int pairs = ChunkTokens(r) * r.top_k;
  for (int pair = threadIdx.x; pair < pairs; pair += kThreads) {
    const int expert = LocalExpert(r, pair / r.top_k * a.ids_stride + pair % r.top_k);
    if (expert >= 0) atomicAdd(count + expert, 1);
  }
  __syncthreads();
  Extent extent;
  for (int e = threadIdx.x; e < r.experts; e += kThreads) {
    a.sizes[e] = count[e];
    extent.Add(count[e]);
  }
  StoreExtent<kThreads>(extent, a.extent);
}

}  // namespace

cudaError_t LoadSizes() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, Sizes);
}

int LaunchSizes(const SizesArgs& args, KernelStream stream) {
  return LaunchDependent(Sizes, dim3(1), dim3(kThreads), 0, stream, args);
}

}  // namespace dsv4mx
