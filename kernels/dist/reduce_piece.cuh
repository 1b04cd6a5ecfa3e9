// Pieces of a reduction, each a CTA's own, as those that push them and those that wait for them find them.
#ifndef DSV4MX_KERNELS_DIST_REDUCE_PIECE_CUH_
#define DSV4MX_KERNELS_DIST_REDUCE_PIECE_CUH_

#include "kernels/dist/group.cuh"
#include "kernels/ptx/sync.cuh"

namespace dsv4mx::dist {

// The cell of a step of a CTA's piece as tensor-parallel rank `from` writes it, in a window, for the first or the second shot.
// Who waits for a reduction of another form looks at the first of all, which every form with pieces writes.
__device__ __forceinline__ Cell* CellAt(const ReduceArgs& a, int rank, int buffer, int from,
                                        int shot, int cta, int step) {
  const int64_t index = (static_cast<int64_t>(buffer) * a.group.tp_size + from) * kReduceCells +
                        (shot * kReduceCtas + cta) * kMostReduceSteps + step;
  return reinterpret_cast<Cell*>(a.group.windows[rank] + a.cells) + index;
}
// What a rank writes of a small reduction, which goes without pieces: a tag of two words, then its partial sums.
__device__ __forceinline__ uint64_t* FlaggedTagOf(const ReduceArgs& a, int rank, int buffer,
                                                  int from) {
  return reinterpret_cast<uint64_t*>(a.group.windows[rank] + a.flagged +
                                     (static_cast<int64_t>(buffer) * a.group.tp_size + from) *
                                         a.flagged_bytes);
}
__device__ __forceinline__ uint8_t* PartialsOf(const ReduceArgs& a, int rank, int buffer,
                                               int from) {
  return a.group.windows[rank] + a.partials +
         (static_cast<int64_t>(buffer) * a.group.tp_size + from) * a.partial_bytes;
}

// A stage of a reduction: what all of its cells have in common.
struct Shot {
  int buffer;
  uint32_t round;
  int shot;
};

// Warps of a CTA that do a stage of all steps, while others do the next one. Where a CTA has one step, or waits in a launch of its
// own, all warps are in every team.
struct Team {
  int thread, threads;  // this one's number, if it is one of them
  __device__ __forceinline__ bool Here() const { return thread >= 0 && thread < threads; }
  __device__ __forceinline__ int Warps() const { return threads / 32; }
};
__device__ __forceinline__ Team TeamOf(bool apart, int first, int end) {
  const int thread = static_cast<int>(threadIdx.x);
  return apart ? Team{thread - first, end - first} : Team{thread, static_cast<int>(blockDim.x)};
}

// Where warps say that they have stored their share of a step: an mbarrier for each, so that they may be any number of steps
// ahead of the warp that publishes.
struct Stored {
  uint64_t bars[kMostReduceSteps];
  // All threads, which meet afterwards.
  __device__ __forceinline__ void Init(const Team& team, int count) {
    if (static_cast<int>(threadIdx.x) < count)
      BarrierInit(At(static_cast<int>(threadIdx.x)), static_cast<uint32_t>(team.Warps()));
  }
  __device__ __forceinline__ uint32_t At(int step) const { return SharedAddress(&bars[step]); }
  __device__ __forceinline__ void Arrive(int step) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) BarrierArrive(At(step));
  }
};

// One warp tells every other rank of this CTA's steps as they are stored, of as many at a time as there are: under load a fence
// takes long, and nobody waits for it but this warp. Ends where *good, if it is given, has become 0 before a step is stored.
__device__ __forceinline__ void PublishSteps(const ReduceArgs& a, const Shot& at, int count,
                                             const Stored& stored, const int* good) {
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size;
  for (int step = 0, next; step < count; step = next) {
    BarrierWait(stored.At(step), 0);
    next = step + 1;
    while (next < count && __all_sync(~0u, BarrierTest(stored.At(next), 0))) next++;
    if (good != nullptr && __any_sync(~0u, *good == 0)) return;
    PublishCells(g, static_cast<int>(threadIdx.x % 32), (next - step) * g.tp_size, 32, at.round,
                 static_cast<uint32_t>(a.tokens), [&](int i) {
                   const int t = i % g.tp_size;
                   return t == me ? nullptr
                                  : CellAt(a, TpPeer(g, t), at.buffer, me, at.shot,
                                           static_cast<int>(blockIdx.x), step + i / g.tp_size);
                 });
    __syncwarp();
  }
}

// The team's first warp waits for a step of every other rank; all of the team get the answer, false where the group has failed.
// `come` is theirs: two words, so that a slow one still reads the answer of a step while the next is given.
__device__ __forceinline__ bool AwaitStep(const ReduceArgs& a, const Team& team, int barrier,
                                          const Shot& at, int step, int* come) {
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size;
  if (team.thread < 32) {
    bool good = true;
    const uint64_t fault = EarlyFault(g);
    for (int t = team.thread; t < g.tp_size && good; t += 32) {
      uint32_t theirs = 0;
      if (t == me) continue;
      good = Await(g, CellAt(a, g.rank, at.buffer, t, at.shot, static_cast<int>(blockIdx.x), step),
                   FlaggedTagOf(a, g.rank, at.buffer, t), kStageReduce, at.round, TpPeer(g, t),
                   &theirs);
      if (good && theirs != static_cast<uint32_t>(a.tokens)) {
        TellFault(g, PackFault({kCommMismatch, kStageReduce, TpPeer(g, t), g.rank, at.round}));
        good = false;
      }
    }
    __syncwarp();
    good = __all_sync(~0u, good && fault == 0);
    if (team.thread == 0) come[step & 1] = good;
  }
  NamedBarrier(barrier, team.threads);
  return come[step & 1] != 0;
}

// A CTA's share of units (kRunElements elements each), and where its steps begin and end. Steps are multiples of a warp's lanes.
struct Steps {
  int begin, end, each, count;
  __device__ __forceinline__ int Begin(int step) const { return min(begin + step * each, end); }
  __device__ __forceinline__ int End(int step) const { return Begin(step + 1); }
};
__device__ __forceinline__ Steps StepsOf(int begin, int end, int most, int count) {
  return {begin, end, ((most + count - 1) / count + 31) / 32 * 32, count};
}

// From the host: loads a kernel's forms, which kernel_for(narrow, tree) gives.
template <class KernelFor>
cudaError_t LoadForms(const KernelFor& kernel_for) {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaSuccess;
  for (const bool narrow : {false, true}) {
    for (const bool tree : {false, true}) {
      const auto kernel = kernel_for(narrow, tree);
      if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, kernel);
    }
  }
  return error;
}

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_REDUCE_PIECE_CUH_
