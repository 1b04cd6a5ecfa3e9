// What every CTA derives from the ids alone: the expert of each pair, and the list of tiles, which are an expert with up to
// four of its pairs in their order. Experts stand in the order of their first pair.
#ifndef DSV4MX_KERNELS_FEW_PAIRS_CUH_
#define DSV4MX_KERNELS_FEW_PAIRS_CUH_

#include "kernels/few/geometry.h"
#include "kernels/routing.cuh"

namespace dsv4mx {

struct FewTile {
  int expert;
  int first;  // pairs of the expert before this tile
  int count;
};

// In shared memory. Room for `pairs` pairs and tiles (a tile has at least one pair) and for `experts` experts.
struct FewPairs {
  static_assert(kMostExperts <= 1 << 16 && kFewPairs <= 1 << 12 && kFewTokens < 1 << 4,
                "an expert, the first pair of a tile and their count share a word");
  static_assert(kFewTokens2 <= kFewTokens && kFewMaxTopK <= 32,
                "the slots of a token are bits of a word");
  int* expert;      // of each pair, -1 = not computed here
  uint32_t* tile;   // expert << 16 | first << 4 | count
  int* first;       // of each expert: its first pair
  int* count;       // of each expert
  int* totals;      // tiles, pairs
  int* warp_tiles;  // of a round of the list, by warp
  __device__ __forceinline__ FewPairs(int* at, int pairs, int experts)
      : expert(at),
        tile(reinterpret_cast<uint32_t*>(at + pairs)),
        first(at + 2 * pairs),
        count(at + 2 * pairs + experts),
        totals(at + 2 * pairs + 2 * experts),
        warp_tiles(totals + 2) {}
  __device__ __forceinline__ int Tiles() const { return totals[0]; }
  __device__ __forceinline__ int Pairs() const { return totals[1]; }
  __device__ __forceinline__ FewTile Tile(int i) const {
    const uint32_t t = tile[i];
    return {static_cast<int>(t >> 16), static_cast<int>(t >> 4 & 0xFFF), static_cast<int>(t & 15)};
  }
};

// May run before the ids are there.
template <int Threads>
__device__ __forceinline__ void ClearPairs(const Routing& r, const FewPairs& p) {
  for (int e = threadIdx.x; e < r.experts; e += Threads) p.first[e] = kFewPairs, p.count[e] = 0;
}

// Fills the lists. All threads take part, after a barrier behind ClearPairs.
template <int Threads>
__device__ __forceinline__ void ListPairs(const Routing& r, const FewPairs& p) {
  const int pairs = ChunkTokens(r) * r.top_k;
  for (int i = threadIdx.x; i < pairs; i += Threads) {
    const int e = LocalExpert(r, i);
    p.expert[i] = e;
    if (e >= 0) {
      atomicMin(p.first + e, i);
      atomicAdd(p.count + e, 1);
    }
  }
  if (threadIdx.x == 0) p.totals[0] = 0, p.totals[1] = pairs;
  __syncthreads();
  // A tile stands where the first pair of its expert does among all such pairs.
  constexpr int kWarps = Threads / 32;
  static_assert(kWarps <= 32 && kFewTableBytes >= 4 * (2 + kWarps), "room for a sum per warp");
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int before = 0;
  for (int begin = 0; begin < pairs; begin += Threads) {
    const int i = begin + threadIdx.x, e = i < pairs ? p.expert[i] : -1;
    const int count = e >= 0 && p.first[e] == i ? p.count[e] : 0;
    const int own = (count + kFewTokens - 1) / kFewTokens;
    int sum = own;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int up = __shfl_up_sync(~0u, sum, d);
      if (lane >= d) sum += up;
    }
    if (lane == 31) p.warp_tiles[warp] = sum;
    __syncthreads();
    int at = before + sum - own;
#pragma unroll
    for (int w = 0; w < kWarps; w++) {
      const int tiles = p.warp_tiles[w];
      if (w < warp) at += tiles;
      before += tiles;
    }
    for (int j = 0; j < own; j++) {
      p.tile[at + j] = static_cast<uint32_t>(e << 16 | j * kFewTokens << 4 |
                                             min(kFewTokens, count - j * kFewTokens));
    }
    if (threadIdx.x == 0) p.totals[0] = before;
    __syncthreads();
  }
}

// For up to kFewTokens2 tokens: the expert of each pair, and which slots of each token are computed, one bit each. All threads
// take part; `id` is that of the pair of the thread's number, as LoadIdBits has it.
__device__ __forceinline__ void ListComputed(const Routing& r, uint2 id, int* expert,
                                             uint32_t* computed) {
  const int tokens = ChunkTokens(r);
  if (threadIdx.x < kFewTokens2) computed[threadIdx.x] = 0;
  __syncthreads();
  if (threadIdx.x < tokens * r.top_k) {
    const int e = ExpertOfId(r, IdOfBits(id, r.ids_are_64));
    expert[threadIdx.x] = e;
    if (e >= 0) atomicOr(computed + threadIdx.x / r.top_k, 1u << threadIdx.x % r.top_k);
  }
  __syncthreads();
}

// The pairs of a tile: lane m < count gets the m-th, other lanes -1. All lanes of the warp take part.
__device__ __forceinline__ int PairsOfTile(const FewPairs& p, const FewTile& t) {
  const int lane = threadIdx.x % 32, pairs = p.Pairs();
  int found = -1, rank = -t.first;  // of the next pair of the expert, counted from the tile's first
  for (int begin = 0; begin < pairs && rank < t.count; begin += 32) {
    uint32_t mine = __ballot_sync(~0u, begin + lane < pairs && p.expert[begin + lane] == t.expert);
    for (; mine != 0 && rank < t.count; mine &= mine - 1, rank++) {
      if (rank == lane) found = begin + __ffs(mine) - 1;
    }
  }
  return found;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_PAIRS_CUH_
