// Expert parallel: rows to their experts, results home, the sum (launch_exchange.h).
#include "kernels/dist/exchange.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"

namespace dsv4mx::dist {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kEach = kRunElements;
using ExchangeTeams = Teams<kWarps>;

// ------------------------------------------------------------------------------------------------------------- send --

constexpr int kAtOnce = 4;

// Units first, first + step, ... of a row.
__device__ __forceinline__ void LoadUnits(const uint4* from, int first, int step, int units,
                                          uint4* v) {
#pragma unroll
  for (int i = 0; i < kAtOnce; i++)
    v[i] = first + i * step < units ? from[first + i * step] : make_uint4(0, 0, 0, 0);
}
__device__ __forceinline__ void StoreUnits(uint4* to, int first, int step, int units,
                                           const uint4* v) {
#pragma unroll
  for (int i = 0; i < kAtOnce; i++)
    if (first + i * step < units) to[first + i * step] = v[i];
}

__device__ __forceinline__ void SendTokens(const SendArgs& a) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const ExchangeTeams team = TeamsFor<kWarps>(s.spacing, blockIdx.x, gridDim.x);
  const int lane = threadIdx.x % 32, live = Live(a.own);
  const int units = s.hidden / kEach, step = team.Threads();
  for (int token = team.Mine(); token < s.spacing; token += team.Count()) {
    // Begun before the ids have come.
    const uint4* x = reinterpret_cast<const uint4*>(a.x + token * a.x_stride);
    uint4 v[kAtOnce];
    LoadUnits(x, team.Thread(), step, token < live ? units : 0, v);
    const Ways ways = WaysOf(a.routes, a.own, token, token < live);
    const int64_t row = static_cast<int64_t>(EpRank(g)) * s.spacing + token;
    if (team.Warp() == 0 && lane < s.top_k) {
      const int64_t pair = (row * s.top_k + lane) * 4;
      const bool travels = s.weights >= 0 && token < live;
      const float weight = travels ? LoadWeight(a.own.weights, a.own.weight_is_bf16,
                                                token * a.own.weights_stride + lane)
                                   : 0.0f;
      for (int p = 0; p < EpSize(g); p++) {
        uint8_t* there = g.windows[EpPeer(g, p)] + pair;
        const bool here = ways.copy >= 0 && ways.copy >> 16 == p;
        *reinterpret_cast<int32_t*>(there + s.ids) = here ? ways.copy & 0xFFFF : -1;
        if (travels) *reinterpret_cast<float*>(there + s.weights) = weight;
      }
    }
    if ((ways.low | ways.high) == 0) continue;
    for (int first = team.Thread(); first < units; first += kAtOnce * step) {
      if (first >= kAtOnce * step) LoadUnits(x, first, step, units, v);
      for (int i = 0; i < EpSize(g); i++) {
        const int p = PartInTurn(g, i);
        if (!ways.Touches(p)) continue;
        StoreUnits(reinterpret_cast<uint4*>(g.windows[EpPeer(g, p)] + s.rows + row * s.hidden * 2),
                   first, step, units, v);
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads) Send(const __grid_constant__ SendArgs a) {
  WaitForPrimary();
  const GroupArgs& g = a.group;
  const Begun begun = Begin(g, kStageDispatch);
  if ((a.parts & kPush) != 0 && UsableForAll(begun)) {
    SendTokens(a);
    PublishPiece(g, kStageDispatch, begun.round, static_cast<uint32_t>(a.sizes.spacing));
  }
  if ((a.parts & kWait) == 0 || blockIdx.x != 0) return;
  // Not earlier: whoever comes next would fill the device while this waits.
  if (!AwaitPieces(g, a.sizes, kStageDispatch, begun) && threadIdx.x == 0) g.progress->failed = 1;
}

// ----------------------------------------------------------------------------------------------------------- return --

__device__ __forceinline__ void CopyRow(uint8_t* to, const uint8_t* from, int64_t bytes,
                                        const ExchangeTeams& team) {
  const int units = static_cast<int>(bytes / 16), step = team.Threads();
  for (int first = team.Thread(); first < units; first += kAtOnce * step) {
    uint4 v[kAtOnce];
    LoadUnits(reinterpret_cast<const uint4*>(from), first, step, units, v);
    StoreUnits(reinterpret_cast<uint4*>(to), first, step, units, v);
  }
}

// Route by route. A team looks at 32 of its pairs at a time, so that their ids are read together.
__device__ __forceinline__ void ReturnRoutes(const ReturnArgs& a) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const int pairs = a.rows * s.top_k, lane = threadIdx.x % 32;
  const ExchangeTeams team = TeamsFor<kWarps>(pairs, blockIdx.x, gridDim.x);
  const int32_t* ids = reinterpret_cast<const int32_t*>(g.windows[g.rank] + s.ids) +
                       static_cast<int64_t>(a.first) * s.top_k;
  const int64_t bytes = static_cast<int64_t>(s.hidden) * s.slot_bytes;
  const InTurn order(pairs, g);
  for (int first = team.Mine(); first < order.Count(); first += 32 * team.Count()) {
    const int i = first + lane * team.Count(), mine = i < order.Count() ? order.Item(i) : pairs;
    const int expert = mine < pairs ? ids[mine] : -1;
    int result = mine;
    if (expert >= 0 && a.result_row != nullptr) result = a.result_row[mine];
    if (expert >= 0 && team.Warp() == 0) CountPair(a, expert);
    uint32_t todo = __ballot_sync(~0u, expert >= 0 && result >= 0);
    for (; todo != 0; todo &= todo - 1) {
      const int which = __ffs(todo) - 1, from_row = __shfl_sync(~0u, result, which);
      const int pair = __shfl_sync(~0u, mine, which), row = a.first + pair / s.top_k;
      const int part = row / s.spacing, token = row - part * s.spacing;
      const int64_t slot = static_cast<int64_t>(token) * s.top_k + pair % s.top_k;
      CopyRow(g.windows[EpPeer(g, part)] + s.slots + slot * bytes,
              static_cast<const uint8_t*>(a.results) + from_row * bytes, bytes, team);
    }
  }
}

// One sum per row.
__device__ __forceinline__ void ReturnSums(const ReturnArgs& a) {
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const ExchangeTeams team = TeamsFor<kWarps>(a.rows, blockIdx.x, gridDim.x);
  const int lane = threadIdx.x % 32, me = EpRank(g);
  const int32_t* ids = reinterpret_cast<const int32_t*>(g.windows[g.rank] + s.ids);
  const float* weights = reinterpret_cast<const float*>(g.windows[g.rank] + s.weights);
  const InTurn order(a.rows, g);
  for (int item = team.Mine(); item < order.Count(); item += team.Count()) {
    const int i = order.Item(item), row = a.first + i;
    if (i >= a.rows) continue;
    const int64_t pair = static_cast<int64_t>(row) * s.top_k + lane;
    const int expert = lane < s.top_k ? ids[pair] : -1;
    int result = i * s.top_k + lane;
    if (expert >= 0 && a.result_row != nullptr) result = a.result_row[result];
    const float weight = expert >= 0 && a.weighted ? weights[pair] : 1.0f;
    if (expert >= 0 && team.Warp() == 0) CountPair(a, expert);
    const uint32_t computed = __ballot_sync(~0u, expert >= 0 && result >= 0);
    if (computed == 0) continue;
    const int part = row / s.spacing, token = row - part * s.spacing;
    void* there = g.windows[EpPeer(g, part)] + s.slots;
    const int64_t to = (static_cast<int64_t>(me) * s.spacing + token) * s.hidden;
    // All lanes go through the loop, which they need each other for.
    for (int begin = 0; begin < s.hidden; begin += team.Threads() * kEach) {
      const int column = begin + team.Thread() * kEach;
      float sum[kEach] = {};
      AddResults(a.results, s.slot_bytes == 2, s.hidden, column, computed, result, weight, sum);
      if (column < s.hidden) StoreRun(there, s.sum_is_bf16, to + column, sum);
    }
  }
}

// -------------------------------------------------------------------------------------------------------------- sum --

// In slot order, as Combine does where all experts are on one rank.
__device__ __forceinline__ void AddRoutes(const GroupArgs& g, const ExchangeSizes& s,
                                          const SumArgs& a, int token, int column, float* sum) {
  const uint8_t* slots = g.windows[g.rank] + s.slots;
#pragma unroll 4
  for (int k = 0; k < s.top_k; k++) {
    const int64_t id = IdOf(a.own, token, k);
    if (id < 0 || id >= a.routes.id_count) continue;
    const float w = a.weighted ? LoadWeight(a.own.weights, a.own.weight_is_bf16,
                                            token * a.own.weights_stride + k)
                               : 1.0f;
    float v[kEach];
    LoadRun(slots, s.slot_bytes == 2,
            (static_cast<int64_t>(token) * s.top_k + k) * s.hidden + column, v);
#pragma unroll
    for (int i = 0; i < kEach; i++) sum[i] = fmaf(w, v[i], sum[i]);
  }
}

// In the order of the parts that computed any of the token.
__device__ __forceinline__ void AddSums(const GroupArgs& g, const ExchangeSizes& s,
                                        const Ways& ways, int token, int column, float* sum) {
  const uint8_t* sums = g.windows[g.rank] + s.slots;
  for (int p = 0; p < EpSize(g); p++) {
    if (!ways.Touches(p)) continue;
    float v[kEach];
    LoadRun(sums, s.sum_is_bf16, (static_cast<int64_t>(p) * s.spacing + token) * s.hidden + column,
            v);
#pragma unroll
    for (int i = 0; i < kEach; i++) sum[i] += v[i];
  }
}

// Eight elements of a token, or NaN. All lanes of a warp have the same token; `column` may lie behind its end.
__device__ __forceinline__ void WriteSum(const GroupArgs& g, const ExchangeSizes& s,
                                         const SumArgs& a, bool failed, int token, int column) {
  float sum[kEach];
#pragma unroll
  for (int i = 0; i < kEach; i++) sum[i] = failed ? __uint_as_float(0x7FC00000u) : 0.0f;
  const bool ask = !failed && s.sums_travel != 0;
  Ways ways{-1, 0, 0};
  if (ask) ways = WaysOf(a.routes, a.own, token, true);
  if (column >= s.hidden) return;
  if (ask) {
    AddSums(g, s, ways, token, column, sum);
  } else if (!failed) {
    AddRoutes(g, s, a, token, column, sum);
  }
  WriteRun(a.out, !a.out_is_f32, a.accumulate, token * a.out_stride + column, a.factor, sum);
}

constexpr int kPlaceThreads = 256;

__global__ void __launch_bounds__(kPlaceThreads) Place(const __grid_constant__ PlaceArgs a) {
  WaitForPrimary();
  LaunchDependents();
  const GroupArgs& g = a.group;
  const ExchangeSizes& s = a.sizes;
  const int pair = blockIdx.x * kPlaceThreads + threadIdx.x;
  if (pair >= a.rows * s.top_k) return;
  const int expert = (reinterpret_cast<const int32_t*>(g.windows[g.rank] + s.ids) +
                      static_cast<int64_t>(a.first) * s.top_k)[pair];
  if (expert < 0) return;
  CountPair(a, expert);
  const int result = a.panel_row[pair];
  if (result < 0) return;
  const int row = a.first + pair / s.top_k, part = row / s.spacing;
  const int64_t slot = static_cast<int64_t>(row - part * s.spacing) * s.top_k + pair % s.top_k;
  const int64_t bytes = static_cast<int64_t>(s.hidden) * s.slot_bytes;
  a.targets[result] = g.progress->failed == 0 ? g.windows[EpPeer(g, part)] + s.slots + slot * bytes
                                              : static_cast<uint8_t*>(a.slots) + result * bytes;
}

__global__ void __launch_bounds__(kThreads) Return(const __grid_constant__ ReturnArgs a) {
  WaitForPrimary();
  const GroupArgs& g = a.group;
  const Begun begun = Begin(g, kStageCombine);
  if ((a.parts & kPush) != 0) {
    const bool usable = UsableForAll(begun);
    if (usable && !a.pushed) {
      if (a.sizes.sums_travel) {
        ReturnSums(a);
      } else {
        ReturnRoutes(a);
      }
    }
    if (!a.last) return;
    if (usable) {
      if (a.pushed) {
        PublishPieces(g, a.sizes.pieces, kStageCombine, begun.round);
      } else {
        PublishPiece(g, kStageCombine, begun.round, 0);
      }
    }
  }
  if ((a.parts & kWait) == 0 || blockIdx.x != 0) return;
  if (!AwaitPieces(g, a.sizes, kStageCombine, begun) && threadIdx.x == 0) g.progress->failed = 1;
}

constexpr int kSumThreads = 128;

__global__ void __launch_bounds__(kSumThreads) Finish(const __grid_constant__ FinishArgs a) {
  const int token = blockIdx.x, column = (blockIdx.y * kSumThreads + threadIdx.x) * kEach;
  WaitForPrimary();
  LaunchDependents();
  const GroupArgs& g = a.group;
  const bool failed = a.poison != 0 || g.progress->failed != 0;
  if (token < Live(a.sum.own)) WriteSum(g, a.sizes, a.sum, failed, token, column);
  if (a.poison != 0 || blockIdx.x != 0 || blockIdx.y != 0) return;
  if (threadIdx.x == 0) g.progress->ep_round = NextRound(g.progress->ep_round);
  TellLoads(a.sum, threadIdx.x, kSumThreads);
}

// ------------------------------------------------------------------------------------------------- from the host --

__global__ void __launch_bounds__(32) Tell(const __grid_constant__ TellArgs a) {
  const GroupArgs& g = a.group;
  if (threadIdx.x != 0) return;
  if (a.fault != 0) TellFault(g, a.fault);
  if (a.gone != 0) {
    for (int r = 0; r < g.size; r++) {
      if (r != g.rank) OrSystem(&ControlOf(g, r)->left, uint64_t{1} << g.rank);
    }
  }
}

}  // namespace

cudaError_t LoadFlagged();
cudaError_t LoadReduce();

int LoadExchange() {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, Send);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, Place);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, Return);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, Finish);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, Tell);
  if (error == cudaSuccess) error = LoadFlagged();
  return error == cudaSuccess ? LoadReduce() : error;
}

int LaunchSend(const SendArgs& args, KernelStream stream) {
  if (args.sizes.flagged) return LaunchSendFlagged(args, stream);
  return LaunchDependent(Send, dim3(args.parts == kWait ? 1 : args.sizes.pieces), dim3(kThreads), 0,
                         stream, args);
}

int LaunchPlace(const PlaceArgs& args, KernelStream stream) {
  const int pairs = args.rows * args.sizes.top_k;
  return LaunchDependent(Place, dim3((pairs + kPlaceThreads - 1) / kPlaceThreads),
                         dim3(kPlaceThreads), 0, stream, args);
}

int LaunchReturn(const ReturnArgs& args, KernelStream stream) {
  if (args.sizes.flagged) return LaunchReturnFlagged(args, stream);
  return LaunchDependent(Return, dim3(args.parts == kWait || args.pushed ? 1 : args.sizes.pieces),
                         dim3(kThreads), 0, stream, args);
}

int LaunchFinish(const FinishArgs& args, KernelStream stream) {
  // Also without tokens: the round ends here.
  const int each = kSumThreads * kEach, tokens = args.sum.own.tokens;
  return LaunchDependent(Finish,
                         dim3(tokens > 0 ? tokens : 1, (args.sizes.hidden + each - 1) / each),
                         dim3(kSumThreads), 0, stream, args);
}

int LaunchTell(const TellArgs& args, KernelStream stream) {
  return LaunchDependent(Tell, dim3(1), dim3(32), 0, stream, args);
}

}  // namespace dsv4mx::dist
