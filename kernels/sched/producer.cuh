// The three producer warps of a GEMM, of which one lane copies. Two ask for weights, bases and headers, which depend on no
// kernel before this one but the counts, so that a GEMM fills its ring while the kernel in front of it still runs; the third
// for the panel. One warp alone would take long to refill a stage: it shares its scheduler with four math warps. Where a panel's
// rows are fetched (sched/fetch.cuh), which takes two warps, the one for weights stores headers as well; such paths have no bases.
#ifndef DSV4MX_KERNELS_SCHED_PRODUCER_CUH_
#define DSV4MX_KERNELS_SCHED_PRODUCER_CUH_

#include "kernels/sched/ring.cuh"
#include "kernels/sched/share.cuh"

namespace dsv4mx {

// f(item) by one lane of a producer warp, for the items of this CTA in order.
template <class C, class F>
__device__ __forceinline__ void ForEachItem(const TileList& list, const Ring<C>& ring, int producer,
                                            F f) {
  for (int first = blockIdx.x, found;
       (found = FindItems(list, producer, first, DealtOut<C>(list), C::kGrain)) > 0;
       first += kItemsFound * gridDim.x) {
    if (threadIdx.x % 32 == 0) {
      const Item* const item = list.found + producer * kItemsFound;
#pragma unroll 1
      for (int i = 0; i < found; i++) f(item[i]);
    }
  }
  if constexpr (C::kShares) {
    if (threadIdx.x % 32 == 0) ForEachTaken(list, ring.Shared(), f);
  }
}

// f(tile, live) for each time that an item goes through K: its first tile, and how many there are, which is none where the
// matrix has ended before.
template <class C, class F>
__device__ __forceinline__ void ForEachPass(const GemmKernelArgs& a, const Item& item, F f) {
  const int tile = item.row_block * C::kTiles;
  f(tile, min(C::kStageTiles, a.tiles - tile));
  if constexpr (C::kPasses == 2) {
    const int second = tile + C::kStageTiles;
    f(second, max(0, min(C::kStageTiles, a.tiles - second)));
  }
}

// `Headers`: those as well.
template <class C, bool Headers>
__device__ __forceinline__ void ProduceWeights(const GemmKernelArgs& a, const TileList& list,
                                               Ring<C> ring) {
  const int64_t tile_bytes = Sm90TileBytes(a.k);
  ForEachItem<C>(list, ring, 0, [&](const Item& item) {
    // Weights that no other CTA reads should not push activations out of L2.
    const uint64_t policy =
        TilesOf(list, item.expert) > 1 ? PolicyEvictNormal() : PolicyEvictFirst();
    ForEachPass<C>(a, item, [&](int tile, int live) {
      const uint8_t* from = a.slabs + item.expert * a.slab_bytes + a.matrix + tile * tile_bytes;
#pragma unroll 1
      for (int k = 0; k < a.k; k += C::kStageK, from += C::kWeightBytes) {
        BarrierWait(ring.Empty(), ring.phase ^ 1);
        const int bytes = kSm90BytesPerK * min(C::kStageK, a.k - k);
        if constexpr (Headers)
          StoreWorkTile(ring.Header(), {item.expert, tile, item.panel_row, item.count});
        BarrierArriveExpect(ring.Full(), live * bytes);
#pragma unroll
        for (int i = 0; i < C::kStageTiles; i++) {
          if (i < live)
            BulkCopy(ring.Weights() + i * C::kWeightBytes, from + i * tile_bytes, bytes,
                     ring.Full(), policy);
        }
        ring.Next();
      }
    });
  });
  if (threadIdx.x % 32 != 0) return;
  BarrierWait(ring.Empty(), ring.phase ^ 1);
  if constexpr (Headers) StoreWorkTile(ring.Header(), {0, 0, 0, 0});
  BarrierArrive(ring.Full());
}

// Headers and exponent bases.
template <class C>
__device__ __forceinline__ void ProduceHeaders(const GemmKernelArgs& a, const TileList& list,
                                               Ring<C> ring) {
  const int base_bytes = static_cast<int>(Sm90BaseBlocks(a.k)) * kSm90TileRows;  // of a tile
  ForEachItem<C>(list, ring, 1, [&](const Item& item) {
    ForEachPass<C>(a, item, [&](int tile, int live) {
      const uint8_t* bases = a.slabs + item.expert * a.slab_bytes + a.bases + tile * base_bytes;
#pragma unroll 1
      for (int k = 0; k < a.k; k += C::kStageK) {
        BarrierWait(ring.Empty(), ring.phase ^ 1);
        StoreWorkTile(ring.Header(), {item.expert, tile, item.panel_row, item.count});
        if (C::kFp8 && k % kSm90BaseK == 0) {
          BarrierArriveExpect(ring.Full(), live * kSm90TileRows);
#pragma unroll 1
          for (int i = 0; i < live; i++) {
            BulkCopy(ring.Bases() + i * kSm90TileRows, bases + i * base_bytes, kSm90TileRows,
                     ring.Full());
          }
          bases += kSm90TileRows;
        } else {
          BarrierArrive(ring.Full());
        }
        ring.Next();
      }
    });
  });
  if (threadIdx.x % 32 != 0) return;
  BarrierWait(ring.Empty(), ring.phase ^ 1);
  StoreWorkTile(ring.Header(), {0, 0, 0, 0});
  BarrierArrive(ring.Full());
}

template <class C>
__device__ __forceinline__ void ProducePanel(const GemmKernelArgs& a, const TileList& list,
                                             Ring<C> ring) {
  const int64_t part = a.panel_rows * C::kTokenBytes;
  if (WaitsFirst<C>(a, list)) WaitForPrimary();
  if (a.late == 0) LaunchDependents();
  ForEachItem<C>(list, ring, 2, [&](const Item& item) {
    // Of bf16 and f16 eight rows are one piece.
    const int rows = C::kFp8 ? item.count : (item.count + 7) & ~7;
    const int bytes = rows * C::kTokenBytes, scale_bytes = (item.count + 3) / 4 * 16;
    ForEachPass<C>(a, item, [&](int, int) {
      const uint8_t* from = a.panel + static_cast<int64_t>(item.panel_row) * C::kTokenBytes;
      const float* scale = a.row_scale + item.panel_row;
#pragma unroll 1
      for (int k = 0; k < a.k; k += C::kStageK) {
        const int parts = min(C::kParts, (a.k - k + C::kPartK - 1) / C::kPartK);
        // GEMM1 needs its scales once, with the last stage; GEMM2 those of h for each block of 128.
        const int scales = !C::kRowScales          ? 0
                           : C::kBlockScales       ? parts
                           : k + C::kStageK >= a.k ? 1
                                                   : 0;
        BarrierWait(ring.Empty(), ring.phase ^ 1);
        BarrierArriveExpect(ring.Full(), parts * bytes + scales * scale_bytes);
#pragma unroll 1
        for (int i = 0; i < parts; i++, from += part)
          BulkCopy(ring.Panel() + i * ring.PartBytes(), from, bytes, ring.Full());
#pragma unroll 1
        for (int i = 0; i < scales; i++, scale += a.panel_rows)
          BulkCopy(ring.Scales() + i * 4 * a.width, scale, scale_bytes, ring.Full());
        ring.Next();
      }
    });
  });
  if (threadIdx.x % 32 != 0) return;
  BarrierWait(ring.Empty(), ring.phase ^ 1);
  BarrierArrive(ring.Full());
  // In one CTA, so that a kernel's end implies the end of all before it.
  if (blockIdx.x == 0) WaitForPrimary();
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SCHED_PRODUCER_CUH_
