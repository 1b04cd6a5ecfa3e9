// GEMM2 of up to kFewTokens2 tokens: a cluster has a token's 64 columns in all its slots, and adds these up.
#ifndef DSV4MX_KERNELS_FEW_WHOLE_TOKENS_CUH_
#define DSV4MX_KERNELS_FEW_WHOLE_TOKENS_CUH_

#include "kernels/few/panel.cuh"
#include "kernels/few/stage.cuh"
#include "kernels/few/store.cuh"
#include "kernels/few/team_exchange.cuh"

namespace dsv4mx {

// Of a token's computed slots, one bit each, the order-th.
__device__ __forceinline__ int SlotAt(uint32_t computed, int order) {
  for (int i = 0; i < order; i++) computed &= computed - 1;
  return __ffs(computed) - 1;
}

// An item is a token's 64 columns. Its computed slots, in order, go round the teams of the cluster; each team keeps up to
// four of them as the "tokens" of its panel, of which a product with one expert's weights means one.
struct FewSlots {
  uint32_t computed;  // of the token's slots, one bit each
  int team, teams;    // of the cluster
  __device__ __forceinline__ int All() const { return __popc(computed); }
  // Those of this team; its e-th is the Order(e)-th of the computed ones.
  __device__ __forceinline__ int Count() const { return (All() + teams - 1 - team) / teams; }
  __device__ __forceinline__ int Order(int e) const { return team + teams * e; }
  __device__ __forceinline__ int Slot(int order) const { return SlotAt(computed, order); }
};
// Teams are numbered so that neighbours are in different CTAs.
template <int Teams>
__device__ __forceinline__ FewSlots SlotsOf(uint32_t computed, int team) {
  return {computed, team * kFewCluster + static_cast<int>(ClusterRank()), Teams * kFewCluster};
}
__device__ __forceinline__ FewItems TokenItems(const FewKernelArgs& a) {
  return FewItems(ChunkTokens(a.gemm.routing) * a.gemm.tiles, gridDim.x / kFewCluster,
                  blockIdx.x / kFewCluster);
}

template <int Teams>
__device__ __forceinline__ void ProduceToken(const FewKernelArgs& a, const int* expert,
                                             const uint32_t* computed, FewRing ring, int team) {
  const GemmArgs& m = a.gemm;
  const FewItems items = TokenItems(a);
  const uint64_t policy = PolicyEvictFirst();
  for (int i = items.begin; i < items.end; i++) {
    const int token = i / m.tiles;
    const FewSlots slots = SlotsOf<Teams>(computed[token], team);
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

// The bits of the router weight of the lane's slot, in the order of the computed ones: early, for the sum at the end of an item needs it
// at once, and not yet as a number, for which this warp would wait. It is the caller's, as the ids are.
__device__ __forceinline__ uint32_t SlotWeightBits(const CombineArgs& a, uint32_t computed,
                                                   int first_pair, int lane) {
  if (a.weights == nullptr || lane >= __popc(computed)) return 0u;
  return LoadWeightBits(a.weights, a.weight_is_bf16, first_pair + SlotAt(computed, lane));
}

// The token's two columns of each lane, from the sum of its weighted slots.
__device__ __forceinline__ void StoreOut(const CombineArgs& a, float2 sum, int token, int tile,
                                         int lane) {
  const int column = tile * 64 + lane * 2;
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

// One warp: the token's two columns of each lane, from the values of its computed slots.
__device__ __forceinline__ void AddSlots(const CombineArgs& a, const FewSlots& slots,
                                         uint32_t values, int token, int tile, float weight,
                                         int lane) {
  float2 sum = make_float2(0.0f, 0.0f);
  for (int o = 0; o < slots.All(); o++) {
    const float2 v = LoadSharedFloat2(values + o * kSm90TileRows * 4 + lane * 8);
    const float w = __shfl_sync(~0u, weight, o);
    sum.x = fmaf(w, v.x, sum.x);
    sum.y = fmaf(w, v.y, sum.y);
  }
  StoreOut(a, sum, token, tile, lane);
}

// A team's slots of a token's 64 columns, the cluster's n-th item of `count`, to the CTA that adds them up; there one warp,
// another each time, does. `weight`: bits of the router weight of the lane's slot, in the order of the computed ones.
template <int Teams>
__device__ __forceinline__ void SendSlots(const FewKernelArgs& a, const int* expert,
                                          uint32_t computed, const FewExchange& exchange,
                                          uint32_t buffer, int n, int count, int token, int tile,
                                          uint32_t weight, const RowSums& sum) {
  const GemmArgs& m = a.gemm;
  const MmaThread me =
      ThisMmaThread();  // anew, as the slots: kept across the products they would spill
  const int rank = ClusterRank();
  const int adder = n % kFewCluster, round = n / kFewCluster;
  const FewSlots slots = SlotsOf<Teams>(computed, me.wg);
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
  if (adder != rank || round % Teams != me.wg || round / Teams % 4 != me.warp) return;
  if (me.lane == 0) BarrierArriveExpect(exchange.sums, slots.All() * kSm90TileRows * 4);
  __syncwarp();
  BarrierWait(exchange.sums, round & 1);
  const float factor =
      a.combine.weights == nullptr ? 1.0f : WeightOfBits(weight, a.combine.weight_is_bf16);
  AddSlots(a.combine, slots, buffer, token, tile, factor, me.lane);
  exchange.Pass(n, count, me.lane);
}

template <int Blocks, bool Quantised, int Teams>
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
    while (last >= first_token && SlotsOf<Teams>(computed[last], team).Count() == 0) last--;
  }
  FewMultiplier<2, Blocks> multiplier;
  bool begun = false;
  const auto begin = [&] {
    if (!begun) multiplier.Begin(ring, FewLane(ThisMmaThread(), g));
    begun = true;
  };
  const auto weight_of = [&](int token) {
    return SlotWeightBits(a.combine, computed[token], token * top_k, ThisMmaThread().lane);
  };
  uint32_t weight = all > 0 ? weight_of(first_token) : 0u;
  // Where the weights are there already. Else h comes first, so that they arrive meanwhile.
  if (all > 0 && last >= first_token && ring.IsFull()) begin();
  WaitForPrimary();
  int n = 0, tile = items.begin % m.tiles;
  for (int token = first_token; n < all; token++, tile = 0) {
    const FewSlots slots = SlotsOf<Teams>(computed[token], team);
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
      SendSlots<Teams>(a, expert, computed[token], exchange, buffer, n, all, token, tile, weight,
                       sum);
    }
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_WHOLE_TOKENS_CUH_
