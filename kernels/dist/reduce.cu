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

// ------------------------------------------------------------------------------------------- words with their round --

// A word of 4 bytes and the round that it is of are stored, and arrive, as one of 8: who sees the round has the word. Nothing
// has to be ordered and no flag follows. First come the tags, one record of two words per CTA, then the sums.
__device__ __forceinline__ uint64_t* FlaggedOf(const ReduceArgs& a, int rank, int buffer,
                                               int from) {
  return reinterpret_cast<uint64_t*>(a.group.windows[rank] + a.flagged +
                                     (static_cast<int64_t>(buffer) * a.group.tp_size + from) *
                                         kFlaggedBytes);
}
__device__ __forceinline__ uint64_t Flagged(uint32_t word, uint32_t round) {
  return static_cast<uint64_t>(round) << 32 | word;
}

// Two words of `rank`. False: the group has failed.
__device__ __forceinline__ bool AwaitWords(const GroupArgs& g, const uint64_t* from, uint32_t round,
                                           int rank, uint32_t* words) {
  constexpr uint32_t kLook = 64;
  uint64_t a, b, begin = 0;
  for (uint32_t turn = 1;; turn++) {
    LoadWords(from, &a, &b);
    if (static_cast<uint32_t>(a >> 32) == round && static_cast<uint32_t>(b >> 32) == round) break;
    if (turn % kLook != 0) continue;
    if (begin == 0) begin = NanoTime();
    if (Broken(g)) return false;
    const bool gone = (LoadAcquireSystem(&ControlOf(g, g.rank)->left) >> rank & 1) != 0;
    if (turn > kLook && (gone || NanoTime() - begin >= g.timeout_ns)) {
      TellFault(
          g, PackFault({gone ? kCommRankLost : kCommTimeout, kStageReduce, rank, g.rank, round}));
      return false;
    }
    Sleep(64);
  }
  words[0] = static_cast<uint32_t>(a);
  words[1] = static_cast<uint32_t>(b);
  return true;
}

__device__ __forceinline__ uint32_t TagWord(const ReduceArgs& a, int which) {
  return static_cast<uint32_t>(a.group.tag >> 32 * which) ^
         static_cast<uint32_t>(which * a.tokens) * 0x9e3779b1u;
}
// Of the thread that stands for rank t: what this CTA's piece is of.
__device__ __forceinline__ void PushTag(const ReduceArgs& a, int buffer, int t, uint32_t round) {
  const GroupArgs& g = a.group;
  StoreWords(FlaggedOf(a, TpPeer(g, t), buffer, g.rank % g.tp_size) + 2 * blockIdx.x,
             Flagged(TagWord(a, 0), round), Flagged(TagWord(a, 1), round));
}
__device__ __forceinline__ bool AwaitTag(const ReduceArgs& a, int buffer, int t, uint32_t round) {
  const GroupArgs& g = a.group;
  uint32_t words[2];
  if (!AwaitWords(g, FlaggedOf(a, g.rank, buffer, t) + 2 * blockIdx.x, round, TpPeer(g, t), words))
    return false;
  if (words[0] == TagWord(a, 0) && words[1] == TagWord(a, 1)) return true;
  TellFault(g, PackFault({kCommMismatch, kStageReduce, TpPeer(g, t), g.rank, round}));
  return false;
}

// Eight elements are 4 or 8 words.
__device__ __forceinline__ void PushWords(const ReduceArgs& a, int buffer, int begin, int end,
                                          uint32_t round) {
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size, scale = a.sum_is_bf16 ? 1 : 2;
  const uint4* from = static_cast<const uint4*>(a.sums);
  for (int u = begin * scale + threadIdx.x; u < end * scale; u += kThreads) {
    const uint4 v = from[u];
    for (int t = 0; t < g.tp_size; t++) {
      if (t == me) continue;
      uint64_t* to = FlaggedOf(a, TpPeer(g, t), buffer, me) + 2 * kReduceCtas + 4 * u;
      StoreWords(to, Flagged(v.x, round), Flagged(v.y, round));
      StoreWords(to + 2, Flagged(v.z, round), Flagged(v.w, round));
    }
  }
}
template <bool Tree>
__device__ __forceinline__ bool AddWords(const ReduceArgs& a, int buffer, int begin, int end,
                                         uint32_t round, bool good) {
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size, words = a.sum_is_bf16 ? 4 : 8;
  for (int u = begin + threadIdx.x; u < end; u += kThreads) {
    RankSum<Tree> sum;
    for (int t = 0; t < g.tp_size; t++) {
      float v[kEach] = {};
      if (t == me) {
        LoadRun(a.sums, a.sum_is_bf16, static_cast<int64_t>(u) * kEach, v);
      } else {
        const uint64_t* from =
            FlaggedOf(a, g.rank, buffer, t) + 2 * kReduceCtas + static_cast<int64_t>(u) * words;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          uint32_t w[2] = {};
          if (2 * i < words && good) good = AwaitWords(g, from + 2 * i, round, TpPeer(g, t), w);
          if (words == 8) {
            v[2 * i] = __uint_as_float(w[0]);
            v[2 * i + 1] = __uint_as_float(w[1]);
          } else if (i < 2) {
            v[4 * i] = __uint_as_float(w[0] << 16);
            v[4 * i + 1] = __uint_as_float(w[0] & 0xFFFF0000u);
            v[4 * i + 2] = __uint_as_float(w[1] << 16);
            v[4 * i + 3] = __uint_as_float(w[1] & 0xFFFF0000u);
          }
        }
      }
      sum.Add(t, v);
    }
    WritePiece(a, u, good, sum.sum);
  }
  return good;
}

// ----------------------------------------------------------------------------------------------------------- kernel --

template <bool Tree>
__global__ void __launch_bounds__(kThreads) Reduce(const __grid_constant__ ReduceArgs a) {
  __shared__ int failed;
  WaitForPrimary();
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size, per_row = a.hidden / kEach, units = a.tokens * per_row;
  const int each = (units + gridDim.x - 1) / gridDim.x;
  const int begin = blockIdx.x * each, end = min(units, begin + each);
  // Rows behind the device's count are pushed, so that all ranks push alike, and not written.
  const int live = min(end, LiveTokens(a) * per_row);
  const bool push = (a.parts & kPush) != 0, wait = (a.parts & kWait) != 0;
  const bool flagged =
      static_cast<int64_t>(units) * (a.sum_is_bf16 ? 32 : 64) + kReduceCtas * 16 <= kFlaggedBytes;
  const uint32_t round = g.progress->tp_round + 1;
  const int buffer = static_cast<int>(round & 1);
  const uint64_t fault = EarlyFault(g);
  const bool usable = g.progress->failed == 0;
  if (threadIdx.x == 0) failed = !usable;
  if (push && usable) {
    if (flagged) {
      PushWords(a, buffer, begin, end, round);
      const int t = kThreads - 1 - threadIdx.x;
      if (t < g.tp_size && t != me) PushTag(a, buffer, t, round);
    } else {
      PushPiece(a, buffer, begin, end);
      PublishShot(a, buffer, round, 0);
    }
  }
  if (!wait) return;
  __syncthreads();
  if (flagged) {
    const int t = kThreads - 1 - threadIdx.x;
    if (usable && t < g.tp_size && t != me && !AwaitTag(a, buffer, t, round)) failed = 1;
  } else if (threadIdx.x < 32) {
    const bool good = usable && AwaitShot(a, buffer, round, 0);
    if (!good && threadIdx.x == 0) failed = 1;
  }
  if (fault != 0) failed = 1;
  __syncthreads();
  LaunchDependents();
  bool good = failed == 0;
  if (flagged) {
    good = AddWords<Tree>(a, buffer, begin, live, round, good);
  } else {
    AddPiece<Tree>(a, buffer, begin, live, good);
  }
  if (!good) g.progress->failed = 1;
  // The round ends with its last CTA: until then all of them read its number.
  if (ComesLast(&g.progress->ended) && threadIdx.x == 0) g.progress->tp_round = round;
}

}  // namespace

cudaError_t LoadReduceTwice();

cudaError_t LoadReduce() {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, Reduce<false>);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, Reduce<true>);
  return error == cudaSuccess ? LoadReduceTwice() : error;
}

int LaunchReduce(const ReduceArgs& args, KernelStream stream) {
  const int64_t units = static_cast<int64_t>(args.tokens) * (args.hidden / kEach);
  const int64_t ctas = (units + kThreads - 1) / kThreads;
  return LaunchDependent(args.tree ? Reduce<true> : Reduce<false>,
                         dim3(static_cast<unsigned>(ctas < kReduceCtas ? ctas : kReduceCtas)),
                         dim3(kThreads), 0, stream, args);
}

}  // namespace dsv4mx::dist
