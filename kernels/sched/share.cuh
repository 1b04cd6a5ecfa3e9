// The last items of a GEMM go to whichever CTA is free. Memory serves multiprocessors unevenly and tiles differ, so that of CTAs
// with the same number of items some end late; who ends early takes from a counter what is left. Which CTA computes an item
// changes no bit of it.
//
// The fourth producer warp takes items and hands them to the other three, a few at a time: as much work as covers the way to the
// counter, and no more, since what is taken early cannot go to whoever ends early.
#ifndef DSV4MX_KERNELS_SCHED_SHARE_CUH_
#define DSV4MX_KERNELS_SCHED_SHARE_CUH_

#include <algorithm>

#include "kernels/ptx/sync.cuh"
#include "kernels/sched/tiles.cuh"

namespace dsv4mx {

// How many items a CTA takes at a time: weights of 128 KB where items are small, but where there are few items, no more than leave
// some for others. `items`: about as many as there are.
template <class C>
int TakenEach(const GemmArgs& a, int64_t items) {
  constexpr int64_t kTakenBytes = 128 * 1024;
  const int64_t some = kTakenBytes / (int64_t{C::kTiles} * kSm90TileRows / 2 * a.k);
  const int64_t most = items / 4 / (2 * a.ctas);
  return static_cast<int>(std::clamp<int64_t>(std::min(some, most), 1, kMostTaken));
}

// Items that are dealt out in turn, the first of all; the rest is shared out.
template <class C>
__device__ __forceinline__ int DealtOut(const TileList& list) {
  const int total = TotalItems(list), grid = static_cast<int>(gridDim.x);
  if constexpr (!C::kShares) return total;
  const int rounds = total / grid;
  return min(total, max(1, rounds - (rounds + 3) / 4) * grid);
}

// Whether the panel is known to be there without a wait for the kernel in front of this one. Experts may be shared out to several
// launches of a GEMM: those behind the first start when all CTAs of that one knew. Of GEMM1 they did, since they looked at the
// counts; of GEMM2 if there was anything to do for any launch with larger experts.
template <class C>
__device__ __forceinline__ bool PanelIsThere(const GemmKernelArgs& a) {
  return C::kShares && a.earlier != 0 &&
         (C::kGemm == 1 || (a.sizes == a.counts && a.extent[1] > a.most));
}

// Whether this CTA waits for the kernel in front before it does anything. Where there is nothing to do in the whole launch it makes
// room for the next one.
template <class C>
__device__ __forceinline__ bool WaitsFirst(const GemmKernelArgs& a, const TileList& list) {
  const bool has_all = a.earlier == 0 && a.least <= 1;
  return !PanelIsThere<C>(a) && (has_all || TotalItems(list) != 0);
}

// Two barriers: taken items are there; all producer warps have done them.
__device__ __forceinline__ void InitShared(uint32_t barriers) {
  BarrierInit(barriers, 1);
  BarrierInit(barriers + 8, kProducerWarps);
}

// f(item) for the items that this CTA takes. One lane of a producer warp.
template <class F>
__device__ __forceinline__ void ForEachTaken(const TileList& list, uint32_t barriers, F f) {
  for (uint32_t phase = 0;; phase ^= 1) {
    BarrierWait(barriers, phase);
    const int count = list.taken->count;
    if (count == 0) return;
#pragma unroll 1
    for (int i = 0; i < count; i++) f(list.taken->items[i]);
    BarrierArrive(barriers + 8);
  }
}

// The warp that takes. Whoever takes last of all, and finds nothing, leaves the counter as it was.
template <class C>
__device__ __forceinline__ void ShareOut(const GemmKernelArgs& a, const TileList& list,
                                         uint32_t barriers) {
  const int lane = threadIdx.x % 32, dealt = DealtOut<C>(list);
  const int left = max(0, TotalItems(list) - dealt);
  const int each = a.taken_each;
  if (WaitsFirst<C>(a, list)) WaitForPrimary();
  for (uint32_t phase = 0;; phase ^= 1) {
    int first = 0;
    if (lane == 0) {
      first = atomicAdd(a.taken, each);
      if (first == ((left + each - 1) / each + static_cast<int>(gridDim.x) - 1) * each)
        *a.taken = 0;
    }
    first = __shfl_sync(~0u, first, 0);
    const int count = max(0, min(each, left - first));
    if (lane < count) list.taken->items[lane] = ItemAt(list, dealt + first + lane, C::kGrain);
    if (lane == 0) list.taken->count = count;
    __syncwarp();
    if (lane == 0) BarrierArrive(barriers);
    if (count == 0) return;
    BarrierWait(barriers + 8, phase);
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SCHED_SHARE_CUH_
