// GEMM2 of up to kFewTokens2 tokens where K is long: a cluster has a token's 64 columns in all its slots, as in whole_tokens.cuh,
// and its teams share out the stages of K of all these slots, so that one slot keeps as many teams busy as it has stages. More slots
// than half of the teams are left whole: what sums cost on their way is more than idle teams would save then.
//
// The kernels for many pairs add an output's sums of 128 of K in order, each with exponent base and scale of h. Of a slot that is shared
// each such sum travels by itself, and one warp of the cluster adds them in the same order. So the bits do not depend on who
// computed what.
#ifndef DSV4MX_KERNELS_FEW_SHARED_SLOTS_CUH_
#define DSV4MX_KERNELS_FEW_SHARED_SLOTS_CUH_

#include "kernels/few/panel.cuh"
#include "kernels/few/stage.cuh"
#include "kernels/few/store.cuh"
#include "kernels/few/team_exchange.cuh"
#include "kernels/few/whole_tokens.cuh"

namespace dsv4mx {

// The stages of a token's computed slots, one slot after the other, and which of them a team has. Teams of a CTA are neighbours.
struct FewStages {
  uint32_t computed;      // slots, one bit each
  int each, team, teams;  // stages of a slot; teams of the cluster
  __device__ __forceinline__ int Slots() const { return __popc(computed); }
  __device__ __forceinline__ bool AreWhole() const { return 2 * Slots() > teams; }
  // Stages that stay together, and how many such there are.
  __device__ __forceinline__ int Unit() const { return AreWhole() ? each : 1; }
  __device__ __forceinline__ int Units() const { return AreWhole() ? Slots() : Slots() * each; }
  __device__ __forceinline__ int BeginOf(int other) const {
    return other * Units() / teams * Unit();
  }
  __device__ __forceinline__ int Begin() const { return BeginOf(team); }
  __device__ __forceinline__ int Count() const { return BeginOf(team + 1) - Begin(); }
};
template <int Teams>
__device__ __forceinline__ FewStages StagesOf(const FewGeometry& g, uint32_t computed, int team) {
  return {computed, g.tile_stages, static_cast<int>(ClusterRank()) * Teams + team,
          Teams * kFewCluster};
}
// A stage: of which computed slot, and which of its stages.
struct FewStageAt {
  int order, index;
  __device__ __forceinline__ FewStageAt(int each, int stage)
      : order(stage / each), index(stage % each) {}
  __device__ __forceinline__ void Next(int each) {
    if (++index == each) index = 0, order++;
  }
};

template <int Teams>
__device__ __forceinline__ void ProduceShared(const FewKernelArgs& a, const int* expert,
                                              const uint32_t* computed, FewRing ring, int team) {
  const GemmArgs& m = a.gemm;
  const FewItems items = TokenItems(a);
  const uint64_t policy = PolicyEvictFirst();
  for (int i = items.begin; i < items.end; i++) {
    const int token = i / m.tiles;
    const FewStages stages = StagesOf<Teams>(a.geometry, computed[token], team);
    const int count = stages.Count();
    FewStageAt at(stages.each, stages.Begin());
#pragma unroll 1
    for (int l = 0; l < count; l++, at.Next(stages.each)) {
      const int slot = SlotAt(computed[token], at.order);
      ring.Fill(m, expert[token * m.routing.top_k + slot], i % m.tiles, at.index, policy);
    }
  }
}

// Of a lane, one of its team's stages of a token: the pair, and the first of its blocks of K.
struct FewOwnStage {
  int pair, block;
  __device__ __forceinline__ FewOwnStage(const FewKernelArgs& a, const FewStages& stages, int token,
                                         int lane) {
    const FewStageAt at(stages.each, stages.Begin() + lane);
    pair = token * a.gemm.routing.top_k + SlotAt(stages.computed, at.order);
    block = at.index * a.geometry.stage_blocks;
  }
};

// The team's `count` stages of a token's h as planes, of which lane l knows the l-th: in column l % 4 of the panel's blocks from
// l / 4 * stage_blocks on. A warp has one of a stage's blocks, and of short stages every other one; four reads are under way.
template <bool Quantised>
__device__ __forceinline__ void GatherStages(const FewKernelArgs& a, const FewOwnStage& own,
                                             int count, uint32_t panel, float* scales, int warp) {
  constexpr int kWarps = 4, kMost = 4;
  const GemmArgs& m = a.gemm;
  const auto* h = reinterpret_cast<const float*>(m.panel);
  const int lane = threadIdx.x % 32, each = a.geometry.stage_blocks, blocks = FewBlocks(m.k);
  const int step = each > 2 ? 1 : kWarps / each, part = warp % each;
#pragma unroll 1
  for (int begin = warp / each; begin < count && warp < step * each; begin += kMost * step) {
    float4 values[kMost];
#pragma unroll
    for (int j = 0; j < kMost; j++) {
      const int l = begin + j * step;
      const int64_t pair = __shfl_sync(~0u, own.pair, l);
      const int k = (__shfl_sync(~0u, own.block, l) + part) * kSm90BlockK + lane * 4;
      values[j] = make_float4(0, 0, 0, 0);
      if (l < count && k < m.k)
        values[j] = __ldcg(reinterpret_cast<const float4*>(h + pair * m.k + k));
    }
#pragma unroll
    for (int j = 0; j < kMost; j++) {
      const int l = begin + j * step;
      const int block = __shfl_sync(~0u, own.block, l) + part;
      if (l >= count || block >= blocks) continue;
      PutHidden<Quantised>(values[j], panel, l / kFewTokens * each + part, l % kFewTokens, scales);
    }
  }
  FenceAsyncProxy();
}

// Sums of 128 travel times this: those below fp32's normal range keep their bits, and those from 2^104 on are Inf.
inline constexpr float kSharedSumFactor = 0x1p24f;

// One warp: the token's two columns of each lane, from so many sums of each slot. `weight`: of the lane's slot, in the order of the
// computed ones.
__device__ __forceinline__ void AddShared(const FewKernelArgs& a, const int* expert,
                                          const FewStages& stages, uint32_t values, int records,
                                          int token, int tile, float weight, int lane) {
  const GemmArgs& m = a.gemm;
  float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll 1
  for (int o = 0; o < stages.Slots(); o++) {
    const auto load = [&](int i) {
      return LoadSharedFloat2(values + (o * records + i) * (kSm90TileRows * 4) + lane * 8);
    };
    const float2 first = load(0);
    const float factor = records == 1 ? 1.0f : 1 / kSharedSumFactor;
    RowSums v{first.x * factor, first.y * factor};
#pragma unroll 4
    for (int i = 1; i < records; i++) {
      const float2 part = load(i);
      v.row0 = fmaf(1 / kSharedSumFactor, part.x, v.row0);
      v.row1 = fmaf(1 / kSharedSumFactor, part.y, v.row1);
    }
    if (m.bias >= 0) {
      const int pair = token * m.routing.top_k + SlotAt(stages.computed, o);
      const RowBias bias = LoadBias(m, m.slabs + expert[pair] * m.slab_bytes, tile,
                                    MmaThread{0, lane / 8, lane, lane % 8, 0});
      v.row0 += bias.row0, v.row1 += bias.row1;
    }
    if (m.slots_are_bf16) v.row0 = RoundBf16(v.row0), v.row1 = RoundBf16(v.row1);
    const float w = __shfl_sync(~0u, weight, o);
    sum.x = fmaf(w, v.row0, sum.x);
    sum.y = fmaf(w, v.row1, sum.y);
  }
  StoreOut(a.combine, sum, token, tile, lane);
}

template <int Blocks, bool Quantised, int Teams>
__device__ __forceinline__ void ConsumeShared(const FewKernelArgs& a, const int* expert,
                                              const uint32_t* computed, FewRing ring,
                                              const FewExchange& exchange, uint8_t* shared) {
  const FewGeometry& g = a.geometry;
  const GemmArgs& m = a.gemm;
  const int team = ThisMmaThread().wg, top_k = m.routing.top_k, blocks = FewBlocks(m.k);
  const FewItems items = TokenItems(a);
  const int all = __shfl_sync(~0u, items.end - items.begin, 0);
  const uint32_t buffer = SharedAddress(shared + g.sums),
                 panel = __shfl_sync(
                     ~0u, SharedAddress(shared) + team * g.panel_blocks * kFewPanelBlock, 0),
                 low = PanelDescriptorLow(panel);
  float* const scales =
      reinterpret_cast<float*>(shared + g.scales) + team * g.panel_blocks * kFewTokens;
  const uint32_t scales_at = __shfl_sync(~0u, SharedAddress(scales), 0);
  const int first_token = items.begin / m.tiles, last_token = (items.end - 1) / m.tiles;
  // The last token of which this team has stages, and whether it has any.
  int last = last_token;
  if (all > 0) {
    while (last >= first_token && StagesOf<Teams>(g, computed[last], team).Count() == 0) last--;
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
  const auto stage_of = [&](int token) {
    return FewOwnStage(a, StagesOf<Teams>(g, computed[token], team), token, ThisMmaThread().lane);
  };
  FewOwnStage own_stage = stage_of(all > 0 ? first_token : 0);
  // Where the weights are there already. Else h comes first, so that they arrive meanwhile.
  if (all > 0 && last >= first_token && ring.IsFull()) begin();
  WaitForPrimary();
  int n = 0, tile = items.begin % m.tiles;
  for (int token = first_token; n < all; token++, tile = 0) {
    const FewStages own = StagesOf<Teams>(g, computed[token], team);
    const int count = __shfl_sync(~0u, own.Count(), 0),
              first_stage = __shfl_sync(~0u, own.Begin(), 0);
    const int end = min(n + m.tiles - tile, all);
    const bool whole = __shfl_sync(~0u, own.AreWhole(), 0);
    if (token != first_token) weight = weight_of(token), own_stage = stage_of(token);
    __syncwarp();
    NamedBarrier(1 + team, 128);
    GatherStages<Quantised>(a, own_stage, count, panel, scales, ThisMmaThread().warp);
    NamedBarrier(1 + team, 128);
    if (count > 0) begin();
    for (; n < end; n++, tile++) {
      const int adder = n % kFewCluster, round = n / kFewCluster;
      bool free = false;
      const auto wait_free = [&] {
        if (!free) exchange.WaitFree(n);
        free = true;
      };
      // By the lanes that have the l-th stage's column.
      const auto send = [&](int record, int l, float row0, float row1) {
        wait_free();
        const MmaThread me = ThisMmaThread();
        if (me.t != l % kFewTokens) return;
        const int at = record * kSm90TileRows + me.warp * 16 + me.g * 2;
        SendFloats(ClusterAddress(buffer + at * 4, adder), row0, row1,
                   ClusterAddress(exchange.sums, adder));
      };
      const auto multiply = [&](int l, int first, auto finish) {
        const bool more = l + 1 < count || n + 1 < end || token < last;
        const int block = l / kFewTokens * g.stage_blocks;  // of the panel
        multiplier.Multiply(ring, low + block * (kFewPanelBlock >> kDescriptorUnit), first, m.k,
                            more, FewLane(ThisMmaThread(), g),
                            [&](int number, const RowSums& part, const RowBases& base) {
                              const int at = (block + number - first) * kFewTokens + l % kFewTokens;
                              finish(number, part, base, LoadSharedFloat(scales_at + at * 4));
                            });
      };
      FewStageAt at(g.tile_stages, first_stage);
      if (whole) {
        RowSums sum{0.0f, 0.0f};
#pragma unroll 1
        for (int l = 0; l < count; l++, at.Next(g.tile_stages)) {
          // The slot goes on in the column beside the one before.
          const int from = (ThisMmaThread().lane & ~3) + (l + kFewTokens - 1) % kFewTokens;
          sum = {__shfl_sync(~0u, sum.row0, from), __shfl_sync(~0u, sum.row1, from)};
          if (at.index == 0) sum = {0.0f, 0.0f};
          multiply(l, at.index * g.stage_blocks,
                   [&](int, const RowSums& part, const RowBases& base, float scale) {
                     AddSum(sum, part, base, scale);
                   });
          if (at.index + 1 == g.tile_stages) send(at.order, l, sum.row0, sum.row1);
        }
      } else {
#pragma unroll 1
        for (int l = 0; l < count; l++, at.Next(g.tile_stages)) {
          multiply(l, at.index * g.stage_blocks,
                   [&](int number, const RowSums& part, const RowBases& base, float scale) {
                     send(at.order * blocks + number, l,
                          PlaneUnit(base.row0) * scale * (part.row0 * kSharedSumFactor),
                          PlaneUnit(base.row1) * scale * (part.row1 * kSharedSumFactor));
                   });
        }
      }
      wait_free();
      const MmaThread me = ThisMmaThread();
      exchange.Pass(n, all, me.lane);
      if (adder != static_cast<int>(ClusterRank()) || round % Teams != me.wg ||
          round / Teams % 4 != me.warp)
        continue;
      const FewStages stages = StagesOf<Teams>(g, computed[token], me.wg);
      const int records = whole ? 1 : blocks;  // of a slot
      if (me.lane == 0)
        BarrierArriveExpect(exchange.sums, stages.Slots() * records * kSm90TileRows * 4);
      __syncwarp();
      BarrierWait(exchange.sums, round & 1);
      const float factor =
          a.combine.weights == nullptr ? 1.0f : WeightOfBits(weight, a.combine.weight_is_bf16);
      AddShared(a, expert, stages, buffer, records, token, tile, factor, me.lane);
      exchange.Pass(n, all, me.lane);
    }
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_SHARED_SLOTS_CUH_
