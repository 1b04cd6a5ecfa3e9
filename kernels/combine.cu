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

// Where a token's slots lie, which form they have and what they weigh, a slot for each lane of a warp.
struct OwnSlot {
  int row = -1;  // -1 = not computed here
  bool is_f16 = false;
  float unit = 1.0f;  // of f16, with level_unit: together they may be beyond fp32
  float weight = 1.0f;
};
__device__ __forceinline__ OwnSlot LoadOwnSlot(const CombineArgs& a, int token) {
  static_assert(kMostTopK <= 32, "a lane for each slot");
  const int lane = threadIdx.x % 32, pair = token * a.routing.top_k + lane;
  OwnSlot own;
  // GEMM2 was launched once more where f16 could not hold the slots that are marked.
  const bool halves = a.unfit != nullptr && *a.unfit == 0;
  if (lane >= a.routing.top_k) return own;
  if (a.weights != nullptr) own.weight = LoadWeight(a.weights, a.weight_is_bf16, pair);
  own.row = a.panel_row != nullptr             ? a.panel_row[pair]
            : LocalExpert(a.routing, pair) < 0 ? -1
                                               : pair;
  if (own.row >= 0 && (own.row & kHalfSlot) != 0) {
    own.row &= ~kHalfSlot;
    own.is_f16 = halves;
    if (halves) own.unit = 1.0f / kHalfSlotFactor / a.level_unit;
  }
  if (own.row >= 0 && (own.row & kLevelSlot) != 0) {
    own.row &= ~kLevelSlot;
    own.is_f16 = true;
    own.unit = a.level_scale[own.row];
  }
  return own;
}

// Eight values of kAtOnce slots at a time, so that their loads wait for each other no more than once; all of them are of f16 where
// `Halves` says so.
template <bool Halves, int kAtOnce>
__device__ __forceinline__ void AddSlots(const CombineArgs& a, const OwnSlot& own, int column,
                                         float* sum) {
  const bool live = column < a.hidden;
  const int64_t row_bytes = a.hidden * int64_t{a.slots_are_bf16 ? 2 : 4};
  for (int first = 0; first < a.routing.top_k; first += kAtOnce) {
    int row[kAtOnce];
    bool narrow[kAtOnce];
    uint4 v[kAtOnce][Halves ? 1 : 2];
#pragma unroll
    for (int k = 0; k < kAtOnce; k++) {
      row[k] = __shfl_sync(~0u, own.row, first + k);
      narrow[k] = Halves || a.slots_are_bf16 != 0 || __shfl_sync(~0u, own.is_f16, first + k);
      if (row[k] < 0 || !live) continue;
      const auto* from = reinterpret_cast<const uint4*>(
          static_cast<const uint8_t*>(a.slots) + row[k] * row_bytes + column * (narrow[k] ? 2 : 4));
      v[k][0] = from[0];
      if (!Halves && !narrow[k]) v[k][1] = from[1];
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; k++) {
      const float w = __shfl_sync(~0u, own.weight, first + k);
      const float unit = __shfl_sync(~0u, own.unit, first + k);
      const bool is_f16 = Halves || __shfl_sync(~0u, own.is_f16, first + k);
      if (row[k] < 0) continue;
      float slot[kEach];
      if (is_f16) {
        WidenHalves(v[k][0], slot);
#pragma unroll
        for (int i = 0; i < kEach; i++) slot[i] = slot[i] * a.level_unit * unit;
      } else {
        LoadRun(v[k], a.slots_are_bf16, 0, slot);
      }
#pragma unroll
      for (int i = 0; i < kEach; i++) sum[i] = fmaf(w, slot[i], sum[i]);
    }
  }
}

// add(own, column, sum) by blocks that look up a token's slots once.
template <class Add>
__device__ __forceinline__ void CombineBy(const CombineArgs& a, Add add) {
  const int token = blockIdx.x, column = (blockIdx.y * kThreads + threadIdx.x) * kEach;
  WaitForPrimary();
  LaunchDependents();
  if (token >= ChunkTokens(a.routing)) return;
  float sum[kEach] = {};
  add(LoadOwnSlot(a, token), column, sum);
  if (column >= a.hidden) return;
  WriteRun(a.out, !a.out_is_f32, a.accumulate, token * a.out_stride + column,
           a.routed_scaling_factor, sum);
}

// The same where slots may be of f16; in nearly every token all are.
__global__ void __launch_bounds__(kThreads) CombineHalves(const __grid_constant__ CombineArgs a) {
  CombineBy(a, [&](const OwnSlot& own, int column, float* sum) {
    if (__all_sync(~0u, own.row < 0 || own.is_f16)) {
      AddSlots<true, 8>(a, own, column, sum);
    } else {
      AddSlots<false, 2>(a, own, column, sum);
    }
  });
}

// The same for so few tokens that all blocks run at once, and time is what loads wait for each other.
constexpr int64_t kFewBlocks = 512;

__global__ void __launch_bounds__(kThreads) CombineFew(const __grid_constant__ CombineArgs a) {
  CombineBy(a, [&](const OwnSlot& own, int column, float* sum) {
    AddSlots<false, 8>(a, own, column, sum);
  });
}

}  // namespace

cudaError_t LoadCombine() {
  cudaFuncAttributes attributes;
  for (const auto kernel : {Combine, CombineHalves, CombineFew}) {
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

int LaunchCombine(const CombineArgs& args, KernelStream stream) {
  const dim3 grid(args.routing.tokens, (args.hidden + kThreads * kEach - 1) / (kThreads * kEach));
  const bool few = static_cast<int64_t>(grid.x) * grid.y <= kFewBlocks;
  return LaunchDependent(few                                                    ? CombineFew
                         : args.unfit != nullptr || args.level_scale != nullptr ? CombineHalves
                                                                                : Combine,
                         grid, dim3(kThreads), 0, stream, args);
}

}  // namespace dsv4mx
