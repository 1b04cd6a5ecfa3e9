// Work of one launch: (expert, block of weight rows, tile of tokens), in that order with the tokens fastest, so that the
// CTAs that share an expert's weights run at the same time. Every CTA derives the list from the experts' counts. Where there are
// many, most items are dealt out in turn; the last ones go to whoever is free (sched/share.cuh), since memory serves
// multiprocessors unevenly.
#ifndef DSV4MX_KERNELS_SCHED_TILES_CUH_
#define DSV4MX_KERNELS_SCHED_TILES_CUH_

#include <cstdint>

#include "kernels/routing.cuh"
#include "kernels/scan.cuh"
#include "kernels/sched/gemm_config.cuh"

namespace dsv4mx {

struct Item {
  int expert;
  int row_block;
  int panel_row;  // of the tile's first pair
  int count;      // pairs in the tile
};

// Items that a CTA has taken out of those that are shared out.
inline constexpr int kMostTaken = 8;
struct alignas(16) Taken {
  Item items[kMostTaken];
  int count;  // 0: there are no more
};

// In shared memory: the next items of each producer warp, what was taken, then three arrays of experts + 1 ints.
struct TileList {
  Item* found;
  Taken* taken;
  int* tiles;  // token tiles of lower experts; the last entry is their sum
  int* count;  // tokens
  int* first;  // first panel row
  int experts, row_blocks;
};
inline constexpr int kItemsFound = 32, kFoundBytes = kProducerWarps * kItemsFound * 16;
static_assert(sizeof(Item) == 16, "an item is stored and loaded in one piece");
__host__ __device__ constexpr int TileListBytes(int experts) {
  return kFoundBytes + static_cast<int>(sizeof(Taken)) + 3 * 4 * (experts + 1);
}
__device__ __forceinline__ TileList TileListAt(uint8_t* memory, int experts, int row_blocks) {
  Taken* const taken = reinterpret_cast<Taken*>(memory + kFoundBytes);
  int* const arrays = reinterpret_cast<int*>(taken + 1);
  return {reinterpret_cast<Item*>(memory), taken,   arrays,    arrays + experts + 1,
          arrays + 2 * (experts + 1),      experts, row_blocks};
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
template <int Threads, bool kLooks = true, bool kAgain = false>
__device__ __forceinline__ void BuildTileList(const GemmArgs& a, const TileList& list) {
  const Routing& r = a.routing;
  const int width = a.width;
  const int thread = threadIdx.x;
  // Where no expert is of this launch's size, nothing is looked at.
  bool any = !kLooks || a.extent == nullptr || (a.extent[1] >= a.least && a.extent[0] <= a.most);
  if constexpr (kAgain) any = any && (a.again == 0 || *a.unfit != 0);
  const int experts = any ? list.experts : 0;
  if (CountedInPlace(r)) {
    for (int e = thread; e < experts; e += Threads) list.count[e] = 0;
    __syncthreads();
    const int pairs = kAgain && !any ? 0 : ChunkTokens(r) * r.top_k;
    constexpr int kRounds = 8;  // ids read together
    for (int begin = thread; begin < pairs; begin += Threads * kRounds) {
      int expert[kRounds];
#pragma unroll
      for (int i = 0; i < kRounds; i++)
        expert[i] = begin + i * Threads < pairs ? LocalExpert(r, begin + i * Threads) : -1;
#pragma unroll
      for (int i = 0; i < kRounds; i++) {
        if (expert[i] >= 0) atomicAdd(list.count + expert[i], 1);
      }
    }
    __syncthreads();
  } else {
    for (int e = thread; e < experts; e += Threads) list.count[e] = a.counts[e];
  }
  PackedSums carry{0};
  for (int begin = 0; begin < experts; begin += Threads) {
    const int e = begin + thread, count = e < experts ? list.count[e] : 0;
    const int size = a.sizes == nullptr || e >= experts ? count : a.sizes[e];
    const int tiles = size >= a.least && size <= a.most ? (count + width - 1) / width : 0;
    const PackedSums before{ExclusiveSum<Threads>(PackedSums::Of(count, tiles).bits, carry.bits)};
    if (e < experts) {
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
__device__ __forceinline__ int TilesOf(const TileList& l, int expert) {
  return l.tiles[expert + 1] - l.tiles[expert];
}

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
  const int tiles = TilesOf(l, low);
  const int inside = index - l.tiles[low] * l.row_blocks, total = l.count[low];
  item.row_block = inside / tiles;
  const int step = ((total + tiles - 1) / tiles + grain - 1) / grain * grain;
  const int first = min(inside % tiles * step, total);
  item.panel_row = l.first[low] + first;
  item.count = min(step, total - first);
  return item;
}

// Finds the next items of this CTA, from number `first` of all on and below `end`, and returns how many. All lanes of a
// producer warp take part and each finds one: the search is a chain of loads and divisions, which one lane would go through
// for every item.
__device__ __forceinline__ int FindItems(const TileList& l, int producer, int first, int end,
                                         int grain) {
  const int lane = threadIdx.x % 32, step = gridDim.x;
  __syncwarp();  // the ones before have been read
  if (first + lane * step < end)
    l.found[producer * kItemsFound + lane] = ItemAt(l, first + lane * step, grain);
  __syncwarp();
  return first < end ? min(kItemsFound, (end - first + step - 1) / step) : 0;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SCHED_TILES_CUH_
