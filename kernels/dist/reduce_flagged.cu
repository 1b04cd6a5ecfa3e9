// Tensor parallel, small: partial sums to everybody, word by word with their round (flagged.cuh), added in rank order or as a tree.
#include "kernels/dist/flagged.cuh"
#include "kernels/dist/rank_sum.cuh"
#include "kernels/dist/reduce_piece.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/run.cuh"

namespace dsv4mx::dist {
namespace {

// Small CTAs, as in exchange_flagged.cu.
constexpr int kThreads = 64, kEach = kRunElements;
static_assert(kThreads >= kMaxRanks, "a thread for every tag");

// Eight elements of this rank as they are stored: one or two times 16 bytes.
struct Own {
  uint4 units[2];
};
__device__ __forceinline__ Own LoadOwn(const ReduceArgs& a, int u) {
  Own own{};
  const uint4* from = static_cast<const uint4*>(a.sums);
  if (a.sum_is_bf16) {
    own.units[0] = from[u];
  } else {
    own.units[0] = from[2 * u];
    own.units[1] = from[2 * u + 1];
  }
  return own;
}
template <int Words>
__device__ __forceinline__ uint64_t* SumsAt(const ReduceArgs& a, int rank, int buffer, int from,
                                            int u) {
  return RunAt<Words>(FlaggedTagOf(a, rank, buffer, from) + kFlaggedSums, u);
}
template <int Words>
__device__ __forceinline__ void PushOwn(const ReduceArgs& a, int buffer, int u, const Own& own,
                                        uint32_t round) {
  const GroupArgs& g = a.group;
  const int me = g.slice;
  for (int i = 1; i < g.tp_size; i++) {
    // Not all to the same rank at a time.
    const int t = me + i < g.tp_size ? me + i : me + i - g.tp_size;
    uint64_t* to = SumsAt<Words>(a, TpPeer(g, t), buffer, me, u);
    StoreFlagged(to, 0, own.units[0], round);
    if (Words == 8) StoreFlagged(to, 1, own.units[1], round);
  }
}

// Where a rank that takes the reduction for a larger one publishes it.
__device__ __forceinline__ Source SourceOf(const ReduceArgs& a, int buffer, uint32_t round, int t) {
  return {kStageReduce, round, TpPeer(a.group, t),
          &CellAt(a, a.group.rank, buffer, t, 0, 0, 0)->flag};
}

__device__ __forceinline__ Tags TagsOf(const ReduceArgs& a, int buffer) {
  const GroupArgs& g = a.group;
  Tags tags{};
#pragma unroll
  for (int i = 0; i < kMaxRanks / 32; i++) {
    const int t = i * 32 + static_cast<int>(threadIdx.x % 32);
    if (t < g.tp_size && t != g.slice) tags.from[i] = FlaggedTagOf(a, g.rank, buffer, t);
  }
  return tags;
}

template <int Words, bool Tree>
__device__ __forceinline__ bool AddUnit(const ReduceArgs& a, int buffer, int u, const Own& own,
                                        uint32_t round, Tags* tags, float* result) {
  constexpr int kRanks = 32 / Words;  // at once
  const GroupArgs& g = a.group;
  const int me = g.slice;
  RankSum<Tree> sum;
  bool good = true;
  for (int first = 0; first < g.tp_size && good; first += kRanks) {
    RunsAtOnce<kRanks, Words> runs;
#pragma unroll
    for (int i = 0; i < kRanks; i++) {
      runs.here[i] = first + i < g.tp_size && first + i != me;
      runs.from[i] = SumsAt<Words>(a, g.rank, buffer, first + i, u);
    }
    runs.Look();
    good = runs.Await(
        g, round, [&](int i) { return SourceOf(a, buffer, round, first + i); },
        [&] { tags->Look(); });
#pragma unroll
    for (int i = 0; i < kRanks; i++) {
      if (first + i >= g.tp_size) break;
      uint4 units[2] = {own.units[0], own.units[1]};
      if (first + i != me) {
        units[0] = Narrow(runs.words[i]);
        if constexpr (Words == 8) units[1] = Narrow(runs.words[i] + 4);
      }
      float v[kEach];
      LoadRun(units, Words == 4, 0, v);
      sum.Add(first + i, v);
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; i++) result[i] = sum.sum[i];
  return good;
}

template <int Words, bool Tree>
__global__ void __launch_bounds__(kThreads, 1) ReduceFlagged(const __grid_constant__ ReduceArgs a) {
  WaitForPrimary();
  const GroupArgs& g = a.group;
  const int me = g.slice, lane = threadIdx.x % 32;
  const int units = a.tokens * (a.hidden / kEach), step = gridDim.x * kThreads;
  const int first = blockIdx.x * kThreads + threadIdx.x;
  Own own{};
  if (first < units) own = LoadOwn(a, first);
  const Begun begun = Begin(g, kStageReduce);
  const int buffer = static_cast<int>(begun.round & 1);
  const auto size = static_cast<uint32_t>(a.tokens);
  if ((a.parts & kPush) != 0 && begun.usable) {
    // First, so that who has seen the sums need not wait for it.
    const int t = kThreads - 1 - static_cast<int>(threadIdx.x);
    if (blockIdx.x == 0 && t < g.tp_size && t != me)
      PushTag(FlaggedTagOf(a, TpPeer(g, t), buffer, me), g.tag, size, begun.round);
    for (int u = first; u < units; u += step)
      PushOwn<Words>(a, buffer, u, u == first ? own : LoadOwn(a, u), begun.round);
  }
  if ((a.parts & kWait) == 0) return;
  // Rows behind the device's count are pushed, so that all ranks push alike, and not written.
  const int live = LiveTokens(a) * (a.hidden / kEach);
  const int64_t place = OutOf(a, first);
  Tags tags = TagsOf(a, buffer);
  bool tagged = begun.usable;
  if (begun.usable) tags.Look();
  __syncthreads();
  if (threadIdx.x == kThreads - 1) PassRound(g, kStageReduce, begun.round, false);
  bool good = begun.usable;
  float sum[kEach] = {};
  if (first < live && good)
    good = AddUnit<Words, Tree>(a, buffer, first, own, begun.round, &tags, sum);
  if (begun.usable) {
#pragma unroll
    for (int i = 0; i < kMaxRanks / 32; i++) {
      if (tags.from[i] != nullptr && tagged)
        tagged = AwaitTag(g, SourceOf(a, buffer, begun.round, i * 32 + lane), tags.from[i], size,
                          tags.words[i]);
    }
  }
  tagged = __all_sync(~0u, tagged) && !begun.told;
  LaunchDependents();
  good = good && tagged;
  bool failed = !good;
  for (int u = first; u < live; u += step) {
    if (u != first) {
      good = tagged;
      if (good) good = AddUnit<Words, Tree>(a, buffer, u, LoadOwn(a, u), begun.round, &tags, sum);
      failed = failed || !good;
    }
    WriteAt(a, u == first ? place : OutOf(a, u), good, sum);
  }
  if (failed) g.progress->failed = 1;
}

auto KernelFor(bool narrow, bool tree) {
  if (narrow) return tree ? ReduceFlagged<4, true> : ReduceFlagged<4, false>;
  return tree ? ReduceFlagged<8, true> : ReduceFlagged<8, false>;
}

}  // namespace

cudaError_t LoadReduceFlagged() {
  return LoadForms(KernelFor);
}

int LaunchReduceFlagged(const ReduceArgs& args, KernelStream stream) {
  constexpr int64_t kMostCtas = 128 * 256 / kThreads;
  // So that nobody waits again behind LaunchDependents.
  static_assert(kFlaggedOwnBytes <= 16 * kMostCtas * kThreads, "every thread adds once at most");
  const int64_t units = static_cast<int64_t>(args.tokens) * (args.hidden / kEach);
  const int64_t ctas = (units + kThreads - 1) / kThreads;
  return LaunchDependent(KernelFor(args.sum_is_bf16 != 0, args.tree != 0),
                         dim3(static_cast<unsigned>(ctas < kMostCtas ? ctas : kMostCtas)),
                         dim3(kThreads), 0, stream, args);
}

}  // namespace dsv4mx::dist
