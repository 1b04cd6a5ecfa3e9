// Tensor parallel, large: every rank adds up a slice of the sums, then hands it to everybody (launch_exchange.h). What is added,
// and in which order, is what one shot adds: the bits are the same.
//
// A window's place for another rank's blocks has both of its shots: its partial sums of this rank's slice, then its own slice, as
// results or as fp32 sums (HandsResults). A warp pushes a block to each other rank, adds up one of its own slice, and writes one of
// every other slice. Where a slice has more blocks than there are warps, CTAs do one of the three each, the first ones without
// waiting for anybody, so that NVLink always has something to do.
#include "kernels/dist/reduce_lines.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"

namespace dsv4mx::dist {
namespace {

constexpr int kEach = kRunElements;

// `In` blocks hold a run of partial sums, `Out` one of what is handed on.
template <int In, int Out>
struct Slices : Reduction {
  int each;  // blocks of a slice
  __device__ __forceinline__ explicit Slices(const ReduceArgs& a)
      : Reduction(a), each((blocks + a.group.tp_size - 1) / a.group.tp_size) {}
  // The i-th block of a slice; behind the last where there is none.
  __device__ __forceinline__ int Block(int slice, int i) const {
    return i < each && slice * each + i < blocks ? slice * each + i : blocks;
  }
  __device__ __forceinline__ uint64_t* Partial(const ReduceArgs& a, int rank, int from,
                                               int i) const {
    return BlocksOf(a, rank, buffer, from) + static_cast<int64_t>(i) * In * kBlockWords;
  }
  __device__ __forceinline__ uint64_t* Sum(const ReduceArgs& a, int rank, int from, int i) const {
    return BlocksOf(a, rank, buffer, from) +
           (static_cast<int64_t>(each) * In + static_cast<int64_t>(i) * Out) * kBlockWords;
  }
};

// Partial sums of block i of every other rank's slice to that rank.
template <int In, int Out>
__device__ __forceinline__ void Push(const ReduceArgs& a, const Slices<In, Out>& s, int i) {
  constexpr int kRanks = 4;  // at once
  const GroupArgs& g = a.group;
#pragma unroll 1
  for (int first = 0; first < g.tp_size - 1; first += kRanks) {
    Own<In> own[kRanks];
    int block[kRanks];
#pragma unroll
    for (int n = 0; n < kRanks; n++) {
      block[n] = first + n < g.tp_size - 1 ? s.Block(Other(g, first + n), i) : s.blocks;
      own[n] = LoadOwn<In>(a, s, block[n]);
    }
#pragma unroll
    for (int n = 0; n < kRanks; n++) {
      if (block[n] >= s.blocks) continue;
      StoreRunBlock<In>(s.Partial(a, TpPeer(g, Other(g, first + n)), g.slice, i), own[n].units,
                        s.Left(block[n]), s.round);
    }
  }
}

// Adds up block i of this rank's slice, hands it to everybody and writes what is live of it.
template <bool Tree, int In, int Out>
__device__ __forceinline__ bool Add(const ReduceArgs& a, const Slices<In, Out>& s, int i, int live,
                                    const Own<In>& own, Tags* tags) {
  const GroupArgs& g = a.group;
  const int block = s.Block(g.slice, i);
  if (block >= s.blocks) return true;
  float sum[kEach];
  if (!AddRanks<In, Tree>(a, s, block, own, tags, sum,
                          [&](int t) { return s.Partial(a, g.rank, t, i); }))
    return false;
  alignas(16) float handed[kEach];
  if (Out == 1) {
    float y[kEach];
#pragma unroll
    for (int j = 0; j < kEach; j++) y[j] = sum[j] * a.factor;
    StoreRun(handed, true, 0, y);
  } else {
    StoreRun(handed, false, 0, sum);
  }
#pragma unroll 1
  for (int n = 0; n < g.tp_size - 1; n++)
    StoreRunBlock<Out>(s.Sum(a, TpPeer(g, Other(g, n)), g.slice, i),
                       reinterpret_cast<const uint4*>(handed), s.Left(block), s.round);
  if (s.Unit(block) < live) WritePiece(a, s.Unit(block), true, sum);
  return true;
}

// Block i of every other slice, as it has been added up. LaunchDependents comes before the last of them is written.
template <int In, int Out>
__device__ __forceinline__ bool Take(const ReduceArgs& a, const Slices<In, Out>& s, int i, int live,
                                     Tags* tags) {
  constexpr int kSlices = 4;  // at once
  const GroupArgs& g = a.group;
#pragma unroll 1
  for (int first = 0; first < g.tp_size; first += kSlices) {
    RunsAtOnce<kSlices, Out> runs;
#pragma unroll
    for (int n = 0; n < kSlices; n++) {
      const int t = first + n, block = t < g.tp_size && t != g.slice ? s.Block(t, i) : s.blocks;
      runs.here[n] = block < s.blocks && BlockLane().Used(s.Left(block));
      runs.from[n] = s.Sum(a, g.rank, t, i);
    }
    runs.Look();
    if (!runs.Await(
            g, s.round, [&](int n) { return SourceOf(a, s, first + n); }, [&] { tags->Look(); }))
      return false;
#pragma unroll
    for (int n = 0; n < kSlices; n++) {
      const int t = first + n;
      if (t >= g.tp_size) break;
      const int block = t != g.slice ? s.Block(t, i) : s.blocks;
      if (block >= s.blocks) continue;
      alignas(16) uint4 units[Out];
      runs.Units(n, units);
      if (s.Unit(block) >= live) continue;
      const int64_t place = OutOf(a, s.Unit(block));
      if (Out == 1) {
        *reinterpret_cast<uint4*>(static_cast<uint16_t*>(a.out) + place) = units[0];
      } else {
        float sum[kEach];
        LoadRun(units, false, 0, sum);
        WriteAt(a, place, true, sum);
      }
    }
  }
  return true;
}

template <int In, int Out, bool Tree>
__global__ void __launch_bounds__(kReduceThreads, 1)
    ReduceTwice(const __grid_constant__ ReduceArgs a) {
  WaitForPrimary();
  const GroupArgs& g = a.group;
  Slices<In, Out> s(a);
  // CTAs with one of three things to do, or all with all of them.
  const int cta = static_cast<int>(blockIdx.x), apart = a.pushers, adders = a.adders;
  const bool pushes = apart == 0 || cta < apart;
  const bool adds = apart == 0 || (!pushes && cta < apart + adders);
  const bool takes = apart == 0 || (!pushes && !adds);
  const int of_role = cta - (apart == 0 || pushes ? 0 : adds ? apart : apart + adders);
  const int ctas = apart == 0 ? static_cast<int>(gridDim.x)
                   : pushes   ? apart
                   : adds     ? adders
                              : static_cast<int>(gridDim.x) - apart - adders;
  const int first = of_role * kReduceWarps + threadIdx.x / 32, step = ctas * kReduceWarps;
  Own<In> own{};
  if (adds) own = LoadOwn<In>(a, s, s.Block(g.slice, first));
  const Begun begun = Begin(g, kStageReduce);
  s.round = begun.round;
  s.buffer = static_cast<int>(begun.round & 1);
  if (begun.usable) PushReduceTags(a, s);
  if (begun.usable && pushes) {
    for (int i = first; i < s.each; i += step) Push(a, s, i);
  }
  // Rows behind the device's count are added like all others, so that all ranks do alike, and not written.
  const int live = LiveTokens(a) * (a.hidden / kEach);
  Tags tags = TagsOf(a, s);
  if (begun.usable && !pushes) tags.Look();
  __syncthreads();
  if (threadIdx.x == kReduceThreads - 1) PassRound(g, kStageReduce, begun.round, false);
  bool good = begun.usable;
  if (adds) {
    for (int i = first; i < s.each && good; i += step) {
      if (i != first) own = LoadOwn<In>(a, s, s.Block(g.slice, i));
      good = Add<Tree>(a, s, i, live, own, &tags);
    }
  }
  if (takes) {
    for (int i = first; i < s.each && good; i += step) good = Take(a, s, i, live, &tags);
  }
  if (apart != 0 && pushes) return;
  good = good && AwaitTags(a, s, &tags) && !begun.told;
  // Nobody of this warp waits any more.
  LaunchDependents();
  if (good) return;
  // Also what was written before the group failed.
  for (int i = first; i < s.each; i += step) {
    for (int t = 0; t < g.tp_size; t++) {
      const int u = s.Unit(s.Block(t, i));
      float none[kEach] = {};
      if ((t == g.slice ? adds : takes) && u < live) WriteAt(a, OutOf(a, u), false, none);
    }
  }
  g.progress->failed = 1;
}

template <bool Hands>
auto KernelFor(bool narrow, bool tree) {
  constexpr int kOut = Hands ? 1 : 2;
  if (narrow) return tree ? ReduceTwice<1, kOut, true> : ReduceTwice<1, kOut, false>;
  return tree ? ReduceTwice<2, kOut, true> : ReduceTwice<2, kOut, false>;
}

}  // namespace

cudaError_t LoadReduceTwice() {
  const cudaError_t error = LoadForms(KernelFor<true>);
  return error == cudaSuccess ? LoadForms(KernelFor<false>) : error;
}

int LaunchReduceTwice(const ReduceArgs& args, KernelStream stream) {
  ReduceArgs a = args;
  a.group.tag = TagInTwoShots(a);
  const int64_t units = static_cast<int64_t>(a.tokens) * (a.hidden / kEach), tp = a.group.tp_size;
  const int64_t blocks = (units + kFlaggedUnits - 1) / kFlaggedUnits;
  const int64_t slice = (blocks + tp - 1) / tp, ctas = (slice + kReduceWarps - 1) / kReduceWarps;
  const bool many = ctas > kReduceTwiceCtas;
  a.pushers = many ? kReducePushers : 0;
  a.adders = many ? (kReduceTwiceCtas - kReducePushers) / 2 : 0;
  const auto kernel_for = HandsResults(a) ? KernelFor<true> : KernelFor<false>;
  return LaunchDependent(kernel_for(a.sum_is_bf16 != 0, a.tree != 0),
                         dim3(static_cast<unsigned>(many ? kReduceTwiceCtas : ctas)),
                         dim3(kReduceThreads), 0, stream, a);
}

}  // namespace dsv4mx::dist
