// Expert parallel, small rounds: every word carries its round (launch_exchange.h, flagged.cuh). Nothing has pieces: what a CTA
// needs it waits for, word by word. The first CTAs push and never wait, so that whoever waits does so for what runs already, or
// has run; the others wait, and take what comes.
#include "kernels/dist/exchange.cuh"
#include "kernels/dist/flagged.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"

namespace dsv4mx::dist {
namespace {

// Small CTAs, so that few warps are spread over many multiprocessors: each of these stores and loads but so much at a time.
constexpr int kThreads = 64, kWarps = kThreads / 32;
constexpr int kEach = kRunElements;
constexpr int kUnitWords = 4;  // of 16 bytes
constexpr int kMostWarps = 1024, kMostCtas = kMostWarps / kWarps;

// A warp's share of a row, or result, of units of 16 bytes: whole blocks of 32 of one of 1 << `shares`.
struct Share {
  int row, index;
  int first, end;  // units of this lane: first, first + 32, ...
};
__device__ __forceinline__ Share ShareOf(int item, int shares, int units) {
  const int row = item >> shares, index = item & ((1 << shares) - 1);
  const int each = (((units + 31) / 32 + (1 << shares) - 1) >> shares) * 32;
  const int begin = index * each;
  return {row, index, begin + static_cast<int>(threadIdx.x % 32), min(begin + each, units)};
}
// What shares to cut so many rows into: one block each, if there are warps enough for that.
int SharesOf(int64_t rows, int64_t units) {
  int shares = 0;
  while ((32ll << shares) < units && (rows << (shares + 1)) <= kMostWarps) shares++;
  return shares;
}

// Words of part `from` in the window of `rank`.
__device__ __forceinline__ uint64_t* RowsOf(const GroupArgs& g, const ExchangeSizes& s, int rank,
                                            int from) {
  return reinterpret_cast<uint64_t*>(g.windows[rank] + s.flagged_rows + from * s.flagged_row_bytes);
}
__device__ __forceinline__ uint64_t* ResultsOf(const GroupArgs& g, const ExchangeSizes& s,
                                               int rank) {
  return reinterpret_cast<uint64_t*>(g.windows[rank] + s.flagged_slots) + kFlaggedResults;
}
// Where a part that takes a round for a large one publishes it.
__device__ __forceinline__ Source SourceOf(const GroupArgs& g, int stage, uint32_t round,
                                           int part) {
  return {stage, round, EpPeer(g, part), &PartCell(g, g.rank, stage, part, 0)->flag};
}
// One thread per part.
__device__ __forceinline__ void PushTags(const GroupArgs& g, const ExchangeSizes& s, int stage,
                                         uint32_t round) {
  const int me = EpRank(g), p = kThreads - 1 - static_cast<int>(threadIdx.x);
  if (blockIdx.x == 0 && p < EpSize(g) && p != me)
    PushTag(FlaggedTag(g, s, EpPeer(g, p), stage, me), g.tag, static_cast<uint32_t>(s.spacing),
            round);
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
                                          uint32_t round, const Tags& t) {
  bool good = true;
#pragma unroll
  for (int i = 0; i < kMaxRanks / 32; i++) {
    const int p = i * 32 + static_cast<int>(threadIdx.x % 32);
    uint64_t words[2] = {t.words[i][0], t.words[i][1]};
    if (t.from[i] != nullptr && good)
      good = AwaitTag(g, SourceOf(g, stage, round, p), t.from[i], static_cast<uint32_t>(s.spacing),
                      words);
  }
  return __all_sync(~0u, good);
}

// ------------------------------------------------------------------------------------------------------------- send --

constexpr int kAtOnce = 4;
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
struct Token {
  uint4 x[kAtOnce];
  uint2 id;  // of slot `lane`, as LoadIdBits has it
  uint32_t weight;
};
__device__ __forceinline__ void LoadX(const SendArgs& a, int token, int first, int end, uint4* x) {
  const uint4* from = reinterpret_cast<const uint4*>(a.x + token * a.x_stride);
#pragma unroll
  for (int i = 0; i < kAtOnce; i++) {
    const int unit = first + i * 32;
    x[i] = unit < end ? from[unit] : make_uint4(0, 0, 0, 0);
  }
}
__device__ __forceinline__ Token LoadToken(const SendArgs& a, const Share& share, bool live) {
  const int lane = threadIdx.x % 32;
  Token t{};
  if (live && lane < a.sizes.top_k) {
    t.id = LoadIdBits(a.own, share.row, lane);
    if (a.sizes.weights >= 0)
      t.weight = LoadWeightBits(a.own.weights, a.own.weight_is_bf16,
                                share.row * a.own.weights_stride + lane);
  }
  if (live) LoadX(a, share.row, share.first, share.end, t.x);
  return t;
}

__device__ __forceinline__ void PushToken(const SendArgs& a, const Share& share, Token& t,
                                          const Ways& ways, float weight, uint32_t round) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const int lane = threadIdx.x % 32, me = EpRank(g), units = s.hidden / kEach, token = share.row;
  const int64_t row = static_cast<int64_t>(me) * s.spacing + token;
  if (share.index == 0 && lane < s.top_k) {
    const int at = token * s.top_k + lane;
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
  for (int first = share.first; first < share.end; first += kAtOnce * 32) {
    if (first != share.first) LoadX(a, token, first, share.end, t.x);
    for (int p = 0; p < EpSize(g); p++) {
      if (!ways.Touches(p)) continue;
      uint4* here = reinterpret_cast<uint4*>(g.windows[g.rank] + s.rows + row * s.hidden * 2);
      uint64_t* there = RowsOf(g, s, EpPeer(g, p), me) + kFlaggedX;
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        const int unit = first + i * 32;
        if (unit >= share.end) continue;
        if (p == me) {
          here[unit] = t.x[i];
        } else {
          StoreFlagged(RunAt<kUnitWords>(there, token * units + unit), 0, t.x[i], round);
        }
      }
    }
  }
}

// A warp takes its share of another part's row to where the layer reads it. `tags`: looked at as well, and awaited next.
__device__ __forceinline__ bool TakeRow(const SendArgs& a, const Share& share, int part, int token,
                                        uint32_t round, Tags* tags) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const auto whom = [&](int = 0) { return SourceOf(g, kStageDispatch, round, part); };
  const int lane = threadIdx.x % 32, units = s.hidden / kEach;
  const uint64_t* words = RowsOf(g, s, g.rank, part);
  const int64_t row = static_cast<int64_t>(part) * s.spacing + token;
  RunsAtOnce<kAtOnce, kUnitWords> x;
  int first = share.first;
  const auto find = [&] {
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      x.here[i] = first + i * 32 < share.end;
      x.from[i] = RunAt<kUnitWords>(words + kFlaggedX, token * units + first + i * 32);
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
  for (; first < share.end; first += kAtOnce * 32) {
    if (first != share.first) {
      find();
      x.Look();
    }
    if (good) good = x.Await(g, round, whom, [&] { tags->Look(); });
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      if (x.here[i]) to[first + i * 32] = Narrow(x.words[i]);
    }
  }
  return good;
}

__device__ __forceinline__ void PushTokens(const SendArgs& a, const Beginning& beginning,
                                           const Table& table, uint64_t* shared) {
  const int items = a.sizes.spacing << a.shares, units = a.sizes.hidden / kEach;
  const int mine = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  int item = mine;
  do {
    const Share share = ShareOf(item, a.shares, units);
    // Also what lies behind the device's count, which may come late.
    Token t = LoadToken(a, share, share.row < a.own.tokens);
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

__device__ __forceinline__ bool TakeRows(const SendArgs& a, int cta, uint32_t round) {
  const GroupArgs& g = a.group;
  const int others = EpSize(g) - 1, me = EpRank(g);
  const int items = others * a.sizes.spacing << a.take_shares;
  const bool checks = cta == 0 && threadIdx.x < 32;
  Tags tags = TagsOf(g, a.sizes, kStageDispatch, checks);
  bool good = true;
  for (int item = cta * kWarps + threadIdx.x / 32; item < items;
       item += (gridDim.x - a.pushers) * kWarps) {
    const Share share = ShareOf(item, a.take_shares, a.sizes.hidden / kEach);
    const int part = share.row / a.sizes.spacing;
    good &= TakeRow(a, share, part + (part >= me ? 1 : 0), share.row - part * a.sizes.spacing,
                    round, &tags);
  }
  return (!checks || AwaitTags(g, a.sizes, kStageDispatch, round, tags)) && good;
}

__global__ void __launch_bounds__(kThreads, 1) SendFlagged(const __grid_constant__ SendArgs a) {
  __shared__ uint64_t shared[kTableIds];
  const int cta = static_cast<int>(blockIdx.x) - a.pushers;
  Table table{};
  if (cta < 0) table.Load(a.routes);
  WaitForPrimary();
  const Beginning beginning = StartBegin(a.group, kStageDispatch);
  if (cta < 0) {
    PushTokens(a, beginning, table, shared);
    return;
  }
  const Begun begun = EndBegin(beginning);
  const bool good = begun.usable && TakeRows(a, cta, begun.round) && !begun.told;
  // Not earlier: whoever comes next would fill the device while this waits.
  LaunchDependents();
  if (!good) a.group.progress->failed = 1;
}

// ----------------------------------------------------------------------------------------------------------- return --

// Each computed pair's result to its token's home, by shares. What leads to a result is loaded at once; where pairs are rows the
// result itself as well, of few pairs whether it is one or not. Counts of pairs, which nobody waits for here, come last.
template <int Words>
__device__ __forceinline__ void PushRoutes(const ReturnArgs& a, const Beginning& beginning) {
  constexpr int64_t kMostGuessed = 65536;  // units
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  constexpr int kOfRun = Words / kUnitWords;  // units
  const int units = s.hidden / kEach * kOfRun;
  const int pairs = a.rows * s.top_k, items = pairs << a.shares;
  const bool guesses =
      a.result_row == nullptr && static_cast<int64_t>(pairs) * units <= kMostGuessed;
  const int32_t* ids = reinterpret_cast<const int32_t*>(g.windows[g.rank] + s.ids) +
                       static_cast<int64_t>(a.first) * s.top_k;
  const int mine = blockIdx.x * kWarps + threadIdx.x / 32;
  int item = mine;
  do {
    const Share share = ShareOf(item, a.shares, units);
    const int pair = share.row;
    int expert = -1, result = pair;
    if (item < items) {
      expert = ids[pair];
      if (a.result_row != nullptr) result = a.result_row[pair];
    }
    const auto load = [&](int first, uint4* v) {
      const uint4* from =
          static_cast<const uint4*>(a.results) + static_cast<int64_t>(result) * units;
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        if (first + i * 32 < share.end) v[i] = from[first + i * 32];
      }
    };
    uint4 v[kAtOnce];
    if (guesses ? item < items : expert >= 0 && result >= 0) load(share.first, v);
    const Begun begun = EndBegin(beginning);
    if (!begun.usable) return;
    // First, so that who has seen the rest need not wait for them.
    if (item == mine && a.last) PushTags(g, s, kStageCombine, begun.round);
    if (expert >= 0 && result >= 0) {
      const int row = a.first + pair / s.top_k, part = row / s.spacing;
      const int slot = (row - part * s.spacing) * s.top_k + pair % s.top_k;
      uint64_t* to = ResultsOf(g, s, EpPeer(g, part));
      for (int first = share.first; first < share.end; first += kAtOnce * 32) {
        if (first != share.first) load(first, v);
#pragma unroll
        for (int i = 0; i < kAtOnce; i++) {
          const int unit = first + i * 32;
          if (unit < share.end)
            StoreFlagged(RunAt<Words>(to, static_cast<uint32_t>(slot * units + unit) / kOfRun),
                         unit % kOfRun, v[i], begun.round);
        }
      }
    }
    if (expert >= 0 && share.index == 0 && threadIdx.x % 32 == 0) CountPair(a, expert);
    item += a.pushers * kWarps;
  } while (item < items);
}

// Eight elements, as what they are stored in.
template <int Words>
__device__ __forceinline__ void StoreFlaggedRun(uint64_t* to, const float* v, uint32_t round) {
  alignas(16) float units[kEach];
  StoreRun(units, Words == kUnitWords, 0, v);
  StoreFlagged(to, 0, *reinterpret_cast<const uint4*>(units), round);
  if constexpr (Words == 2 * kUnitWords)
    StoreFlagged(to, 1, *reinterpret_cast<const uint4*>(units + 4), round);
}

// One sum per row. A warp has 256 columns of a row at a time.
template <int Words>
__device__ __forceinline__ void PushSums(const ReturnArgs& a, const Beginning& beginning) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const int lane = threadIdx.x % 32, me = EpRank(g);
  const int pieces = (s.hidden + 32 * kEach - 1) / (32 * kEach), items = a.rows * pieces;
  const int32_t* ids = reinterpret_cast<const int32_t*>(g.windows[g.rank] + s.ids);
  const float* weights = reinterpret_cast<const float*>(g.windows[g.rank] + s.weights);
  const int mine = blockIdx.x * kWarps + threadIdx.x / 32;
  int item = mine;
  do {
    const int i = item / pieces, piece = item - i * pieces, row = a.first + i;
    const int64_t pair = static_cast<int64_t>(row) * s.top_k + lane;
    int expert = -1, result = i * s.top_k + lane;
    float weight = 1.0f;
    if (item < items && lane < s.top_k) {
      expert = ids[pair];
      if (a.result_row != nullptr) result = a.result_row[result];
      if (a.weighted) weight = weights[pair];
    }
    const uint32_t computed = __ballot_sync(~0u, expert >= 0 && result >= 0);
    const int column = piece * 32 * kEach + lane * kEach;
    float sum[kEach] = {};
    AddResults(a.results, s.slot_bytes == 2, s.hidden, column, computed, result, weight, sum);
    const Begun begun = EndBegin(beginning);
    if (!begun.usable) return;
    // First, so that who has seen the rest need not wait for them.
    if (item == mine && a.last) PushTags(g, s, kStageCombine, begun.round);
    if (computed != 0 && column < s.hidden) {
      const int part = row / s.spacing, token = row - part * s.spacing;
      const int run = (me * s.spacing + token) * (s.hidden / kEach) + column / kEach;
      StoreFlaggedRun<Words>(RunAt<Words>(ResultsOf(g, s, EpPeer(g, part)), run), sum, begun.round);
    }
    if (expert >= 0 && piece == 0) CountPair(a, expert);
    item += a.pushers * kWarps;
  } while (item < items);
}

// -------------------------------------------------------------------------------------------------------------- sum --

// Eight elements of `Words` words.
template <int Words>
__device__ __forceinline__ void Widen(const uint64_t* words, float* v) {
#pragma unroll
  for (int i = 0; i < Words; i++) {
    const auto w = static_cast<uint32_t>(words[i]);
    if constexpr (Words == kEach) {
      v[i] = __uint_as_float(w);
    } else {
      v[2 * i] = __uint_as_float(w << 16);
      v[2 * i + 1] = __uint_as_float(w & 0xFFFF0000u);
    }
  }
}

// Of a row or token, of which a warp has 256 columns at a time.
__device__ __forceinline__ int PiecesOfRow(const ExchangeSizes& s) {
  return (s.hidden + 32 * kEach - 1) / (32 * kEach);
}

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
// of a warp have the same token and the same answer; `column` may lie behind its end.
template <int Words>
__device__ __forceinline__ bool AddTerms(const ReturnArgs& a, uint32_t round, int token, int column,
                                         const Slot& slot, Tags* tags, float* sum) {
  constexpr int kTerms = 24 / Words;  // at once
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
  const int units = s.hidden / kEach;
  const int count = sums ? EpSize(g) : s.top_k;
  bool good = true;
  for (int first = 0; first < count && good; first += kTerms) {
    RunsAtOnce<kTerms, Words> runs;
    float weight[kTerms];
#pragma unroll
    for (int i = 0; i < kTerms; i++) {
      weight[i] = __shfl_sync(~0u, slot_weight, (first + i) % 32);
      const int row = sums ? (first + i) * s.spacing + token : token * s.top_k + first + i;
      runs.here[i] = first + i < count && column < s.hidden && ways.Touches(first + i);
      runs.from[i] = RunAt<Words>(results, row * units + column / kEach);
    }
    const auto whom = [&](int i) {
      const int part =
          sums ? first + i
               : CopyFor(routes, IdOf(own, token, first + i), own.first + token, first + i) >> 16;
      return SourceOf(g, kStageCombine, round, part);
    };
    runs.Look();
    good = __all_sync(~0u, runs.Await(g, round, whom, [&] { tags->Look(); }));
#pragma unroll
    for (int i = 0; i < kTerms; i++) {
      if (!runs.here[i]) continue;
      float v[kEach];
      Widen<Words>(runs.words[i], v);
#pragma unroll
      for (int j = 0; j < kEach; j++) sum[j] = fmaf(weight[i], v[j], sum[j]);
    }
  }
  return good;
}

// The tokens of this rank, as what they are made of comes. `slot`: of this warp's first.
template <int Words>
__device__ __forceinline__ void AddTokens(const ReturnArgs& a, int cta, const Begun& begun,
                                          Slot slot) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const int lane = threadIdx.x % 32, pieces = PiecesOfRow(s);
  const int items = Live(a.sum.own) * pieces, step = (gridDim.x - a.pushers) * kWarps;
  const int first = cta * kWarps + threadIdx.x / 32;
  // Also a rank without tokens waits for the others, once.
  bool asks = begun.usable && (first < items || first == 0);
  bool tagged = begun.usable && !begun.told, failed = !tagged;
  Tags tags = TagsOf(g, s, kStageCombine, asks);
  tags.Look();
  for (int item = first; asks || item < items; item += step) {
    const int token = item / pieces, column = ((item - token * pieces) * 32 + lane) * kEach;
    if (item != first) slot = LoadSlot(a.sum, token);
    float sum[kEach] = {};
    bool good = begun.usable;
    if (good && item < items)
      good = AddTerms<Words>(a, begun.round, token, column, slot, &tags, sum);
    if (asks) tagged = AwaitTags(g, s, kStageCombine, begun.round, tags) && tagged;
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

template <int Words>
__global__ void __launch_bounds__(kThreads, 1) ReturnFlagged(const __grid_constant__ ReturnArgs a) {
  WaitForPrimary();
  const GroupArgs& g = a.group;
  const Beginning beginning = StartBegin(g, kStageCombine);
  const int cta = static_cast<int>(blockIdx.x) - a.pushers;
  Slot slot{};
  if (cta >= 0)
    slot =
        LoadSlot(a.sum, (cta * kWarps + static_cast<int>(threadIdx.x) / 32) / PiecesOfRow(a.sizes));
  if (cta < 0) {
    if (a.sizes.sums_travel == 0) {
      PushRoutes<Words>(a, beginning);
    } else {
      PushSums<Words>(a, beginning);
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
  if (cta >= 0) AddTokens<Words>(a, cta, begun, slot);
}

int CtasOf(int64_t warps) {
  const int64_t ctas = (warps + kWarps - 1) / kWarps;
  return static_cast<int>(ctas < 1 ? 1 : ctas < kMostCtas ? ctas : kMostCtas);
}

}  // namespace

cudaError_t LoadFlagged() {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, SendFlagged);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, ReturnFlagged<kUnitWords>);
  if (error == cudaSuccess)
    error = cudaFuncGetAttributes(&attributes, ReturnFlagged<2 * kUnitWords>);
  return error;
}

int LaunchSendFlagged(const SendArgs& args, KernelStream stream) {
  const int64_t units = args.sizes.hidden / kEach;
  const int64_t rows = static_cast<int64_t>(args.group.parts - 1) * args.sizes.spacing;
  SendArgs a = args;
  a.shares = SharesOf(a.sizes.spacing, units);
  a.take_shares = SharesOf(rows, units);
  a.pushers = (a.parts & kPush) != 0 ? CtasOf(int64_t{a.sizes.spacing} << a.shares) : 0;
  const int waiters = (a.parts & kWait) != 0 ? CtasOf(rows << a.take_shares) : 0;
  return LaunchDependent(SendFlagged, dim3(static_cast<unsigned>(a.pushers + waiters)),
                         dim3(kThreads), 0, stream, a);
}

int LaunchReturnFlagged(const ReturnArgs& args, KernelStream stream) {
  const ExchangeSizes& s = args.sizes;
  // A warp has a share of a pair, or 256 columns of a row or token.
  const int64_t units = static_cast<int64_t>(s.hidden) * s.slot_bytes / 16;
  const int64_t pieces = (static_cast<int64_t>(s.hidden) + 255) / 256;
  ReturnArgs a = args;
  const int64_t pairs = static_cast<int64_t>(a.rows) * s.top_k;
  a.shares = SharesOf(pairs, units);
  a.pushers =
      (a.parts & kPush) != 0 ? CtasOf(s.sums_travel ? a.rows * pieces : pairs << a.shares) : 0;
  const int waiters = a.last != 0 && (a.parts & kWait) != 0 ? CtasOf(s.spacing * pieces) : 0;
  const bool narrow = s.sums_travel ? s.sum_is_bf16 : s.slot_bytes == 2;
  return LaunchDependent(narrow ? ReturnFlagged<kUnitWords> : ReturnFlagged<2 * kUnitWords>,
                         dim3(static_cast<unsigned>(a.pushers + waiters)), dim3(kThreads), 0,
                         stream, a);
}

}  // namespace dsv4mx::dist
