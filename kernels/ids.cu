#include "kernels/launch_ids.h"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/routing.cuh"

namespace dsv4mx {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) ReadIds(const __grid_constant__ ReadIdsArgs a) {
  WaitForPrimary();  // the workspace may still be read by the call before
  LaunchDependents();
  const Routing& r = a.routing;
  const int pair = blockIdx.x * kThreads + threadIdx.x;
  // Tokens beyond the device's count are copied as well: whoever reads them asks for the count itself.
  const bool real = pair < r.tokens * r.top_k;
  const int token = pair / r.top_k, slot = pair % r.top_k;
  const bool counted = real && token < ChunkTokens(r);
  int expert = -1;
  bool invalid = false;
  if (real) {
    const int64_t at = token * a.ids_stride + slot;
    const int64_t id = r.ids_are_64 ? static_cast<const int64_t*>(r.ids)[at]
                                    : static_cast<const int32_t*>(r.ids)[at];
    const bool known = id >= 0 && id < r.experts_global;
    invalid = counted && !known && id != -1;
    a.ids_out[pair] = known ? static_cast<int>(id) : -1;
    const int64_t from = token * a.weights_stride + slot;
    if (a.weight_is_bf16) {
      static_cast<uint16_t*>(a.weights_out)[pair] = static_cast<const uint16_t*>(a.weights)[from];
    } else {
      static_cast<float*>(a.weights_out)[pair] = static_cast<const float*>(a.weights)[from];
    }
    if (counted) expert = LocalExpert(r, at);
  }
  if (a.expert_counts != nullptr && expert >= 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(a.expert_counts) + expert, 1ull);
  }
  if (a.invalid_ids != nullptr) {
    const unsigned bad = __ballot_sync(~0u, invalid);
    if (threadIdx.x % 32 == 0 && bad != 0) {
      atomicAdd_system(reinterpret_cast<unsigned long long*>(a.invalid_ids),
                       static_cast<unsigned long long>(__popc(bad)));
    }
  }
}

}  // namespace

cudaError_t LoadReadIds() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, ReadIds);
}

int LaunchReadIds(const ReadIdsArgs& args, KernelStream stream) {
  const int pairs = args.routing.tokens * args.routing.top_k;
  return LaunchDependent(ReadIds, dim3((pairs + kThreads - 1) / kThreads), dim3(kThreads), 0,
                         stream, args);
}

}  // namespace dsv4mx
