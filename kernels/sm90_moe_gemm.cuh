// Grouped GEMM over the experts hit: D[rows of w, tokens] = W[rows, K] * act[tokens, K]^T, weights FP4, one kernel body for
// GEMM1 (w13, activation in the epilogue, writes h) and GEMM2 (w2, writes slots).
//
//   weights  on the 64-row side of wgmma, from registers, decoded from the sm90 layout (mxfp4/layout.h)
//   tokens   on the n side in steps of 8 columns: one column a token; planes two (high, low) next to each other
//
// Threads: four math warpgroups, each with a 64-row tile of its own, or two with more registers, which have two such tiles
// each, or one and twice the tokens; and a producer warpgroup with few registers, of which three warps work
// (sched/producer.cuh; sched/fetch.cuh for x of f16) and one finds work (sched/share.cuh). Between them a ring of stages
// (sched/ring.cuh).
// CTAs are persistent and walk the list of tiles (sched/tiles.cuh); nothing waits for another CTA, so residency is no condition.
//
// A tile's tokens decide the width of its wgmma, in steps of 8 columns; a launch mixes them. A width has a loop of its own,
// chosen once a tile; only GEMM2's widest tiles of planes look at it again (mma/block.cuh says why).
#ifndef DSV4MX_KERNELS_SM90_MOE_GEMM_CUH_
#define DSV4MX_KERNELS_SM90_MOE_GEMM_CUH_

#include <type_traits>

#include "kernels/epilogue/e4m3_slots.cuh"
#include "kernels/epilogue/hidden_wide.cuh"
#include "kernels/epilogue/plane_hidden.cuh"
#include "kernels/epilogue/plane_slots.cuh"
#include "kernels/mma/planes_big_loop.cuh"
#include "kernels/mma/planes_loop.cuh"
#include "kernels/sched/fetch.cuh"
#include "kernels/sched/producer.cuh"

namespace dsv4mx {

// A warpgroup without any tile (the matrix ended) still passes every stage on.
template <class C>
__device__ __forceinline__ void SkipTile(const GemmKernelArgs& a, Ring<C>& ring,
                                         const MmaThread& me) {
  [[maybe_unused]] constexpr int kUnrolled = C::kPlanes ? 1 : 4;
#pragma unroll kUnrolled
  for (int k = 0; k < a.k; k += C::kStageK) {
    BarrierWait(ring.Full(), ring.phase);
    const uint32_t empty = ring.Empty();
    ring.Next();
    // A lane that falls behind would take a later use of a stage for this one. GEMM2 of planes with four warpgroups, whose lanes have
    // never been seen to, has no registers for it (C7511).
    if constexpr (!C::kPlanes || C::kTilesEach > 1 || C::kGemm == 1) __syncwarp();
    if ((C::kReleasesAll || k + C::kStageK < a.k) && Releases(me.lane)) BarrierArrive(empty);
  }
}

// A stage's work with the first tile of this warpgroup.
template <class C>
__device__ __forceinline__ WorkTile OwnWorkTile(const Ring<C>& ring, const MmaThread& me) {
  WorkTile work = LoadWorkTile(ring.Header());
  work.tile += me.wg * C::kTilesEach;
  return work;
}

// The tile whose first stage the ring stands at, which is full. Returns the tokens of the next tile, whose first stage is full
// then.
template <class C, class Loop>
__device__ __forceinline__ int RunTile(const GemmKernelArgs& a, Ring<C>& ring,
                                       const HiddenScratch& scratch, Loop loop, int& peak_set) {
  {
    const MmaThread me = ThisMmaThread();
    const WorkTile work = OwnWorkTile(ring, me);
    if (work.tile < a.tiles) {
      loop.Run(a, ring, me);
    } else {
      SkipTile(a, ring, me);
    }
  }
  const MmaThread me = ThisMmaThread();
  const Ring<C> last = ring.Before();
  const WorkTile work = OwnWorkTile(last, me);
  const uint8_t* slab = a.slabs + work.expert * a.slab_bytes;
  if constexpr (C::kGemm == 1) {
    StoreHidden(loop, a, work, me, slab, last.Scales(), scratch, peak_set);
  } else if constexpr (C::kE4m3) {
    StoreE4m3Slots(loop, a, work, me, slab);
  } else {
    StoreSlots(loop, a, work, me, slab);
  }
  __syncwarp();
  if (Releases(me.lane)) BarrierArrive(last.Empty());
  BarrierWait(ring.Full(), ring.phase);
  return LoadWorkTile(ring.Header()).count;
}

template <class C, int Width>
using PlanesLoopOf =
    std::conditional_t<(C::kTilesEach > 1), PlanesBigLoop<C, Width>, PlanesLoop<C, Width>>;

// The same of planes: the loops of all widths end in one epilogue. What a tile belongs to stays in uniform registers, of which
// there are plenty. Returns it of the next tile.
template <class C>
__device__ __forceinline__ WorkTile RunPlanes(const GemmKernelArgs& a, Ring<C>& ring,
                                              const HiddenScratch& scratch, uint32_t mma_warp,
                                              WorkTile work, int& peak_set) {
  work.tile += mma_warp / 4 * C::kTilesEach;
  const bool live = work.tile < a.tiles;
  PlaneSums<C> sums;
  if (live) {
    const MmaThread me = MmaThreadOf(mma_warp);
    // The remainder says that there are few bits and no sign: what leads to the loop is shorter then.
    const int columns = (static_cast<uint32_t>(work.count) + 3) / 4 % (C::kColumns / 4) * 8;
    const auto run = [&](auto width) {
      PlanesLoopOf<C, decltype(width)::value> loop(columns);
      loop.Run(a, ring, me);
      sums.template Take<decltype(loop)::kTokens>(loop.acc);
    };
    if (C::kUnrolled == C::kColumns || columns <= C::kUnrolled) {
      ForWidth<C::kUnrolled, C::kLeastLoop, C::kLoopStep>(columns, run);
    } else if constexpr (C::kUnrolled < C::kColumns) {
      run(std::integral_constant<int, 0>());
    }
    if (C::kTilesEach > 1 && work.tile + 1 == a.tiles) sums.Clear(1);
    if constexpr (C::kGemm == 2) StoreSlots(sums, a, work, MmaThreadOf(mma_warp));
  } else {
    SkipTile(a, ring, MmaThreadOf(mma_warp));
    sums.Clear(0);
  }
  if constexpr (C::kGemm == 1) {
    StoreHidden(sums, a, work, MmaThreadOf(mma_warp), ring.Before(), scratch, peak_set);
  }
  BarrierWait(ring.Full(), ring.phase);
  return LoadWorkTile(ring.Header());
}

template <class C, int Width>
using LoopOf =
    std::conditional_t<C::kWide, E4m3WideLoop<C, Width>,
                       std::conditional_t<C::kE4m3, E4m3Loop<C, Width>, Bf16Loop<C, Width>>>;

template <class C>
__device__ __forceinline__ void Consume(const GemmKernelArgs& a, Ring<C> ring,
                                        const HiddenScratch& scratch) {
  int peak_set = 0;
  BarrierWait(ring.Full(), ring.phase);
  if constexpr (C::kPlanes) {
    const uint32_t mma_warp = ThisMmaWarp();
    WorkTile work = LoadWorkTile(ring.Header());
    while (work.count != 0) work = RunPlanes<C>(a, ring, scratch, mma_warp, work, peak_set);
  } else {
    int count = LoadWorkTile(ring.Header()).count;
    while (count != 0) {
      // A half of the tokens each where they come in two.
      ForWidth<C::kColumns, C::kLeastLoop>(
          (count + C::kGrain - 1) / C::kGrain * 8, [&](auto width) {
            count = RunTile<C>(a, ring, scratch, LoopOf<C, decltype(width)::value>(), peak_set);
          });
    }
  }
  // Shared memory must outlive the stores that read it.
  if (C::kFp8 && C::kGemm == 1 && threadIdx.x == 0) BulkStoreWait();
}

// Dynamic shared memory: the ring, the epilogue's scratch, the list of tiles.
template <class C>
__host__ __device__ constexpr int GemmSharedBytes(int width, int stages, int experts) {
  return stages * StageBytes<C>(width) + HiddenScratchBytes<C>(width) + TileListBytes(experts);
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    MoeGemm(const __grid_constant__ GemmKernelArgs a) {
  DSV4MX_DYNAMIC_SHARED(shared);
  __shared__ __align__(8) uint64_t barriers[(C::kMayFetchRows ? 3 : 2) * kMaxStages + 2];
  Ring<C> ring{a, SharedAddress(shared), SharedAddress(barriers), 0, 0};
  uint8_t* rest = shared + a.stages * a.stage_bytes;
  const HiddenScratch scratch{SharedAddress(rest) + C::kTokenBytes * HiddenRows<C>(a.width),
                              SharedAddress(rest)};
  const TileList list = TileListAt(rest + HiddenScratchBytes<C>(a.width), a.routing.experts,
                                   (a.tiles + C::kTiles - 1) / C::kTiles);
  if (threadIdx.x == 0) {
    for (int i = 0; i < a.stages; i++) {
      BarrierInit(ring.full + 8 * i, FetchesRows<C>(a) ? 2 : kProducerWarps);
      BarrierInit(ring.full + 8 * (kMaxStages + i), C::kWarpgroups * 4 * kLanesThatRelease);
      if (FetchesRows<C>(a)) BarrierInit(ring.Landed() + 8 * i, 32);
    }
    InitShared(ring.Shared());
    FenceAsyncProxy();
  }
  if constexpr (C::kFp8 && C::kGemm == 1) {
    for (int i = threadIdx.x; i < 3 * PeakWords<C>(a.width); i += C::kThreads)
      StoreShared4(scratch.peaks + i * 4, FirstPeak<C>());
  }
  // Whether there is anything to do is known when all before this launch has ended. What is behind it may begin to wait for that too.
  if constexpr (C::kMayRunAgain) {
    if (a.again != 0) {
      if (a.late == 0) LaunchDependents();
      WaitForPrimary();
    }
  }
  // Counts come from the kernel before GEMM1. All launches behind its first start when all of that is past this wait, so they need
  // not wait to read them; ids are the caller's and were ready before the first kernel of the call.
  if (C::kGemm == 1 && a.earlier == 0 && !CountedInPlace(a.routing)) WaitForPrimary();
  if (a.late == 0 && (a.least <= 1 || C::kGemm == 1)) LaunchDependents();
  // GEMM2 of planes with four warpgroups has no registers for a look ahead (C7511).
  BuildTileList<C::kThreads, C::kGemm == 1 || !C::kPlanes || (C::kTilesEach > 1), C::kMayRunAgain>(
      a, list);
  if (threadIdx.x >= C::kWarpgroups * 128) {
    RegistersDown<C::kProducerRegisters>();
    if constexpr (C::kMayFetchRows) {
      if (FetchesRows<C>(a)) {
        // Found anew each time: kept it would spill.
        const auto is = [](uint32_t warp) { return ThisMmaWarp() == C::kWarpgroups * 4 + warp; };
        if (is(0)) ProduceWeights<C, true>(a, list, ring);
        if (is(1)) ShowPanel<C>(a, list, ring);
        if (is(2)) FetchPanel<C>(a, list, ring);
        if (is(3)) ShareOut<C>(a, list, ring.Shared());
        return;
      }
    }
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0) - C::kWarpgroups * 4;
    if (warp == 0) ProduceWeights<C, false>(a, list, ring);
    if (warp == 1) ProduceHeaders<C>(a, list, ring);
    if (warp == 2) ProducePanel<C>(a, list, ring);
    if (warp == 3) ShareOut<C>(a, list, ring.Shared());
  } else {
    RegistersUp<C::kMathRegisters>();
    Consume<C>(a, ring, scratch);
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SM90_MOE_GEMM_CUH_
