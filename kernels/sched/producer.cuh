// The two producer threads of a GEMM. One asks for headers and weights, which depend on no kernel before this one but the
// counts, so that a GEMM fills its ring while the kernel in front of it still runs; the other for the panel.
#ifndef DSV4MX_KERNELS_SCHED_PRODUCER_CUH_
#define DSV4MX_KERNELS_SCHED_PRODUCER_CUH_

#include "kernels/sched/ring.cuh"
#include "kernels/sched/tiles.cuh"

namespace dsv4mx {

template <class C>
__device__ __forceinline__ void ProduceWeights(const GemmKernelArgs& a, const TileList& list,
                                               Ring<C> ring) {
  const int total = TotalItems(list);
  for (int index = blockIdx.x; index < total; index += gridDim.x) {
    const Item item = ItemAt(list, index, C::kGrain);
    const int tile = item.row_block * C::kTiles, live = min(C::kTiles, a.tiles - tile);
    // Weights that no other CTA reads should not push activations out of L2.
    const uint64_t policy = item.tiles > 1 ? PolicyEvictNormal() : PolicyEvictFirst();
    const uint8_t* slab = a.slabs + item.expert * a.slab_bytes;
    const uint8_t* from = slab + a.matrix + tile * Sm90TileBytes(a.k);
    const int base_bytes = static_cast<int>(Sm90BaseBlocks(a.k)) * kSm90TileRows;  // of a tile
    const uint8_t* bases = slab + a.bases + tile * base_bytes;
#pragma unroll 1
    for (int k = 0; k < a.k; k += C::kStageK, from += C::kWeightBytes) {
      BarrierWait(ring.Empty(), ring.phase ^ 1);
      StoreWorkTile(ring.Header(), {item.expert, tile, item.panel_row, item.count});
      const int bytes = kSm90BytesPerK * min(C::kStageK, a.k - k);
      const bool with_bases = C::kFp8 && k % kSm90BaseK == 0;
      BarrierArriveExpect(ring.Full(), live * (bytes + (with_bases ? kSm90TileRows : 0)));
#pragma unroll 1
      for (int i = 0; i < live; i++) {
        BulkCopy(ring.Weights() + i * C::kWeightBytes, from + i * Sm90TileBytes(a.k), bytes,
                 ring.Full(), policy);
        if (with_bases) {
          BulkCopy(ring.Bases() + i * kSm90TileRows, bases + i * base_bytes, kSm90TileRows,
                   ring.Full(), policy);
        }
      }
      if (with_bases) bases += kSm90TileRows;
      ring.Next();
    }
  }
  BarrierWait(ring.Empty(), ring.phase ^ 1);
  StoreWorkTile(ring.Header(), {0, 0, 0, 0});
  BarrierArrive(ring.Full());
}

template <class C>
__device__ __forceinline__ void ProducePanel(const GemmKernelArgs& a, const TileList& list,
                                             Ring<C> ring) {
  const int total = TotalItems(list);
  const uint64_t policy = PolicyEvictNormal();
  const int64_t part = a.panel_rows * C::kTokenBytes;
  WaitForPrimary();
  for (int index = blockIdx.x; index < total; index += gridDim.x) {
    const Item item = ItemAt(list, index, C::kGrain);
    const uint8_t* from = a.panel + static_cast<int64_t>(item.panel_row) * C::kTokenBytes;
    const float* scale = a.row_scale + item.panel_row;
    const int bytes = item.count * C::kTokenBytes, scale_bytes = (item.count + 3) / 4 * 16;
#pragma unroll 1
    for (int k = 0; k < a.k; k += C::kStageK) {
      const int parts = min(C::kParts, (a.k - k + C::kPartK - 1) / C::kPartK);
      // GEMM1 needs its scales once, with the last stage; GEMM2 those of h for each block of 128.
      const int scales = !C::kFp8 ? 0 : C::kGemm == 2 ? parts : k + C::kStageK >= a.k ? 1 : 0;
      BarrierWait(ring.Empty(), ring.phase ^ 1);
      BarrierArriveExpect(ring.Full(), parts * bytes + scales * scale_bytes);
#pragma unroll 1
      for (int i = 0; i < parts; i++, from += part)
        BulkCopy(ring.Panel() + i * ring.PartBytes(), from, bytes, ring.Full(), policy);
#pragma unroll 1
      for (int i = 0; i < scales; i++, scale += a.panel_rows)
        BulkCopy(ring.Scales() + i * 4 * a.width, scale, scale_bytes, ring.Full(), policy);
      ring.Next();
    }
  }
  BarrierWait(ring.Empty(), ring.phase ^ 1);
  BarrierArrive(ring.Full());
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SCHED_PRODUCER_CUH_
