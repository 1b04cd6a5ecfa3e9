// out[token] = routed_scaling_factor * sum over slots of weight * slot: fp32, in slot order, one rounding. Slots of ids
// that are not held here were never written and are not read.
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/routing.cuh"
#include "kernels/run.cuh"

namespace dsv4mx {
namespace {

constexpr int kThreads = 128, kEach = kRunElements;

// Where a pair's slot is.
struct SlotPlace {
  int64_t row;  // -1 = not computed here
  bool is_f16;
};
__device__ __forceinline__ SlotPlace PlaceOfSlot(const CombineArgs& a, int64_t pair, bool halves) {
  if (a.panel_row == nullptr) return {LocalExpert(a.routing, pair) < 0 ? -1 : pair, false};
  const int found = a.panel_row[pair];
  if (found < 0) return {-1, false};
  return {found & ~kHalfSlot, halves && (found & kHalfSlot) != 0};
}
// Whether slots that are marked so are of f16: GEMM2 was launched once more where that could not hold them.
__device__ __forceinline__ bool HasHalves(const CombineArgs& a) {
  return a.unfit != nullptr && *a.unfit == 0;
}

// Eight values of a slot.
struct SlotRun {
  uint4 first, second;
  __device__ __forceinline__ void Load(const CombineArgs& a, SlotPlace at, int column) {
    const auto* row =
        static_cast<const uint8_t*>(a.slots) + at.row * a.hidden * (a.slots_are_bf16 ? 2 : 4);
    const bool narrow = a.slots_are_bf16 != 0 || at.is_f16;
    const auto* from = reinterpret_cast<const uint4*>(row + column * (narrow ? 2 : 4));
    first = from[0];
    if (!narrow) second = from[1];
  }
  // sum + weight * slot.
  __device__ __forceinline__ void AddTo(float* sum, const CombineArgs& a, SlotPlace at,
                                        float weight) const {
    float v[kEach];
    if (at.is_f16) {
      WidenHalves(first, v);
      weight *= 1.0f / kHalfSlotFactor;
    } else {
      LoadRun(this, a.slots_are_bf16, 0, v);
    }
#pragma unroll
    for (int i = 0; i < kEach; i++) sum[i] = fmaf(weight, v[i], sum[i]);
  }
};

// Slot after slot, in as many blocks as there are: with few registers many of them share a multiprocessor, and its memory is busy.
__global__ void __launch_bounds__(kThreads) Combine(const __grid_constant__ CombineArgs a) {
  const int token = blockIdx.x, column = (blockIdx.y * kThreads + threadIdx.x) * kEach;
  WaitForPrimary();
  LaunchDependents();
  if (token >= ChunkTokens(a.routing) || column >= a.hidden) return;
  const bool halves = HasHalves(a);
  float sum[kEach] = {};
#pragma unroll 4
  for (int k = 0; k < a.routing.top_k; k++) {
    const int64_t pair = static_cast<int64_t>(token) * a.routing.top_k + k;
    const SlotPlace at = PlaceOfSlot(a, pair, halves);
    if (at.row < 0) continue;
    const float w = a.weights == nullptr ? 1.0f : LoadWeight(a.weights, a.weight_is_bf16, pair);
    SlotRun run;
    run.Load(a, at, column);
    run.AddTo(sum, a, at, w);
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
  SlotPlace own{-1, false};
  float own_weight = 1.0f;
  if (lane < top_k) {
    if (a.weights != nullptr) own_weight = LoadWeight(a.weights, a.weight_is_bf16, pair);
    own = PlaceOfSlot(a, pair, HasHalves(a));
  }
  const int own_row = static_cast<int>(own.row);
  float sum[kEach] = {};
  for (int first = 0; first < top_k; first += kAtOnce) {
    SlotPlace at[kAtOnce];
    SlotRun run[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; k++) {
      at[k].row = __shfl_sync(~0u, own_row, first + k);
      at[k].is_f16 = __shfl_sync(~0u, own.is_f16, first + k);
      if (at[k].row >= 0 && column < a.hidden) run[k].Load(a, at[k], column);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; k++) {
      const float w = __shfl_sync(~0u, own_weight, first + k);
      if (at[k].row >= 0) run[k].AddTo(sum, a, at[k], w);
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
