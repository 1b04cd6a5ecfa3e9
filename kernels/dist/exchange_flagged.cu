// Expert parallel, small rounds: every word carries its round (launch_exchange.h, flagged.cuh). Nothing has pieces: what a CTA
// needs it waits for, word by word. The first CTAs push and never wait, so that whoever waits does so for what runs already, or
// has run; the others wait, and take what comes.
#include "kernels/dist/exchange.cuh"
#include "kernels/dist/flagged.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"

namespace dsv4mx::dist {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kEach = kRunElements;
using FlaggedTeams = Teams<kWarps>;
constexpr int kUnitWords = 4;  // of 16 bytes
constexpr int kMostCtas = 128;

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

// A warp's look at the tags of all parts: had beside every look at what travels, so that the last one, which is used, is late.
struct Tags {
  uint64_t words[kMaxRanks / 32][2];
};
__device__ __forceinline__ void LookAtTags(const GroupArgs& g, const ExchangeSizes& s, int stage,
                                           Tags* t) {
#pragma unroll
  for (int i = 0; i < kMaxRanks / 32; i++) {
    const int p = i * 32 + static_cast<int>(threadIdx.x % 32);
    if (p < EpSize(g) && p != EpRank(g))
      LoadWords(FlaggedTag(g, s, g.rank, stage, p), &t->words[i][0], &t->words[i][1]);
  }
}
__device__ __forceinline__ bool AwaitTags(const GroupArgs& g, const ExchangeSizes& s, int stage,
                                          uint32_t round, const Tags& t) {
  bool good = true;
#pragma unroll
  for (int i = 0; i < kMaxRanks / 32; i++) {
    const int p = i * 32 + static_cast<int>(threadIdx.x % 32);
    uint64_t words[2] = {t.words[i][0], t.words[i][1]};
    if (p < EpSize(g) && p != EpRank(g) && good)
      good = AwaitTag(g, SourceOf(g, stage, round, p), FlaggedTag(g, s, g.rank, stage, p),
                      static_cast<uint32_t>(s.spacing), words);
  }
  return __all_sync(~0u, good);
}

// ------------------------------------------------------------------------------------------------------------- send --

constexpr int kAtOnce = 4;

// A token of this rank: its row, as far as a team's threads have it at once, and where it goes.
struct Token {
  uint4 x[kAtOnce];
  Ways ways;
  float weight;  // of slot `lane`
};
__device__ __forceinline__ void LoadX(const SendArgs& a, const FlaggedTeams& team, int token,
                                      int first, uint4* x) {
  const uint4* from = reinterpret_cast<const uint4*>(a.x + token * a.x_stride);
#pragma unroll
  for (int i = 0; i < kAtOnce; i++) {
    const int unit = first + i * team.Threads();
    x[i] = unit < a.sizes.hidden / kEach ? from[unit] : make_uint4(0, 0, 0, 0);
  }
}
__device__ __forceinline__ Token LoadToken(const SendArgs& a, const FlaggedTeams& team, int token,
                                           bool live) {
  const int lane = threadIdx.x % 32;
  Token t{};
  if (live) LoadX(a, team, token, team.Thread(), t.x);
  if (live && a.sizes.weights >= 0 && lane < a.sizes.top_k)
    t.weight = LoadWeight(a.own.weights, a.own.weight_is_bf16, token * a.own.weights_stride + lane);
  t.ways = WaysOf(a.routes, a.own, token, live);
  return t;
}

__device__ __forceinline__ void PushToken(const SendArgs& a, const FlaggedTeams& team, int token,
                                          Token& t, uint32_t round) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const int lane = threadIdx.x % 32, me = EpRank(g), units = s.hidden / kEach;
  const int64_t row = static_cast<int64_t>(me) * s.spacing + token;
  if (team.Warp() == 0 && lane < s.top_k) {
    const int at = token * s.top_k + lane;
    for (int p = 0; p < EpSize(g); p++) {
      const int expert = t.ways.copy >= 0 && t.ways.copy >> 16 == p ? t.ways.copy & 0xFFFF : -1;
      if (p == me) {
        uint8_t* here = g.windows[g.rank] + (row * s.top_k + lane) * 4;
        *reinterpret_cast<int32_t*>(here + s.ids) = expert;
        if (s.weights >= 0) *reinterpret_cast<float*>(here + s.weights) = t.weight;
      } else {
        uint64_t* there = RowsOf(g, s, EpPeer(g, p), me) + at;
        StoreWord(there + kFlaggedIds, Flagged(static_cast<uint32_t>(expert), round));
        if (s.weights >= 0)
          StoreWord(there + kFlaggedWeights, Flagged(__float_as_uint(t.weight), round));
      }
    }
  }
  if ((t.ways.low | t.ways.high) == 0) return;
  for (int first = team.Thread(); first < units; first += kAtOnce * team.Threads()) {
    if (first >= kAtOnce * team.Threads()) LoadX(a, team, token, first, t.x);
    for (int p = 0; p < EpSize(g); p++) {
      if (!t.ways.Touches(p)) continue;
      uint4* here = reinterpret_cast<uint4*>(g.windows[g.rank] + s.rows + row * s.hidden * 2);
      uint64_t* there = RowsOf(g, s, EpPeer(g, p), me) + kFlaggedX;
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        const int unit = first + i * team.Threads();
        if (unit >= units) continue;
        if (p == me) {
          here[unit] = t.x[i];
        } else {
          StoreFlagged(RunAt<kUnitWords>(there, token * units + unit), 0, t.x[i], round);
        }
      }
    }
  }
}

// A team takes a row of another part to where the layer reads it. `also` looks at what is waited for next.
template <class Also>
__device__ __forceinline__ bool TakeRow(const SendArgs& a, const FlaggedTeams& team, int part,
                                        int token, uint32_t round, const Also& also) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const auto whom = [&](int = 0) { return SourceOf(g, kStageDispatch, round, part); };
  const int lane = threadIdx.x % 32, units = s.hidden / kEach;
  const uint64_t* words = RowsOf(g, s, g.rank, part);
  const int64_t row = static_cast<int64_t>(part) * s.spacing + token;
  RunsAtOnce<kAtOnce, kUnitWords> x;
  int first = team.Thread();
  const auto at = [&](int i) {
    return RunAt<kUnitWords>(words + kFlaggedX, token * units + first + i * team.Threads());
  };
  const auto look = [&] {
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) x.here[i] = first + i * team.Threads() < units;
    x.Look(at);
  };
  // A row comes with its ids, if it comes at all: each look at them is one at it as well. Lanes without a slot look at the first
  // one's, so that they have looked at the row as late as the others have.
  const bool mine = lane < s.top_k;
  const uint64_t* slot = words + token * s.top_k + (mine ? lane : 0);
  uint64_t id = 0, weight = 0;
  const bool good_ids = AwaitLook(g, whom, [&] {
    id = LoadRelaxedSystem(slot + kFlaggedIds);
    weight = s.weights >= 0 ? LoadRelaxedSystem(slot + kFlaggedWeights) : id;
    look();
    also();
    return IsOf(id, round) && IsOf(weight, round);
  });
  const int expert = good_ids && mine ? static_cast<int>(id) : -1;
  if (mine && team.Warp() == 0) {
    uint8_t* here = g.windows[g.rank] + (row * s.top_k + lane) * 4;
    *reinterpret_cast<int32_t*>(here + s.ids) = expert;
    if (s.weights >= 0)
      *reinterpret_cast<uint32_t*>(here + s.weights) = static_cast<uint32_t>(weight);
  }
  bool good = good_ids;
  if (!__any_sync(~0u, expert >= 0)) return good;
  uint4* to = reinterpret_cast<uint4*>(g.windows[g.rank] + s.rows + row * s.hidden * 2);
  for (; first < units; first += kAtOnce * team.Threads()) {
    if (first >= kAtOnce * team.Threads()) look();
    if (good) good = x.Await(g, round, at, whom, also);
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      if (x.here[i]) to[first + i * team.Threads()] = Narrow(x.words[i]);
    }
  }
  return good;
}

__device__ __forceinline__ void PushTokens(const SendArgs& a, const Begun& begun) {
  const FlaggedTeams team = TeamsFor<kWarps>(a.sizes.spacing, blockIdx.x, a.pushers);
  const int live = Live(a.own);
  int token = team.Mine();
  const bool none = token >= a.sizes.spacing;
  do {
    // Begun before anything is known of the round.
    Token t = LoadToken(a, team, token, token < live);
    if (!begun.usable) return;
    // First, so that who has seen the rest need not wait for them.
    if (token == team.Mine()) PushTags(a.group, a.sizes, kStageDispatch, begun.round);
    if (!none) PushToken(a, team, token, t, begun.round);
    token += team.Count();
  } while (token < a.sizes.spacing);
}

__device__ __forceinline__ bool TakeRows(const SendArgs& a, int cta, uint32_t round) {
  const GroupArgs& g = a.group;
  const int others = EpSize(g) - 1, me = EpRank(g), items = others * a.sizes.spacing;
  const FlaggedTeams team = TeamsFor<kWarps>(items, cta, gridDim.x - a.pushers);
  const bool checks = cta == 0 && threadIdx.x < 32;
  Tags tags{};
  const auto also = [&] {
    if (checks) LookAtTags(g, a.sizes, kStageDispatch, &tags);
  };
  bool good = true;
  for (int item = team.Mine(); item < items; item += team.Count()) {
    const int part = item / a.sizes.spacing;
    good &=
        TakeRow(a, team, part + (part >= me ? 1 : 0), item - part * a.sizes.spacing, round, also);
  }
  return (!checks || AwaitTags(g, a.sizes, kStageDispatch, round, tags)) && good;
}

__global__ void __launch_bounds__(kThreads, 1) SendFlagged(const __grid_constant__ SendArgs a) {
  WaitForPrimary();
  const Begun begun = Begin(a.group, kStageDispatch);
  const int cta = static_cast<int>(blockIdx.x) - a.pushers;
  if (cta < 0) {
    PushTokens(a, begun);
    return;
  }
  const bool good = begun.usable && TakeRows(a, cta, begun.round) && !begun.told;
  // Not earlier: whoever comes next would fill the device while this waits.
  LaunchDependents();
  if (!good) a.group.progress->failed = 1;
}

// ----------------------------------------------------------------------------------------------------------- return --

// Each computed pair's result to its token's home. A warp has 128 units of a pair at a time. What leads to a result is loaded at
// once, and counts of pairs, which nobody waits for here, come last.
template <int Words>
__device__ __forceinline__ void PushRoutes(const ReturnArgs& a, const Begun& begun) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  constexpr int kOfRun = Words / kUnitWords;  // units
  const int lane = threadIdx.x % 32, units = s.hidden / kEach * kOfRun;
  const int segments = (units + 32 * kAtOnce - 1) / (32 * kAtOnce);
  const int items = a.rows * s.top_k * segments;
  const int32_t* ids = reinterpret_cast<const int32_t*>(g.windows[g.rank] + s.ids) +
                       static_cast<int64_t>(a.first) * s.top_k;
  const int mine = blockIdx.x * kWarps + threadIdx.x / 32;
  int item = mine;
  do {
    const int pair = item / segments, segment = item - pair * segments;
    int expert = -1, result = pair;
    if (item < items) {
      expert = ids[pair];
      if (a.result_row != nullptr) result = a.result_row[pair];
    }
    const bool computed = expert >= 0 && result >= 0;
    const int first = segment * 32 * kAtOnce + lane;
    const uint4* from = static_cast<const uint4*>(a.results) + static_cast<int64_t>(result) * units;
    uint4 v[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      if (computed && first + i * 32 < units) v[i] = from[first + i * 32];
    }
    if (!begun.usable) return;
    // First, so that who has seen the rest need not wait for them.
    if (item == mine && a.last) PushTags(g, s, kStageCombine, begun.round);
    const int row = a.first + pair / s.top_k;
    const int part = row / s.spacing, slot = (row - part * s.spacing) * s.top_k + pair % s.top_k;
    uint64_t* to = ResultsOf(g, s, EpPeer(g, computed ? part : EpRank(g)));
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      const int unit = first + i * 32;
      if (computed && unit < units)
        StoreFlagged(RunAt<Words>(to, (static_cast<int64_t>(slot) * units + unit) / kOfRun),
                     unit % kOfRun, v[i], begun.round);
    }
    if (expert >= 0 && segment == 0 && lane == 0) CountPair(a, expert);
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
__device__ __forceinline__ void PushSums(const ReturnArgs& a, const Begun& begun) {
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
    if (!begun.usable) return;
    // First, so that who has seen the rest need not wait for them.
    if (item == mine && a.last) PushTags(g, s, kStageCombine, begun.round);
    if (computed != 0 && column < s.hidden) {
      const int part = row / s.spacing, token = row - part * s.spacing;
      const int64_t run =
          ((static_cast<int64_t>(me) * s.spacing + token) * s.hidden + column) / kEach;
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

// In slot order, or in the order of the parts that computed any of the token: the sums of exchange.cu, term by term. All lanes
// of a warp have the same token; `column` may lie behind its end.
template <int Words>
__device__ __forceinline__ bool AddTerms(const ReturnArgs& a, uint32_t round, int token, int column,
                                         Tags* tags, float* sum) {
  constexpr int kTerms = 24 / Words;  // at once
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const OwnTokens& own = a.sum.own;
  const bool sums = s.sums_travel != 0;
  Ways ways{-1, 0, 0};
  if (sums) ways = WaysOf(a.sum.routes, own, token, true);
  const uint64_t* results = ResultsOf(g, s, g.rank);
  const int count = sums ? EpSize(g) : s.top_k;
  bool good = true;
  for (int first = 0; first < count && good; first += kTerms) {
    RunsAtOnce<kTerms, Words> runs;
    float weight[kTerms];
#pragma unroll
    for (int i = 0; i < kTerms; i++) {
      const int term = first + i;
      runs.here[i] = term < count && column < s.hidden;
      weight[i] = 1.0f;
      if (!runs.here[i]) continue;
      if (sums) {
        runs.here[i] = ways.Touches(term);
      } else {
        const int64_t id = IdOf(own, token, term);
        runs.here[i] = id >= 0 && id < a.sum.routes.id_count;
        if (a.sum.weighted)
          weight[i] =
              LoadWeight(own.weights, own.weight_is_bf16, token * own.weights_stride + term);
      }
    }
    const auto at = [&](int i) {
      const int64_t row = sums ? static_cast<int64_t>(first + i) * s.spacing + token
                               : static_cast<int64_t>(token) * s.top_k + first + i;
      return RunAt<Words>(results, (row * s.hidden + column) / kEach);
    };
    const auto whom = [&](int i) {
      const int part =
          sums ? first + i
               : CopyFor(a.sum.routes, IdOf(own, token, first + i), own.first + token, first + i) >>
                     16;
      return SourceOf(g, kStageCombine, round, part);
    };
    runs.Look(at);
    good = runs.Await(g, round, at, whom, [&] { LookAtTags(g, s, kStageCombine, tags); });
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

// The tokens of this rank, as what they are made of comes.
template <int Words>
__device__ __forceinline__ void AddTokens(const ReturnArgs& a, int cta, const Begun& begun) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const int lane = threadIdx.x % 32, pieces = (s.hidden + 32 * kEach - 1) / (32 * kEach);
  const int items = Live(a.sum.own) * pieces, step = (gridDim.x - a.pushers) * kWarps;
  const int first = cta * kWarps + threadIdx.x / 32;
  // Also a rank without tokens waits for the others, once.
  bool asks = begun.usable && (first < items || first == 0);
  bool tagged = begun.usable && !begun.told, failed = !tagged;
  Tags tags{};
  if (asks) LookAtTags(g, s, kStageCombine, &tags);
  for (int item = first; asks || item < items; item += step) {
    const int token = item / pieces, column = ((item - token * pieces) * 32 + lane) * kEach;
    float sum[kEach] = {};
    bool good = begun.usable;
    if (good && item < items) good = AddTerms<Words>(a, begun.round, token, column, &tags, sum);
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
  const Begun begun = Begin(g, kStageCombine);
  const int cta = static_cast<int>(blockIdx.x) - a.pushers;
  if (cta < 0) {
    if (a.sizes.sums_travel == 0) {
      PushRoutes<Words>(a, begun);
    } else {
      PushSums<Words>(a, begun);
    }
  }
  if (!a.last || (a.parts & kWait) == 0) return;
  // The round's number passes on, and what it has counted to the host, while others wait.
  __syncthreads();
  if (threadIdx.x / 32 == kWarps - 1) {
    const int lane = threadIdx.x % 32;
    const bool last =
        lane == 0 && PassRound(g, kStageCombine, begun.round, a.sum.loads_told != nullptr);
    if (__any_sync(~0u, last)) TellLoads(a.sum, lane, 32);
  }
  if (cta >= 0) AddTokens<Words>(a, cta, begun);
}

int Ctas(int64_t threads) {
  const int64_t ctas = (threads + kThreads - 1) / kThreads;
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
  const int64_t units = static_cast<int64_t>(args.sizes.spacing) * (args.sizes.hidden / kEach);
  const int others = args.group.size / args.group.tp_size - 1;
  SendArgs a = args;
  a.pushers = (a.parts & kPush) != 0 ? Ctas(units) : 0;
  const int waiters = (a.parts & kWait) != 0 ? Ctas(others * units) : 0;
  return LaunchDependent(SendFlagged, dim3(static_cast<unsigned>(a.pushers + waiters)),
                         dim3(kThreads), 0, stream, a);
}

int LaunchReturnFlagged(const ReturnArgs& args, KernelStream stream) {
  const ExchangeSizes& s = args.sizes;
  // A warp has 128 units of a pair, or 256 columns of a row or token.
  const int64_t segments = (static_cast<int64_t>(s.hidden) * s.slot_bytes / 16 + 127) / 128;
  const int64_t pieces = (static_cast<int64_t>(s.hidden) + 255) / 256;
  ReturnArgs a = args;
  a.pushers = (a.parts & kPush) != 0
                  ? Ctas(32 * a.rows * (s.sums_travel ? pieces : s.top_k * segments))
                  : 0;
  const int waiters = a.last != 0 && (a.parts & kWait) != 0 ? Ctas(32 * s.spacing * pieces) : 0;
  const bool narrow = s.sums_travel ? s.sum_is_bf16 : s.slot_bytes == 2;
  return LaunchDependent(narrow ? ReturnFlagged<kUnitWords> : ReturnFlagged<2 * kUnitWords>,
                         dim3(static_cast<unsigned>(a.pushers + waiters)), dim3(kThreads), 0,
                         stream, a);
}

}  // namespace dsv4mx::dist
