// Tensor parallel: partial sums to everybody, added in rank order (launch_exchange.h). Every CTA has a piece and a cell of its
// own for it, so that no CTA waits for another of its device.
#include "kernels/dist/group.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/run.cuh"

namespace dsv4mx::dist {
namespace {

constexpr int kThreads = 512, kEach = kRunElements;

// The cell of this CTA's piece as tensor-parallel rank `from` writes it, in a window.
__device__ __forceinline__ Cell* CellOf(const ReduceArgs& a, int rank, int buffer, int from) {
  const int64_t index =
      (static_cast<int64_t>(buffer) * a.group.tp_size + from) * kReduceCtas + blockIdx.x;
  return reinterpret_cast<Cell*>(a.group.windows[rank] + a.cells) + index;
}
__device__ __forceinline__ uint8_t* PartialsOf(const ReduceArgs& a, int rank, int buffer,
                                               int from) {
  return a.group.windows[rank] + a.partials +
         (static_cast<int64_t>(buffer) * a.group.tp_size + from) * a.partial_bytes;
}

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

__device__ __forceinline__ void AddPiece(const ReduceArgs& a, int buffer, int begin, int end,
                                         bool good) {
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size;
  int live = a.tokens;
  if (a.tokens_device != nullptr)
    live = min(max(*a.tokens_device, a.first), a.first + a.tokens) - a.first;
  const int per_row = a.hidden / kEach;
  for (int u = begin + threadIdx.x; u < end; u += kThreads) {
    const int token = u / per_row, column = (u - token * per_row) * kEach;
    if (token >= live) return;
    float sum[kEach] = {};
    for (int t = 0; t < g.tp_size; t++) {
      float v[kEach];
      LoadRun(t == me ? a.sums : PartialsOf(a, g.rank, buffer, t), a.sum_is_bf16,
              static_cast<int64_t>(u) * kEach, v);
#pragma unroll
      for (int i = 0; i < kEach; i++) sum[i] += v[i];
    }
#pragma unroll
    for (int i = 0; i < kEach; i++) sum[i] = good ? sum[i] : __uint_as_float(0x7FC00000u);
    WriteRun(a.out, !a.out_is_f32, a.accumulate, token * a.out_stride + column, a.factor, sum);
  }
}

__global__ void __launch_bounds__(kThreads) Reduce(const __grid_constant__ ReduceArgs a) {
  __shared__ bool good;
  WaitForPrimary();
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size, units = a.tokens * (a.hidden / kEach);
  const int each = (units + gridDim.x - 1) / gridDim.x;
  const int begin = blockIdx.x * each, end = min(units, begin + each);
  const uint32_t round = g.progress->tp_round + 1;
  const int buffer = static_cast<int>(round & 1);
  if (threadIdx.x == 0) good = g.progress->failed == 0 && !Broken(g);
  __syncthreads();
  if ((a.parts & kPush) != 0 && good) {
    PushPiece(a, buffer, begin, end);
    __syncthreads();
    for (int t = threadIdx.x; t < g.tp_size; t += kThreads) {
      if (t == me) continue;
      FenceSystem();
      Publish<DeviceOps>(CellOf(a, TpPeer(g, t), buffer, me), round,
                         static_cast<uint32_t>(a.tokens), g.tag);
    }
  }
  if ((a.parts & kWait) == 0) return;
  if (threadIdx.x < 32) {
    bool mine = good;
    for (int t = threadIdx.x; t < g.tp_size && mine; t += 32) {
      uint32_t theirs = 0;
      if (t == me) continue;
      mine = Await(g, CellOf(a, g.rank, buffer, t), kStageReduce, round, TpPeer(g, t), &theirs);
      if (mine && theirs != static_cast<uint32_t>(a.tokens)) {
        TellFault(g, PackFault({kCommMismatch, kStageReduce, TpPeer(g, t), g.rank, round}));
        mine = false;
      }
    }
    __syncwarp();
    mine = __all_sync(~0u, mine);
    if (threadIdx.x == 0) {
      good = mine;
      if (!mine) g.progress->failed = 1;
    }
  }
  __syncthreads();
  LaunchDependents();
  AddPiece(a, buffer, begin, end, good);
  // The round ends with its last CTA: until then all of them read its number.
  if (ComesLast(&g.progress->ended) && threadIdx.x == 0) g.progress->tp_round = round;
}

}  // namespace

cudaError_t LoadReduce() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, Reduce);
}

int LaunchReduce(const ReduceArgs& args, KernelStream stream) {
  const int64_t units = static_cast<int64_t>(args.tokens) * (args.hidden / kEach);
  const int64_t ctas = (units + kThreads - 1) / kThreads;
  return LaunchDependent(Reduce, dim3(static_cast<unsigned>(ctas < kReduceCtas ? ctas : kReduceCtas)),
                         dim3(kThreads), 0, stream, args);
}

}  // namespace dsv4mx::dist
