// Rows and sums around collectives (launch_collect.h).
#include "kernels/dist/launch_collect.h"
#include "kernels/dist/own_tokens.cuh"
#include "kernels/dist/rank_sum.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/ptx/system.cuh"
#include "kernels/routing.cuh"
#include "kernels/run.cuh"

namespace dsv4mx::dist {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kCommMismatch = 53;  // as in dsv4mx.h

__device__ __forceinline__ void CopyWarp(uint8_t* to, const uint8_t* from, int64_t bytes) {
  for (int64_t at = threadIdx.x % 32 * 16; at < bytes; at += 32 * 16)
    *reinterpret_cast<uint4*>(to + at) = *reinterpret_cast<const uint4*>(from + at);
}

__device__ __forceinline__ int RankOf(const CollectArgs& g, int number) {
  return g.first + number * g.step;
}
__device__ __forceinline__ RoundStamp StampOf(const CollectArgs& g, uint32_t round, int count) {
  return {g.tag, round, static_cast<uint32_t>(count), g.progress->fault, 0};
}
__device__ __forceinline__ bool SameRound(const RoundStamp& a, const RoundStamp& b) {
  return a.tag == b.tag && a.round == b.round && a.count == b.count;
}
// The fault that the first rank knows of that knows any, or that the first is whose stamp is not this one's; 0 = none.
template <class StampAt>
__device__ __forceinline__ uint64_t FindFault(const CollectArgs& g, int stage, StampAt stamp_at) {
  const RoundStamp own = *stamp_at(g.mine);
  for (int i = 0; i < g.count; i++) {
    const RoundStamp* s = stamp_at(i);
    if (s->fault != 0) return s->fault;
    if (!SameRound(*s, own))
      return PackFault({kCommMismatch, stage, RankOf(g, i), RankOf(g, g.mine), own.round});
  }
  return 0;
}
// One thread: what was found (0 = nothing) is told to the host, and what the host knew (`told`) to the others, in the next stamp.
// What was told first stays.
__device__ __forceinline__ void TellFault(const CollectArgs& g, uint64_t told, uint64_t fault) {
  if (told == 0 && fault != 0) StoreReleaseSystem(g.told, fault);
  if (told != 0) fault = told;
  if (fault == 0) return;
  g.progress->failed = 1;
  g.progress->fault = fault;
}

// A warp for each token of the round.
__global__ void __launch_bounds__(kThreads) PackRows(const __grid_constant__ PackRowsArgs a) {
  WaitForPrimary();
  LaunchDependents();
  const int token = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (token >= a.spacing) return;
  const bool live = token < Live(a.own);
  uint8_t* record = a.records + token * a.shape.bytes();
  int copy = -1;
  if (live && lane < a.own.top_k)
    copy = CopyFor(a.routes, IdOf(a.own, token, lane), a.own.first + token, lane);
  if (lane < a.own.top_k) {
    const float weight =
        live ? LoadWeight(a.own.weights, a.own.weight_is_bf16, token * a.own.weights_stride + lane)
             : 0.0f;
    reinterpret_cast<int32_t*>(record + a.shape.ids())[lane] = copy;
    reinterpret_cast<float*>(record + a.shape.weights())[lane] = weight;
  }
  if (lane == 0) {
    *reinterpret_cast<RoundStamp*>(record + a.shape.stamp()) =
        StampOf(a.group, a.group.progress->ep_round + 1, a.spacing);
  }
  if (!__all_sync(~0u, copy < 0)) {
    CopyWarp(record, reinterpret_cast<const uint8_t*>(a.x + token * a.x_stride),
             int64_t{2} * a.shape.hidden);
  }
}

// Whether a row of the chunk came in this round. A gather that an abort cuts leaves older records, while what is sent home
// after it may well arrive: NaN goes there instead.
__device__ __forceinline__ bool CameNow(const SpreadRowsArgs& a, int64_t row) {
  const auto stamp = [&](int64_t record) {
    return *reinterpret_cast<const RoundStamp*>(a.records + record * a.shape.bytes() +
                                                a.shape.stamp());
  };
  return SameRound(stamp(a.first + row), stamp(int64_t{a.group.mine} * a.spacing));
}
constexpr uint32_t kNaNs = 0x7fff7fff;  // two of bf16, or one of fp32

// One thread of a kernel that sends results home.
__device__ __forceinline__ void CompareRecords(const SpreadRowsArgs& a) {
  const uint64_t fault = FindFault(a.group, 1, [&](int i) {
    return reinterpret_cast<const RoundStamp*>(
        a.records + static_cast<int64_t>(i) * a.spacing * a.shape.bytes() + a.shape.stamp());
  });
  TellFault(a.group, LoadAcquireSystem(a.group.told), fault);
}
__device__ __forceinline__ void CountPair(const SpreadRowsArgs& a, int expert) {
  atomicAdd(reinterpret_cast<unsigned long long*>(a.loads) + expert, 1ull);
  if (a.expert_counts != nullptr)
    atomicAdd(reinterpret_cast<unsigned long long*>(a.expert_counts) + expert, 1ull);
}

// A warp for each pair of the chunk.
__global__ void __launch_bounds__(kThreads) SpreadRows(const __grid_constant__ SpreadRowsArgs a) {
  WaitForPrimary();
  LaunchDependents();
  const CombineArgs& c = a.layer;
  if (blockIdx.x == 0 && threadIdx.x == 0) CompareRecords(a);
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (pair >= static_cast<int64_t>(c.routing.tokens) * c.routing.top_k) return;
  const int expert = LocalExpert(c.routing, pair), lane = threadIdx.x % 32;
  const int64_t row = expert < 0 ? -1 : c.panel_row != nullptr ? c.panel_row[pair] : pair;
  const bool came = CameNow(a, pair / c.routing.top_k);
  if (came && expert >= 0 && lane == 0) CountPair(a, expert);
  const int64_t bytes = static_cast<int64_t>(c.hidden) * (c.slots_are_bf16 ? 2 : 4);
  uint8_t* to = a.results + pair * bytes;
  if (came && row >= 0) {
    CopyWarp(to, static_cast<const uint8_t*>(c.slots) + row * bytes, bytes);
  } else {
    const uint32_t w = came ? 0 : kNaNs;
    for (int64_t at = lane * 16; at < bytes; at += 32 * 16)
      *reinterpret_cast<uint4*>(to + at) = make_uint4(w, w, w, w);
  }
}

// A CTA for 2,048 columns of a row of the chunk. Sums are made as those that travel by peer memory (exchange.cu). Nothing is
// written for a row that has nothing here, and its home does not look.
__global__ void __launch_bounds__(kThreads) SpreadSums(const __grid_constant__ SpreadRowsArgs a) {
  WaitForPrimary();
  LaunchDependents();
  const CombineArgs& c = a.layer;
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) CompareRecords(a);
  const int column = (blockIdx.y * kThreads + threadIdx.x) * kRunElements;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * c.routing.top_k;
  float sum[kRunElements] = {};
  const bool came = CameNow(a, blockIdx.x);
  bool any = !came;
  for (int64_t pair = first; came && pair < first + c.routing.top_k; pair++) {
    const int expert = LocalExpert(c.routing, pair);
    if (expert < 0) continue;
    if (blockIdx.y == 0 && threadIdx.x == 0) CountPair(a, expert);
    const int64_t row = c.panel_row != nullptr ? c.panel_row[pair] : pair;
    if (row < 0 || column >= c.hidden) continue;
    any = true;
    const float w = c.weights != nullptr ? LoadWeight(c.weights, c.weight_is_bf16, pair) : 1.0f;
    float v[kRunElements];
    LoadRun(c.slots, c.slots_are_bf16, row * c.hidden + column, v);
#pragma unroll
    for (int i = 0; i < kRunElements; i++) sum[i] = fmaf(w, v[i], sum[i]);
  }
  if (!came) {
#pragma unroll
    for (int i = 0; i < kRunElements; i++) sum[i] = __uint_as_float(kNaNs);
  }
  if (any && column < c.hidden)
    StoreRun(a.results, a.sum_is_bf16, static_cast<int64_t>(blockIdx.x) * c.hidden + column, sum);
}

__device__ __forceinline__ uint8_t* BlockOf(const CollectSumsArgs& a, int rank) {
  return a.blocks + rank * a.block_bytes;
}

__global__ void __launch_bounds__(kThreads) PackSums(const __grid_constant__ CollectSumsArgs a) {
  WaitForPrimary();
  LaunchDependents();
  const ReduceArgs& r = a.reduce;
  uint8_t* block = BlockOf(a, a.group.mine);
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    const uint32_t round = a.group.progress->tp_round + 1;
    *reinterpret_cast<RoundStamp*>(block) = StampOf(a.group, round, r.tokens);
    a.group.progress->tp_round = round;
  }
  const int64_t units = static_cast<int64_t>(r.tokens) * r.hidden * (r.sum_is_bf16 ? 2 : 4) / 16;
  uint4* to = reinterpret_cast<uint4*>(block + sizeof(RoundStamp));
  for (int64_t u = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; u < units;
       u += static_cast<int64_t>(gridDim.x) * kThreads)
    to[u] = static_cast<const uint4*>(r.sums)[u];
}

template <bool Tree>
__global__ void __launch_bounds__(kThreads) AddSums(const __grid_constant__ CollectSumsArgs a) {
  __shared__ int failed;
  WaitForPrimary();
  LaunchDependents();
  const ReduceArgs& r = a.reduce;
  if (threadIdx.x == 0) {
    const uint64_t fault = FindFault(
        a.group, 3, [&](int i) { return reinterpret_cast<const RoundStamp*>(BlockOf(a, i)); });
    const uint64_t told = LoadAcquireSystem(a.group.told);
    failed = fault != 0 || a.group.progress->failed != 0 || told != 0;
    if (blockIdx.x == 0) TellFault(a.group, told, fault);
  }
  __syncthreads();
  const int unit = blockIdx.x * kThreads + threadIdx.x;
  if (unit >= LiveTokens(r) * (r.hidden / kRunElements)) return;
  RankSum<Tree> sum;
  for (int t = 0; t < a.group.count; t++) {
    float v[kRunElements];
    LoadRun(BlockOf(a, t) + sizeof(RoundStamp), r.sum_is_bf16,
            static_cast<int64_t>(unit) * kRunElements, v);
    sum.Add(t, v);
  }
  WritePiece(r, unit, failed == 0, sum.sum);
}

int64_t Units(const ReduceArgs& r) {
  return static_cast<int64_t>(r.tokens) * (r.hidden / kRunElements);
}
unsigned Ctas(int64_t items, int64_t each) {
  return static_cast<unsigned>(items == 0 ? 1 : (items + each - 1) / each);
}

}  // namespace

int LoadCollect() {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, PackRows);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, SpreadRows);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, SpreadSums);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, PackSums);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, AddSums<false>);
  return error == cudaSuccess ? cudaFuncGetAttributes(&attributes, AddSums<true>) : error;
}

int LaunchPackRows(const PackRowsArgs& args, KernelStream stream) {
  return LaunchDependent(PackRows, dim3(Ctas(args.spacing, kWarps)), dim3(kThreads), 0, stream,
                         args);
}
int LaunchSpreadRows(const SpreadRowsArgs& args, KernelStream stream) {
  const int64_t pairs = static_cast<int64_t>(args.layer.routing.tokens) * args.layer.routing.top_k;
  return LaunchDependent(SpreadRows, dim3(Ctas(pairs, kWarps)), dim3(kThreads), 0, stream, args);
}
int LaunchSpreadSums(const SpreadRowsArgs& args, KernelStream stream) {
  constexpr int kColumns = kThreads * kRunElements;
  const int rows = args.layer.routing.tokens;
  return LaunchDependent(SpreadSums,
                         dim3(rows == 0 ? 1 : rows, (args.layer.hidden + kColumns - 1) / kColumns),
                         dim3(kThreads), 0, stream, args);
}
int LaunchPackSums(const CollectSumsArgs& args, KernelStream stream) {
  return LaunchDependent(PackSums, dim3(Ctas(Units(args.reduce), kThreads)), dim3(kThreads), 0,
                         stream, args);
}
int LaunchAddSums(const CollectSumsArgs& args, KernelStream stream) {
  return LaunchDependent(args.reduce.tree ? AddSums<true> : AddSums<false>,
                         dim3(Ctas(Units(args.reduce), kThreads)), dim3(kThreads), 0, stream, args);
}

}  // namespace dsv4mx::dist
