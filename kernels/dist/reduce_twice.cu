// Tensor parallel, large: every rank adds up a slice of the sums, then hands it to everybody (launch_exchange.h). What is added,
// and in which order, is what one shot adds: the bits are the same.
//
// A window's place for another rank's partial sums has both of its shots: its partial sums of this rank's slice, then its own
// slice, as results or as fp32 sums (HandsResults). A CTA has the same piece of every slice, and waits for no CTA of its device. Large pieces go in steps:
// some warps push partial sums, others add them and push the sums, and others write what has come of the sums, so that NVLink
// need not wait for anybody.
#include "kernels/dist/reduce_units.cuh"
#include "kernels/ptx/launch.cuh"

namespace dsv4mx::dist {
namespace {

constexpr int kThreads = 512, kEach = kRunElements;
// Where a team ends and the next begins: pushers, the warp that publishes for them, adders, the warp for them, writers.
constexpr int kPushed = 96, kAdders = 128, kAdded = 352, kWriters = 384;

// Units of a rank's slice, and this CTA's piece of it in steps.
struct Piece {
  int first;  // unit of the slice
  Steps steps;
};
__device__ __forceinline__ int SliceUnits(const ReduceArgs& a) {
  const int units = a.tokens * (a.hidden / kEach);
  return (units + a.group.tp_size - 1) / a.group.tp_size;
}
__device__ __forceinline__ Piece PieceOf(const ReduceArgs& a, int slice) {
  const int units = a.tokens * (a.hidden / kEach), each = SliceUnits(a);
  const int ctas = static_cast<int>(gridDim.x), per_cta = (each + ctas - 1) / ctas;
  const int first = slice * each, last = min(units, first + each);
  const int begin = first + static_cast<int>(blockIdx.x) * per_cta;
  const int count =
      ReduceStepsOf(int64_t{per_cta} * a.group.tp_size * kEach * (a.sum_is_bf16 ? 2 : 4));
  return {first, StepsOf(min(begin, last), min(begin + per_cta, last), per_cta, count)};
}

// Rows behind the device's count are added like all others, so that all ranks do alike, and not written.
__device__ __forceinline__ int LiveUnits(const ReduceArgs& a) {
  return LiveTokens(a) * (a.hidden / kEach);
}

__device__ __forceinline__ uint8_t* SumsOf(const ReduceArgs& a, int rank, int buffer, int from) {
  return PartialsOf(a, rank, buffer, from) +
         static_cast<int64_t>(SliceUnits(a)) * kEach * (a.sum_is_bf16 ? 2 : 4);
}

// The n-th of the other ranks: not all push to the same one at a time.
__device__ __forceinline__ int Other(const GroupArgs& g, int n) {
  return (g.rank % g.tp_size + 1 + n) % g.tp_size;
}

// Partial sums of every other rank's slice to that rank.
template <bool Narrow>
__device__ __forceinline__ void PushSlices(const ReduceArgs& a, const Team& team, int buffer,
                                           int step) {
  const GroupArgs& g = a.group;
  constexpr int kScale = Narrow ? 1 : 2;
  for (int i = 0; i < g.tp_size - 1; i++) {
    const int t = Other(g, i);
    const Piece p = PieceOf(a, t);
    uint8_t* to = PartialsOf(a, TpPeer(g, t), buffer, g.rank % g.tp_size);
    PushUnits(team, a.sums, p.steps.Begin(step) * kScale, p.steps.End(step) * kScale, 1, [&](int) {
      return reinterpret_cast<uint4*>(to) - static_cast<int64_t>(p.first) * kScale;
    });
  }
}

// Adds up this rank's slice, hands it to everybody and writes what is live of it.
template <bool Narrow, bool Tree>
__device__ __forceinline__ void AddSlice(const ReduceArgs& a, const Team& team, int buffer,
                                         int step) {
  const GroupArgs& g = a.group;
  const int live = LiveUnits(a), me = g.rank % g.tp_size;
  const Piece p = PieceOf(a, me);
  constexpr int kUnits = kUnitsAtOnce<Narrow, Tree>;
  const int64_t before = static_cast<int64_t>(p.first) * kEach * (Narrow ? 2 : 4);
  ForBatches<kUnits>(p.steps.Begin(step), p.steps.End(step), team, [&](const Batch& at) {
    RankSum<Tree> sum[kUnits];
    AddRanks<Narrow>(
        at, g.tp_size,
        [&](int t) -> const void* {
          return t == me ? a.sums : PartialsOf(a, g.rank, buffer, t) - before;
        },
        sum);
    for (int i = 0; i < g.tp_size - 1; i++) {
      uint8_t* to = SumsOf(a, TpPeer(g, Other(g, i)), buffer, me);
#pragma unroll
      for (int k = 0; k < kUnits; k++) {
        if (!at.Has(k)) continue;
        const int64_t place = static_cast<int64_t>(at.Unit(k) - p.first) * kEach;
        if (HandsResults(a)) {
          float y[kEach];
#pragma unroll
          for (int j = 0; j < kEach; j++) y[j] = sum[k].sum[j] * a.factor;
          StoreRun(to, true, place, y);
        } else {
          StoreRun(to, false, place, sum[k].sum);
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kUnits; k++) {
      if (at.Unit(k) < min(at.end, live)) WritePiece(a, at.Unit(k), true, sum[k].sum);
    }
  });
}

// Results of another slice, of which `first` is the first unit.
__device__ __forceinline__ void CopyResults(const ReduceArgs& a, const Team& team,
                                            const uint4* from, int first, int begin, int end) {
  const int per_row = a.hidden / kEach;
  ForBatches<kLoads>(begin, end, team, [&](const Batch& at) {
    uint4 v[kLoads];
#pragma unroll
    for (int k = 0; k < kLoads; k++) v[k] = from[at.Clamped(k) - first];
#pragma unroll
    for (int k = 0; k < kLoads; k++) {
      if (!at.Has(k)) continue;
      const int token = at.Unit(k) / per_row;
      *reinterpret_cast<uint4*>(static_cast<uint16_t*>(a.out) + token * a.out_stride +
                                (at.Unit(k) - token * per_row) * kEach) = v[k];
    }
  });
}

// The other slices.
__device__ __forceinline__ void WriteSlices(const ReduceArgs& a, const Team& team, int buffer,
                                            int step) {
  constexpr int kUnits = 2;
  const GroupArgs& g = a.group;
  const int live = LiveUnits(a);
  for (int i = 0; i < g.tp_size - 1; i++) {
    const int t = Other(g, i);
    const Piece p = PieceOf(a, t);
    const uint8_t* from = SumsOf(a, g.rank, buffer, t);
    const int begin = p.steps.Begin(step), end = min(p.steps.End(step), live);
    if (HandsResults(a)) {
      CopyResults(a, team, reinterpret_cast<const uint4*>(from), p.first, begin, end);
      continue;
    }
    ForBatches<kUnits>(begin, end, team, [&](const Batch& at) {
      float sum[kUnits][kEach];
#pragma unroll
      for (int k = 0; k < kUnits; k++)
        LoadRun(from, false, static_cast<int64_t>(at.Clamped(k) - p.first) * kEach, sum[k]);
#pragma unroll
      for (int k = 0; k < kUnits; k++) {
        if (at.Has(k)) WritePiece(a, at.Unit(k), true, sum[k]);
      }
    });
  }
}

template <bool Narrow, bool Tree>
__global__ void __launch_bounds__(kThreads, 1) ReduceTwice(const __grid_constant__ ReduceArgs a) {
  __shared__ int come[2][2], adds;
  __shared__ Stored pushed, added;
  WaitForPrimary();
  const GroupArgs& g = a.group;
  const Begun begun = Begin(g, kStageReduce);
  const int buffer = static_cast<int>(begun.round & 1), warp = static_cast<int>(threadIdx.x) / 32;
  const Shot first = {buffer, begun.round, 0}, second = {buffer, begun.round, 1};
  const int count = PieceOf(a, 0).steps.count;
  const bool apart = count > 1;
  const Team pushers = TeamOf(apart, 0, kPushed), adders = TeamOf(apart, kAdders, kAdded);
  const Team writers = TeamOf(apart, kWriters, kThreads);
  pushed.Init(pushers, count);
  added.Init(adders, count);
  if (threadIdx.x == 0) adds = 1;
  const bool usable = UsableForAll(begun);
  bool good = usable;
  if (pushers.Here() && usable) {
    for (int s = 0; s < count; s++) {
      PushSlices<Narrow>(a, pushers, buffer, s);
      pushed.Arrive(s);
    }
  }
  if (warp == kPushed / 32 && usable) PublishSteps(a, first, count, pushed, nullptr);
  if (adders.Here()) {
    if (adders.thread == adders.threads - 1) PassRound(g, kStageReduce, begun.round, false);
    for (int s = 0; s < count; s++) {
      good = good && AwaitStep(a, adders, 1, first, s, come[0]);
      if (good) {
        AddSlice<Narrow, Tree>(a, adders, buffer, s);
      } else {
        // Nobody takes for a sum what is none.
        adds = 0;
      }
      added.Arrive(s);
    }
  }
  if (warp == kAdded / 32) PublishSteps(a, second, count, added, &adds);
  if (!writers.Here()) return;
  for (int s = 0; s < count && good; s++) {
    if (s > 0) WriteSlices(a, writers, buffer, s - 1);
    good = AwaitStep(a, writers, 2, second, s, come[1]);
  }
  // The own slice is written, or never will be.
  for (int s = 0; s < count; s++) BarrierWait(added.At(s), 0);
  // Nobody of this CTA waits any more.
  LaunchDependents();
  if (good && adds != 0) {
    WriteSlices(a, writers, buffer, count - 1);
    return;
  }
  // Also what was written before the group failed.
  const int live = LiveUnits(a);
  for (int t = 0; t < g.tp_size; t++) {
    const Piece p = PieceOf(a, t);
    WriteNaN(a, writers, p.steps.begin, min(p.steps.end, live));
  }
  g.progress->failed = 1;
}

auto KernelFor(bool narrow, bool tree) {
  if (narrow) return tree ? ReduceTwice<true, true> : ReduceTwice<true, false>;
  return tree ? ReduceTwice<false, true> : ReduceTwice<false, false>;
}

}  // namespace

cudaError_t LoadReduceTwice() {
  return LoadForms(KernelFor);
}

int LaunchReduceTwice(const ReduceArgs& args, KernelStream stream) {
  ReduceArgs a = args;
  a.group.tag = TagInTwoShots(a);
  return LaunchDependent(KernelFor(a.sum_is_bf16 != 0, a.tree != 0), dim3(kReduceCtas),
                         dim3(kThreads), 0, stream, a);
}

}  // namespace dsv4mx::dist
