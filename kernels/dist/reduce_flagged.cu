// Tensor parallel, small: partial sums to everybody, word by word with their round (flagged.cuh), added in rank order or as a tree.
#include "kernels/dist/flagged.cuh"
#include "kernels/dist/rank_sum.cuh"
#include "kernels/dist/reduce_piece.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/run.cuh"

namespace dsv4mx::dist {
namespace {

constexpr int kThreads = 256, kEach = kRunElements;

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
__device__ __forceinline__ uint64_t* WordsOf(const ReduceArgs& a, int rank, int buffer, int from,
                                             int u) {
  return FlaggedTagOf(a, rank, buffer, from) + 2 +
         static_cast<int64_t>(u) * (a.sum_is_bf16 ? 4 : 8);
}
__device__ __forceinline__ void PushOwn(const ReduceArgs& a, int buffer, int u, const Own& own,
                                        uint32_t round) {
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size;
  for (int i = 1; i < g.tp_size; i++) {
    // Not all to the same rank at a time.
    const int t = (me + i) % g.tp_size;
    uint64_t* to = WordsOf(a, TpPeer(g, t), buffer, me, u);
    StoreFlagged(to, own.units[0], round);
    if (!a.sum_is_bf16) StoreFlagged(to + 4, own.units[1], round);
  }
}
__device__ __forceinline__ void WidenUnits(const ReduceArgs& a, const uint4* units, float* v) {
  LoadRun(units, a.sum_is_bf16, 0, v);
}

// Where a rank that takes the reduction for a larger one publishes it.
__device__ __forceinline__ Source SourceOf(const ReduceArgs& a, int buffer, uint32_t round, int t) {
  return {kStageReduce, round, TpPeer(a.group, t), &CellAt(a, a.group.rank, buffer, t, 0, 0)->flag};
}

template <bool Tree>
__device__ __forceinline__ bool AddUnit(const ReduceArgs& a, int buffer, int u, const Own& own,
                                        uint32_t round, float* result) {
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size;
  RankSum<Tree> sum;
  bool good = true;
  for (int t = 0; t < g.tp_size && good; t++) {
    Own theirs = own;
    if (t != me) {
      const uint64_t* from = WordsOf(a, g.rank, buffer, t, u);
      const Source source = SourceOf(a, buffer, round, t);
      uint64_t w[4];
      LookAtWords<4>(from, w);
      good = AwaitWords<4>(g, source, from, w);
      theirs.units[0] = Narrow(w);
      if (!a.sum_is_bf16) {
        LookAtWords<4>(from + 4, w);
        good = good && AwaitWords<4>(g, source, from + 4, w);
        theirs.units[1] = Narrow(w);
      }
    }
    float v[kEach];
    WidenUnits(a, theirs.units, v);
    sum.Add(t, v);
  }
#pragma unroll
  for (int i = 0; i < kEach; i++) result[i] = sum.sum[i];
  return good;
}

// Every warp asks for itself what the others think the round is, so that none waits for another. A look is had early, and
// used late.
struct Tags {
  uint64_t words[kMaxRanks / 32][2];
};

template <bool Tree>
__global__ void __launch_bounds__(kThreads, 2) ReduceFlagged(const __grid_constant__ ReduceArgs a) {
  WaitForPrimary();
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size, lane = threadIdx.x % 32;
  const int units = a.tokens * (a.hidden / kEach), step = gridDim.x * kThreads;
  // Rows behind the device's count are pushed, so that all ranks push alike, and not written.
  const int live = LiveTokens(a) * (a.hidden / kEach);
  const int first = blockIdx.x * kThreads + threadIdx.x;
  Own own{};
  if (first < units) own = LoadOwn(a, first);
  const Begun begun = Begin(g, kStageReduce);
  const int buffer = static_cast<int>(begun.round & 1);
  const auto size = static_cast<uint32_t>(a.tokens);
  if ((a.parts & kPush) != 0 && begun.usable) {
    for (int u = first; u < units; u += step)
      PushOwn(a, buffer, u, u == first ? own : LoadOwn(a, u), begun.round);
    const int t = kThreads - 1 - static_cast<int>(threadIdx.x);
    if (blockIdx.x == 0 && t < g.tp_size && t != me)
      PushTag(FlaggedTagOf(a, TpPeer(g, t), buffer, me), g.tag, size, begun.round);
  }
  if ((a.parts & kWait) == 0) return;
  Tags tags{};
  bool tagged = begun.usable;
  if (begun.usable) {
#pragma unroll
    for (int i = 0; i < kMaxRanks / 32; i++) {
      const int t = i * 32 + lane;
      if (t < g.tp_size && t != me)
        LoadWords(FlaggedTagOf(a, g.rank, buffer, t), &tags.words[i][0], &tags.words[i][1]);
    }
  }
  __syncthreads();
  if (threadIdx.x == kThreads - 1) PassRound(g, kStageReduce, begun.round, false);
  bool good = begun.usable;
  float sum[kEach] = {};
  if (first < live && good) good = AddUnit<Tree>(a, buffer, first, own, begun.round, sum);
  if (begun.usable) {
#pragma unroll
    for (int i = 0; i < kMaxRanks / 32; i++) {
      const int t = i * 32 + lane;
      if (t < g.tp_size && t != me && tagged)
        tagged = AwaitTag(g, SourceOf(a, buffer, begun.round, t),
                          FlaggedTagOf(a, g.rank, buffer, t), size, tags.words[i]);
    }
  }
  tagged = __all_sync(~0u, tagged) && !begun.told;
  LaunchDependents();
  good = good && tagged;
  bool failed = !good;
  for (int u = first; u < live; u += step) {
    if (u != first) {
      good = tagged;
      if (good) good = AddUnit<Tree>(a, buffer, u, LoadOwn(a, u), begun.round, sum);
      failed = failed || !good;
    }
    WritePiece(a, u, good, sum);
  }
  if (failed) g.progress->failed = 1;
}

}  // namespace

cudaError_t LoadReduceFlagged() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, ReduceFlagged<false>);
  return error == cudaSuccess ? cudaFuncGetAttributes(&attributes, ReduceFlagged<true>) : error;
}

int LaunchReduceFlagged(const ReduceArgs& args, KernelStream stream) {
  constexpr int64_t kMostCtas = 96;
  const int64_t units = static_cast<int64_t>(args.tokens) * (args.hidden / kEach);
  const int64_t ctas = (units + kThreads - 1) / kThreads;
  return LaunchDependent(args.tree ? ReduceFlagged<true> : ReduceFlagged<false>,
                         dim3(static_cast<unsigned>(ctas < kMostCtas ? ctas : kMostCtas)),
                         dim3(kThreads), 0, stream, args);
}

}  // namespace dsv4mx::dist
