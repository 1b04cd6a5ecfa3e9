// Tensor parallel: partial sums to everybody, added in rank order or as a tree (launch_exchange.h). Every CTA has a piece and a cell of its
// own for it, so that no CTA waits for another of its device.
#include "kernels/dist/rank_sum.cuh"
#include "kernels/dist/reduce_piece.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/run.cuh"

namespace dsv4mx::dist {
namespace {

constexpr int kThreads = 512, kEach = kRunElements;

__device__ __forceinline__ void PushPiece(const ReduceArgs& a, int buffer, int begin, int end) {
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size;
  // 16 bytes at a time, twice as many where partial sums are fp32.
  const int scale = a.sum_is_bf16 ? 1 : 2;
  const uint4* from = static_cast<const uint4*>(a.sums);
  for (int u = begin * scale + threadIdx.x; u < end * scale; u += kThreads) {
    const uint4 v = from[u];
    for (int t = 0; t < g.tp_size; t++) {
      if (t != me) reinterpret_cast<uint4*>(PartialsOf(a, TpPeer(g, t), buffer, me))[u] = v;
    }
  }
}

template <bool Tree>
__device__ __forceinline__ void AddPiece(const ReduceArgs& a, int buffer, int begin, int end,
                                         bool good) {
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size;
  for (int u = begin + threadIdx.x; u < end; u += kThreads) {
    RankSum<Tree> sum;
    for (int t = 0; t < g.tp_size; t++) {
      float v[kEach];
      LoadRun(t == me ? a.sums : PartialsOf(a, g.rank, buffer, t), a.sum_is_bf16,
              static_cast<int64_t>(u) * kEach, v);
      sum.Add(t, v);
    }
    WritePiece(a, u, good, sum.sum);
  }
}

template <bool Tree>
__global__ void __launch_bounds__(kThreads) Reduce(const __grid_constant__ ReduceArgs a) {
  __shared__ int failed;
  WaitForPrimary();
  const GroupArgs& g = a.group;
  const Begun begun = Begin(g, kStageReduce);
  const int per_row = a.hidden / kEach, units = a.tokens * per_row;
  const int each = (units + gridDim.x - 1) / gridDim.x;
  const int begin = blockIdx.x * each, end = min(units, begin + each);
  // Rows behind the device's count are pushed, so that all ranks push alike, and not written.
  const int live = min(end, LiveTokens(a) * per_row);
  const int buffer = static_cast<int>(begun.round & 1);
  if ((a.parts & kPush) != 0 && begun.usable) {
    PushPiece(a, buffer, begin, end);
    PublishShot(a, buffer, begun.round, 0);
  }
  if ((a.parts & kWait) == 0) return;
  if (threadIdx.x == 0) failed = !begun.usable || begun.told;
  __syncthreads();
  if (threadIdx.x == kThreads - 1) PassRound(g, kStageReduce, begun.round, false);
  if (threadIdx.x < 32) {
    const bool good = begun.usable && AwaitShot(a, buffer, begun.round, 0);
    if (!good && threadIdx.x == 0) failed = 1;
  }
  __syncthreads();
  LaunchDependents();
  const bool good = failed == 0;
  AddPiece<Tree>(a, buffer, begin, live, good);
  if (!good) g.progress->failed = 1;
}

}  // namespace

cudaError_t LoadReduceFlagged();
cudaError_t LoadReduceTwice();

cudaError_t LoadReduce() {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, Reduce<false>);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, Reduce<true>);
  if (error == cudaSuccess) error = LoadReduceFlagged();
  return error == cudaSuccess ? LoadReduceTwice() : error;
}

int LaunchReduce(const ReduceArgs& args, KernelStream stream) {
  const int64_t units = static_cast<int64_t>(args.tokens) * (args.hidden / kEach);
  if (IsReducedFlagged(args.group.tp_size, units * kEach * (args.sum_is_bf16 ? 2 : 4)))
    return LaunchReduceFlagged(args, stream);
  const int64_t ctas = (units + kThreads - 1) / kThreads;
  return LaunchDependent(args.tree ? Reduce<true> : Reduce<false>,
                         dim3(static_cast<unsigned>(ctas < kReduceCtas ? ctas : kReduceCtas)),
                         dim3(kThreads), 0, stream, args);
}

}  // namespace dsv4mx::dist
