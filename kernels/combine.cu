// out[token] = routed_scaling_factor * sum over slots of weight * slot: fp32, in slot order, one rounding. Slots of ids
// that are not held here were never written and are not read.
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/routing.cuh"
#include "kernels/run.cuh"

namespace dsv4mx {
namespace {

constexpr int kThreads = 128, kEach = kRunElements;
// Slot after slot, in as many blocks as there are: with few registers many of them share a multiprocessor, and its memory is busy.
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

// The same for so few tokens that all blocks run at once, and time is what loads wait for each other: where a token's slots lie and
// what they weigh, a slot for each lane; then kAtOnce slots together.
constexpr int kAtOnce = 8;
constexpr int64_t kFewBlocks = 512;
static_assert(kMostTopK <= 32, "a lane for each slot");

__global__ void __launch_bounds__(kThreads) CombineFew(const __grid_constant__ CombineArgs a) {
  const int token = blockIdx.x, column = (blockIdx.y * kThreads + threadIdx.x) * kEach;
  WaitForPrimary();
  LaunchDependents();
  if (token >= ChunkTokens(a.routing)) return;
  // Where the token's slots lie and what they weigh, a slot for each lane: loads wait for no others twice.
  const int top_k = a.routing.top_k, lane = threadIdx.x % 32;
  const int pair = token * top_k + lane;
  int own_row = -1;
  float own_weight = 1.0f;
  if (lane < top_k) {
    if (a.weights != nullptr) own_weight = LoadWeight(a.weights, a.weight_is_bf16, pair);
    own_row = a.panel_row != nullptr             ? a.panel_row[pair]
              : LocalExpert(a.routing, pair) < 0 ? -1
                                                 : pair;
  }
  float sum[kEach] = {};
  for (int first = 0; first < top_k; first += kAtOnce) {
    int row[kAtOnce];
    uint4 v[kAtOnce][2];
#pragma unroll
    for (int k = 0; k < kAtOnce; k++) {
      row[k] = __shfl_sync(~0u, own_row, first + k);
      if (row[k] < 0 || column >= a.hidden) continue;
      const int64_t at = static_cast<int64_t>(row[k]) * a.hidden + column;
      const auto* from = reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(a.slots) +
                                                        at * (a.slots_are_bf16 ? 2 : 4));
      v[k][0] = from[0];
      if (!a.slots_are_bf16) v[k][1] = from[1];
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; k++) {
      const float w = __shfl_sync(~0u, own_weight, first + k);
      if (row[k] < 0) continue;
      float slot[kEach];
      LoadRun(v[k], a.slots_are_bf16, 0, slot);
#pragma unroll
      for (int i = 0; i < kEach; i++) sum[i] = fmaf(w, slot[i], sum[i]);
    }
  }
  if (column >= a.hidden) return;
  WriteRun(a.out, !a.out_is_f32, a.accumulate, token * a.out_stride + column,
           a.routed_scaling_factor, sum);
}

}  // namespace

cudaError_t LoadCombine() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, Combine);
  return error == cudaSuccess ? cudaFuncGetAttributes(&attributes, CombineFew) : error;
}

int LaunchCombine(const CombineArgs& args, KernelStream stream) {
  const dim3 grid(args.routing.tokens, (args.hidden + kThreads * kEach - 1) / (kThreads * kEach));
  const bool few = static_cast<int64_t>(grid.x) * grid.y <= kFewBlocks;
  return LaunchDependent(few ? CombineFew : Combine, grid, dim3(kThreads), 0, stream, args);
}

}  // namespace dsv4mx
