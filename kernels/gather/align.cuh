// Lists many pairs in a launch of their own: one cluster of blocks counts the pairs of each expert and gives each its panel row,
// in stable order and without atomics.
#ifndef DSV4MX_KERNELS_GATHER_ALIGN_CUH_
#define DSV4MX_KERNELS_GATHER_ALIGN_CUH_

#include <cooperative_groups.h>

#include "kernels/extent.cuh"
#include "kernels/gather/rewrite.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/scan.cuh"

namespace dsv4mx {

// Pairs keep their order: they are cut into one run per warp, over the blocks of one cluster. Each warp counts its run, the
// counts become the panel rows where each warp's pairs of each expert begin, and each warp goes through its run again.
constexpr int kAlignBlocks = 8, kAlignThreads = 1024, kAlignWarps = kAlignThreads / 32;
constexpr int kMostCounts = 32768;  // of a block's warps together

// Warps that list pairs; the more experts, the fewer warps have room for their counts.
__host__ __device__ constexpr int ListingWarps(int experts) {
  return experts * kAlignWarps <= kMostCounts ? kAlignWarps : kMostCounts / experts;
}

// Pairs of a warp, 32 side by side, as far as they are looked at together: the latency of one at a time would be the kernel's time.
constexpr int kAlignRounds = 8;
struct SidePairs {
  int expert[kAlignRounds];
  uint32_t same[kAlignRounds];  // lanes with the same expert
};

// f(pair, expert, lanes with the same expert) for the pairs of [begin, end). All lanes take part. `kept` is filled for all of them
// if they are few, and need not be filled again.
template <class F>
__device__ __forceinline__ void ForEachPair(const Routing& r, int begin, int end, SidePairs& kept,
                                            bool fill, F f) {
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int first = begin; first < end; first += 32 * kAlignRounds) {
    if (fill || end - begin > 32 * kAlignRounds) {
#pragma unroll
      for (int i = 0; i < kAlignRounds; i++) {
        const int p = first + 32 * i + lane;
        kept.expert[i] = p < end ? LocalExpert(r, p) : -1;
      }
#pragma unroll
      for (int i = 0; i < kAlignRounds; i++) {
        if (first + 32 * i >= end) break;
        kept.same[i] = __match_any_sync(~0u, kept.expert[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kAlignRounds; i++) {
      if (first + 32 * i >= end) break;
      f(first + 32 * i + lane, kept.expert[i], kept.same[i]);
      __syncwarp();
    }
  }
}

// The counts of an expert by warp become the panel rows where each warp's pairs begin, from `first` on. Some at a time: one after
// the other, each would wait for the one before.
__device__ __forceinline__ void PlacesOfWarps(int* counts, int experts, int warps, int first) {
  constexpr int kTogether = 8;
#pragma unroll 1
  for (int begin = 0; begin < warps; begin += kTogether) {
    int count[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; i++)
      count[i] = begin + i < warps ? counts[(begin + i) * experts] : 0;
#pragma unroll
    for (int i = 0; i < kTogether; i++) {
      if (begin + i < warps) counts[(begin + i) * experts] = first;
      first += count[i];
    }
  }
}

static __global__ void __launch_bounds__(kAlignThreads)
    Align(const __grid_constant__ GatherArgs a) {
  DSV4MX_DYNAMIC_SHARED(shared);
  int* const memory = reinterpret_cast<int*>(shared);
  WaitForPrimary();  // the workspace may still be read by the call before
  LaunchDependents();
  ClearTaken(a);
  const Routing& r = a.routing;
  const auto cluster = cooperative_groups::this_cluster();
  const int block = cluster.block_rank(), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int experts = r.experts, listing_warps = ListingWarps(experts),
            pairs = ChunkTokens(r) * r.top_k;
  int* own = memory;                       // [experts] pairs of this block
  int* place = memory + experts;           // [listing_warps][experts] counts, then panel rows
  int* my_place = place + warp * experts;  // where warp < listing_warps
  const int run =
      (pairs + kAlignBlocks * listing_warps * 32 - 1) / (kAlignBlocks * listing_warps * 32) * 32;
  const int begin = (block * listing_warps + warp) * run,
            end = warp < listing_warps ? min(pairs, begin + run) : 0;
  const uint32_t lower_lanes = (1u << lane) - 1;

  for (int i = threadIdx.x; i < listing_warps * experts; i += kAlignThreads) place[i] = 0;
  __syncthreads();
  SidePairs kept;
  ForEachPair(r, begin, end, kept, true, [&](int, int expert, uint32_t same) {
    if (expert >= 0 && (same & lower_lanes) == 0) my_place[expert] += __popc(same);
  });
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += kAlignThreads) {
    int sum = 0;
#pragma unroll 8
    for (int w = 0; w < listing_warps; w++) sum += place[w * experts + e];
    own[e] = sum;
  }
  cluster.sync();
  uint64_t carry = 0;  // pairs in the lower half, experts hit in the upper
  Extent extent;
  for (int lowest = 0; lowest < experts; lowest += kAlignThreads) {
    const int e = lowest + threadIdx.x;
    int lower_blocks = 0, count = 0;
#pragma unroll
    for (int b = 0; e < experts && b < kAlignBlocks; b++) {
      const int there = cluster.map_shared_rank(own, b)[e];
      lower_blocks += b < block ? there : 0;
      count += there;
    }
    const uint64_t lower = ExclusiveSum<kAlignThreads>(
        static_cast<uint64_t>(count > 0) << 32 | static_cast<uint32_t>(count), carry);
    if (e >= experts) continue;
    const int first = FirstPanelRow(static_cast<int>(lower), static_cast<int>(lower >> 32));
    if (block == 0) {
      a.counts[e] = count;
      if (count > 0) ClearUnusedScales(a, first + count);
      extent.Add(count);
    }
    PlacesOfWarps(place + e, experts, listing_warps, first + lower_blocks);
  }
  if (block == 0 && a.extent != nullptr) StoreExtent<kAlignThreads>(extent, a.extent);
  cluster.sync();  // no block may end while others read its counts
  ForEachPair(r, begin, end, kept, false, [&](int pair, int expert, uint32_t same) {
    if (pair < end) {
      a.panel_row[pair] = expert < 0 ? -1 : my_place[expert] + __popc(same & lower_lanes);
    }
    __syncwarp();
    if (expert >= 0 && (same & lower_lanes) == 0) my_place[expert] += __popc(same);
  });
}

constexpr size_t AlignSharedBytes(int experts) {
  return sizeof(int) * experts * (1 + static_cast<size_t>(ListingWarps(experts)));
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_GATHER_ALIGN_CUH_
