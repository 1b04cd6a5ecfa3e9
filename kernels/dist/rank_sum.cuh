// The end of a reduction: the ranks' sums added, and the caller's rows written.
#ifndef DSV4MX_KERNELS_DIST_RANK_SUM_CUH_
#define DSV4MX_KERNELS_DIST_RANK_SUM_CUH_

#include "kernels/dist/launch_exchange.h"
#include "kernels/run.cuh"

namespace dsv4mx::dist {

// Eight elements of the ranks' sums, given in rank order: added one after the other, or, in a tree, as soon as the other half of
// a level is there.
template <bool Tree>
struct RankSum {
  static constexpr int kLevels = 6;
  static_assert(1 << kLevels == kMaxRanks, "a level for each doubling of ranks");
  float level[Tree ? kLevels : 1][kRunElements] = {};
  float sum[kRunElements] = {};  // in a tree of what has come last

  __device__ __forceinline__ void Add(int rank, const float* v) {
    if constexpr (!Tree) {
#pragma unroll
      for (int i = 0; i < kRunElements; i++) sum[i] += v[i];
    } else {
#pragma unroll
      for (int i = 0; i < kRunElements; i++) sum[i] = v[i];
      bool folds = true;
#pragma unroll
      for (int l = 0; l < kLevels; l++) {
        const bool both = folds && (rank >> l & 1) != 0;
#pragma unroll
        for (int i = 0; i < kRunElements; i++) {
          const float before = level[l][i];
          if (folds && !both) level[l][i] = sum[i];
          if (both) sum[i] = before + sum[i];
        }
        folds = both;
      }
    }
  }
};

__device__ __forceinline__ int LiveTokens(const ReduceArgs& a) {
  if (a.tokens_device == nullptr) return a.tokens;
  return min(max(*a.tokens_device, a.first), a.first + a.tokens) - a.first;
}

// Where the caller's row has a unit.
__device__ __forceinline__ int64_t OutOf(const ReduceArgs& a, int unit) {
  const int per_row = a.hidden / kRunElements, token = unit / per_row;
  return token * a.out_stride + (unit - token * per_row) * kRunElements;
}
__device__ __forceinline__ void WriteAt(const ReduceArgs& a, int64_t at, bool good, float* sum) {
#pragma unroll
  for (int i = 0; i < kRunElements; i++) sum[i] = good ? sum[i] : __uint_as_float(0x7FC00000u);
  WriteRun(a.out, !a.out_is_f32, a.accumulate, at, a.factor, sum);
}
__device__ __forceinline__ void WritePiece(const ReduceArgs& a, int unit, bool good, float* sum) {
  WriteAt(a, OutOf(a, unit), good, sum);
}

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_RANK_SUM_CUH_
