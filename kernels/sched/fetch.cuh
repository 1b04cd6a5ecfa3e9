// The panel of f16's GEMM1. A token's x stands in memory once, whatever experts it goes to and not swizzled (launch.h), so a stage's
// panel is rows from anywhere, whose place in the swizzle is known here alone. One warp fetches them, 16 bytes a lane and copy.
//
// Its lanes wait for nothing that they have asked for: a stage's barrier counts the copies itself, so that as many stages are under
// way as the ring has. But such copies write as threads do, and wgmma may read what a thread has written only behind a fence, which
// waits for all copies of its thread. So another warp, which copies nothing, waits until a stage has landed and shows it to wgmma.
#ifndef DSV4MX_KERNELS_SCHED_FETCH_CUH_
#define DSV4MX_KERNELS_SCHED_FETCH_CUH_

#include "kernels/sched/ring.cuh"
#include "kernels/sched/share.cuh"

namespace dsv4mx {

// A tile's panel rows: the first one, and how many. In one register, of which there are few.
struct PanelTile {
  uint32_t bits;
  __device__ __forceinline__ static PanelTile Of(const Item& item) {
    return {static_cast<uint32_t>(item.panel_row) << 8 | static_cast<uint32_t>(item.count)};
  }
  __device__ __forceinline__ int Row() const { return static_cast<int>(bits >> 8); }
  __device__ __forceinline__ int Count() const { return static_cast<int>(bits & 255); }
};

// Found anew, as what follows from it, where it is used: kept across the loops it would spill.
__device__ __forceinline__ uint32_t LaneAnew() {
  return static_cast<uint32_t>(ThreadAnew()) % 32;
}

// f(tile) by all lanes of a warp, for the items of this CTA: those that are dealt out, of which each lane finds one, then those
// that it takes. One loop for both, since f is long and with two copies of it registers spill.
template <class C, class F>
__device__ __forceinline__ void ForEachTile(const TileList& list, const Ring<C>& ring, F f) {
  uint32_t phase = 0;
#pragma unroll 1
  for (int first = blockIdx.x;; first += kItemsFound * gridDim.x) {
    const int lane = static_cast<int>(LaneAnew()), dealt = DealtOut<C>(list);
    PanelTile found{0};
    if (first < dealt) {
      const int own = first + lane * gridDim.x;
      if (own < dealt) found = PanelTile::Of(ItemAt(list, own, C::kGrain));
      __syncwarp();
    } else {
      BarrierWait(ring.Shared(), phase);
      phase ^= 1;
      const int count = list.taken->count;
      if (count == 0) return;
      if (lane < count) found = PanelTile::Of(list.taken->items[lane]);
      __syncwarp();
      if (lane == 0) BarrierArrive(ring.Shared() + 8);
    }
#pragma unroll 1
    for (int i = 0; i < kItemsFound; i++) {
      const PanelTile tile{__shfl_sync(~0u, found.bits, i)};
      if (tile.bits == 0) break;
      f(tile);
    }
  }
}

// Where the rows of a tile's tokens begin, in shared memory: of each of eight neighbours, one row after the other of every group of
// eight, so that a lane reads four of its rows at once. So far apart, the eight are in different banks.
inline constexpr int kSourceStride = 80;
// In the place of items that the two other warps would find for themselves: one finds none, this one keeps its own in registers.
__device__ __forceinline__ uint32_t SourcesAt(const TileList& list) {
  static_assert(8 * kSourceStride <= 2 * kItemsFound * sizeof(Item), "sources have room there");
  return SharedAddress(list.found + kItemsFound);
}

// By all lanes of a warp. Behind the last token they name it again: a stage has whole groups of eight.
template <class C>
__device__ __forceinline__ void FindSources(const GemmKernelArgs& a, PanelTile tile,
                                            uint32_t sources) {
  constexpr int kEach = (C::kWidest + 31) / 32;
  static_assert(kEach * 16 <= kSourceStride, "four groups of eight for each row of a lane");
  const uint32_t lane = LaneAnew(), last = tile.Count() - 1;
  const int32_t* const from = a.source + tile.Row();
  int row[kEach];
#pragma unroll
  for (int i = 0; i < kEach; i++) row[i] = from[min(lane + 32 * i, last)];
  __syncwarp();  // those of the tile before have been read
#pragma unroll
  for (int i = 0; i < kEach; i++)
    StoreShared4(sources + lane % 8 * kSourceStride + lane / 8 * 4 + i * 16, row[i]);
  __syncwarp();
}

// A lane's part of rows of 256 bytes: of one row in every eight, each fourth chunk of 16 bytes. Of eight lanes that write together
// four have a row and four the one that is four below, so that with the swizzle they write all banks once, and source and
// destination of a lane's copies differ by constants.
struct FetchLane {
  uint32_t row, chunk;
  __device__ __forceinline__ static FetchLane Anew() {
    const uint32_t lane = LaneAnew();
    return {lane / 8 + lane / 4 % 2 * 4, lane % 4};
  }
  // In a stage's panel, of the first chunk; the swizzle moves the second to the other half of the line.
  __device__ __forceinline__ uint32_t Place() const { return row * 128 + (chunk ^ row) * 16; }
};

// `groups` of eight tokens. `from` and `to` are this lane's places in row 0, `sources` its rows.
__device__ __forceinline__ void FetchGroups(uint32_t to, const uint8_t* from, uint32_t sources,
                                            int groups) {
  constexpr int kRowBytes = 256, kGroupBytes = 8 * kRowBytes, kHalfLine = 64;
  const auto fetch = [&](int group, uint32_t row) {
    const uint8_t* const at = from + static_cast<uint64_t>(row) * kRowBytes;
#pragma unroll
    for (int line = 0; line < 2; line++) {
      AsyncCopy16(to + group * kGroupBytes + line * kSwizzleBytes, at + line * 128);
      AsyncCopy16((to ^ kHalfLine) + group * kGroupBytes + line * kSwizzleBytes,
                  at + line * 128 + kHalfLine);
    }
  };
#pragma unroll 1
  for (; groups >= 4; groups -= 4, to += 4 * kGroupBytes, sources += 16) {
    const uint4 rows = LoadShared16(sources);
    fetch(0, rows.x);
    fetch(1, rows.y);
    fetch(2, rows.z);
    fetch(3, rows.w);
  }
#pragma unroll 1
  for (; groups > 0; groups--, to += kGroupBytes, sources += 4) fetch(0, LoadShared4(sources));
}

template <class C>
__device__ __forceinline__ void FetchPanel(const GemmKernelArgs& a, const TileList& list,
                                           Ring<C> ring) {
  static_assert(C::kParts == 1 && C::kPasses == 1 && C::kGemm == 1 && !C::kFp8,
                "a stage has one part and no bases, and scales come with the last");
  static_assert(C::kTokenBytes == 256 && C::kGrain == 8, "a group of eight tokens is 2 KB");
  const uint32_t sources = SourcesAt(list);
  if (WaitsFirst<C>(a, list)) WaitForPrimary();
  if (a.late == 0) LaunchDependents();
  ForEachTile<C>(list, ring, [&](PanelTile tile) {
    FindSources<C>(a, tile, sources);
    const uint8_t* from = a.panel + FetchLane::Anew().chunk * 16;
#pragma unroll 1
    for (int k = 0; k < a.k; k += C::kStageK, from += C::kTokenBytes) {
      BarrierWait(ring.Empty(), ring.phase ^ 1);
      if (k + C::kStageK >= a.k) {
        // What is made of it once more is not kept across the loop.
        const PanelTile last{Anew(tile.bits)};
#pragma unroll 1
        for (int i = static_cast<int>(LaneAnew()) * 4; i < last.Count(); i += 128)
          AsyncCopy16(ring.Scales() + i * 4, a.row_scale + last.Row() + i);
        __syncwarp();
      }
      const FetchLane own = FetchLane::Anew();
      FetchGroups(ring.Panel() + own.Place(), from, sources + own.row * kSourceStride,
                  (tile.Count() + 7) / 8);
      AsyncCopiesArrive(ring.Landed());
      ring.Next();
    }
  });
  // In one CTA, so that a kernel's end implies the end of all before it.
  if (blockIdx.x == 0) WaitForPrimary();
}

// Shows each stage's panel to wgmma when it has landed, and ends the work. How many stages there are is all that it needs to know.
template <class C>
__device__ __forceinline__ void ShowPanel(const GemmKernelArgs& a, const TileList& list,
                                          Ring<C> ring) {
  if (threadIdx.x % 32 != 0) return;
  const int dealt = DealtOut<C>(list) - static_cast<int>(blockIdx.x);
  int items = dealt <= 0 ? 0 : (dealt + gridDim.x - 1) / gridDim.x;
  for (uint32_t phase = 0;; phase ^= 1) {
#pragma unroll 1
    for (int left = items * ((a.k + C::kStageK - 1) / C::kStageK); left > 0; left--) {
      BarrierWait(ring.Landed(), ring.phase);
      FenceAsyncProxy();
      BarrierArrive(ring.Full());
      ring.Next();
    }
    BarrierWait(ring.Shared(), phase);
    items = list.taken->count;
    if (items == 0) break;
    BarrierArrive(ring.Shared() + 8);
  }
  BarrierWait(ring.Empty(), ring.phase ^ 1);
  BarrierArrive(ring.Full());
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SCHED_FETCH_CUH_
