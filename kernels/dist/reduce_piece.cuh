// Pieces of a reduction, each a CTA's own, as those that push them and those that wait for them find them.
#ifndef DSV4MX_KERNELS_DIST_REDUCE_PIECE_CUH_
#define DSV4MX_KERNELS_DIST_REDUCE_PIECE_CUH_

#include "kernels/dist/group.cuh"

namespace dsv4mx::dist {

// The cell of a CTA's piece as tensor-parallel rank `from` writes it, in a window, for the first or the second shot.
__device__ __forceinline__ Cell* CellAt(const ReduceArgs& a, int rank, int buffer, int from,
                                        int shot, int cta) {
  const int64_t index = (static_cast<int64_t>(buffer) * a.group.tp_size + from) * kReduceCells +
                        shot * kReduceCtas + cta;
  return reinterpret_cast<Cell*>(a.group.windows[rank] + a.cells) + index;
}
__device__ __forceinline__ Cell* CellOf(const ReduceArgs& a, int rank, int buffer, int from,
                                        int shot) {
  return CellAt(a, rank, buffer, from, shot, blockIdx.x);
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

// Tells every other rank that this CTA's piece is there. All threads, whose stores it covers.
__device__ __forceinline__ void PublishShot(const ReduceArgs& a, int buffer, uint32_t round,
                                            int shot) {
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size;
  __syncthreads();
  for (int t = threadIdx.x; t < g.tp_size; t += blockDim.x) {
    if (t == me) continue;
    FenceSystem();
    Publish<DeviceOps>(CellOf(a, TpPeer(g, t), buffer, me, shot), round,
                       static_cast<uint32_t>(a.tokens), g.tag);
  }
}

// One warp waits for the piece of every other rank.
__device__ __forceinline__ bool AwaitShot(const ReduceArgs& a, int buffer, uint32_t round,
                                          int shot) {
  const GroupArgs& g = a.group;
  const int me = g.rank % g.tp_size;
  bool good = true;
  for (int t = threadIdx.x; t < g.tp_size && good; t += 32) {
    uint32_t theirs = 0;
    if (t == me) continue;
    good = Await(g, CellOf(a, g.rank, buffer, t, shot), FlaggedTagOf(a, g.rank, buffer, t),
                 kStageReduce, round, TpPeer(g, t), &theirs);
    if (good && theirs != static_cast<uint32_t>(a.tokens)) {
      TellFault(g, PackFault({kCommMismatch, kStageReduce, TpPeer(g, t), g.rank, round}));
      good = false;
    }
  }
  __syncwarp();
  return __all_sync(~0u, good);
}

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_REDUCE_PIECE_CUH_
