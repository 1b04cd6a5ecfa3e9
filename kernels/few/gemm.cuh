// GEMM1 and GEMM2 for few pairs on the plane path. GEMM1 reads the ids, gathers and splits x itself while its first weights are
// on their way, and writes h by pair; GEMM2 splits h, and up to four tokens it writes their outputs itself. There are no
// panels in memory.
#ifndef DSV4MX_KERNELS_FEW_GEMM_CUH_
#define DSV4MX_KERNELS_FEW_GEMM_CUH_

#include "kernels/epilogue/activation.cuh"
#include "kernels/epilogue/bias.cuh"
#include "kernels/epilogue/slots.cuh"
#include "kernels/few/pairs.cuh"
#include "kernels/few/panel.cuh"
#include "kernels/few/sums.cuh"
#include "kernels/few/team_ring.cuh"

namespace dsv4mx {

// GEMM1's epilogue: activation, then h of the lane's token and channel. `scale` is that of its row of x.
__device__ __forceinline__ void FewStoreHidden(const FewKernelArgs& a, const RowSums& sum,
                                               const FewTile& tile, int row_tile, int pair,
                                               float scale, const MmaThread& me) {
  const GemmArgs& m = a.gemm;
  if (me.t >= tile.count) return;
  const RowBias bias = LoadBias(m, m.slabs + tile.expert * m.slab_bytes, row_tile, me);
  float h = ActivationOf(fmaf(sum.row0, scale, bias.row0), fmaf(sum.row1, scale, bias.row1),
                         MakeActivation(m));
  if (a.gather.hidden_weight != nullptr)
    h *= LoadWeight(a.gather.router_weights, a.gather.weight_is_bf16, pair);
  // The place that StoreHidden of the plane path gives the channel in its block.
  const int at = row_tile * 32 + (me.g & 1) * 16 + 4 * (me.g >> 1) + me.warp;
  reinterpret_cast<float*>(m.h)[static_cast<int64_t>(pair) * (m.tiles * 32) + at] = h;
}

// kWhole2's: the lane's two neighbouring values of its token's slot, which begins at `slot`.
__device__ __forceinline__ void FewStoreSlot(const GemmArgs& m, const RowSums& sum,
                                             const FewTile& tile, int row_tile, int64_t slot,
                                             const MmaThread& me) {
  const int column = row_tile * 64 + me.warp * 16 + me.g * 2;
  if (me.t >= tile.count || column >= m.hidden) return;
  float row0 = sum.row0, row1 = sum.row1;
  if (m.bias >= 0) {
    const RowBias bias = LoadBias(m, m.slabs + tile.expert * m.slab_bytes, row_tile, me);
    row0 += bias.row0, row1 += bias.row1;
  }
  if (m.slots_are_bf16) {
    StoreSlot(static_cast<__nv_bfloat16*>(m.slots) + slot + column, row0, row1);
  } else {
    StoreSlot(static_cast<float*>(m.slots) + slot + column, row0, row1);
  }
}

// ------------------------------------------------------------------------------------------------------ whole tiles --

// An item is a tile of tokens times two tiles of rows, one for each team, of which the last may be missing.
__device__ __forceinline__ void ProduceWhole(const FewKernelArgs& a, const FewPairs& list,
                                             FewRing ring, int team) {
  const GemmArgs& m = a.gemm;
  const int each = (m.tiles + 1) / 2;
  const FewItems items(list.Tiles() * each, gridDim.x, blockIdx.x);
  const uint64_t policy = PolicyEvictFirst();
  for (int i = items.begin; i < items.end; i++) {
    const int expert = list.Tile(i / each).expert, row_tile = i % each * 2 + team;
    if (row_tile >= m.tiles) continue;
#pragma unroll 1
    for (int j = 0; j < a.geometry.tile_stages; j++) ring.Fill(m, expert, row_tile, j, policy);
  }
}

template <int Gemm, int Blocks, bool Quantised>
__device__ __forceinline__ void ConsumeWhole(const FewKernelArgs& a, const FewPairs& list,
                                             FewRing ring, uint8_t* shared, uint32_t* peaks) {
  const FewGeometry& g = a.geometry;
  const GemmArgs& m = a.gemm;
  const MmaThread me = ThisMmaThread();
  const FewLane lane(me, g);
  const int each = (m.tiles + 1) / 2;
  const FewItems items(list.Tiles() * each, gridDim.x, blockIdx.x);
  const uint32_t panel = SharedAddress(shared), low = PanelDescriptorLow(panel);
  float* scales = reinterpret_cast<float*>(shared + g.scales);
  FewMultiplier<Gemm, Blocks> multiplier;
  int left = items.end - items.begin, group = items.begin / each, at = items.begin % each;
  bool begun = false;
  const auto begin = [&] {
    if (!begun) multiplier.Begin(ring, lane);
    begun = true;
  };
  if constexpr (Gemm == 2) {
    // Where the weights are there already. Else h comes first, so that they arrive meanwhile.
    const bool any =
        left > 0 && (at * 2 + me.wg < m.tiles || (left > each - at && me.wg < m.tiles));
    if (any && ring.IsFull()) begin();
    WaitForPrimary();
  }
  // One tile of tokens at a time, and the tiles of rows of it that are this CTA's.
  for (; left > 0; group++, at = 0) {
    const FewTile tile = list.Tile(group);
    const int pair = PairsOfTile(list, tile), here = min(left, each - at);
    left -= here;
    if constexpr (Gemm == 1) {
      GatherRows<Quantised>(a.gather, FewShare{0, 1, g.units}, pair, tile.count, peaks, panel,
                            scales);
    } else {
      NamedBarrier(1, kFewMathThreads);
      GatherHidden<Quantised>(m, pair, tile.count, panel, scales, threadIdx.x / 32,
                              kFewMathThreads / 32);
      NamedBarrier(1, kFewMathThreads);
    }
    const int own_pair = __shfl_sync(~0u, pair, me.t), end = min((at + here) * 2, m.tiles);
    const int64_t slot = static_cast<int64_t>(own_pair) * m.hidden;
    const bool later = left > 0 && me.wg < m.tiles;
#pragma unroll 1
    for (int row_tile = at * 2 + me.wg; row_tile < end; row_tile += 2) {
      begin();
      RowSums sum{0.0f, 0.0f};
#pragma unroll 1
      for (int j = 0; j < g.tile_stages; j++) {
        const bool more = j + 1 < g.tile_stages || row_tile + 2 < end || later;
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

// ------------------------------------------------------------------------------------------------- GEMM1, split tiles --

// Barriers of the exchange between the teams of a cluster, shared addresses in each CTA: `sums` counts the bytes that come to
// the buffer here, `added` tells that the buffer of CTA r is free again. A barrier tells phases apart by parity alone, so
// every warp of both CTAs that waits for a phase of `added` also arrives in the next one, in both: a warp that has nothing to
// send could otherwise be left two phases behind, and wait for ever. Only what somebody waits for is told: then nothing is on
// its way to a CTA that ends.
struct FewExchange {
  uint32_t sums, added;
  __device__ __forceinline__ explicit FewExchange(uint64_t* barriers)
      : sums(__shfl_sync(~0u, SharedAddress(barriers), 0)), added(sums + 8) {}
  // `adders` warps of a CTA read its buffer, `warps` of each fill buffers.
  __device__ __forceinline__ void Init(int adders, int warps) const {
    BarrierInit(sums, 1);
    for (int i = 0; i < kFewCluster; i++) BarrierInit(added + 8 * i, adders + kFewCluster * warps);
  }
  // Before anything is sent for item i of the cluster, whose buffer is in CTA i % 2.
  __device__ __forceinline__ void WaitFree(int i) const {
    if (i >= kFewCluster) BarrierWait(added + i % kFewCluster * 8, (i / kFewCluster - 1) & 1);
  }
  // By a warp that has sent what it has of item i, or read the buffer of item i, of `count`.
  __device__ __forceinline__ void Pass(int i, int count, int lane) const {
    __syncwarp();
    if (i + kFewCluster < count && lane < kFewCluster)
      BarrierArriveCluster(ClusterAddress(added + i % kFewCluster * 8, lane));
  }
};

__device__ __forceinline__ FewItems SplitItems(const FewKernelArgs& a, const FewPairs& list) {
  return FewItems(list.Tiles() * a.gemm.tiles, gridDim.x / kFewCluster, blockIdx.x / kFewCluster);
}
__device__ __forceinline__ FewShare SplitShare(const FewGeometry& g) {
  return {static_cast<int>(ClusterRank()), kFewCluster, g.units};
}

__device__ __forceinline__ void ProduceSplit(const FewKernelArgs& a, const FewPairs& list,
                                             FewRing ring, int team) {
  const FewGeometry& g = a.geometry;
  const FewItems items = SplitItems(a, list);
  const FewShare share = SplitShare(g);
  const uint64_t policy = PolicyEvictFirst();
  for (int i = items.begin; i < items.end; i++) {
    const int expert = list.Tile(i / a.gemm.tiles).expert, each = 4 / g.stage_blocks;
#pragma unroll 1
    for (int l = team; l < share.Local(); l += kFewPairTeams) {
      const int first = share.UnitOf(l) * each;
#pragma unroll 1
      for (int j = first; j < min(first + each, g.tile_stages); j++)
        ring.Fill(a.gemm, expert, i % a.gemm.tiles, j, policy);
    }
  }
}

template <int Blocks, bool Quantised>
__device__ __forceinline__ void ConsumeSplit(const FewKernelArgs& a, const FewPairs& list,
                                             FewRing ring, const FewExchange& exchange,
                                             uint8_t* shared, uint32_t* peaks) {
  const FewGeometry& g = a.geometry;
  const GemmArgs& m = a.gemm;
  const FewItems items = SplitItems(a, list);
  const FewShare share = SplitShare(g);
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
      for (int l = me.wg; l < local; l += kFewPairTeams) {
        const int first = share.UnitOf(l) * each, last = min(first + each, g.tile_stages);
#pragma unroll 1
        for (int j = first; j < last; j++) {
          const bool more = j + 1 < last || l + kFewPairTeams < local || i + 1 < count;
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
      if (round % kFewPairTeams == me.wg) {
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

// ------------------------------------------------------------------------------------------------ GEMM2, whole tokens --

// An item is a token's 64 columns. Its computed slots, in order, go round the teams of the cluster; each team keeps up to
// four of them as the "tokens" of its panel, of which a product with one expert's weights means one.
struct FewSlots {
  uint32_t computed;  // of the token's slots, one bit each
  int team, teams;    // of the cluster
  __device__ __forceinline__ int All() const { return __popc(computed); }
  // Those of this team; its e-th is the Order(e)-th of the computed ones.
  __device__ __forceinline__ int Count() const { return (All() + teams - 1 - team) / teams; }
  __device__ __forceinline__ int Order(int e) const { return team + teams * e; }
  __device__ __forceinline__ int Slot(int order) const {
    uint32_t left = computed;
    for (int i = 0; i < order; i++) left &= left - 1;
    return __ffs(left) - 1;
  }
};
// Teams are numbered so that neighbours are in different CTAs.
template <FewKind Kind>
__device__ __forceinline__ FewSlots SlotsOf(uint32_t computed, int team) {
  return {computed, team * kFewCluster + static_cast<int>(ClusterRank()),
          FewTeams(Kind) * kFewCluster};
}
__device__ __forceinline__ FewItems TokenItems(const FewKernelArgs& a) {
  return FewItems(ChunkTokens(a.gemm.routing) * a.gemm.tiles, gridDim.x / kFewCluster,
                  blockIdx.x / kFewCluster);
}

template <FewKind Kind>
__device__ __forceinline__ void ProduceToken(const FewKernelArgs& a, const int* expert,
                                             const uint32_t* computed, FewRing ring, int team) {
  const GemmArgs& m = a.gemm;
  const FewItems items = TokenItems(a);
  const uint64_t policy = PolicyEvictFirst();
  for (int i = items.begin; i < items.end; i++) {
    const int token = i / m.tiles;
    const FewSlots slots = SlotsOf<Kind>(computed[token], team);
#pragma unroll 1
    for (int e = 0; e < slots.Count(); e++) {
      const int slot = slots.Slot(slots.Order(e));
#pragma unroll 1
      for (int j = 0; j < a.geometry.tile_stages; j++)
        ring.Fill(m, expert[token * m.routing.top_k + slot], i % m.tiles, j, policy);
    }
  }
}

__device__ __forceinline__ float2 LoadOut(const CombineArgs& a, int64_t at) {
  if (a.out_is_f32) return *reinterpret_cast<const float2*>(static_cast<const float*>(a.out) + at);
  const uint32_t q = *reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(a.out) + at);
  return make_float2(__uint_as_float(q << 16), __uint_as_float(q & 0xFFFF0000u));
}

// One warp: the token's two columns of each lane, from the values of its computed slots.
__device__ __forceinline__ void AddSlots(const CombineArgs& a, const FewSlots& slots,
                                         uint32_t values, int token, int tile, float weight,
                                         int lane) {
  const int column = tile * 64 + lane * 2;
  float2 sum = make_float2(0.0f, 0.0f);
  for (int o = 0; o < slots.All(); o++) {
    const float2 v = LoadSharedFloat2(values + o * kSm90TileRows * 4 + lane * 8);
    const float w = __shfl_sync(~0u, weight, o);
    sum.x = fmaf(w, v.x, sum.x);
    sum.y = fmaf(w, v.y, sum.y);
  }
  if (column >= a.hidden) return;
  sum.x *= a.routed_scaling_factor;
  sum.y *= a.routed_scaling_factor;
  const int64_t at = token * a.out_stride + column;
  if (a.accumulate) {
    const float2 before = LoadOut(a, at);
    sum.x += before.x;
    sum.y += before.y;
  }
  if (a.out_is_f32) {
    StoreSlot(static_cast<float*>(a.out) + at, sum.x, sum.y);
  } else {
    StoreSlot(static_cast<__nv_bfloat16*>(a.out) + at, sum.x, sum.y);
  }
}

// A team's slots of a token's 64 columns, the cluster's n-th item of `count`, to the CTA that adds them up; there one warp,
// another each time, does. `weight`: bits of the router weight of the lane's slot, in the order of the computed ones.
template <FewKind Kind>
__device__ __forceinline__ void SendSlots(const FewKernelArgs& a, const int* expert,
                                          uint32_t computed, const FewExchange& exchange,
                                          uint32_t buffer, int n, int count, int token, int tile,
                                          uint32_t weight, const RowSums& sum) {
  const GemmArgs& m = a.gemm;
  const MmaThread me =
      ThisMmaThread();  // anew, as the slots: kept across the products they would spill
  const int rank = ClusterRank();
  const int adder = n % kFewCluster, round = n / kFewCluster;
  const FewSlots slots = SlotsOf<Kind>(computed, me.wg);
  exchange.WaitFree(n);
  if (me.t < slots.Count()) {
    const int order = slots.Order(me.t);
    float2 v = make_float2(sum.row0, sum.row1);
    if (m.bias >= 0) {
      const int pair = token * m.routing.top_k + slots.Slot(order);
      const RowBias bias = LoadBias(m, m.slabs + expert[pair] * m.slab_bytes, tile, me);
      v.x += bias.row0, v.y += bias.row1;
    }
    if (m.slots_are_bf16) {
      v.x = RoundBf16(v.x);
      v.y = RoundBf16(v.y);
    }
    const int at = order * kSm90TileRows + me.warp * 16 + me.g * 2;
    SendFloats(ClusterAddress(buffer + at * 4, adder), v.x, v.y,
               ClusterAddress(exchange.sums, adder));
  }
  exchange.Pass(n, count, me.lane);
  if (adder != rank || round % FewTeams(Kind) != me.wg || round / FewTeams(Kind) % 4 != me.warp)
    return;
  if (me.lane == 0) BarrierArriveExpect(exchange.sums, slots.All() * kSm90TileRows * 4);
  __syncwarp();
  BarrierWait(exchange.sums, round & 1);
  const float factor =
      a.combine.weights == nullptr ? 1.0f : WeightOfBits(weight, a.combine.weight_is_bf16);
  AddSlots(a.combine, slots, buffer, token, tile, factor, me.lane);
  exchange.Pass(n, count, me.lane);
}

template <FewKind Kind, int Blocks, bool Quantised>
__device__ __forceinline__ void ConsumeToken(const FewKernelArgs& a, const int* expert,
                                             const uint32_t* computed, FewRing ring,
                                             const FewExchange& exchange, uint8_t* shared) {
  const FewGeometry& g = a.geometry;
  const GemmArgs& m = a.gemm;
  const int team = ThisMmaThread().wg, top_k = m.routing.top_k, blocks = FewBlocks(m.k);
  const FewItems items = TokenItems(a);
  const int all = __shfl_sync(~0u, items.end - items.begin, 0);
  const uint32_t buffer = SharedAddress(shared + g.sums),
                 panel = SharedAddress(shared) + team * blocks * kFewPanelBlock,
                 low = PanelDescriptorLow(panel);
  float* scales = reinterpret_cast<float*>(shared + g.scales) + team * blocks * kFewTokens;
  const int first_token = items.begin / m.tiles, last_token = (items.end - 1) / m.tiles;
  // The last token in which this team has slots, and whether it has any.
  int last = last_token;
  if (all > 0) {
    while (last >= first_token && SlotsOf<Kind>(computed[last], team).Count() == 0) last--;
  }
  FewMultiplier<2, Blocks> multiplier;
  bool begun = false;
  const auto begin = [&] {
    if (!begun) multiplier.Begin(ring, FewLane(ThisMmaThread(), g));
    begun = true;
  };
  // The bits of the router weight of the lane's slot: early, for the sum at the end of an item needs it at once, and not yet
  // as a number, for which this warp would wait. It is the caller's, as the ids are.
  const auto weight_of = [&](int token) {
    const int lane = ThisMmaThread().lane;
    const FewSlots slots = SlotsOf<Kind>(computed[token], team);
    if (a.combine.weights == nullptr || lane >= slots.All()) return 0u;
    return LoadWeightBits(a.combine.weights, a.combine.weight_is_bf16,
                          token * top_k + slots.Slot(lane));
  };
  uint32_t weight = all > 0 ? weight_of(first_token) : 0u;
  // Where the weights are there already. Else h comes first, so that they arrive meanwhile.
  if (all > 0 && last >= first_token && ring.IsFull()) begin();
  WaitForPrimary();
  int n = 0, tile = items.begin % m.tiles;
  for (int token = first_token; n < all; token++, tile = 0) {
    const FewSlots slots = SlotsOf<Kind>(computed[token], team);
    const int count = __shfl_sync(~0u, slots.Count(), 0);
    const int end = min(n + m.tiles - tile, all);
    const MmaThread me = ThisMmaThread();
    if (token != first_token) weight = weight_of(token);
    const int slot = me.lane < count ? slots.Slot(slots.Order(me.lane)) : 0;
    __syncwarp();
    NamedBarrier(1 + team, 128);
    GatherHidden<Quantised>(m, token * top_k + slot, count, panel, scales, me.warp, 4);
    NamedBarrier(1 + team, 128);
    if (count > 0) begin();
    for (; n < end; n++, tile++) {
      RowSums sum{0.0f, 0.0f};
#pragma unroll 1
      for (int e = 0; e < count; e++) {
#pragma unroll 1
        for (int j = 0; j < g.tile_stages; j++) {
          const bool more = j + 1 < g.tile_stages || e + 1 < count || n + 1 < end || token < last;
          const int first = j * g.stage_blocks;
          multiplier.Multiply(ring, low + first * (kFewPanelBlock >> kDescriptorUnit), first, m.k,
                              more, FewLane(ThisMmaThread(), g),
                              [&](int number, const RowSums& part, const RowBases& base) {
                                RowSums next = sum;
                                AddSum(next, part, base, scales[number * kFewTokens + e]);
                                if (ThisMmaThread().t == e) sum = next;
                              });
        }
      }
      SendSlots<Kind>(a, expert, computed[token], exchange, buffer, n, all, token, tile, weight,
                      sum);
    }
  }
}

// ------------------------------------------------------------------------------------------------------------ kernels --

// `Blocks`: of every stage (FewGeometry::straight). `Quantised`: W4A8.
template <FewKind Kind, int Blocks, bool Quantised>
__global__ void __launch_bounds__(FewThreads(Kind), Kind == FewKind::kLong2 ? 1 : 2)
    FewGemm(const __grid_constant__ FewKernelArgs a) {
  constexpr bool kTokens = FewOfTokens(Kind), kClustered = kTokens || Kind == FewKind::kSplit1;
  constexpr int kGemm = Kind == FewKind::kSplit1 || Kind == FewKind::kWhole1 ? 1 : 2;
  constexpr int kTeams = FewTeams(Kind), kThreads = FewThreads(Kind);
  DSV4MX_DYNAMIC_SHARED(shared);
  __shared__ __align__(8) uint64_t barriers[kTeams * kFewBarriers + 1 + kFewCluster];
  __shared__ uint32_t peaks[kFewTokens], computed[kFewTokens2];
  const Routing& r = a.gemm.routing;
  const FewExchange exchange(barriers + kTeams * kFewBarriers);
  const FewPairs list(reinterpret_cast<int*>(shared + a.geometry.tables), r.tokens * r.top_k,
                      r.experts);
  // Each ring by the thread that will fill it.
  if (threadIdx.x >= kTeams * 128 && threadIdx.x % 32 == 0) {
    FewRing::Init(a.geometry, barriers, (threadIdx.x - kTeams * 128) / 32);
    FenceBarrierInit();
  }
  if (kClustered && threadIdx.x == 0) {
    exchange.Init(kTokens ? 1 : 4, kTeams * 4);
    FenceBarrierInit();
  }
  if (!kTokens) ClearPairs<kThreads>(r, list);
  __syncthreads();
  if (kClustered) ClusterBegin();
  // The ids are the caller's and may have been written by the kernel before GEMM1. When GEMM2 starts, all of GEMM1 is past
  // this wait.
  if (kGemm == 1) WaitForPrimary();
  LaunchDependents();
  if constexpr (kTokens) {
    ListComputed(r, list.expert, computed);
  } else {
    ListPairs<kThreads>(r, list);
  }
  if (threadIdx.x >= kTeams * 128) {
    const int team = (threadIdx.x - kTeams * 128) / 32;
    const FewRing ring(a.geometry, shared, barriers, team);
    if (threadIdx.x % 32 != 0) return;
    if constexpr (kTokens) {
      ProduceToken<Kind>(a, list.expert, computed, ring, team);
    } else if constexpr (Kind == FewKind::kSplit1) {
      ProduceSplit(a, list, ring, team);
    } else {
      ProduceWhole(a, list, ring, team);
    }
  } else {
    const FewRing ring(a.geometry, shared, barriers, ThisMmaThread().wg);
    if constexpr (kTokens) {
      ConsumeToken<Kind, Blocks, Quantised>(a, list.expert, computed, ring, exchange, shared);
    } else if constexpr (Kind == FewKind::kSplit1) {
      ConsumeSplit<Blocks, Quantised>(a, list, ring, exchange, shared, peaks);
    } else {
      ConsumeWhole<kGemm, Blocks, Quantised>(a, list, ring, shared, peaks);
    }
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_GEMM_CUH_
