// Expert parallel, small rounds: all that travels carries its round (launch_exchange.h, flagged.cuh). Nothing has pieces: what a
// CTA needs it waits for, line by line. The first CTAs push and never wait, so that whoever waits does so for what runs already,
// or has run; the others wait, and take what comes.
#include <algorithm>

#include "kernels/dist/exchange.cuh"
#include "kernels/dist/flagged.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"

namespace dsv4mx::dist {
namespace {

// Small CTAs, so that few warps are spread over many multiprocessors: each of these stores and loads but so much at a time.
constexpr int kThreads = 64, kWarps = kThreads / 32;
constexpr int kEach = kRunElements;
constexpr int kMostWarps = 1024, kMostCtas = kMostWarps / kWarps;
constexpr int kUnits = static_cast<int>(kFlaggedUnits);  // of a block

// A warp's share of a row, or result: the blocks of one of `shares`.
struct Share {
  int row, index;
  int begin, end;
};
__device__ __forceinline__ Share ShareOf(int item, const Division& shares, const Division& blocks) {
  const int row = Whole(item, shares), index = item - row * shares.by;
  const int each = Whole(blocks.by + shares.by - 1, shares);
  return {row, index, index * each, min((index + 1) * each, blocks.by)};
}
// Blocks that a warp loads at once, of shares of so many: code that is not needed takes time too, as it comes from memory.
int AtOnceFor(int64_t blocks, const Division& shares) {
  const int64_t each = (blocks + shares.by - 1) / shares.by;
  return each <= 2 ? 2 : each <= 4 ? 4 : 6;
}
// What shares to cut so many rows into: one block each, if there are warps enough for that.
Division SharesOf(int64_t rows, int64_t blocks) {
  int64_t each = 1;
  while (each < blocks && rows * ((blocks + each - 1) / each) > kMostWarps) each++;
  return DivisionBy((blocks + each - 1) / each);
}

// What part `from` writes in the window of `rank`.
__device__ __forceinline__ uint64_t* RowsOf(const GroupArgs& g, const ExchangeSizes& s, int rank,
                                            int from) {
  return reinterpret_cast<uint64_t*>(g.windows[rank] + s.flagged_rows + from * s.flagged_row_bytes);
}
__device__ __forceinline__ uint64_t* ResultsOf(const GroupArgs& g, const ExchangeSizes& s,
                                               int rank) {
  return reinterpret_cast<uint64_t*>(g.windows[rank] + s.flagged_slots) + kFlaggedResults;
}
// A part that takes a round for a large one publishes it elsewhere.
__device__ __forceinline__ Source SourceOf(const GroupArgs& g, const ExchangeSizes& s, int stage,
                                           uint32_t round, int part) {
  const bool large = IsOf(LoadRelaxedSystem(&PartCell(g, g.rank, stage, part, 0)->flag), round);
  return {stage, round, EpPeer(g, part),
          large || TagDiffers(g, FlaggedTag(g, s, g.rank, stage, part),
                              static_cast<uint32_t>(s.spacing), round)};
}
// One thread per part.
__device__ __forceinline__ void PushTags(const GroupArgs& g, const ExchangeSizes& s, int stage,
                                         uint32_t round) {
  const int me = EpRank(g), p = kThreads - 1 - static_cast<int>(threadIdx.x);
  if (blockIdx.x == 0 && p < EpSize(g) && p != me)
    PushTag(g, FlaggedTag(g, s, EpPeer(g, p), stage, me), static_cast<uint32_t>(s.spacing), round);
}

// None where not `wanted`.
__device__ __forceinline__ Tags TagsOf(const GroupArgs& g, const ExchangeSizes& s, int stage,
                                       bool wanted) {
  Tags t{};
#pragma unroll
  for (int i = 0; i < kMaxRanks / 32; i++) {
    const int p = i * 32 + static_cast<int>(threadIdx.x % 32);
    if (wanted && p < EpSize(g) && p != EpRank(g)) t.from[i] = FlaggedTag(g, s, g.rank, stage, p);
  }
  return t;
}
__device__ __forceinline__ bool AwaitTags(const GroupArgs& g, const ExchangeSizes& s, int stage,
                                          uint32_t round, Tags* t) {
  return t->Await(g, static_cast<uint32_t>(s.spacing), round,
                  [&](int p) { return SourceOf(g, s, stage, round, p); });
}

// ------------------------------------------------------------------------------------------------------------- send --

static_assert(kThreads % 32 == 0 && kThreads >= kMaxRanks, "a thread for every tag");

// The table of routes in shared memory, so that the way from an id to its part is short. It never changes while the layer is bound
// to its communicator (lib/cuda/cuda_group_layer.cc waits for the copy that makes it, and nothing writes it again): so it may be
// read before the kernels in front of this one have ended. Larger tables stay where they are.
constexpr int kTableIds = 512;
struct Table {
  uint64_t ways[kTableIds / kThreads];  // of this thread
  bool used;

  __device__ __forceinline__ void Load(const RouteArgs& r) {
    used = r.id_count <= kTableIds;
#pragma unroll
    for (int i = 0; i < kTableIds / kThreads; i++) {
      const int id = i * kThreads + static_cast<int>(threadIdx.x);
      ways[i] = used && id < r.id_count ? r.ids[id] : 0;
    }
  }
  // By all threads of the CTA.
  __device__ __forceinline__ void Share(uint64_t* shared) const {
    if (!used) return;
#pragma unroll
    for (int i = 0; i < kTableIds / kThreads; i++) shared[i * kThreads + threadIdx.x] = ways[i];
    __syncthreads();
  }
};

// A token of this rank: its row, as far as a warp has its share at once, and where it goes. Nothing here waits for anything else.
template <int AtOnce>
struct Token {
  uint4 x[AtOnce];
  uint2 id;  // of slot `lane`, as LoadIdBits has it
  uint32_t weight;
};
template <int AtOnce>
__device__ __forceinline__ void LoadX(const SendArgs& a, int token, int begin, int end,
                                      uint4 (&x)[AtOnce]) {
  const uint4* from = reinterpret_cast<const uint4*>(a.x + token * a.x_stride);
  const BlockLane me;
#pragma unroll
  for (int i = 0; i < AtOnce; i++) {
    const int unit = (begin + i) * kUnits + me.unit;
    x[i] = begin + i < end && unit < a.sizes.hidden / kEach ? from[unit] : make_uint4(0, 0, 0, 0);
  }
}
template <int AtOnce>
__device__ __forceinline__ Token<AtOnce> LoadToken(const SendArgs& a, const Share& share,
                                                   bool live) {
  const int lane = threadIdx.x % 32;
  Token<AtOnce> t{};
  if (live && lane < a.sizes.top_k) {
    t.id = LoadIdBits(a.own, share.row, lane);
    if (a.sizes.weights >= 0)
      t.weight = LoadWeightBits(a.own.weights, a.own.weight_is_bf16,
                                share.row * a.own.weights_stride + lane);
  }
  if (live) LoadX(a, share.row, share.begin, share.end, t.x);
  return t;
}

template <int AtOnce>
__device__ __forceinline__ void PushToken(const SendArgs& a, const Share& share, Token<AtOnce>& t,
                                          const Ways& ways, float weight, uint32_t round) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const int lane = threadIdx.x % 32, me = EpRank(g), units = s.hidden / kEach, token = share.row;
  const int64_t row = static_cast<int64_t>(me) * s.spacing + token;
  if (share.index == 0 && lane < s.top_k) {
    const int at = token * s.top_k + lane;
#pragma unroll 1
    for (int p = 0; p < EpSize(g); p++) {
      const int expert = ways.copy >= 0 && ways.copy >> 16 == p ? ways.copy & 0xFFFF : -1;
      if (p == me) {
        uint8_t* here = g.windows[g.rank] + (row * s.top_k + lane) * 4;
        *reinterpret_cast<int32_t*>(here + s.ids) = expert;
        if (s.weights >= 0) *reinterpret_cast<float*>(here + s.weights) = weight;
      } else {
        uint64_t* there = RowsOf(g, s, EpPeer(g, p), me) + at;
        StoreWord(there + kFlaggedIds, Flagged(static_cast<uint32_t>(expert), round));
        if (s.weights >= 0)
          StoreWord(there + kFlaggedWeights, Flagged(__float_as_uint(weight), round));
      }
    }
  }
  if ((ways.low | ways.high) == 0) return;
  const BlockLane lane_of;
  const int blocks = s.blocks.by;
#pragma unroll 1
  for (int begin = share.begin; begin < share.end; begin += AtOnce) {
    if (begin != share.begin) LoadX(a, token, begin, share.end, t.x);
#pragma unroll 1
    for (int turn = 0; turn < EpSize(g); turn++) {
      const int p = PartInTurn(g, turn);
      if (!ways.Touches(p)) continue;
      uint4* here = reinterpret_cast<uint4*>(g.windows[g.rank] + s.rows + row * s.hidden * 2);
      uint64_t* there = RowsOf(g, s, EpPeer(g, p), me) + kFlaggedX +
                        static_cast<int64_t>(token) * blocks * kBlockWords;
#pragma unroll
      for (int i = 0; i < AtOnce; i++) {
        const int block = begin + i, left = units - block * kUnits;
        if (block >= share.end) break;
        if (p != me) {
          StoreBlock(there + block * kBlockWords, t.x[i], left, round);
        } else if (lane_of.unit < left) {
          here[block * kUnits + lane_of.unit] = t.x[i];
        }
      }
    }
  }
}

// A warp takes its share of another part's row to where the layer reads it. `tags`: looked at as well, and awaited next.
template <int AtOnce>
__device__ __forceinline__ bool TakeRow(const SendArgs& a, const Share& share, int part, int token,
                                        uint32_t round, Tags* tags) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const auto whom = [&](int = 0) { return SourceOf(g, s, kStageDispatch, round, part); };
  const int lane = threadIdx.x % 32, units = s.hidden / kEach;
  const uint64_t* words = RowsOf(g, s, g.rank, part);
  const uint64_t* blocks =
      words + kFlaggedX + static_cast<int64_t>(token) * s.blocks.by * kBlockWords;
  const int64_t row = static_cast<int64_t>(part) * s.spacing + token;
  const BlockLane me;
  RunsAtOnce<AtOnce, 1> x;
  int begin = share.begin;
  const auto find = [&] {
#pragma unroll
    for (int i = 0; i < AtOnce; i++) {
      const int block = begin + i;
      x.here[i] = block < share.end && me.Used(units - block * kUnits);
      x.from[i] = blocks + block * kBlockWords;
    }
  };
  find();
  // A row comes with its ids, if it comes at all: each look at them is one at it as well. Lanes without a slot look at the first
  // one's, so that they have looked at the row as late as the others have.
  const bool mine = lane < s.top_k;
  const uint64_t* slot = words + token * s.top_k + (mine ? lane : 0);
  uint64_t id = 0, weight = 0;
  bool good = AwaitLook(g, whom, [&] {
    tags->Look();
    id = LoadRelaxedSystem(slot + kFlaggedIds);
    if (s.weights >= 0) weight = LoadRelaxedSystem(slot + kFlaggedWeights);
    x.Look();
    return IsOf(id, round) & (s.weights < 0 || IsOf(weight, round));
  });
  const int expert = good && mine ? static_cast<int>(id) : -1;
  if (mine && share.index == 0) {
    uint8_t* here = g.windows[g.rank] + (row * s.top_k + lane) * 4;
    *reinterpret_cast<int32_t*>(here + s.ids) = expert;
    if (s.weights >= 0)
      *reinterpret_cast<uint32_t*>(here + s.weights) = static_cast<uint32_t>(weight);
  }
  if (!__any_sync(~0u, expert >= 0)) return good;
  uint4* to = reinterpret_cast<uint4*>(g.windows[g.rank] + s.rows + row * s.hidden * 2);
#pragma unroll 1
  for (; begin < share.end; begin += AtOnce) {
    if (begin != share.begin) {
      find();
      x.Look();
    }
    if (good) good = x.Await(g, round, whom, [&] { tags->Look(); });
#pragma unroll
    for (int i = 0; i < AtOnce; i++) {
      const int block = begin + i, unit = block * kUnits + me.unit;
      if (block >= share.end) break;
      uint4 v;
      x.Units(i, &v);
      if (unit < units) to[unit] = v;
    }
  }
  return good;
}

template <int AtOnce>
__device__ __forceinline__ void PushTokens(const SendArgs& a, const Beginning& beginning,
                                           const Table& table, uint64_t* shared) {
  const int items = a.sizes.spacing * a.shares.by;
  const int mine = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  int item = mine;
  do {
    const Share share = ShareOf(item, a.shares, a.sizes.blocks);
    // Also what lies behind the device's count, which may come late.
    auto t = LoadToken<AtOnce>(a, share, share.row < a.own.tokens);
    // What all wait for at once: the round, the table, and all of the token.
    if (item == mine) table.Share(shared);
    const Begun begun = EndBegin(beginning);
    const int live = Live(a.own);
    if (!begun.usable) return;
    // First, so that who has seen the rest need not wait for them.
    if (item == mine) PushTags(a.group, a.sizes, kStageDispatch, begun.round);
    const bool here = share.row < live && lane < a.sizes.top_k;
    const int64_t id = IdOfBits(t.id, a.own.ids_are_64);
    int copy = -1;
    if (here && IsRouted(a.routes, id)) {
      const uint64_t way = table.used ? shared[id] : a.routes.ids[id];
      copy = CopyOnWay(a.routes, way, a.own.first + share.row, lane);
    }
    const float weight = here ? WeightOfBits(t.weight, a.own.weight_is_bf16) : 0;
    const Ways ways = WaysOf(copy);
    if (item < items) PushToken(a, share, t, ways, weight, begun.round);
    item += a.pushers * kWarps;
  } while (item < items);
}

template <int AtOnce>
__device__ __forceinline__ bool TakeRows(const SendArgs& a, int cta, uint32_t round) {
  const GroupArgs& g = a.group;
  const int others = EpSize(g) - 1, me = EpRank(g);
  const int items = others * a.sizes.spacing * a.take_shares.by;
  const bool checks = cta == 0 && threadIdx.x < 32;  // a warp
  Tags tags = TagsOf(g, a.sizes, kStageDispatch, checks);
  bool good = true;
  for (int item = cta * kWarps + threadIdx.x / 32; item < items;
       item += (gridDim.x - a.pushers) * kWarps) {
    const Share share = ShareOf(item, a.take_shares, a.sizes.blocks);
    const int part = Whole(share.row, a.sizes.tokens);
    good &= TakeRow<AtOnce>(a, share, part + (part >= me ? 1 : 0),
                            share.row - part * a.sizes.spacing, round, &tags);
  }
  return (!checks || AwaitTags(g, a.sizes, kStageDispatch, round, &tags)) && good;
}

template <int AtOnce>
__global__ void __launch_bounds__(kThreads, 1) SendFlagged(const __grid_constant__ SendArgs a) {
  __shared__ uint64_t shared[kTableIds];
  const int cta = static_cast<int>(blockIdx.x) - a.pushers;
  Table table{};
  if (cta < 0) table.Load(a.routes);
  WaitForPrimary();
  const Beginning beginning = StartBegin(a.group, kStageDispatch);
  if (cta < 0) {
    PushTokens<AtOnce>(a, beginning, table, shared);
    return;
  }
  const Begun begun = EndBegin(beginning);
  const bool good = begun.usable && TakeRows<AtOnce>(a, cta, begun.round) && !begun.told;
  // Not earlier: whoever comes next would fill the device while this waits.
  LaunchDependents();
  if (!good) a.group.progress->failed = 1;
}

// ----------------------------------------------------------------------------------------------------------- return --

// Each computed pair's result to its token's home, by shares. What leads to a result is loaded at once; where pairs are rows the
// result itself as well, of few pairs whether it is one or not. Counts of pairs, which nobody waits for here, come last.
template <int Blocks, int AtOnce>
__device__ __forceinline__ void PushRoutes(const ReturnArgs& a, const Beginning& beginning) {
  constexpr int64_t kMostGuessed = 65536;  // units
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  constexpr int kRuns = AtOnce / Blocks;  // of eight elements, at once
  const int runs = s.hidden / kEach, blocks = s.blocks.by;
  const BlockLane me;
  const int pairs = a.rows * s.top_k, items = pairs * a.shares.by;
  const bool guesses =
      a.result_row == nullptr && static_cast<int64_t>(pairs) * runs * Blocks <= kMostGuessed;
  const int32_t* ids = reinterpret_cast<const int32_t*>(g.windows[g.rank] + s.ids) +
                       static_cast<int64_t>(a.first) * s.top_k;
  const int mine = blockIdx.x * kWarps + threadIdx.x / 32;
  int item = mine;
  do {
    const Share share = ShareOf(item, a.shares, s.blocks);
    const int pair = share.row;
    int expert = -1, result = pair;
    if (item < items) {
      expert = ids[pair];
      if (a.result_row != nullptr) result = a.result_row[pair];
    }
    uint4 v[kRuns][Blocks];
    const auto load = [&](int begin) {
      const uint4* from =
          static_cast<const uint4*>(a.results) + static_cast<int64_t>(result) * runs * Blocks;
#pragma unroll
      for (int i = 0; i < kRuns; i++) {
        const int run = (begin + i) * kUnits + me.unit;
#pragma unroll
        for (int n = 0; n < Blocks; n++) {
          v[i][n] = make_uint4(0, 0, 0, 0);
          if (begin + i < share.end && run < runs) v[i][n] = from[run * Blocks + n];
        }
      }
    };
    if (guesses ? item < items : expert >= 0 && result >= 0) load(share.begin);
    const Begun begun = EndBegin(beginning);
    if (!begun.usable) return;
    // First, so that who has seen the rest need not wait for them.
    if (item == mine && a.last) PushTags(g, s, kStageCombine, begun.round);
    if (expert >= 0 && result >= 0) {
      const int of_pair = Whole(pair, s.slots_each), row = a.first + of_pair;
      const int part = Whole(row, s.tokens);
      const int slot = (row - part * s.spacing) * s.top_k + pair - of_pair * s.top_k;
      uint64_t* to = ResultsOf(g, s, EpPeer(g, part));
      to += static_cast<int64_t>(slot) * blocks * Blocks * kBlockWords;
#pragma unroll 1
      for (int begin = share.begin; begin < share.end; begin += kRuns) {
        if (begin != share.begin) load(begin);
#pragma unroll
        for (int i = 0; i < kRuns; i++) {
          const int block = begin + i;
          if (block >= share.end) break;
#pragma unroll
          for (int n = 0; n < Blocks; n++)
            StoreBlock(to + (block * Blocks + n) * kBlockWords, v[i][n], runs - block * kUnits,
                       begun.round);
        }
      }
    }
    if (expert >= 0 && share.index == 0 && threadIdx.x % 32 == 0) CountPair(a, expert);
    item += a.pushers * kWarps;
  } while (item < items);
}

// One sum per row. A warp has the columns of a block at a time.
template <int Blocks>
__device__ __forceinline__ void PushSums(const ReturnArgs& a, const Beginning& beginning) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const int lane = threadIdx.x % 32, me = EpRank(g);
  const int runs = s.hidden / kEach, pieces = s.blocks.by, items = a.rows * pieces;
  const BlockLane lane_of;
  const int32_t* ids = reinterpret_cast<const int32_t*>(g.windows[g.rank] + s.ids);
  const float* weights = reinterpret_cast<const float*>(g.windows[g.rank] + s.weights);
  const int mine = blockIdx.x * kWarps + threadIdx.x / 32;
  int item = mine;
  do {
    const int i = Whole(item, s.blocks), piece = item - i * pieces, row = a.first + i;
    const int64_t pair = static_cast<int64_t>(row) * s.top_k + lane;
    int expert = -1, result = i * s.top_k + lane;
    float weight = 1.0f;
    if (item < items && lane < s.top_k) {
      expert = ids[pair];
      if (a.result_row != nullptr) result = a.result_row[result];
      if (a.weighted) weight = weights[pair];
    }
    const uint32_t computed = __ballot_sync(~0u, expert >= 0 && result >= 0);
    const int column = (piece * kUnits + lane_of.unit) * kEach;
    float sum[kEach] = {};
    AddResults(a.results, s.slot_bytes == 2, s.hidden, column, computed, result, weight, sum);
    const Begun begun = EndBegin(beginning);
    if (!begun.usable) return;
    // First, so that who has seen the rest need not wait for them.
    if (item == mine && a.last) PushTags(g, s, kStageCombine, begun.round);
    if (computed != 0) {
      const int part = Whole(row, s.tokens), token = row - part * s.spacing;
      uint64_t* to =
          ResultsOf(g, s, EpPeer(g, part)) +
          ((static_cast<int64_t>(me) * s.spacing + token) * pieces + piece) * Blocks * kBlockWords;
      alignas(16) float units[kEach];
      StoreRun(units, Blocks == 1, 0, sum);
#pragma unroll
      for (int n = 0; n < Blocks; n++)
        StoreBlock(to + n * kBlockWords, reinterpret_cast<const uint4*>(units)[n],
                   runs - piece * kUnits, begun.round);
    }
    if (expert >= 0 && piece == 0) CountPair(a, expert);
    item += a.pushers * kWarps;
  } while (item < items);
}

// -------------------------------------------------------------------------------------------------------------- sum --

// Slot `lane` of a token, loaded before anything is awaited.
struct Slot {
  uint2 id;
  uint32_t weight;
};
__device__ __forceinline__ Slot LoadSlot(const SumArgs& a, int token) {
  const int lane = threadIdx.x % 32;
  Slot slot{};
  if (token >= a.own.tokens || lane >= a.own.top_k) return slot;
  slot.id = LoadIdBits(a.own, token, lane);
  if (a.weighted)
    slot.weight =
        LoadWeightBits(a.own.weights, a.own.weight_is_bf16, token * a.own.weights_stride + lane);
  return slot;
}

// In slot order, or in the order of the parts that computed any of the token: the sums of exchange.cu, term by term. All lanes
// of a warp have the same token and piece, and the same answer.
template <int Blocks>
__device__ __forceinline__ bool AddTerms(const ReturnArgs& a, uint32_t round, int token, int piece,
                                         const Slot& slot, Tags* tags, float* sum) {
  constexpr int kTerms = 6;  // at once
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const OwnTokens& own = a.sum.own;
  const RouteArgs& routes = a.sum.routes;
  const bool sums = s.sums_travel != 0;
  const int lane = threadIdx.x % 32;
  const int64_t id = IdOfBits(slot.id, own.ids_are_64);
  const bool routed = lane < s.top_k && IsRouted(routes, id);
  // Sums have their weights in them.
  const float slot_weight =
      a.sum.weighted && !sums ? WeightOfBits(slot.weight, own.weight_is_bf16) : 1.0f;
  Ways ways{-1, 0, 0};
  if (sums) {
    ways = WaysOf(routed ? CopyFor(routes, id, own.first + token, lane) : -1);
  } else {
    ways.low = __ballot_sync(~0u, routed);
  }
  const uint64_t* results = ResultsOf(g, s, g.rank);
  const int pieces = s.blocks.by;
  const bool used = BlockLane().Used(s.hidden / kEach - piece * kUnits);
  const int count = sums ? EpSize(g) : s.top_k;
  bool good = true;
#pragma unroll 1
  for (int first = 0; first < count && good; first += kTerms) {
    RunsAtOnce<kTerms, Blocks> runs;
    float weight[kTerms];
#pragma unroll
    for (int i = 0; i < kTerms; i++) {
      weight[i] = __shfl_sync(~0u, slot_weight, (first + i) % 32);
      const int row = sums ? (first + i) * s.spacing + token : token * s.top_k + first + i;
      runs.here[i] = first + i < count && ways.Touches(first + i) && used;
      runs.from[i] = results + (static_cast<int64_t>(row) * pieces + piece) * Blocks * kBlockWords;
    }
    const auto whom = [&](int i) {
      const int part =
          sums ? first + i
               : CopyFor(routes, IdOf(own, token, first + i), own.first + token, first + i) >> 16;
      return SourceOf(g, s, kStageCombine, round, part);
    };
    runs.Look();
    good = runs.Await(g, round, whom, [&] { tags->Look(); });
#pragma unroll
    for (int i = 0; i < kTerms; i++) {
      if (first + i >= count || !ways.Touches(first + i)) continue;
      uint4 units[Blocks];
      runs.Units(i, units);
      float v[kEach];
      LoadRun(units, Blocks == 1, 0, v);
#pragma unroll
      for (int j = 0; j < kEach; j++) sum[j] = fmaf(weight[i], v[j], sum[j]);
    }
  }
  return good;
}

// The tokens of this rank, as what they are made of comes. `slot`: of this warp's first.
template <int Blocks>
__device__ __forceinline__ void AddTokens(const ReturnArgs& a, int cta, const Begun& begun,
                                          Slot slot) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const int pieces = s.blocks.by, unit = BlockLane().unit;
  const int items = Live(a.sum.own) * pieces, step = (gridDim.x - a.pushers) * kWarps;
  const int first = cta * kWarps + threadIdx.x / 32;
  // Also a rank without tokens waits for the others, once.
  bool asks = begun.usable && (first < items || first == 0);
  bool tagged = begun.usable && !begun.told, failed = !tagged;
  Tags tags = TagsOf(g, s, kStageCombine, asks);
  tags.Look();
  for (int item = first; asks || item < items; item += step) {
    const int token = Whole(item, s.blocks), piece = item - token * pieces;
    const int column = (piece * kUnits + unit) * kEach;
    if (item != first) slot = LoadSlot(a.sum, token);
    float sum[kEach] = {};
    bool good = begun.usable;
    if (good && item < items)
      good = AddTerms<Blocks>(a, begun.round, token, piece, slot, &tags, sum);
    if (asks) tagged = AwaitTags(g, s, kStageCombine, begun.round, &tags) && tagged;
    asks = false;
    LaunchDependents();
    good = good && tagged;
    failed = failed || !good;
    if (item >= items || column >= s.hidden) continue;
#pragma unroll
    for (int i = 0; i < kEach; i++) sum[i] = good ? sum[i] : __uint_as_float(0x7FC00000u);
    WriteRun(a.sum.out, !a.sum.out_is_f32, a.sum.accumulate, token * a.sum.out_stride + column,
             a.sum.factor, sum);
  }
  if (failed) g.progress->failed = 1;
}

template <int Blocks, int AtOnce>
__global__ void __launch_bounds__(kThreads, 1) ReturnFlagged(const __grid_constant__ ReturnArgs a) {
  WaitForPrimary();
  const GroupArgs& g = a.group;
  const Beginning beginning = StartBegin(g, kStageCombine);
  const int cta = static_cast<int>(blockIdx.x) - a.pushers;
  Slot slot{};
  if (cta >= 0)
    slot =
        LoadSlot(a.sum, Whole(cta * kWarps + static_cast<int>(threadIdx.x) / 32, a.sizes.blocks));
  if (cta < 0) {
    if (a.sizes.sums_travel == 0) {
      PushRoutes<Blocks, AtOnce>(a, beginning);
    } else {
      PushSums<Blocks>(a, beginning);
    }
  }
  if (!a.last || (a.parts & kWait) == 0) return;
  const Begun begun = EndBegin(beginning);
  // The round's number passes on, and what it has counted to the host, while others wait.
  __syncthreads();
  if (threadIdx.x / 32 == kWarps - 1) {
    const int lane = threadIdx.x % 32;
    const bool last =
        lane == 0 && PassRound(g, kStageCombine, begun.round, a.sum.loads_told != nullptr);
    if (__any_sync(~0u, last)) TellLoads(a.sum, lane, 32);
  }
  if (cta >= 0) AddTokens<Blocks>(a, cta, begun, slot);
}

void FindDivisions(ExchangeSizes* s) {
  s->tokens = DivisionBy(s->spacing);
  s->slots_each = DivisionBy(s->top_k);
  s->blocks = DivisionBy(FlaggedBlocks(s->hidden));
}

int CtasOf(int64_t warps) {
  const int64_t ctas = (warps + kWarps - 1) / kWarps;
  return static_cast<int>(ctas < 1 ? 1 : ctas < kMostCtas ? ctas : kMostCtas);
}

auto SendKernel(int at_once) {
  return at_once == 2 ? SendFlagged<2> : at_once == 4 ? SendFlagged<4> : SendFlagged<6>;
}
auto ReturnKernel(bool narrow, int at_once) {
  if (narrow)
    return at_once == 2   ? ReturnFlagged<1, 2>
           : at_once == 4 ? ReturnFlagged<1, 4>
                          : ReturnFlagged<1, 6>;
  return at_once == 2   ? ReturnFlagged<2, 2>
         : at_once == 4 ? ReturnFlagged<2, 4>
                        : ReturnFlagged<2, 6>;
}

}  // namespace

cudaError_t LoadFlagged() {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaSuccess;
  for (const int at_once : {2, 4, 6}) {
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, SendKernel(at_once));
    for (const bool narrow : {false, true}) {
      if (error == cudaSuccess)
        error = cudaFuncGetAttributes(&attributes, ReturnKernel(narrow, at_once));
    }
  }
  return error;
}

int LaunchSendFlagged(const SendArgs& args, KernelStream stream) {
  const int64_t blocks = FlaggedBlocks(args.sizes.hidden);
  const int64_t rows = static_cast<int64_t>(args.group.parts - 1) * args.sizes.spacing;
  SendArgs a = args;
  a.shares = SharesOf(a.sizes.spacing, blocks);
  a.take_shares = SharesOf(rows, blocks);
  FindDivisions(&a.sizes);
  a.pushers = (a.parts & kPush) != 0 ? CtasOf(int64_t{a.sizes.spacing} * a.shares.by) : 0;
  const int waiters = (a.parts & kWait) != 0 ? CtasOf(rows * a.take_shares.by) : 0;
  const int at_once = std::max(AtOnceFor(blocks, a.shares), AtOnceFor(blocks, a.take_shares));
  return LaunchDependent(SendKernel(at_once), dim3(static_cast<unsigned>(a.pushers + waiters)),
                         dim3(kThreads), 0, stream, a);
}

int LaunchReturnFlagged(const ReturnArgs& args, KernelStream stream) {
  const ExchangeSizes& s = args.sizes;
  // A warp has a share of a pair, or a block of a row or token.
  const int64_t pieces = FlaggedBlocks(s.hidden);
  ReturnArgs a = args;
  const int64_t pairs = static_cast<int64_t>(a.rows) * s.top_k;
  a.shares = SharesOf(pairs, pieces);
  FindDivisions(&a.sizes);
  a.pushers =
      (a.parts & kPush) != 0 ? CtasOf(s.sums_travel ? a.rows * pieces : pairs * a.shares.by) : 0;
  const int waiters = a.last != 0 && (a.parts & kWait) != 0 ? CtasOf(s.spacing * pieces) : 0;
  const bool narrow = s.sums_travel ? s.sum_is_bf16 : s.slot_bytes == 2;
  return LaunchDependent(ReturnKernel(narrow, AtOnceFor(pieces, a.shares)),
                         dim3(static_cast<unsigned>(a.pushers + waiters)), dim3(kThreads), 0,
                         stream, a);
}

}  // namespace dsv4mx::dist
