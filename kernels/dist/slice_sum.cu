// The tree of slices (launch_slices.h).
#include "kernels/dist/launch_slices.h"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/routing.cuh"
#include "kernels/run.cuh"

namespace dsv4mx::dist {
namespace {

constexpr int kThreads = 128, kEach = kRunElements;

__global__ void __launch_bounds__(kThreads) SliceSum(const __grid_constant__ SliceSumArgs args) {
  const CombineArgs& a = args.combine;
  const int token = blockIdx.x, column = (blockIdx.y * kThreads + threadIdx.x) * kEach;
  WaitForPrimary();
  LaunchDependents();
  if (token >= ChunkTokens(a.routing) || column >= a.hidden) return;
  float sum[kEach] = {};
#pragma unroll 4
  for (int k = 0; k < a.routing.top_k; k++) {
    const int64_t pair = static_cast<int64_t>(token) * a.routing.top_k + k;
    const int64_t panel_row = a.panel_row[pair];
    if (panel_row < 0) continue;
    const float w = a.weights == nullptr ? 1.0f : LoadWeight(a.weights, a.weight_is_bf16, pair);
    float v[kEach];
    LoadRun(a.slots, false, panel_row * a.hidden + column, v);
#pragma unroll
    for (int i = 0; i < kEach; i++) sum[i] = fmaf(w, v[i], sum[i]);
  }
  const int64_t at = static_cast<int64_t>(token) * a.hidden + column;
  int64_t level = at;
  for (int done = args.slice; (done & 1) != 0; done >>= 1, level += args.level_rows * a.hidden) {
    float before[kEach];
    LoadRun(args.levels, false, level, before);
#pragma unroll
    for (int i = 0; i < kEach; i++) sum[i] = before[i] + sum[i];
  }
  if (args.last) {
    WriteRun(a.out, !a.out_is_f32, a.accumulate, token * a.out_stride + column,
             a.routed_scaling_factor, sum);
  } else {
    StoreRun(args.levels, false, level, sum);
  }
}

}  // namespace

cudaError_t LoadSliceGemm();

int LoadSlices() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, SliceSum);
  return error == cudaSuccess ? LoadSliceGemm() : error;
}

int LaunchSliceSum(const SliceSumArgs& args, KernelStream stream) {
  const CombineArgs& a = args.combine;
  const dim3 grid(a.routing.tokens, (a.hidden + kThreads * kEach - 1) / (kThreads * kEach));
  return LaunchDependent(SliceSum, grid, dim3(kThreads), 0, stream, args);
}

}  // namespace dsv4mx::dist
