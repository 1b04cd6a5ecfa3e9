// GEMM1 or GEMM2 of few pairs where each team has tiles of its own.
#ifndef DSV4MX_KERNELS_FEW_WHOLE_TILES_CUH_
#define DSV4MX_KERNELS_FEW_WHOLE_TILES_CUH_

#include "kernels/few/panel.cuh"
#include "kernels/few/stage.cuh"
#include "kernels/few/store.cuh"

namespace dsv4mx {

// An item is a tile of tokens times as many tiles of rows as there are teams, of which the last may be missing.
template <int Teams>
__device__ __forceinline__ void ProduceWhole(const FewKernelArgs& a, const FewPairs& list,
                                             FewRing ring, int team) {
  const GemmArgs& m = a.gemm;
  const int each = (m.tiles + Teams - 1) / Teams;
  const FewItems items(list.Tiles() * each, gridDim.x, blockIdx.x);
  const uint64_t policy = PolicyEvictFirst();
  for (int i = items.begin; i < items.end; i++) {
    const int expert = list.Tile(i / each).expert, row_tile = i % each * Teams + team;
    if (row_tile >= m.tiles) continue;
#pragma unroll 1
    for (int j = 0; j < a.geometry.tile_stages; j++) ring.Fill(m, expert, row_tile, j, policy);
  }
}

template <int Gemm, int Blocks, bool Quantised, int Teams>
__device__ __forceinline__ void ConsumeWhole(const FewKernelArgs& a, const FewPairs& list,
                                             FewRing ring, uint8_t* shared, uint32_t* peaks) {
  const FewGeometry& g = a.geometry;
  const GemmArgs& m = a.gemm;
  const MmaThread me = ThisMmaThread();
  const FewLane lane(me, g);
  const int each = (m.tiles + Teams - 1) / Teams;
  const FewItems items(list.Tiles() * each, gridDim.x, blockIdx.x);
  const uint32_t panel = SharedAddress(shared), low = PanelDescriptorLow(panel);
  float* scales = reinterpret_cast<float*>(shared + g.scales);
  FewMultiplier<Gemm, Blocks> multiplier;
  int left = items.end - items.begin, group = items.begin / each, at = items.begin % each;
  bool begun = false, first = true;
  const auto begin = [&] {
    if (!begun) multiplier.Begin(ring, lane);
    begun = true;
  };
  if constexpr (Gemm == 2) {
    // Where the weights are there already. Else h comes first, so that they arrive meanwhile.
    const bool any =
        left > 0 && (at * Teams + me.wg < m.tiles || (left > each - at && me.wg < m.tiles));
    if (any && ring.IsFull()) begin();
    WaitForPrimary();
  }
  // One tile of tokens at a time, and the tiles of rows of it that are this CTA's.
  for (; left > 0; group++, at = 0) {
    const FewTile tile = list.Tile(group);
    const int pair = PairsOfTile(list, tile), here = min(left, each - at);
    left -= here;
    if constexpr (Gemm == 1) {
      if (first || !SameTokens(list, tile, list.Tile(group - 1), m.routing.top_k)) {
        GatherRows<Quantised>(a.gather, FewShare<Teams>{0, 1, g.units}, pair, tile.count, peaks,
                              panel, scales);
      }
      first = false;
    } else {
      NamedBarrier(1, Teams * 128);
      GatherHidden<Quantised>(m, pair, tile.count, panel, scales, threadIdx.x / 32, Teams * 4);
      NamedBarrier(1, Teams * 128);
    }
    const int own_pair = __shfl_sync(~0u, pair, me.t), end = min((at + here) * Teams, m.tiles);
    const int64_t slot = static_cast<int64_t>(own_pair) * m.hidden;
    const bool later = left > 0 && me.wg < m.tiles;
#pragma unroll 1
    for (int row_tile = at * Teams + me.wg; row_tile < end; row_tile += Teams) {
      begin();
      RowSums sum{0.0f, 0.0f};
#pragma unroll 1
      for (int j = 0; j < g.tile_stages; j++) {
        const bool more = j + 1 < g.tile_stages || row_tile + Teams < end || later;
        const int first = j * g.stage_blocks;
        multiplier.Multiply(ring, low + first * (kFewPanelBlock >> kDescriptorUnit), first, m.k,
                            more, lane, [&](int number, const RowSums& part, const RowBases& base) {
                              if constexpr (Gemm == 1) {
                                AddSum(sum, part, base);
                              } else {
                                AddSum(sum, part, base, scales[number * kFewTokens + me.t]);
                              }
                            });
      }
      if constexpr (Gemm == 1) {
        FewStoreHidden(a, sum, tile, row_tile, own_pair, scales[me.t], me);
      } else {
        FewStoreSlot(m, sum, tile, row_tile, slot, me);
      }
    }
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_WHOLE_TILES_CUH_
