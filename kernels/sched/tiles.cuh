// Work of one launch: (expert, block of rows, tile of tokens), walked in that order with the tokens fastest, so that the
// CTAs that share an expert's weights run at the same time. Every CTA derives the list from the experts' counts.
#ifndef DSV4MX_KERNELS_SCHED_TILES_CUH_
#define DSV4MX_KERNELS_SCHED_TILES_CUH_

#include <cstdint>

namespace dsv4mx {

struct TileList {
  const int* prefix;  // [experts + 1] token tiles before an expert, in shared memory
  int experts;
  int row_blocks;
  int width;  // largest tile
};

struct Item {
  int expert;
  int row_block;
  int first;  // first pair of the tile, counted in the expert's list
  int count;  // pairs in the tile
  int tiles;  // token tiles of the expert
};

// Fills prefix[0..experts] from the counts; all threads of the block take part.
__device__ __forceinline__ void BuildTileList(const int32_t* counts, int experts, int width,
                                              int* prefix) {
  for (int e = threadIdx.x; e < experts; e += blockDim.x)
    prefix[e + 1] = (counts[e] + width - 1) / width;
  if (threadIdx.x == 0) prefix[0] = 0;
  __syncthreads();
  if (threadIdx.x < 32) {
    int carry = 0;
    for (int first = 0; first < experts; first += 32) {
      const int e = first + static_cast<int>(threadIdx.x);
      int v = e < experts ? prefix[e + 1] : 0;
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        const int up = __shfl_up_sync(~0u, v, d);
        if (static_cast<int>(threadIdx.x) >= d) v += up;
      }
      v += carry;
      if (e < experts) prefix[e + 1] = v;
      carry = __shfl_sync(~0u, v, 31);
    }
  }
  __syncthreads();
}

__device__ __forceinline__ int TotalItems(const TileList& l) {
  return l.prefix[l.experts] * l.row_blocks;
}

// An expert's pairs are cut into equal tiles, each a multiple of `grain` pairs long except the last.
__device__ __forceinline__ Item ItemAt(const TileList& l, const int32_t* counts, int index,
                                       int grain) {
  int low = 0, high = l.experts;  // the expert whose range of items holds index
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (l.prefix[middle] * l.row_blocks <= index)
      low = middle;
    else
      high = middle;
  }
  Item item;
  item.expert = low;
  item.tiles = l.prefix[low + 1] - l.prefix[low];
  const int inside = index - l.prefix[low] * l.row_blocks, total = __ldg(counts + low);
  item.row_block = inside / item.tiles;
  const int step = ((total + item.tiles - 1) / item.tiles + grain - 1) / grain * grain;
  item.first = min(inside % item.tiles * step, total);
  item.count = min(step, total - item.first);
  return item;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SCHED_TILES_CUH_
