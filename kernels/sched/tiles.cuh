// Work of one launch: (expert, block of weight rows, tile of tokens), in that order with the tokens fastest, so that the
// CTAs that share an expert's weights run at the same time. Every CTA derives the list from the experts' counts.
#ifndef DSV4MX_KERNELS_SCHED_TILES_CUH_
#define DSV4MX_KERNELS_SCHED_TILES_CUH_

#include <cstdint>

#include "kernels/routing.cuh"
#include "kernels/scan.cuh"

namespace dsv4mx {

// In shared memory, three arrays of experts + 1 ints.
struct TileList {
  int* tiles;  // token tiles of lower experts; the last entry is their sum
  int* count;  // tokens
  int* first;  // first panel row
  int experts, row_blocks;
};
__host__ __device__ constexpr int TileListBytes(int experts) {
  return 3 * 4 * (experts + 1);
}

// Sums over lower experts, packed so that one scan makes all three.
struct PackedSums {
  static_assert(kMostExperts < 1 << 16, "experts hit have 16 bits");
  uint64_t bits;  // pairs: 24 bits, experts hit: 16, tiles: 24
  __device__ __forceinline__ static PackedSums Of(int pairs, int tiles) {
    return {static_cast<uint64_t>(pairs) | static_cast<uint64_t>(pairs > 0) << 24 |
            static_cast<uint64_t>(tiles) << 40};
  }
  __device__ __forceinline__ int Pairs() const { return static_cast<int>(bits & 0xFFFFFF); }
  __device__ __forceinline__ int Hit() const { return static_cast<int>(bits >> 24 & 0xFFFF); }
  __device__ __forceinline__ int Tiles() const { return static_cast<int>(bits >> 40); }
};

// All threads of the block take part. counts is read if the ids are not counted in place.
template <int Threads>
__device__ __forceinline__ void BuildTileList(const Routing& r, const int32_t* counts, int width,
                                              const TileList& list) {
  const int thread = threadIdx.x;
  if (CountedInPlace(r)) {
    for (int e = thread; e < list.experts; e += Threads) list.count[e] = 0;
    __syncthreads();
    const int pairs = ChunkTokens(r) * r.top_k;
    for (int p = thread; p < pairs; p += Threads) {
      const int e = LocalExpert(r, p);
      if (e >= 0) atomicAdd(list.count + e, 1);
    }
    __syncthreads();
  } else {
    for (int e = thread; e < list.experts; e += Threads) list.count[e] = counts[e];
  }
  PackedSums carry{0};
  for (int begin = 0; begin < list.experts; begin += Threads) {
    const int e = begin + thread, count = e < list.experts ? list.count[e] : 0;
    const PackedSums before{
        ExclusiveSum<Threads>(PackedSums::Of(count, (count + width - 1) / width).bits, carry.bits)};
    if (e < list.experts) {
      list.tiles[e] = before.Tiles();
      list.first[e] = FirstPanelRow(before.Pairs(), before.Hit());
    }
  }
  if (thread == 0) list.tiles[list.experts] = carry.Tiles();
  __syncthreads();
}

__device__ __forceinline__ int TotalItems(const TileList& l) {
  return l.tiles[l.experts] * l.row_blocks;
}

struct Item {
  int expert;
  int row_block;
  int panel_row;  // of the tile's first pair
  int count;      // pairs in the tile
  int tiles;      // token tiles of the expert
};

// An expert's pairs are cut into equal tiles, each a multiple of `grain` pairs long except the last.
__device__ __forceinline__ Item ItemAt(const TileList& l, int index, int grain) {
  int low = 0, high = l.experts;  // the expert whose range of items holds index
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (l.tiles[middle] * l.row_blocks <= index)
      low = middle;
    else
      high = middle;
  }
  Item item;
  item.expert = low;
  item.tiles = l.tiles[low + 1] - l.tiles[low];
  const int inside = index - l.tiles[low] * l.row_blocks, total = l.count[low];
  item.row_block = inside / item.tiles;
  const int step = ((total + item.tiles - 1) / item.tiles + grain - 1) / grain * grain;
  const int first = min(inside % item.tiles * step, total);
  item.panel_row = l.first[low] + first;
  item.count = min(step, total - first);
  return item;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SCHED_TILES_CUH_
