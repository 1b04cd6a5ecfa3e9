// out[token] = routed_scaling_factor * sum over slots of weight * slot: fp32, in slot order, one rounding. Slots of ids
// that are not held here were never written and are not read.
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/routing.cuh"
#include "kernels/run.cuh"

namespace dsv4mx {
namespace {

constexpr int kThreads = 128, kEach = kRunElements;

__global__ void __launch_bounds__(kThreads) Combine(const __grid_constant__ CombineArgs a) {
  const int token = blockIdx.x, column = (blockIdx.y * kThreads + threadIdx.x) * kEach;
  WaitForPrimary();
  LaunchDependents();
  if (token >= ChunkTokens(a.routing) || column >= a.hidden) return;
  float sum[kEach] = {};
#pragma unroll 4
  for (int k = 0; k < a.routing.top_k; k++) {
    const int64_t pair = static_cast<int64_t>(token) * a.routing.top_k + k;
    const int64_t panel_row = a.panel_row != nullptr             ? a.panel_row[pair]
                              : LocalExpert(a.routing, pair) < 0 ? -1
                                                                 : pair;
    if (panel_row < 0) continue;
    const float w = a.weights == nullptr ? 1.0f : LoadWeight(a.weights, a.weight_is_bf16, pair);
    float v[kEach];
    LoadRun(a.slots, a.slots_are_bf16, panel_row * a.hidden + column, v);
#pragma unroll
    for (int i = 0; i < kEach; i++) sum[i] = fmaf(w, v[i], sum[i]);
  }
  WriteRun(a.out, !a.out_is_f32, a.accumulate, token * a.out_stride + column,
           a.routed_scaling_factor, sum);
}

}  // namespace

cudaError_t LoadCombine() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, Combine);
}

int LaunchCombine(const CombineArgs& args, KernelStream stream) {
  const dim3 grid(args.routing.tokens, (args.hidden + kThreads * kEach - 1) / (kThreads * kEach));
  return LaunchDependent(Combine, grid, dim3(kThreads), 0, stream, args);
}

}  // namespace dsv4mx
