// GEMM1 of few pairs where the teams of a cluster share the K of a tile. An item is a tile of tokens times a tile of rows.
#ifndef DSV4MX_KERNELS_FEW_SPLIT_TILES_CUH_
#define DSV4MX_KERNELS_FEW_SPLIT_TILES_CUH_

#include "kernels/few/panel.cuh"
#include "kernels/few/stage.cuh"
#include "kernels/few/store.cuh"
#include "kernels/few/team_exchange.cuh"

namespace dsv4mx {

// Of the two CTAs of a multiprocessor the first to come is ahead of the other, by a quarter where both share their tiles with a
// neighbour; the first half of the clusters are those. So they have more to do, where that can be told in whole tiles.
__device__ __forceinline__ FewItems SplitItems(const FewKernelArgs& a, const FewPairs& list) {
  constexpr int kFirstShare = 150, kOf = 256, kLeast = 5;
  const int total = list.Tiles() * a.gemm.tiles, clusters = gridDim.x / kFewCluster,
            own = blockIdx.x / kFewCluster, half = clusters / 2;
  if (total < kLeast * clusters) return FewItems(total, clusters, own);
  const int first = total * kFirstShare / kOf;
  if (own < half) return FewItems(first, half, own);
  FewItems items(total - first, clusters - half, own - half);
  items.begin += first;
  items.end += first;
  return items;
}
template <int Teams>
__device__ __forceinline__ FewShare<Teams> SplitShare(const FewGeometry& g) {
  return {static_cast<int>(ClusterRank()), kFewCluster, g.units};
}

template <int Teams>
__device__ __forceinline__ void ProduceSplit(const FewKernelArgs& a, const FewPairs& list,
                                             FewRing ring, int team) {
  const FewGeometry& g = a.geometry;
  const FewItems items = SplitItems(a, list);
  const FewShare<Teams> share = SplitShare<Teams>(g);
  const uint64_t policy = PolicyEvictFirst();
  for (int i = items.begin; i < items.end; i++) {
    const int expert = list.Tile(i / a.gemm.tiles).expert, each = 4 / g.stage_blocks;
#pragma unroll 1
    for (int l = team; l < share.Local(); l += Teams) {
      const int first = share.UnitOf(l) * each;
#pragma unroll 1
      for (int j = first; j < min(first + each, g.tile_stages); j++)
        ring.Fill(a.gemm, expert, i % a.gemm.tiles, j, policy);
    }
  }
}

template <int Blocks, bool Quantised, int Teams>
__device__ __forceinline__ void ConsumeSplit(const FewKernelArgs& a, const FewPairs& list,
                                             FewRing ring, const FewExchange& exchange,
                                             uint8_t* shared, uint32_t* peaks) {
  const FewGeometry& g = a.geometry;
  const GemmArgs& m = a.gemm;
  const FewItems items = SplitItems(a, list);
  const FewShare<Teams> share = SplitShare<Teams>(g);
  const int local = __shfl_sync(~0u, share.Local(), 0), joined = FewJoinedBlocks(m.k);
  const int shift = __ffs(g.sum_blocks) - 1;
  const int count = __shfl_sync(~0u, items.end - items.begin, 0), each = 4 / g.stage_blocks;
  const uint32_t panel = SharedAddress(shared), buffer = SharedAddress(shared + g.sums);
  const uint32_t low = PanelDescriptorLow(panel);
  float* scales = reinterpret_cast<float*>(shared + g.scales);
  FewMultiplier<1, Blocks> multiplier;
  int group = items.begin / m.tiles, row_tile = items.begin % m.tiles, tokens = 0;
  int pair = -1, last_pair = -1;  // of this item and of the one before
  float scale = 0.0f, last_scale = 0.0f;
  for (int i = 0; i <= count; i++) {
    const int rank = i % kFewCluster;
    if (i < count) {
      if (i == 0 || row_tile == 0) {
        const FewTile tile = list.Tile(group);
        tokens = tile.count;
        const int of_tile = PairsOfTile(list, tile);
        if (i == 0 || !SameTokens(list, tile, list.Tile(group - 1), m.routing.top_k))
          GatherRows<Quantised>(a.gather, share, of_tile, tokens, peaks, panel, scales);
        const MmaThread me = ThisMmaThread();
        pair = __shfl_sync(~0u, of_tile, me.t);
        scale = scales[me.t];
        if (i == 0 && me.wg < local) multiplier.Begin(ring, FewLane(me, g));
      }
      const MmaThread me = ThisMmaThread();
      const uint32_t records = ClusterAddress(buffer, rank),
                     bar = ClusterAddress(exchange.sums, rank);
      bool free = false;
      const auto wait_free = [&] {
        if (free) return;
        free = true;
        exchange.WaitFree(i);
        if (rank == share.rank && threadIdx.x == 0)
          BarrierArriveExpect(exchange.sums, g.records * RecordBytes(tokens));
      };
#pragma unroll 1
      for (int l = me.wg; l < local; l += Teams) {
        const int first = share.UnitOf(l) * each, last = min(first + each, g.tile_stages);
#pragma unroll 1
        for (int j = first; j < last; j++) {
          const bool more = j + 1 < last || l + Teams < local || i + 1 < count;
          const int block = l * 4 + (j - first) * g.stage_blocks;  // of the panel
          multiplier.Multiply(ring, low + block * (kFewPanelBlock >> kDescriptorUnit),
                              j * g.stage_blocks, m.k, more, FewLane(ThisMmaThread(), g),
                              [&](int number, const RowSums& sum, const RowBases& base) {
                                wait_free();
                                SendRecord(
                                    records + RecordOf(number, joined, shift) * kFewRecordBytes,
                                    bar, sum, base, me, tokens);
                              });
        }
      }
      wait_free();
      exchange.Pass(i, count, me.lane);
    }
    // The item before this one, where it is this team's to add up: later than its products, so that no team waits long.
    if (i > 0 && rank != share.rank) {
      const MmaThread me = ThisMmaThread();  // anew: kept across the products it would spill
      const int round = (i - 1) / kFewCluster;
      if (round % Teams == me.wg) {
        BarrierWait(exchange.sums, round & 1);
        const RowSums sum = AddRecords(buffer, g.records, me);
        exchange.Pass(i - 1, count, me.lane);
        const bool same = row_tile > 0;
        FewStoreHidden(a, sum, list.Tile(same ? group : group - 1),
                       same ? row_tile - 1 : m.tiles - 1, last_pair, last_scale, me);
      }
    }
    last_pair = pair, last_scale = scale;
    if (++row_tile == m.tiles) row_tile = 0, group++;
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_SPLIT_TILES_CUH_
