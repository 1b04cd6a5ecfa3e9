// What both forms of a reduction share: own partial sums in blocks, and sums of what all ranks have sent (line.cuh). A unit is eight
// elements: 16 bytes, or twice as many in two blocks beside each other. A block of units is what a warp has at once.
#ifndef DSV4MX_KERNELS_DIST_REDUCE_LINES_CUH_
#define DSV4MX_KERNELS_DIST_REDUCE_LINES_CUH_

#include "kernels/dist/flagged.cuh"
#include "kernels/dist/rank_sum.cuh"
#include "kernels/run.cuh"

namespace dsv4mx::dist {

// Small CTAs, as in exchange_flagged.cu.
inline constexpr int kReduceThreads = 64, kReduceWarps = kReduceThreads / 32;
inline constexpr int kBlockUnits = static_cast<int>(kFlaggedUnits);
static_assert(kReduceThreads >= kMaxRanks, "a thread for every tag");

// What another rank writes of a reduction: a tag of two words, then blocks.
__device__ __forceinline__ uint64_t* FlaggedTagOf(const ReduceArgs& a, int rank, int buffer,
                                                  int from) {
  return reinterpret_cast<uint64_t*>(a.group.windows[rank] + a.flagged +
                                     (static_cast<int64_t>(buffer) * a.group.tp_size + from) *
                                         a.flagged_bytes);
}
__device__ __forceinline__ uint64_t* BlocksOf(const ReduceArgs& a, int rank, int buffer, int from) {
  return FlaggedTagOf(a, rank, buffer, from) + kFlaggedSums;
}
// The n-th of the other ranks: not all push to the same one at a time.
__device__ __forceinline__ int Other(const GroupArgs& g, int n) {
  const int t = g.slice + 1 + n;
  return t < g.tp_size ? t : t - g.tp_size;
}

struct Reduction {
  int units, blocks;  // of this rank's partial sums
  int lane;           // the unit that this lane has of a block
  int buffer;
  uint32_t round;

  __device__ __forceinline__ explicit Reduction(const ReduceArgs& a)
      : units(a.tokens * (a.hidden / kRunElements)),
        blocks((units + kBlockUnits - 1) / kBlockUnits),
        lane(BlockLane().unit) {}
  __device__ __forceinline__ int Unit(int block) const { return block * kBlockUnits + lane; }
  __device__ __forceinline__ int Left(int block) const { return units - block * kBlockUnits; }
};

// Eight elements of this rank as they are stored: one or two times 16 bytes.
template <int Blocks>
struct Own {
  uint4 units[Blocks];
};
template <int Blocks>
__device__ __forceinline__ Own<Blocks> LoadOwn(const ReduceArgs& a, const Reduction& r, int block) {
  Own<Blocks> own{};
  const int u = r.Unit(block);
#pragma unroll
  for (int n = 0; n < Blocks; n++) {
    if (u < r.units) own.units[n] = static_cast<const uint4*>(a.sums)[u * Blocks + n];
  }
  return own;
}
template <int Blocks>
__device__ __forceinline__ void StoreRunBlock(uint64_t* to, const uint4* units, int left,
                                              uint32_t round) {
#pragma unroll
  for (int n = 0; n < Blocks; n++) StoreBlock(to + n * kBlockWords, units[n], left, round);
}

__device__ __forceinline__ Source SourceOf(const ReduceArgs& a, const Reduction& r, int t) {
  const GroupArgs& g = a.group;
  return {kStageReduce, r.round, TpPeer(g, t),
          TagDiffers(g, FlaggedTagOf(a, g.rank, r.buffer, t), static_cast<uint32_t>(a.tokens),
                     r.round)};
}
__device__ __forceinline__ Tags TagsOf(const ReduceArgs& a, const Reduction& r) {
  const GroupArgs& g = a.group;
  Tags tags{};
#pragma unroll
  for (int i = 0; i < kMaxRanks / 32; i++) {
    const int t = i * 32 + static_cast<int>(threadIdx.x % 32);
    if (t < g.tp_size && t != g.slice) tags.from[i] = FlaggedTagOf(a, g.rank, r.buffer, t);
  }
  return tags;
}
// By one CTA, first of all, so that who has seen the sums need not wait for it.
__device__ __forceinline__ void PushReduceTags(const ReduceArgs& a, const Reduction& r) {
  const GroupArgs& g = a.group;
  const int t = kReduceThreads - 1 - static_cast<int>(threadIdx.x);
  if (blockIdx.x == 0 && t < g.tp_size && t != g.slice)
    PushTag(g, FlaggedTagOf(a, TpPeer(g, t), r.buffer, g.slice), static_cast<uint32_t>(a.tokens),
            r.round);
}

__device__ __forceinline__ bool AwaitTags(const ReduceArgs& a, const Reduction& r, Tags* tags) {
  return tags->Await(a.group, static_cast<uint32_t>(a.tokens), r.round,
                     [&](int t) { return SourceOf(a, r, t); });
}

// The sum of a block of all ranks; theirs(t) is where rank t's lies.
template <int Blocks, bool Tree, class Theirs>
__device__ __forceinline__ bool AddRanks(const ReduceArgs& a, const Reduction& r, int block,
                                         const Own<Blocks>& own, Tags* tags, float* result,
                                         const Theirs& theirs) {
  constexpr int kRanks = 4;  // at once
  const GroupArgs& g = a.group;
  const int me = g.slice;
  const bool used = BlockLane().Used(r.Left(block));
  RankSum<Tree> sum;
  bool good = true;
#pragma unroll 1
  for (int first = 0; first < g.tp_size && good; first += kRanks) {
    RunsAtOnce<kRanks, Blocks> runs;
#pragma unroll
    for (int i = 0; i < kRanks; i++) {
      runs.here[i] = first + i < g.tp_size && first + i != me && used;
      runs.from[i] = theirs(first + i);
    }
    runs.Look();
    good = runs.Await(
        g, r.round, [&](int i) { return SourceOf(a, r, first + i); }, [&] { tags->Look(); });
#pragma unroll
    for (int i = 0; i < kRanks; i++) {
      if (first + i >= g.tp_size) break;
      Own<Blocks> one = own;
      if (first + i != me) runs.Units(i, one.units);
      float v[kRunElements];
      LoadRun(one.units, Blocks == 1, 0, v);
      sum.Add(first + i, v);
    }
  }
#pragma unroll
  for (int i = 0; i < kRunElements; i++) result[i] = sum.sum[i];
  return good;
}

// From the host: loads a kernel's forms, which kernel_for(narrow, tree) gives.
template <class KernelFor>
cudaError_t LoadForms(const KernelFor& kernel_for) {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaSuccess;
  for (const bool narrow : {false, true}) {
    for (const bool tree : {false, true}) {
      const auto kernel = kernel_for(narrow, tree);
      if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, kernel);
    }
  }
  return error;
}

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_REDUCE_LINES_CUH_
