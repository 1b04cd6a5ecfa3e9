// Tensor parallel: partial sums to everybody, in lines that carry their round (line.cuh), added in rank order or as a tree.
//
// A warp pushes a block and adds the same one up. Where there are more blocks than warps, the first CTAs push them all and wait for
// nobody, so that NVLink always has something to do, and the others add.
#include "kernels/dist/reduce_lines.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"

namespace dsv4mx::dist {
namespace {

constexpr int kEach = kRunElements;

template <int Blocks>
__device__ __forceinline__ void PushBlock(const ReduceArgs& a, const Reduction& r, int block,
                                          const Own<Blocks>& own) {
  const GroupArgs& g = a.group;
#pragma unroll 1
  for (int i = 0; i < g.tp_size - 1; i++) {
    uint64_t* to = BlocksOf(a, TpPeer(g, Other(g, i)), r.buffer, g.slice);
    StoreRunBlock<Blocks>(to + static_cast<int64_t>(block) * Blocks * kBlockWords, own.units,
                          r.Left(block), r.round);
  }
}
template <int Blocks>
__device__ __forceinline__ void PushBlocks(const ReduceArgs& a, const Reduction& r) {
  constexpr int kAtOnce = 8 / Blocks;
  const int warps = a.pushers * kReduceWarps;
#pragma unroll 1
  for (int b = blockIdx.x * kReduceWarps + threadIdx.x / 32; b < r.blocks; b += kAtOnce * warps) {
    Own<Blocks> own[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) own[i] = LoadOwn<Blocks>(a, r, b + i * warps);
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      if (b + i * warps < r.blocks) PushBlock<Blocks>(a, r, b + i * warps, own[i]);
    }
  }
}

template <int Blocks, bool Tree>
__global__ void __launch_bounds__(kReduceThreads, 1) Reduce(const __grid_constant__ ReduceArgs a) {
  WaitForPrimary();
  const GroupArgs& g = a.group;
  Reduction r(a);
  const bool alone = static_cast<int>(blockIdx.x) < a.pushers;  // pushes, and that is all
  const int cta = static_cast<int>(blockIdx.x) - (alone ? 0 : a.pushers);
  const int first = cta * kReduceWarps + threadIdx.x / 32;
  const int step = (static_cast<int>(gridDim.x) - a.pushers) * kReduceWarps;
  Own<Blocks> own{};
  if (!alone) own = LoadOwn<Blocks>(a, r, first);
  const Begun begun = Begin(g, kStageReduce);
  r.round = begun.round;
  r.buffer = static_cast<int>(begun.round & 1);
  if ((a.parts & kPush) != 0 && begun.usable) {
    PushReduceTags(a, r);
    if (alone) PushBlocks<Blocks>(a, r);
    if (a.pushers == 0) {
#pragma unroll 1
      for (int b = first; b < r.blocks; b += step)
        PushBlock<Blocks>(a, r, b, b == first ? own : LoadOwn<Blocks>(a, r, b));
    }
  }
  if ((a.parts & kWait) == 0) return;
  // Rows behind the device's count are pushed, so that all ranks push alike, and not written.
  const int live = LiveTokens(a) * (a.hidden / kEach);
  const int64_t place = OutOf(a, r.Unit(first));
  Tags tags = TagsOf(a, r);
  if (begun.usable && !alone) tags.Look();
  __syncthreads();
  if (threadIdx.x == kReduceThreads - 1) PassRound(g, kStageReduce, begun.round, false);
  if (alone) return;
  bool good = begun.usable, tagged = false;
#pragma unroll 1
  for (int b = first;; b += step) {
    const bool here = b * kBlockUnits < live;
    float sum[kEach] = {};
    if (b != first) own = LoadOwn<Blocks>(a, r, b);
    if (here && good)
      good = AddRanks<Blocks, Tree>(a, r, b, own, &tags, sum, [&](int t) {
        return BlocksOf(a, g.rank, r.buffer, t) + static_cast<int64_t>(b) * Blocks * kBlockWords;
      });
    if (b == first) {
      tagged = begun.usable && AwaitTags(a, r, &tags) && !begun.told;
      good = good && tagged;
    }
    // Not earlier: what comes next would fill the device while this waits.
    if (!here || (b + step) * kBlockUnits >= live) LaunchDependents();
    if (!here) break;
    const int u = r.Unit(b);
    if (u < live) WriteAt(a, b == first ? place : OutOf(a, u), good, sum);
  }
  if (good) return;
  // Also what was added before the group failed.
  for (int b = first; b * kBlockUnits < live; b += step) {
    float none[kEach] = {};
    if (r.Unit(b) < live) WriteAt(a, OutOf(a, r.Unit(b)), false, none);
  }
  g.progress->failed = 1;
}

auto KernelFor(bool narrow, bool tree) {
  if (narrow) return tree ? Reduce<1, true> : Reduce<1, false>;
  return tree ? Reduce<2, true> : Reduce<2, false>;
}

}  // namespace

cudaError_t LoadReduceTwice();

cudaError_t LoadReduce() {
  const cudaError_t error = LoadForms(KernelFor);
  return error == cudaSuccess ? LoadReduceTwice() : error;
}

int LaunchReduce(const ReduceArgs& args, KernelStream stream) {
  ReduceArgs a = args;
  const int64_t units = static_cast<int64_t>(a.tokens) * (a.hidden / kEach);
  if (a.alone != 0 && IsInTwoShots(a.group.tp_size, units * kEach * (a.sum_is_bf16 ? 2 : 4),
                                   units * kEach * (HandsResults(a) ? 2 : 4)))
    return LaunchReduceTwice(a, stream);
  const int64_t blocks = (units + kFlaggedUnits - 1) / kFlaggedUnits;
  int64_t ctas = (blocks + kReduceWarps - 1) / kReduceWarps;
  a.pushers = 0;
  if (ctas > kReduceCtas) {
    ctas = kReduceCtas;
    if (a.parts == (kPush | kWait)) a.pushers = kReducePushers, ctas -= kReducePushers;
  }
  return LaunchDependent(KernelFor(a.sum_is_bf16 != 0, a.tree != 0),
                         dim3(static_cast<unsigned>(ctas + a.pushers)), dim3(kReduceThreads), 0,
                         stream, a);
}

}  // namespace dsv4mx::dist
