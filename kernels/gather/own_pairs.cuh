// Panel rows of a block's pairs, which follow each other, from all ids: the block reads each id once and counts experts in shared
// memory, all pairs and those in front of its own. The first panel row of an expert follows from the counts of the experts below.
#ifndef DSV4MX_KERNELS_GATHER_OWN_PAIRS_CUH_
#define DSV4MX_KERNELS_GATHER_OWN_PAIRS_CUH_

#include "kernels/routing.cuh"

namespace dsv4mx {

// Pairs of a block, and so its tokens.
inline constexpr int kMostOwn = 128;

// In shared memory.
struct OwnPairs {
  int expert[kMostOwn];  // -1 = not computed here
  int place[kMostOwn];
  uint32_t peak[kMostOwn];  // of each token
};

// Of each expert: all pairs in the upper half, those in front of the block's own in the lower.
using PairCount = uint32_t;
static_assert(kCountedInPlace < 1 << 16, "two counts share 32 bits");
__host__ __device__ constexpr int PairCountBytes(int experts) {
  return (experts + 3) / 4 * 16;
}

// Before the ids are there. A barrier follows.
__device__ __forceinline__ void ClearPairs(int experts, OwnPairs& own, PairCount* counts) {
#pragma unroll 1
  for (int e = threadIdx.x; e < PairCountBytes(experts) / 4; e += blockDim.x) counts[e] = 0;
#pragma unroll 1
  for (int i = threadIdx.x; i < kMostOwn; i += blockDim.x) own.expert[i] = -1, own.peak[i] = 0;
}

// Experts of the pairs begin, begin + step and so on below end; -1 behind it. All ids are under way before one is looked at.
template <int kCount>
__device__ __forceinline__ void LoadExperts(const Routing& r, int begin, int step, int end,
                                            int (&expert)[kCount]) {
  if (r.ids_are_64) {
    const int64_t* const ids = static_cast<const int64_t*>(r.ids);
    int64_t id[kCount];
#pragma unroll
    for (int i = 0; i < kCount; i++) id[i] = begin + i * step < end ? ids[begin + i * step] : -1;
#pragma unroll
    for (int i = 0; i < kCount; i++) {
      expert[i] = static_cast<uint64_t>(id[i]) < static_cast<uint64_t>(r.experts_global)
                      ? static_cast<int>(id[i])
                      : -1;
    }
  } else {
    const int32_t* const ids = static_cast<const int32_t*>(r.ids);
#pragma unroll
    for (int i = 0; i < kCount; i++)
      expert[i] = begin + i * step < end ? ids[begin + i * step] : -1;
  }
  const uint32_t ids = r.experts_global;
  if (r.expert_map != nullptr) {
#pragma unroll
    for (int i = 0; i < kCount; i++)
      expert[i] = static_cast<uint32_t>(expert[i]) < ids ? r.expert_map[expert[i]] : -1;
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i++) {
      const uint32_t id = expert[i], e = id - static_cast<uint32_t>(r.expert_first);
      expert[i] = id < ids && e < static_cast<uint32_t>(r.experts) ? static_cast<int>(e) : -1;
    }
  }
}

// All pairs of the chunk, kRounds of a thread together; the block's own begin at `first`. A barrier follows.
template <int kRounds>
__device__ __forceinline__ void CountPairs(const Routing& r, int pairs, int first, int own_count,
                                           OwnPairs& own, PairCount* counts) {
#pragma unroll 1
  for (int begin = threadIdx.x; begin < pairs; begin += blockDim.x * kRounds) {
    int expert[kRounds];
    LoadExperts(r, begin, blockDim.x, pairs, expert);
#pragma unroll
    for (int i = 0; i < kRounds; i++) {
      const int at = begin + i * static_cast<int>(blockDim.x) - first;
      if (expert[i] >= 0) atomicAdd(counts + expert[i], at < 0 ? 0x10001u : 0x10000u);
      if (at >= 0 && at < own_count) own.expert[at] = expert[i];
    }
  }
}

struct Place {
  int row;
  bool last;  // of its expert
};
// Of the block's pair i, which is computed here. By one warp.
__device__ __forceinline__ Place PlaceOf(const OwnPairs& own, const PairCount* counts, int i) {
  const int lane = threadIdx.x % 32, expert = own.expert[i];
  // Over lower experts: their counts, and how many have any pair; the block's own earlier pairs of this one in the upper half.
  uint32_t lower = 0, hit = 0;
  const auto add = [&](PairCount count, bool is_lower) {
    count = is_lower ? count : 0;
    lower += count, hit += min(count, 1u);
  };
#pragma unroll 1
  for (int e = lane * 4; e < expert; e += 128) {
    const uint4 four = *reinterpret_cast<const uint4*>(counts + e);
    add(four.x, true);
    add(four.y, e + 1 < expert);
    add(four.z, e + 2 < expert);
    add(four.w, e + 3 < expert);
  }
#pragma unroll 1
  for (int j = lane; j < i; j += 32) hit += own.expert[j] == expert ? 0x10000u : 0;
  lower = __reduce_add_sync(~0u, lower);
  hit = __reduce_add_sync(~0u, hit);
  const PairCount count = counts[expert];
  const int rank = static_cast<int>((count & 0xFFFF) + (hit >> 16));
  return {FirstPanelRow(static_cast<int>(lower >> 16), static_cast<int>(hit & 0xFFFF)) + rank,
          rank + 1 == static_cast<int>(count >> 16)};
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_GATHER_OWN_PAIRS_CUH_
