// Tensor parallel: partial sums to everybody, added in rank order or as a tree (launch_exchange.h). Every CTA has a piece and cells
// of its own for it, so that no CTA waits for another of its device.
//
// A large piece goes in steps. Some warps push them, one after the other, and wait for nobody: so NVLink, which takes longest,
// always has something to do, whatever fences and flags take. One warp publishes what they have pushed. The other half add what
// has come, from local memory. (If all warps did both in turn, those of all CTAs would push together, sharing the link evenly,
// and add together, while it idles.)
#include "kernels/dist/reduce_units.cuh"
#include "kernels/ptx/launch.cuh"

namespace dsv4mx::dist {
namespace {

constexpr int kThreads = 512, kEach = kRunElements;
// Where a team ends and the next begins: pushers, the warp that publishes, adders.
constexpr int kPublisher = 224, kAdders = 256;

template <bool Narrow>
__device__ __forceinline__ void PushStep(const ReduceArgs& a, const Team& team, int buffer,
                                         int begin, int end) {
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size;
  constexpr int kScale = Narrow ? 1 : 2;  // of 16 bytes in a unit
  PushUnits(team, a.sums, begin * kScale, end * kScale, g.tp_size - 1, [&](int i) {
    // Not all to the same rank at a time.
    const int t = me + 1 + i < g.tp_size ? me + 1 + i : me + 1 + i - g.tp_size;
    return reinterpret_cast<uint4*>(PartialsOf(a, TpPeer(g, t), buffer, me));
  });
}

template <bool Narrow, bool Tree>
__device__ __forceinline__ void AddStep(const ReduceArgs& a, const Team& team, int buffer,
                                        int begin, int end) {
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size;
  constexpr int kUnits = kUnitsAtOnce<Narrow, Tree>;
  ForBatches<kUnits>(begin, end, team, [&](const Batch& at) {
    RankSum<Tree> sum[kUnits];
    AddRanks<Narrow>(
        at, g.tp_size,
        [&](int t) -> const void* { return t == me ? a.sums : PartialsOf(a, g.rank, buffer, t); },
        sum);
#pragma unroll
    for (int k = 0; k < kUnits; k++) {
      if (at.Has(k)) WritePiece(a, at.Unit(k), true, sum[k].sum);
    }
  });
}

template <bool Narrow, bool Tree>
__global__ void __launch_bounds__(kThreads, 1) Reduce(const __grid_constant__ ReduceArgs a) {
  __shared__ int come[2];
  __shared__ Stored pushed;
  WaitForPrimary();
  const GroupArgs& g = a.group;
  const Begun begun = Begin(g, kStageReduce);
  const int per_row = a.hidden / kEach, units = a.tokens * per_row;
  const int each = (units + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x);
  const int first = static_cast<int>(blockIdx.x) * each;
  const Steps steps = StepsOf(min(first, units), min(first + each, units), each,
                              ReduceStepsOf(int64_t{each} * kEach * (Narrow ? 2 : 4)));
  // Rows behind the device's count are pushed, so that all ranks push alike, and not written.
  const int live = LiveTokens(a) * per_row;
  const Shot at = {static_cast<int>(begun.round & 1), begun.round, 0};
  const bool apart = steps.count > 1 && a.parts == (kPush | kWait);
  const Team pushers = TeamOf(apart, 0, kPublisher), adders = TeamOf(apart, kAdders, kThreads);
  pushed.Init(pushers, steps.count);
  bool good = UsableForAll(begun);
  if ((a.parts & kPush) != 0 && good) {
    if (pushers.Here()) {
      for (int s = 0; s < steps.count; s++) {
        PushStep<Narrow>(a, pushers, at.buffer, steps.Begin(s), steps.End(s));
        pushed.Arrive(s);
      }
    }
    if (threadIdx.x / 32 == kPublisher / 32) PublishSteps(a, at, steps.count, pushed, nullptr);
  }
  if ((a.parts & kWait) == 0 || !adders.Here()) return;
  if (adders.thread == adders.threads - 1) PassRound(g, kStageReduce, begun.round, false);
  for (int s = 0; s < steps.count && good; s++) {
    if (s > 0)
      AddStep<Narrow, Tree>(a, adders, at.buffer, steps.Begin(s - 1), min(steps.End(s - 1), live));
    good = AwaitStep(a, adders, 1, at, s, come);
  }
  // Not earlier: what comes next would fill the device while this waits.
  LaunchDependents();
  if (good) {
    const int last = steps.count - 1;
    AddStep<Narrow, Tree>(a, adders, at.buffer, steps.Begin(last), min(steps.End(last), live));
    return;
  }
  // Also what was added before the group failed.
  WriteNaN(a, adders, steps.begin, min(steps.end, live));
  g.progress->failed = 1;
}

auto KernelFor(bool narrow, bool tree) {
  if (narrow) return tree ? Reduce<true, true> : Reduce<true, false>;
  return tree ? Reduce<false, true> : Reduce<false, false>;
}

}  // namespace

cudaError_t LoadReduceFlagged();
cudaError_t LoadReduceTwice();

cudaError_t LoadReduce() {
  cudaError_t error = LoadForms(KernelFor);
  if (error == cudaSuccess) error = LoadReduceFlagged();
  return error == cudaSuccess ? LoadReduceTwice() : error;
}

int LaunchReduce(const ReduceArgs& args, KernelStream stream) {
  const int64_t units = static_cast<int64_t>(args.tokens) * (args.hidden / kEach);
  const int64_t bytes = units * kEach * (args.sum_is_bf16 ? 2 : 4);
  if (IsReducedFlagged(args.group.tp_size, bytes)) return LaunchReduceFlagged(args, stream);
  if (args.alone != 0 &&
      IsInTwoShots(args.group.tp_size, bytes, units * kEach * (HandsResults(args) ? 2 : 4)))
    return LaunchReduceTwice(args, stream);
  const int64_t ctas = (units + kThreads - 1) / kThreads;
  return LaunchDependent(KernelFor(args.sum_is_bf16 != 0, args.tree != 0),
                         dim3(static_cast<unsigned>(ctas < kReduceCtas ? ctas : kReduceCtas)),
                         dim3(kThreads), 0, stream, args);
}

}  // namespace dsv4mx::dist
