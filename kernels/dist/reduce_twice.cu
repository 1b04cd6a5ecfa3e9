// Tensor parallel, large: every rank adds up a slice of the sums, then hands it to everybody (launch_exchange.h). What is added,
// and in which order, is what one shot adds: the bits are the same.
//
// A window's place for another rank's partial sums has both of its shots: its partial sums of this rank's slice, then, in fp32,
// the sums of its own. A CTA has the same piece of every slice, and waits for no CTA of its device.
#include "kernels/dist/rank_sum.cuh"
#include "kernels/dist/reduce_piece.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/run.cuh"

namespace dsv4mx::dist {
namespace {

constexpr int kThreads = 512, kEach = kRunElements;

// Units of eight elements: this CTA's piece of a rank's slice.
struct Piece {
  int first, begin, end;  // of the slice, of the piece
};
__device__ __forceinline__ int SliceUnits(const ReduceArgs& a) {
  const int units = a.tokens * (a.hidden / kEach);
  return (units + a.group.tp_size - 1) / a.group.tp_size;
}
__device__ __forceinline__ Piece PieceOf(const ReduceArgs& a, int slice) {
  const int units = a.tokens * (a.hidden / kEach), each = SliceUnits(a);
  const int per_cta = (each + gridDim.x - 1) / gridDim.x, first = slice * each;
  const int begin = first + blockIdx.x * per_cta, last = min(units, first + each);
  return {first, min(begin, last), min(begin + per_cta, last)};
}

// Rows behind the device's count are added like all others, so that all ranks do alike, and not written.
__device__ __forceinline__ int LiveUnits(const ReduceArgs& a) {
  return LiveTokens(a) * (a.hidden / kEach);
}

__device__ __forceinline__ uint8_t* SumsOf(const ReduceArgs& a, int rank, int buffer, int from) {
  return PartialsOf(a, rank, buffer, from) +
         static_cast<int64_t>(SliceUnits(a)) * kEach * (a.sum_is_bf16 ? 2 : 4);
}

// Partial sums of every other rank's slice to that rank.
__device__ __forceinline__ void PushSlices(const ReduceArgs& a, int buffer) {
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size, scale = a.sum_is_bf16 ? 1 : 2;
  const uint4* from = static_cast<const uint4*>(a.sums);
  for (int i = 1; i < g.tp_size; i++) {
    // Not all to the same rank at a time.
    const int t = (me + i) % g.tp_size;
    const Piece p = PieceOf(a, t);
    uint4* to = reinterpret_cast<uint4*>(PartialsOf(a, TpPeer(g, t), buffer, me));
    for (int u = p.begin * scale + threadIdx.x; u < p.end * scale; u += kThreads)
      to[u - p.first * scale] = from[u];
  }
}

// Adds up this rank's slice, hands it to everybody and writes what is live of it.
template <bool Tree>
__device__ __forceinline__ void AddSlice(const ReduceArgs& a, int buffer, bool good) {
  const GroupArgs& g = a.group;
  const int live = LiveUnits(a);
  const int me = g.rank % g.tp_size;
  const Piece p = PieceOf(a, me);
  for (int u = p.begin + threadIdx.x; u < p.end; u += kThreads) {
    RankSum<Tree> sum;
    for (int t = 0; t < g.tp_size && good; t++) {
      float v[kEach];
      LoadRun(t == me ? a.sums : PartialsOf(a, g.rank, buffer, t), a.sum_is_bf16,
              static_cast<int64_t>(t == me ? u : u - p.first) * kEach, v);
      sum.Add(t, v);
    }
    for (int t = 0; t < g.tp_size && good; t++) {
      if (t != me)
        StoreRun(SumsOf(a, TpPeer(g, t), buffer, me), false,
                 static_cast<int64_t>(u - p.first) * kEach, sum.sum);
    }
    if (u < live) WritePiece(a, u, good, sum.sum);
  }
}

__device__ __forceinline__ void WriteSlices(const ReduceArgs& a, int buffer, bool good) {
  const GroupArgs& g = a.group;
  const int live = LiveUnits(a);
  const int me = g.rank % g.tp_size;
  for (int t = 0; t < g.tp_size; t++) {
    if (t == me) continue;
    const Piece p = PieceOf(a, t);
    for (int u = p.begin + threadIdx.x; u < min(p.end, live); u += kThreads) {
      float sum[kEach] = {};
      if (good)
        LoadRun(SumsOf(a, g.rank, buffer, t), false, static_cast<int64_t>(u - p.first) * kEach,
                sum);
      WritePiece(a, u, good, sum);
    }
  }
}

// All threads get what the first warp waited for.
__device__ __forceinline__ bool AwaitAll(const ReduceArgs& a, int buffer, uint32_t round, int shot,
                                         bool good) {
  __shared__ int failed;
  __syncthreads();
  if (threadIdx.x < 32) {
    good = good && AwaitShot(a, buffer, round, shot);
    if (threadIdx.x == 0) failed = !good || EarlyFault(a.group) != 0;
  }
  __syncthreads();
  return failed == 0;
}

template <bool Tree>
__global__ void __launch_bounds__(kThreads) ReduceTwice(const __grid_constant__ ReduceArgs a) {
  WaitForPrimary();
  const GroupArgs& g = a.group;
  const Begun begun = Begin(g, kStageReduce);
  const uint32_t round = begun.round;
  const int buffer = static_cast<int>(round & 1);
  bool good = begun.usable;
#pragma unroll 1
  for (int shot = 0; shot < 2; shot++) {
    if (shot != 0) {
      AddSlice<Tree>(a, buffer, good);
    } else if (good) {
      PushSlices(a, buffer);
    }
    // Nobody takes for a sum what is none.
    if (good) PublishShot(a, buffer, round, shot);
    good = AwaitAll(a, buffer, round, shot, good);
    // All of its CTA have read the round's number.
    if (shot == 0 && threadIdx.x == kThreads - 1) PassRound(g, kStageReduce, round, false);
  }
  LaunchDependents();
  WriteSlices(a, buffer, good);
  if (!good) {
    g.progress->failed = 1;
    // Its own slice was written before the others failed.
    const Piece p = PieceOf(a, g.rank % g.tp_size);
    const int end = min(p.end, LiveUnits(a));
    for (int u = p.begin + threadIdx.x; u < end; u += kThreads) {
      float none[kEach] = {};
      WritePiece(a, u, false, none);
    }
  }
}

}  // namespace

cudaError_t LoadReduceTwice() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, ReduceTwice<false>);
  return error == cudaSuccess ? cudaFuncGetAttributes(&attributes, ReduceTwice<true>) : error;
}

int LaunchReduceTwice(const ReduceArgs& args, KernelStream stream) {
  return LaunchDependent(args.tree ? ReduceTwice<true> : ReduceTwice<false>, dim3(kReduceCtas),
                         dim3(kThreads), 0, stream, args);
}

}  // namespace dsv4mx::dist
