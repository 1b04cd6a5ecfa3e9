// out[token] = routed_scaling_factor * sum over slots of weight * slot: fp32, in slot order, one rounding. Slots of ids
// that are not held here were never written and are not read.
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/routing.cuh"

namespace dsv4mx {
namespace {

constexpr int kThreads = 128, kEach = 8;

// Eight neighbouring elements, as fp32.
__device__ __forceinline__ void LoadRun(const void* from_memory, bool is_bf16, int64_t at,
                                        float* v) {
  if (is_bf16) {
    const uint4 q = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(from_memory) + at);
    const uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      v[2 * i] = __uint_as_float(words[i] << 16);
      v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
    }
  } else {
    const float4* from =
        reinterpret_cast<const float4*>(static_cast<const float*>(from_memory) + at);
    const float4 p = from[0], q = from[1];
    v[0] = p.x, v[1] = p.y, v[2] = p.z, v[3] = p.w;
    v[4] = q.x, v[5] = q.y, v[6] = q.z, v[7] = q.w;
  }
}

__device__ __forceinline__ void AddOut(const CombineArgs& a, int64_t at, float* sum) {
  float v[kEach];
  LoadRun(a.out, !a.out_is_f32, at, v);
#pragma unroll
  for (int i = 0; i < kEach; i++) sum[i] += v[i];
}

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
#pragma unroll
  for (int i = 0; i < kEach; i++) sum[i] *= a.routed_scaling_factor;
  const int64_t at = token * a.out_stride + column;
  if (a.accumulate) AddOut(a, at, sum);
  if (a.out_is_f32) {
    float4* to = reinterpret_cast<float4*>(static_cast<float*>(a.out) + at);
    to[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
    to[1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
  } else {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(sum[2 * i], sum[2 * i + 1]);
      words[i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    *reinterpret_cast<uint4*>(static_cast<uint16_t*>(a.out) + at) =
        make_uint4(words[0], words[1], words[2], words[3]);
  }
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
