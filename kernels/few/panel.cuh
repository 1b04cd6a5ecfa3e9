// A tile's activations as planes in shared memory, where wgmma finds them: for each block of 128 of K that the CTA has,
// eight rows (high and low of four tokens) of 128 bytes, swizzled. Made by the CTA itself, out of x or out of GEMM1's h,
// while its first weights are on their way. Rows behind the last token hold anything: no product of a token meets them.
#ifndef DSV4MX_KERNELS_FEW_PANEL_CUH_
#define DSV4MX_KERNELS_FEW_PANEL_CUH_

#include "kernels/few/geometry.h"
#include "kernels/mxfp4/split.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/routing.cuh"
#include "kernels/row.cuh"

namespace dsv4mx {

// Of the kernels that gather together.
inline constexpr int kFewPairTeams = 2, kFewMathThreads = kFewPairTeams * 128;

// Which parts of 512 of K, the units, are this CTA's, of a cluster that shares a tile: local unit l of rank r is unit
// (l / 2) * 2 C + 2 r + l % 2, and the teams take turns.
struct FewShare {
  int rank, cluster, units;  // units: of a tile, over all CTAs
  __device__ __forceinline__ int UnitOf(int local) const {
    return local / kFewPairTeams * kFewPairTeams * cluster + kFewPairTeams * rank +
           local % kFewPairTeams;
  }
  // The units of this CTA are 0 .. Local() - 1, for they are in order.
  __device__ __forceinline__ int Local() const {
    const int round = kFewPairTeams * cluster;
    return units / round * kFewPairTeams +
           min(max(units % round - kFewPairTeams * rank, 0), kFewPairTeams);
  }
};

// Four bytes of high and low at byte `at` of block `block` of token m.
__device__ __forceinline__ void PutPlanes(uint32_t panel, int block, int m, int at, uint32_t high,
                                          uint32_t low) {
  const uint32_t row = panel + block * kFewPanelBlock + m * 256 + at % 16;
  StoreShared4(row + (at / 16 ^ (2 * m & 7)) * 16, high);
  StoreShared4(row + 128 + (at / 16 ^ ((2 * m + 1) & 7)) * 16, low);
}

// Planes of `count` rows of x and their scales. `pair` is lane m's pair, `peaks` four words of shared memory.
// All math threads take part; before it all of them must be done with the panel.
__device__ __forceinline__ void GatherRows(const GatherArgs& a, const FewShare& share, int pair,
                                           int count, uint32_t* peaks, uint32_t panel,
                                           float* scales) {
  const int thread = threadIdx.x;
  const bool weighted = a.weight_on_input != 0;
  const auto row = [&](int m, float& weight) {
    const int p = __shfl_sync(~0u, pair, m), token = p / a.routing.top_k;
    weight = weighted ? LoadWeight(a.router_weights, a.weight_is_bf16, token) : 1.0f;
    return a.x + token * a.x_stride;
  };
  if (thread < kFewTokens) peaks[thread] = 0;
  NamedBarrier(1, kFewMathThreads);
  for (int m = 0; m < count; m++) {
    float weight, v[8];
    const uint16_t* x = row(m, weight);
    uint32_t top = 0;
#pragma unroll 2
    for (int k = thread * 8; k < a.hidden; k += kFewMathThreads * 8) {
      LoadEight(x + k, weight, weighted, v);
#pragma unroll
      for (int i = 0; i < 8; i++) top = max(top, __float_as_uint(v[i]) & 0x7FFFFFFFu);
    }
    top = __reduce_max_sync(~0u, top);
    if (thread % 32 == 0) atomicMax(peaks + m, top);
  }
  NamedBarrier(1, kFewMathThreads);
  const int own = share.Local() * kSm90BaseK;
  for (int m = 0; m < count; m++) {
    float weight, v[8];
    const uint16_t* x = row(m, weight);
    const float scale = PlaneScale(peaks[m]), inverse = PlaneInverse(scale);
    if (thread == 0) scales[m] = scale;
#pragma unroll 1
    for (int q = thread * 8; q < own; q += kFewMathThreads * 8) {
      const int k = share.UnitOf(q / kSm90BaseK) * kSm90BaseK + q % kSm90BaseK;
      if (k >= a.hidden) continue;
      uint32_t high[2], low[2];
      LoadEight(x + k, weight, weighted, v);
      SplitEight(v, inverse, high, low);
      const int at = static_cast<int>(Sm90PlaneIndex(a.hidden, k)) % kSm90BlockK;
      PutPlanes(panel, q / kSm90BlockK, m, at, high[0], low[0]);
      PutPlanes(panel, q / kSm90BlockK, m, at + 16, high[1], low[1]);
    }
  }
  FenceAsyncProxy();
  NamedBarrier(1, kFewMathThreads);
}

// Planes of `count` rows of h, fp32 in the order of planes, with a scale for each block of 128: scales[block][token]. `pair`
// is lane m's. Shared by `warps` warps, of which this is `warp`.
__device__ __forceinline__ void GatherHidden(const float* h, int k_all, int pair, int count,
                                             uint32_t panel, float* scales, int warp, int warps) {
  const int lane = threadIdx.x % 32, blocks = FewBlocks(k_all);
#pragma unroll 2
  for (int i = warp; i < blocks * count; i += warps) {
    const int block = i / count, m = i % count, k = block * kSm90BlockK + lane * 4;
    const int64_t row = __shfl_sync(~0u, pair, m);
    float4 v = make_float4(0, 0, 0, 0);
    if (k < k_all) v = __ldcg(reinterpret_cast<const float4*>(h + row * k_all + k));
    const float each[4] = {v.x, v.y, v.z, v.w};
    uint32_t top = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) top = max(top, __float_as_uint(each[j]) & 0x7FFFFFFFu);
    const float scale = PlaneScale(__reduce_max_sync(~0u, top)), inverse = PlaneInverse(scale);
    uint32_t high = 0, low = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      uint8_t high_j, low_j;
      SplitPlanes(each[j] * inverse, high_j, low_j);
      high |= static_cast<uint32_t>(high_j) << 8 * j;
      low |= static_cast<uint32_t>(low_j) << 8 * j;
    }
    PutPlanes(panel, block, m, lane * 4, high, low);
    if (lane == 0) scales[block * kFewTokens + m] = scale;
  }
  FenceAsyncProxy();
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_PANEL_CUH_
