// Units of a step of a reduction (kRunElements elements each) as a team of warps goes through them: several at a time, so that each
// thread has as many loads under way before it uses the first.
#ifndef DSV4MX_KERNELS_DIST_REDUCE_UNITS_CUH_
#define DSV4MX_KERNELS_DIST_REDUCE_UNITS_CUH_

#include "kernels/dist/rank_sum.cuh"
#include "kernels/dist/reduce_piece.cuh"

namespace dsv4mx::dist {

inline constexpr int kLoads = 4;  // of 16 bytes, in a push
// In a sum, whose loads are as many times two ranks, and twice that where they are fp32. The levels of a tree leave no registers
// for more.
template <bool Narrow, bool Tree>
inline constexpr int kUnitsAtOnce = Tree     ? 1
                                    : Narrow ? 4
                                             : 2;

// What a thread takes at a time: some of it may be behind the end.
struct Batch {
  int first, step, end;
  __device__ __forceinline__ int Unit(int i) const { return first + i * step; }
  __device__ __forceinline__ bool Has(int i) const { return Unit(i) < end; }
  // To load without asking.
  __device__ __forceinline__ int Clamped(int i) const { return min(Unit(i), end - 1); }
};
template <int Count, class Body>
__device__ __forceinline__ void ForBatches(int begin, int end, const Team& team, const Body& body) {
#pragma unroll 1
  for (int u = begin + team.thread; u < end; u += Count * team.threads)
    body(Batch{u, team.threads, end});
}

// Copies 16 bytes at a time: from `from` to each of the `others` other tensor-parallel ranks that to(i) gives.
template <class To>
__device__ __forceinline__ void PushUnits(const Team& team, const void* from, int begin, int end,
                                          int others, const To& to) {
  const auto* units = static_cast<const uint4*>(from);
  ForBatches<kLoads>(begin, end, team, [&](const Batch& at) {
    uint4 v[kLoads];
#pragma unroll
    for (int k = 0; k < kLoads; k++) v[k] = units[at.Clamped(k)];
    for (int i = 0; i < others; i++) {
      uint4* there = to(i);
#pragma unroll
      for (int k = 0; k < kLoads; k++) {
        if (at.Has(k)) there[at.Unit(k)] = v[k];
      }
    }
  });
}

// Adds what from(rank) points to of all ranks.
template <bool Narrow, bool Tree, int Units, class From>
__device__ __forceinline__ void AddRanks(const Batch& at, int ranks, const From& from,
                                         RankSum<Tree> (&sum)[Units]) {
  constexpr int kRanks = 2;  // at once
#pragma unroll 1
  for (int first = 0; first < ranks; first += kRanks) {
    float v[kRanks][Units][kRunElements];
#pragma unroll
    for (int r = 0; r < kRanks; r++) {
      const void* sums = from(min(first + r, ranks - 1));
#pragma unroll
      for (int k = 0; k < Units; k++)
        LoadRun(sums, Narrow, static_cast<int64_t>(at.Clamped(k)) * kRunElements, v[r][k]);
    }
#pragma unroll
    for (int r = 0; r < kRanks; r++) {
      if (first + r >= ranks) break;
#pragma unroll
      for (int k = 0; k < Units; k++) sum[k].Add(first + r, v[r][k]);
    }
  }
}

// Where the group has failed, also over what was added before it did.
__device__ __forceinline__ void WriteNaN(const ReduceArgs& a, const Team& team, int begin,
                                         int end) {
  for (int u = begin + team.thread; u < end; u += team.threads) {
    float none[kRunElements] = {};
    WritePiece(a, u, false, none);
  }
}

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_REDUCE_UNITS_CUH_
