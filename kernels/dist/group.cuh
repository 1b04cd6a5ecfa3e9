// What the kernels of a group share: memory operations for the protocol, publishing and waiting, and how faults are told.
#ifndef DSV4MX_KERNELS_DIST_GROUP_CUH_
#define DSV4MX_KERNELS_DIST_GROUP_CUH_

#include "kernels/dist/launch_exchange.h"
#include "kernels/dist/protocol.h"
#include "kernels/ptx/system.cuh"

namespace dsv4mx::dist {

// As in dsv4mx.h: kernels do not see it.
inline constexpr int kCommTimeout = 51, kCommRankLost = 52, kCommMismatch = 53;
inline constexpr int kStageDispatch = 1, kStageCombine = 2, kStageReduce = 3;

struct DeviceOps {
  static __device__ __forceinline__ uint64_t Load(const uint64_t* from) {
    return LoadAcquireSystem(from);
  }
  static __device__ __forceinline__ void Store(uint64_t* to, uint64_t value) {
    StoreReleaseSystem(to, value);
  }
  static __device__ __forceinline__ bool Claim(uint64_t* to, uint64_t value) {
    return CompareSwapSystem(to, 0, value) == 0;
  }
};

__device__ __forceinline__ int Whole(int v, const Division& d) {
  return d.by == 1 ? v : static_cast<int>(__umulhi(static_cast<uint32_t>(v), d.magic));
}

__device__ __forceinline__ ControlBlock* ControlOf(const GroupArgs& g, int rank) {
  return reinterpret_cast<ControlBlock*>(g.windows[rank]);
}
__device__ __forceinline__ int EpRank(const GroupArgs& g) {
  return g.part;
}
__device__ __forceinline__ int EpSize(const GroupArgs& g) {
  return g.parts;
}
// Ranks of the group: part `part` as this one sees it, and tensor-parallel rank `tp` of this part.
__device__ __forceinline__ int EpPeer(const GroupArgs& g, int part) {
  return part * g.tp_size + g.slice;
}
__device__ __forceinline__ int TpPeer(const GroupArgs& g, int tp) {
  return g.rank - g.slice + tp;
}

// One thread tells everybody. Where a host can be told it is told by whoever claimed the word.
static __device__ __noinline__ void TellFault(const GroupArgs& g, uint64_t fault) {
  Spread<DeviceOps>(g.windows, g.size, g.rank, fault, [&](int32_t rank, uint64_t word) {
    if (g.told[rank] != nullptr) StoreReleaseSystem(g.told[rank], word);
  });
}

// Whether the group has failed, as this rank knows it. Its own host may not have heard.
__device__ __forceinline__ bool Broken(const GroupArgs& g) {
  const uint64_t fault = LoadAcquireSystem(&ControlOf(g, g.rank)->fault);
  if (fault == 0) return false;
  if (g.told[g.rank] != nullptr) StoreReleaseSystem(g.told[g.rank], fault);
  return true;
}

// The fault word as a kernel begins, to be looked at when it has waited: nobody waits for this.
__device__ __forceinline__ uint64_t EarlyFault(const GroupArgs& g) {
  return LoadRelaxedSystem(&ControlOf(g, g.rank)->fault);
}

// 0 is what memory holds that nobody has written.
__device__ __forceinline__ uint32_t NextRound(uint32_t round) {
  return round + 1 == 0 ? 1 : round + 1;
}

// Whether a word, or a cell's flag, is of a round.
__device__ __forceinline__ bool IsOf(uint64_t word, uint32_t round) {
  return static_cast<uint32_t>(word >> 32) == round;
}

// Waits for the cell that `rank` writes, or would write `other` instead of where it takes the round for one of another form. False: the group has failed, and all have been told.
__device__ __forceinline__ bool Await(const GroupArgs& g, const Cell* cell, const uint64_t* other,
                                      int stage, uint32_t round, int rank, uint32_t* value) {
  constexpr uint32_t kLook = 32;  // turns between two looks at faults and clocks
  uint64_t tag = 0, begin = 0;
  int status = 0;
  const ControlBlock* own = ControlOf(g, g.rank);
  for (uint32_t turn = 1; !Arrived<DeviceOps>(cell, round, value, &tag); turn++) {
    if (turn % kLook != 0) continue;
    if (Broken(g)) return false;
    if (IsOf(LoadRelaxedSystem(other), round)) {
      status = kCommMismatch;
      break;
    }
    if (begin == 0) begin = NanoTime();
    const bool gone = (LoadAcquireSystem(&own->left) >> rank & 1) != 0;
    const bool late = NanoTime() - begin >= g.timeout_ns;
    if (gone || late) {
      // What it published before it left still counts.
      if (Arrived<DeviceOps>(cell, round, value, &tag)) break;
      status = gone ? kCommRankLost : kCommTimeout;
      break;
    }
    Sleep(64);
  }
  if (status == 0 && tag != g.tag) status = kCommMismatch;
  if (status == 0) return true;
  TellFault(g, PackFault({status, stage, rank, g.rank, round}));
  return false;
}

// Where a rank is, as a kernel begins. All threads read it, so that none waits for another.
struct Begun {
  uint32_t round;
  bool usable;  // no round of this rank has failed
  bool told;    // somebody has told of a fault
};
// A value that has been loaded, of which nothing is made before this point: arithmetic that the compiler puts right behind a load
// waits for it, and with it all loads that come later.
__device__ __forceinline__ uint32_t UsedFromHere(uint32_t v) {
  asm volatile("" : "+r"(v));
  return v;
}

// In two steps, the second of which waits for it: what a kernel loads between them does not.
struct Beginning {
  uint64_t fault;
  uint32_t round, failed;
};
__device__ __forceinline__ Beginning StartBegin(const GroupArgs& g, int stage) {
  const uint64_t fault = EarlyFault(g);
  const uint4 at = __ldcg(reinterpret_cast<const uint4*>(g.progress));
  return {fault, stage == kStageReduce ? at.y : at.x, at.w};
}
// Whole warps: lanes need not have read alike where another CTA fails meanwhile, and go on together.
__device__ __forceinline__ Begun EndBegin(const Beginning& b) {
  const bool usable = __all_sync(~0u, b.failed == 0), told = __any_sync(~0u, b.fault != 0);
  return {NextRound(UsedFromHere(b.round)), usable, told};
}
__device__ __forceinline__ Begun Begin(const GroupArgs& g, int stage) {
  return EndBegin(StartBegin(g, stage));
}

// A CTA's piece of a stage: the cells by stage, part that writes, and CTA.
__device__ __forceinline__ Cell* PartCell(const GroupArgs& g, int rank, int stage, int from,
                                          int cta) {
  const int64_t index =
      (static_cast<int64_t>(stage == kStageCombine) * EpSize(g) + from) * kMostPieces + cta;
  return reinterpret_cast<Cell*>(g.windows[rank] + g.part_cells) + index;
}

// A thread tells of `count` cells, begin, begin + step, ..., those that cell_of gives (null = none). The fence, which waits until
// all that was stored before has arrived, comes once, behind the tags: after it flags need no release of their own.
template <class CellOf>
__device__ __forceinline__ void PublishCells(const GroupArgs& g, int begin, int count, int step,
                                             uint32_t round, uint32_t value,
                                             const CellOf& cell_of) {
  if (begin >= count) return;
  for (int i = begin; i < count; i += step) {
    if (Cell* cell = cell_of(i)) cell->tag = g.tag;
  }
  FenceSystem();
  for (int i = begin; i < count; i += step) {
    if (Cell* cell = cell_of(i)) StoreWord(&cell->flag, static_cast<uint64_t>(round) << 32 | value);
  }
}

// Tells every part that this CTA's piece is there, also where it is empty: who gets no flag waits for ever. Not called where the
// group has failed, so that nobody takes for a result what is none. All threads, whose stores it covers.
__device__ __forceinline__ void PublishPiece(const GroupArgs& g, int stage, uint32_t round,
                                             uint32_t value) {
  __syncthreads();
  const int me = EpRank(g);
  PublishCells(
      g, static_cast<int>(threadIdx.x), EpSize(g), static_cast<int>(blockDim.x), round, value,
      [&](int p) { return p == me ? nullptr : PartCell(g, EpPeer(g, p), stage, me, blockIdx.x); });
}

// The same by one CTA for all `pieces`, whose stores kernels before this one have made.
__device__ __forceinline__ void PublishPieces(const GroupArgs& g, int pieces, int stage,
                                              uint32_t round) {
  const int me = EpRank(g);
  PublishCells(g, static_cast<int>(threadIdx.x), EpSize(g) * pieces, static_cast<int>(blockDim.x),
               round, 0, [&](int i) {
                 const int p = i / pieces;
                 return p == me ? nullptr : PartCell(g, EpPeer(g, p), stage, me, i % pieces);
               });
}

// A part's tag in a small round, which goes without pieces: two words with their round, in the window of `rank`.
__device__ __forceinline__ uint64_t* FlaggedTag(const GroupArgs& g, const ExchangeSizes& s,
                                                int rank, int stage, int from) {
  return reinterpret_cast<uint64_t*>(
      g.windows[rank] + (stage == kStageDispatch ? s.flagged_rows + from * s.flagged_row_bytes
                                                 : s.flagged_slots + from * 16));
}

// All threads of a CTA wait for every CTA of every part, if the group is `usable`. All get the answer.
__device__ __forceinline__ bool AwaitPieces(const GroupArgs& g, const ExchangeSizes& s, int stage,
                                            const Begun& begun) {
  __shared__ int failed;
  if (threadIdx.x == 0) failed = !begun.usable || begun.told;
  __syncthreads();
  const int me = EpRank(g);
  for (int i = threadIdx.x; i < EpSize(g) * s.pieces && begun.usable; i += blockDim.x) {
    const int p = i / s.pieces;
    uint32_t value = 0;
    if (p == me) continue;
    if (!Await(g, PartCell(g, g.rank, stage, p, i % s.pieces), FlaggedTag(g, s, g.rank, stage, p),
               stage, begun.round, EpPeer(g, p), &value)) {
      failed = 1;
      break;
    }
  }
  __syncthreads();
  return failed == 0;
}

// What one thread of a CTA has read, for all, which meet here: another CTA may have failed meanwhile, and all must go one way. From
// here on all have read where the rank is.
__device__ __forceinline__ bool UsableForAll(const Begun& begun) {
  __shared__ int usable;
  if (threadIdx.x == 0) usable = begun.usable;
  __syncthreads();
  return usable != 0;
}

// One thread of every CTA, when all of its CTA have read where the rank is: true for the one that comes last, which has passed to
// the next round. What the others did before they came is done for it, where `fence`.
__device__ __forceinline__ bool PassRound(const GroupArgs& g, int stage, uint32_t round,
                                          bool fence) {
  if (fence) FenceDevice();
  if (atomicAdd(&g.progress->ended, 1u) != gridDim.x - 1) return false;
  if (fence) FenceDevice();
  g.progress->ended = 0;
  (stage == kStageReduce ? g.progress->tp_round : g.progress->ep_round) = round;
  return true;
}

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_GROUP_CUH_
