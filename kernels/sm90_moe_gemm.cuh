// Grouped GEMM over the experts hit: D[rows of w, tokens] = W[rows, K] * act[tokens, K]^T, weights FP4, one kernel body for
// GEMM1 (w13, activation in the epilogue, writes h) and GEMM2 (w2, writes slots).
//
//   weights  on the 64-row side of wgmma, from registers, decoded from the sm90 layout (mxfp4/layout.h)
//   tokens   on the n side in steps of 8 columns: bf16 one column a token; planes two (high, low) next to each other, so
//            that one thread holds both and the promoted accumulator has one value a token
//
// Threads: kWarpgroups math warpgroups, each a 64-row tile of its own, and one producer warpgroup with few registers.
// Pipeline: a ring of stages in shared memory, one stage = 256 of K:
//
//     [tokens: 512 bytes each, 128-byte swizzle] [warpgroup 0: 34 * kc bytes of codes and scales] ... [meta]
//
// The producer also says what a stage belongs to: meta begins with {expert, first tile, first pair, pairs}; 0 pairs ends
// the work. The math warps keep nothing of it across the main loop, where every register counts.
//
//   full[s]   1 arrival + bytes of the weights' bulk copies, one arrival of each gathering warp once its rows are in
//   empty[s]  one arrival of each math warp
//
// Rows of act are gathered by cp.async, whose writes belong to the generic proxy; a producer warp therefore waits for
// its copies, fences towards the async proxy that wgmma reads through, and only then arrives. It stays up to kLag stages
// behind its own requests unless the ring is full.
// CTAs are persistent; nothing waits for another CTA, so residency is no condition.
#ifndef DSV4MX_KERNELS_SM90_MOE_GEMM_CUH_
#define DSV4MX_KERNELS_SM90_MOE_GEMM_CUH_

#include <cuda_bf16.h>

#include <type_traits>

#include "kernels/epilogue/activation.cuh"
#include "kernels/launch.h"
#include "kernels/mxfp4/decode.cuh"
#include "kernels/mxfp4/layout.h"
#include "kernels/mxfp4/split.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/ptx/wgmma.cuh"
#include "kernels/sched/tiles.cuh"

namespace dsv4mx {

inline constexpr int kMaxStages = 8;
inline constexpr int kChunkBytes = 34 * kSm90ChunkK;  // a warpgroup's weights of one stage
inline constexpr int kLag = 2;
inline constexpr int kGatherWarps = 3;

template <Path P, int Gemm, int Warpgroups>
struct GemmConfig {
  static constexpr bool kPlanes = P == Path::kPlanes;
  static constexpr bool kWide = P == Path::kBf16Wide;
  static constexpr int kGemm = Gemm;
  static constexpr int kWarpgroups = Warpgroups;
  static constexpr int kThreads = Warpgroups * 128 + 128;
  static constexpr int kProducerRegisters = 32;
  // Registers are granted in groups of four warps; the sum must not exceed what the launch was given.
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kRest =
      (kLaunchRegisters * kThreads - kProducerRegisters * 128) / (Warpgroups * 128) / 8 * 8;
  static constexpr int kMathRegisters = kRest > 232 ? 232 : kRest;
  static constexpr int kGrain = kPlanes ? 4 : 8;
  static_assert(!kPlanes || Gemm == 2 || Warpgroups == 4,
                "a CTA of the plane path's GEMM1 makes one h scale per 128");
};

// Per stage: 16 bytes of header, then what a token needs beside its row. Planes: [width] pairs of floats (GEMM1: x scale,
// router weight; GEMM2: the h scales of the stage's two blocks), then [width] pair indices. bf16: [width] router weights or
// pair indices.
inline constexpr int kHeaderBytes = 16;
__host__ __device__ constexpr int MetaBytes(bool planes, int width) {
  return kHeaderBytes + (planes ? 12 : 4) * width;
}
__host__ __device__ constexpr int StageBytes(bool planes, int warpgroups, int width) {
  return (warpgroups * kChunkBytes + 512 * width + MetaBytes(planes, width) + 1023) / 1024 * 1024;
}

// Sizes come from the kernel's arguments each time, which costs a constant operand instead of a register.
template <class C>
struct Ring {
  const GemmArgs& a;
  uint32_t base;  // shared addresses
  uint32_t full;
  int stage;
  uint32_t phase;
  __device__ __forceinline__ uint32_t Rows() const { return base + stage * a.stage_bytes; }
  __device__ __forceinline__ uint32_t Weights() const { return Rows() + 512 * a.width; }
  __device__ __forceinline__ uint32_t Header() const {
    return Weights() + C::kWarpgroups * kChunkBytes;
  }
  __device__ __forceinline__ uint32_t Meta() const { return Header() + kHeaderBytes; }
  __device__ __forceinline__ uint32_t Pairs() const {
    return Meta() + (C::kPlanes ? 8 * a.width : 0);
  }
  __device__ __forceinline__ uint32_t Full() const { return full + stage * 8; }
  __device__ __forceinline__ uint32_t Empty() const { return full + 8 * kMaxStages + stage * 8; }
  __device__ __forceinline__ void Next() {
    if (++stage == a.stages) stage = 0, phase ^= 1;
  }
  __device__ __forceinline__ Ring Before() const {
    Ring r = *this;
    r.stage = stage == 0 ? a.stages - 1 : stage - 1;
    return r;
  }
};

__device__ __forceinline__ uint64_t
RowsDescriptor(uint32_t address) {  // K-major, 128-byte swizzle, 8-row groups of 1024
  return (uint64_t{1} << 62) | (uint64_t{1024 >> 4} << 32) | (uint64_t{1} << 16) |
         ((address & 0x3FFFF) >> 4);
}

// Columns of the instance that runs a tile of `count` tokens; producer and consumers must agree.
template <class C>
__device__ __forceinline__ int ColumnsFor(int count) {
  if constexpr (C::kPlanes) {
    return count <= 4    ? 8
           : count <= 8  ? 16
           : count <= 12 ? 24
           : count <= 16 ? 32
           : count <= 24 ? 48
                         : 64;
  } else if constexpr (C::kWide) {
    return 32;
  } else {
    return count <= 32 ? 32 : count <= 64 ? 64 : count <= 96 ? 96 : 128;
  }
}

// ---------------------------------------------------------------------------------------------------------- producer --

// Warp 0, one lane: headers and weights. Neither depends on the kernel before this one, so GEMM2 fills its ring while
// GEMM1 still runs.
template <class C>
__device__ __forceinline__ void ProduceWeights(const GemmArgs& a, const TileList& list,
                                               Ring<C> ring) {
  const int chunks = (a.k + kSm90ChunkK - 1) / kSm90ChunkK, total = TotalItems(list);
  for (int index = blockIdx.x; index < total; index += gridDim.x) {
    const Item item = ItemAt(list, a.counts, index, C::kGrain);
    const int position = __ldg(a.offsets + item.expert) + item.first,
              tile = item.row_block * C::kWarpgroups;
    const int live = min(C::kWarpgroups, a.tiles - tile);
    // Weights that no other CTA reads should not push activations out of L2.
    const uint64_t policy = item.tiles > 1 ? PolicyEvictNormal() : PolicyEvictFirst();
    const uint8_t* from =
        a.slabs + item.expert * a.slab_bytes + a.matrix + tile * Sm90TileBytes(a.k);
    for (int c = 0; c < chunks; c++, from += kChunkBytes) {
      BarrierWait(ring.Empty(), ring.phase ^ 1);
      asm volatile("st.shared.v4.s32 [%0], {%1, %2, %3, %4};" ::"r"(ring.Header()),
                   "r"(item.expert), "r"(tile), "r"(position), "r"(item.count)
                   : "memory");
      const int bytes = 34 * min(kSm90ChunkK, a.k - c * kSm90ChunkK);
      BarrierArriveExpect(ring.Full(), live * bytes);
      for (int i = 0; i < live; i++) {
        BulkCopy(ring.Weights() + i * kChunkBytes, from + i * Sm90TileBytes(a.k), bytes,
                 ring.Full(), policy);
      }
      ring.Next();
    }
  }
  BarrierWait(ring.Empty(), ring.phase ^ 1);
  asm volatile("st.shared.v4.s32 [%0], {%1, %1, %1, %1};" ::"r"(ring.Header()), "r"(0) : "memory");
  BarrierArrive(ring.Full());
}

// Stages whose rows a warp has requested and not yet announced to the math warps.
template <class C>
struct Pending {
  int count = 0, oldest = 0;
  __device__ __forceinline__ void Announce(const Ring<C>& ring) {
    FenceAsyncProxy();
    __syncwarp();
    if ((threadIdx.x & 31) == 0) BarrierArrive(ring.full + oldest * 8);
    if (++oldest == ring.a.stages) oldest = 0;
    count--;
  }
  __device__ __forceinline__ void Flush(const Ring<C>& ring) {
    CopyAsyncWait<0>();
    while (count > 0) Announce(ring);
  }
};

// One instruction of a warp brings one token's 512 bytes: planes 2 blocks x (high, low) x 128, bf16 4 x 128.
template <class C>
__device__ __forceinline__ void RequestRows(const Ring<C>& ring, const uint8_t* from, int kc,
                                            int count, int warp, const int32_t* tokens) {
  const int lane = threadIdx.x & 31, columns = ColumnsFor<C>(count);
  const int line = C::kPlanes ? (lane / 16) * columns + lane / 8 % 2 : lane / 8 * columns;
  const bool real = C::kPlanes ? lane / 16 * 128 + lane % 8 * 16 < kc : lane * 8 < kc;
  for (int m = warp; m < count; m += kGatherWarps) {
    const int64_t row = C::kGemm == 1 ? tokens[m] : m;
    const int column =
        line + m * (C::kPlanes ? 2 : 1);  // columns is a multiple of 8: the swizzle holds
    if (real) {
      CopyAsync16(ring.Rows() + column * 128 + ((lane % 8) ^ (column & 7)) * 16,
                  from + row * ring.a.row_bytes + lane * 16);
    }
  }
}

// What the epilogue needs of each token, with the last stage of a tile.
template <class C>
__device__ __forceinline__ void RequestMeta(const Ring<C>& ring, int m, int token, int position) {
  const GemmArgs& a = ring.a;
  if constexpr (C::kGemm == 2) {
    CopyAsync4(ring.Pairs() + m * 4, a.sorted + position);
  } else {
    if constexpr (C::kPlanes) CopyAsync4(ring.Meta() + m * 8, a.row_scale + token);
    if (a.hidden_weight == nullptr) return;
    const int pair = __ldg(a.sorted + position);
    const float weight =
        a.weight_is_bf16
            ? __bfloat162float(static_cast<const __nv_bfloat16*>(a.hidden_weight)[pair])
            : static_cast<const float*>(a.hidden_weight)[pair];
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(ring.Meta() + (C::kPlanes ? m * 8 + 4 : m * 4)),
                 "f"(weight)
                 : "memory");
  }
}

// Warps 1..3: the tokens' rows; warp w brings tokens w, w + 3, ... of a tile. `tokens` is scratch in shared memory.
template <class C>
__device__ __forceinline__ void ProduceRows(const GemmArgs& a, const TileList& list, Ring<C> ring,
                                            int32_t* tokens) {
  const int warp = (threadIdx.x / 32 & 3) - 1, lane = threadIdx.x & 31;
  const int total = TotalItems(list);
  if constexpr (C::kGemm == 2) WaitForPrimary();
  Pending<C> pending;
  for (int index = blockIdx.x;; index += gridDim.x) {
    const bool end = index >= total;
    Item item{};
    if (!end) item = ItemAt(list, a.counts, index, C::kGrain);
    const int count = item.count, position = end ? 0 : __ldg(a.offsets + item.expert) + item.first;
    if constexpr (C::kGemm == 1) {
      __syncwarp();
      for (int m = warp + kGatherWarps * lane; m < count; m += kGatherWarps * 32) {
        tokens[m] = __ldg(a.sorted + position + m) / a.top_k;
      }
      __syncwarp();
    }
    const uint8_t* from = a.rows + (C::kGemm == 2 ? position * a.row_bytes : 0);
    for (int k = 0; k < (end ? 1 : a.k); k += kSm90ChunkK, from += 512) {
      if (!BarrierTry(ring.Empty(), ring.phase ^ 1)) {
        pending.Flush(ring);
        BarrierWait(ring.Empty(), ring.phase ^ 1);
      }
      const int kc = min(kSm90ChunkK, a.k - k);
      RequestRows<C>(ring, from, kc, count, warp, tokens);
      for (int m = warp + kGatherWarps * lane; m < count; m += kGatherWarps * 32) {
        if constexpr (C::kGemm == 2 && C::kPlanes) {
          const float* s =
              a.row_scale + static_cast<int64_t>(position + m) * a.row_scale_stride + k / 128;
          CopyAsync4(ring.Meta() + m * 8, s);
          if (kc > 128) CopyAsync4(ring.Meta() + m * 8 + 4, s + 1);
        }
        if (k + kSm90ChunkK >= a.k)
          RequestMeta<C>(ring, m, C::kGemm == 1 ? tokens[m] : 0, position + m);
      }
      CopyAsyncCommit();
      pending.count++;
      // With few stages there is no room to lag: the math warps would starve for what has long arrived.
      if (a.stages > kLag + 1) {
        if (pending.count > kLag) {
          CopyAsyncWait<kLag>();
          pending.Announce(ring);
        }
      } else {
        pending.Flush(ring);
      }
      ring.Next();
    }
    if (end) break;
  }
  pending.Flush(ring);
}

// ---------------------------------------------------------------------------------------------------------- consumer --

// What a math warp knows of its place.
struct Seat {
  int wg, warp, lane, g, t;
};
// Volatile, so that what depends on it is computed where it is used: hoisted out of the loop over tiles for every width at
// once, it would spill.
__device__ __forceinline__ Seat TakeSeat() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  const int lane = thread & 31;
  return {thread / 128, thread / 32 & 3, lane, lane / 4, lane & 3};
}

// Bytes of the chunk's scales that this lane needs for block `b` of the layout: row half 0 in bits 0..7, half 1 in 8..15.
__device__ __forceinline__ uint32_t TailScales(uint32_t chunk, int kc, const Seat& s,
                                               const Sm90Block& b) {
  const int groups = b.length / 32;
  return LoadShared2(chunk + 32 * kc + 2 * b.first +
                     ((s.warp * 8 + s.g) * groups + s.t * b.length / 128) * 2);
}

template <int Columns, class C>
struct PlanesLoop {
  static constexpr int kTokens = Columns / 8;  // tokens of this thread
  float acc[2 * kTokens];                      // [token][row half]
  float d[Columns / 2];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < 2 * kTokens; i++) acc[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < Columns / 2; i++) d[i] = 0.0f;
  }

  // acc += unit * scale * (high + low / 16)
  __device__ __forceinline__ void Promote(float unit0, float unit1, uint32_t meta, int block,
                                          const Seat& s) {
#pragma unroll
    for (int j = 0; j < kTokens; j++) {
      float scale = 1.0f;
      if constexpr (C::kGemm == 2) {
        asm volatile("ld.shared.f32 %0, [%1];"
                     : "=f"(scale)
                     : "r"(meta + (4 * j + s.t) * 8 + block * 4));
      }
      acc[2 * j] += (C::kGemm == 2 ? unit0 * scale : unit0) * fmaf(d[4 * j + 1], 0.0625f, d[4 * j]);
      acc[2 * j + 1] +=
          (C::kGemm == 2 ? unit1 * scale : unit1) * fmaf(d[4 * j + 3], 0.0625f, d[4 * j + 2]);
    }
  }

  // One full chunk. kFirst, kLast: of its block of 512. v holds the chunk's first words, scales its scales.
  template <bool kFirst, bool kLast>
  __device__ __forceinline__ void Chunk(Ring<C>& ring, const Seat& s, PlaneTable o0, PlaneTable o1,
                                        float unit0, float unit1, uint4& v0, uint32_t& scales,
                                        bool more, bool release) {
    const uint32_t words = ring.Weights() + s.wg * kChunkBytes + s.warp * 2048 + s.lane * 16;
    const uint32_t meta = ring.Meta();
    const uint64_t rows = RowsDescriptor(ring.Rows());
    const uint32_t mine = ring.Empty();
    const uint32_t before = ring.Before().Empty();
    uint4 v[2];
    v[0] = v0;
    uint32_t a[2][2][4];
#pragma unroll
    for (int u = 0; u < 4; u++) {
      const int block = u / 2, j = u % 2;
      const PlaneTable t0 = PlaneOf(o0, (scales >> (16 * block)) & 255u);
      const PlaneTable t1 = PlaneOf(o1, (scales >> (16 * block + 8)) & 255u);
      const uint4 x = v[u & 1];
      if (u < 3) v[(u + 1) & 1] = LoadShared16(words + (u + 1) * 512);
      DecodePlane(x.x, t0, a[j][0][0], a[j][0][2]);
      DecodePlane(x.y, t1, a[j][0][1], a[j][0][3]);
      DecodePlane(x.z, t0, a[j][1][0], a[j][1][2]);
      DecodePlane(x.w, t1, a[j][1][1], a[j][1][3]);
      WgmmaFence();
      const bool fresh = C::kGemm == 2 ? j == 0 : (u == 0 && kFirst);
      const uint64_t b = rows + ((block * Columns * 128) >> 4) + j * 4;
      WgmmaE4M3<Columns>::Mma(d, a[j][0], b, fresh ? 0 : 1);
      WgmmaE4M3<Columns>::Mma(d, a[j][1], b + 2, 1);
      WgmmaCommit();
      if (u == 3) {
        ring.Next();
        if (more) {  // the next chunk's first words arrive while this chunk's last products run
          BarrierWait(ring.Full(), ring.phase);
          const uint32_t next = ring.Weights() + s.wg * kChunkBytes;
          v0 = LoadShared16(next + s.warp * 2048 + s.lane * 16);
          scales = LoadShared4(next + 8192 + s.warp * 128 + s.lane * 4);
        }
      }
      const bool promote = C::kGemm == 2 ? j == 1 : (u == 3 && kLast);
      if (promote) {
        WgmmaWait<0>();
        Promote(unit0, unit1, meta, block, s);
      } else {
        WgmmaWait<1>();
      }
      if (C::kGemm == 1 && !kFirst && u == 0 && s.lane == 0) BarrierArrive(before);
    }
    if ((C::kGemm == 2 || kLast) && release) {
      __syncwarp();
      if (s.lane == 0) BarrierArrive(mine);
    }
  }

  // A chunk shorter than 256, without overlap: it is at most one of a tile's.
  __device__ __forceinline__ void Tail(Ring<C>& ring, const Seat& s, int kc, PlaneTable o0,
                                       PlaneTable o1, float unit0, float unit1) {
    const uint32_t chunk = ring.Weights() + s.wg * kChunkBytes, meta = ring.Meta();
    const uint64_t rows = RowsDescriptor(ring.Rows());
    BarrierWait(ring.Full(), ring.phase);
    const int steps = kc / 32;
    for (int step = 0; step < steps;) {
      const Sm90Block b = Sm90BlockOf(kc, step * 32);
      const uint32_t scales = TailScales(chunk, kc, s, b);
      const PlaneTable t0 = PlaneOf(o0, scales & 255u), t1 = PlaneOf(o1, scales >> 8);
      const int end = b.step + b.length / 32;
      for (; step < end; step++) {
        const bool single = (steps & 1) && step == steps - 1;
        const uint32_t word = chunk + s.warp * kc * 8 + step / 2 * 512 +
                              (single ? s.lane * 8 : s.lane * 16 + step % 2 * 8);
        uint32_t a[4];
        DecodePlane(LoadShared4(word), t0, a[0], a[2]);
        DecodePlane(LoadShared4(word + 4), t1, a[1], a[3]);
        WgmmaFence();
        WgmmaE4M3<Columns>::Mma(d, a, rows + ((step / 4 * Columns * 128) >> 4) + step % 4 * 2,
                                step % 4 == 0 ? 0 : 1);
        WgmmaCommit();
        WgmmaWait<0>();
        if (step % 4 == 3 || step == steps - 1) Promote(unit0, unit1, meta, step / 4, s);
      }
    }
    ring.Next();
  }

  // The whole K of one tile. Leaves the last stage unreleased: the epilogue reads its meta.
  __device__ __forceinline__ void Run(const GemmArgs& a, Ring<C>& ring, const Seat& s,
                                      const uint8_t* slab, int tile) {
    const int blocks = static_cast<int>(Sm90BaseBlocks(a.k)), full = a.k / kSm90ChunkK,
              tail = a.k % kSm90ChunkK;
    const uint8_t* base =
        slab + a.base + static_cast<int64_t>(tile) * blocks * 64 + s.warp * 16 + s.g;
    uint32_t b0 = __ldg(base), b1 = __ldg(base + 8);
    uint4 v0 = make_uint4(0, 0, 0, 0);
    uint32_t scales = 0;
    if (full > 0) {
      BarrierWait(ring.Full(), ring.phase);
      v0 = LoadShared16(ring.Weights() + s.wg * kChunkBytes + s.warp * 2048 + s.lane * 16);
      scales = LoadShared4(ring.Weights() + s.wg * kChunkBytes + 8192 + s.warp * 128 + s.lane * 4);
    }
    for (int block = 0; block < blocks; block++) {
      const PlaneTable o0 = PlaneOrigin(b0), o1 = PlaneOrigin(b1);
      const float unit0 = PlaneUnit(b0), unit1 = PlaneUnit(b1);
      if (block + 1 < blocks) {
        base += 64;
        b0 = __ldg(base);
        b1 = __ldg(base + 8);
      }
      const int here = min(2, full - 2 * block);
      const bool last = block + 1 == blocks;
      if (here == 2) {
        Chunk<true, false>(ring, s, o0, o1, unit0, unit1, v0, scales, true, true);
        Chunk<false, true>(ring, s, o0, o1, unit0, unit1, v0, scales, 2 * block + 2 < full, !last);
      } else {
        const bool tailed = tail != 0;
        if (here == 1) Chunk<true, true>(ring, s, o0, o1, unit0, unit1, v0, scales, false, tailed);
        if (tailed) Tail(ring, s, tail, o0, o1, unit0, unit1);
      }
    }
  }
};

template <int Columns, class C>
struct Bf16Loop {
  static constexpr int kTokens =
      Columns / 4;  // tokens of this thread: columns 8j + 2t and 8j + 2t + 1
  static constexpr int kGroup = Columns > 64 ? 2 : 4;  // k16 steps to a wgmma group
  float acc[Columns / 2];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < Columns / 2; i++) acc[i] = 0.0f;
  }

  __device__ __forceinline__ static uint32_t Scale(uint32_t b) {
    // Wide weights (a byte above 128) take two multiplies: 2^126 here, then 2^(b-127), whose field is b (b = 0: subnormal).
    if constexpr (C::kWide) return (b == 0 ? 0x0040u : b << 7) * 0x00010001u;
    return Bf16Scale(b);
  }
  __device__ __forceinline__ static void Decode(uint32_t q, uint32_t scale, uint32_t* pair) {
    UnpackBf16(q, pair);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if constexpr (C::kWide) pair[i] = MulBf16x2(pair[i], 0x7E807E80u);
      pair[i] = MulBf16x2(pair[i], scale);
    }
  }

  __device__ __forceinline__ void Chunk(Ring<C>& ring, const Seat& s, uint4& v0, uint32_t& scales,
                                        bool more, bool release_before) {
    const uint32_t words = ring.Weights() + s.wg * kChunkBytes + s.warp * 2048 + s.lane * 16;
    const uint64_t rows = RowsDescriptor(ring.Rows());
    const uint32_t before = ring.Before().Empty();
    uint4 v[2];
    v[0] = v0;
    uint32_t a[2][kGroup][4];
#pragma unroll
    for (int u = 0; u < 4; u++) {
      const uint32_t s0 = Scale((scales >> (u / 2 * 16)) & 255u),
                     s1 = Scale((scales >> (u / 2 * 16 + 8)) & 255u);
      const uint4 x = v[u & 1];
      if (u < 3) v[(u + 1) & 1] = LoadShared16(words + (u + 1) * 512);
      const uint32_t q[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int part = 0; part < 4 / kGroup; part++) {
        const int f = (u * (4 / kGroup) + part) & 1;
#pragma unroll
        for (int z = 0; z < kGroup / 2; z++) {
          const int step = part * (kGroup / 2) + z;
          uint32_t p0[4], p1[4];
          Decode(q[2 * step], s0, p0);
          Decode(q[2 * step + 1], s1, p1);
#pragma unroll
          for (int k = 0; k < 2; k++) {
            a[f][2 * z + k][0] = p0[2 * k];
            a[f][2 * z + k][1] = p1[2 * k];
            a[f][2 * z + k][2] = p0[2 * k + 1];
            a[f][2 * z + k][3] = p1[2 * k + 1];
          }
        }
        WgmmaFence();
#pragma unroll
        for (int z = 0; z < kGroup; z++) {
          WgmmaBf16<Columns>::Mma(acc, a[f][z],
                                  rows + ((u * Columns * 128) >> 4) + (part * kGroup + z) * 2, 1);
        }
        WgmmaCommit();
        if (u == 3 && part == 4 / kGroup - 1) {
          ring.Next();
          if (more) {
            BarrierWait(ring.Full(), ring.phase);
            const uint32_t next = ring.Weights() + s.wg * kChunkBytes;
            v0 = LoadShared16(next + s.warp * 2048 + s.lane * 16);
            scales = LoadShared4(next + 8192 + s.warp * 128 + s.lane * 4);
          }
        }
        WgmmaWait<1>();
        if (u == 0 && part == 0 && release_before && s.lane == 0) BarrierArrive(before);
      }
    }
  }

  __device__ __forceinline__ void Tail(Ring<C>& ring, const Seat& s, int kc) {
    const uint32_t chunk = ring.Weights() + s.wg * kChunkBytes;
    const uint64_t rows = RowsDescriptor(ring.Rows());
    BarrierWait(ring.Full(), ring.phase);
    const int steps = kc / 32;
    for (int step = 0; step < steps;) {
      const Sm90Block b = Sm90BlockOf(kc, step * 32);
      const uint32_t scales = TailScales(chunk, kc, s, b);
      const uint32_t s0 = Scale(scales & 255u), s1 = Scale(scales >> 8);
      const int end = b.step + b.length / 32;
      for (; step < end; step++) {
        const bool single = (steps & 1) && step == steps - 1;
        const uint32_t word = chunk + s.warp * kc * 8 + step / 2 * 512 +
                              (single ? s.lane * 8 : s.lane * 16 + step % 2 * 8);
        uint32_t p0[4], p1[4], f[2][4];
        Decode(LoadShared4(word), s0, p0);
        Decode(LoadShared4(word + 4), s1, p1);
#pragma unroll
        for (int k = 0; k < 2; k++) {
          f[k][0] = p0[2 * k];
          f[k][1] = p1[2 * k];
          f[k][2] = p0[2 * k + 1];
          f[k][3] = p1[2 * k + 1];
        }
        WgmmaFence();
        const uint64_t at = rows + ((step / 2 * Columns * 128) >> 4) + step % 2 * 4;
        WgmmaBf16<Columns>::Mma(acc, f[0], at, 1);
        WgmmaBf16<Columns>::Mma(acc, f[1], at + 2, 1);
        WgmmaCommit();
        WgmmaWait<0>();
      }
    }
    ring.Next();
  }

  __device__ __forceinline__ void Run(const GemmArgs& a, Ring<C>& ring, const Seat& s,
                                      const uint8_t*, int) {
    const int full = a.k / kSm90ChunkK, tail = a.k % kSm90ChunkK;
    uint4 v0 = make_uint4(0, 0, 0, 0);
    uint32_t scales = 0;
    if (full > 0) {
      BarrierWait(ring.Full(), ring.phase);
      v0 = LoadShared16(ring.Weights() + s.wg * kChunkBytes + s.warp * 2048 + s.lane * 16);
      scales = LoadShared4(ring.Weights() + s.wg * kChunkBytes + 8192 + s.warp * 128 + s.lane * 4);
    }
    for (int c = 0; c < full; c++) Chunk(ring, s, v0, scales, c + 1 < full, c > 0);
    WgmmaWait<0>();
    if (tail != 0) {
      if (full > 0 && s.lane == 0) BarrierArrive(ring.Before().Empty());
      Tail(ring, s, tail);
    }
  }
};

// A stage's header.
struct Job {
  int expert, tile, position, count;  // tile: this warpgroup's
};
template <class C>
__device__ __forceinline__ Job LoadJob(const Ring<C>& ring, const Seat& s) {
  Job j;
  asm volatile("ld.shared.v4.s32 {%0, %1, %2, %3}, [%4];"
               : "=r"(j.expert), "=r"(j.tile), "=r"(j.position), "=r"(j.count)
               : "r"(ring.Header()));
  j.tile += s.wg;
  return j;
}

// A warpgroup without a tile (the matrix ended) still passes every stage on.
template <class C>
__device__ __forceinline__ void SkipTile(const GemmArgs& a, Ring<C>& ring, const Seat& s) {
  const int chunks = (a.k + kSm90ChunkK - 1) / kSm90ChunkK;
  for (int c = 0; c < chunks; c++) {
    BarrierWait(ring.Full(), ring.phase);
    const uint32_t empty = ring.Empty();
    ring.Next();
    if (c + 1 < chunks && s.lane == 0) BarrierArrive(empty);
  }
}

__device__ __forceinline__ float LoadFloat(uint32_t address) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(address));
  return v;
}
struct RowBias {
  float row0, row1;
};
__device__ __forceinline__ RowBias LoadBias(const GemmArgs& a, const uint8_t* slab, int tile,
                                            const Seat& s) {
  if (a.bias < 0) return {0.0f, 0.0f};
  const float* b = reinterpret_cast<const float*>(slab + a.bias) + tile * 64 + s.warp * 16 + s.g;
  return {__ldg(b), __ldg(b + 8)};
}

// GEMM1, planes: h of 128 channels and all tokens of the tile; one scale per token from the CTA's largest magnitude.
template <int Columns, class C>
__device__ __forceinline__ void EpiloguePlanes1(PlanesLoop<Columns, C>& loop, const GemmArgs& a,
                                                const Job& job, const Seat& s, const uint8_t* slab,
                                                bool live, uint32_t meta, uint32_t* peak,
                                                uint32_t* next_peak) {
  constexpr int kTokens = Columns / 8;
  float h[kTokens];
  const RowBias bias = live ? LoadBias(a, slab, job.tile, s) : RowBias{0.0f, 0.0f};
  const Activation act{a.clamp_limit, a.alpha, a.beta};
#pragma unroll
  for (int j = 0; j < kTokens; j++) {
    const int m = 4 * j + s.t;
    h[j] = 0.0f;
    if (live && m < job.count) {
      const float scale = LoadFloat(meta + m * 8);
      h[j] = ActivationOf(fmaf(loop.acc[2 * j], scale, bias.row0),
                          fmaf(loop.acc[2 * j + 1], scale, bias.row1), act);
      if (a.hidden_weight != nullptr) h[j] *= LoadFloat(meta + m * 8 + 4);
    }
    uint32_t top = __float_as_uint(h[j]) & 0x7FFFFFFFu;
#pragma unroll
    for (int x = 4; x < 32; x *= 2) top = max(top, __shfl_xor_sync(~0u, top, x));
    if (s.g == 0 && m < job.count) atomicMax(peak + m, top);
  }
  // The third set is free: its last readers passed the barrier of the tile before this one.
  if (threadIdx.x < a.width) next_peak[threadIdx.x] = 0;
  NamedBarrier(1, C::kWarpgroups * 128);
  const int channel = job.tile * 32 + s.warp * 8 + s.g,
            block = job.tile / C::kWarpgroups;  // 128 channels: one block of h
  const int at = live ? static_cast<int>(Sm90PlaneIndex(a.intermediate, channel) % 128) : 0;
#pragma unroll
  for (int j = 0; j < kTokens; j++) {
    const int m = 4 * j + s.t;
    if (m >= job.count) continue;
    const float scale = PlaneScale(peak[m]);
    const int64_t row = job.position + m;
    if (live) {
      uint8_t high, low;
      SplitPlanes(h[j] * PlaneInverse(scale), high, low);
      uint8_t* to = a.h + row * a.h_bytes + block * 256 + at;
      to[0] = high;
      to[128] = low;
    }
    if (s.wg == 0 && s.warp == 0 && s.g == 0) a.h_scale[row * a.h_scale_stride + block] = scale;
  }
}

template <int Columns, class C>
__device__ __forceinline__ void EpilogueBf161(Bf16Loop<Columns, C>& loop, const GemmArgs& a,
                                              const Job& job, const Seat& s, const uint8_t* slab,
                                              uint32_t meta) {
  const RowBias bias = LoadBias(a, slab, job.tile, s);
  const Activation act{a.clamp_limit, a.alpha, a.beta};
  const int channel = job.tile * 32 + s.warp * 8 + s.g;
  uint8_t* to = a.h + job.position * a.h_bytes + Sm90Bf16Index(a.intermediate, channel) * 2;
#pragma unroll
  for (int j = 0; j < Columns / 8; j++) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int m = 8 * j + 2 * s.t + i;
      if (m >= job.count) continue;
      float h =
          ActivationOf(loop.acc[4 * j + i] + bias.row0, loop.acc[4 * j + 2 + i] + bias.row1, act);
      if (a.hidden_weight != nullptr) h *= LoadFloat(meta + m * 4);
      *reinterpret_cast<__nv_bfloat16*>(to + m * a.h_bytes) = __float2bfloat16_rn(h);
    }
  }
}

__device__ __forceinline__ void StoreSlot(const GemmArgs& a, int64_t at, float v) {
  if (a.slots_are_bf16) {
    static_cast<__nv_bfloat16*>(a.slots)[at] = __float2bfloat16_rn(v);
  } else {
    static_cast<float*>(a.slots)[at] = v;
  }
}

// GEMM2: a token's rows go to the slot of its pair.
template <int Columns, class C, class Loop>
__device__ __forceinline__ void Epilogue2(Loop& loop, const GemmArgs& a, const Job& job,
                                          const Seat& s, const uint8_t* slab, uint32_t pairs) {
  constexpr int kEach = C::kPlanes ? 1 : 2;  // tokens of this thread in a group of 8 columns
  const RowBias bias = LoadBias(a, slab, job.tile, s);
  const int row = job.tile * 64 + s.warp * 16 + s.g;
#pragma unroll
  for (int j = 0; j < Columns / 8; j++) {
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      const int m = C::kPlanes ? 4 * j + s.t : 8 * j + 2 * s.t + i;
      if (m >= job.count) continue;
      const int64_t at = static_cast<int64_t>(LoadShared4(pairs + m * 4)) * a.hidden + row;
      if (row < a.hidden) StoreSlot(a, at, loop.acc[2 * kEach * j + i] + bias.row0);
      if (row + 8 < a.hidden) StoreSlot(a, at + 8, loop.acc[2 * kEach * j + kEach + i] + bias.row1);
    }
  }
}

template <int Columns, class C>
__device__ __forceinline__ void RunTile(const GemmArgs& a, Ring<C>& ring, uint32_t* peaks,
                                        int& turn) {
  using Loop =
      typename std::conditional<C::kPlanes, PlanesLoop<Columns, C>, Bf16Loop<Columns, C>>::type;
  Loop loop;
  // On every path: a register without a definition counts as live all through the loop over tiles, and with the widths'
  // accumulators live at once nothing would fit.
  loop.Clear();
  {
    const Seat s = TakeSeat();
    const Job job = LoadJob(ring, s);
    if (job.tile < a.tiles) {
      loop.Run(a, ring, s, a.slabs + job.expert * a.slab_bytes, job.tile);
    } else {
      SkipTile(a, ring, s);
    }
  }
  const Seat s = TakeSeat();
  const Ring<C> last = ring.Before();
  const Job job = LoadJob(last, s);
  const uint8_t* slab = a.slabs + job.expert * a.slab_bytes;
  const bool live = job.tile < a.tiles;
  if constexpr (C::kGemm == 2) {
    if (live) Epilogue2<Columns, C>(loop, a, job, s, slab, last.Pairs());
  } else if constexpr (C::kPlanes) {
    EpiloguePlanes1(loop, a, job, s, slab, live, last.Meta(), peaks + turn * a.width,
                    peaks + (turn == 2 ? 0 : turn + 1) * a.width);
    turn = turn == 2 ? 0 : turn + 1;
  } else {
    if (live) EpilogueBf161(loop, a, job, s, slab, last.Meta());
  }
  __syncwarp();
  if (s.lane == 0) BarrierArrive(last.Empty());
}

template <class C>
__device__ __forceinline__ void Consume(const GemmArgs& a, Ring<C> ring, uint32_t* peaks) {
  int turn = 0;
  for (;;) {
    BarrierWait(ring.Full(), ring.phase);
    const int count = LoadJob(ring, TakeSeat()).count;
    if (count == 0) break;
    const int columns = ColumnsFor<C>(count);
    if constexpr (C::kPlanes) {
      switch (columns) {
        case 8:
          RunTile<8, C>(a, ring, peaks, turn);
          break;
        case 16:
          RunTile<16, C>(a, ring, peaks, turn);
          break;
        case 24:
          RunTile<24, C>(a, ring, peaks, turn);
          break;
        case 32:
          RunTile<32, C>(a, ring, peaks, turn);
          break;
        case 48:
          RunTile<48, C>(a, ring, peaks, turn);
          break;
        default:
          RunTile<64, C>(a, ring, peaks, turn);
          break;
      }
    } else if constexpr (C::kWide) {
      RunTile<32, C>(a, ring, peaks, turn);
    } else {
      switch (columns) {
        case 32:
          RunTile<32, C>(a, ring, peaks, turn);
          break;
        case 64:
          RunTile<64, C>(a, ring, peaks, turn);
          break;
        case 96:
          RunTile<96, C>(a, ring, peaks, turn);
          break;
        default:
          RunTile<128, C>(a, ring, peaks, turn);
          break;
      }
    }
  }
}

// ------------------------------------------------------------------------------------------------------------ kernel --

// Dynamic shared memory: the ring, the list of tiles, the tokens of a tile, three sets of peaks.
__host__ __device__ constexpr int GemmSharedBytes(bool planes, int warpgroups, int width,
                                                  int stages, int experts) {
  return stages * StageBytes(planes, warpgroups, width) + (experts + 1 + width) * 4 +
         (planes ? 3 * width * 4 : 0);
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1) MoeGemm(const __grid_constant__ GemmArgs a) {
  extern __shared__ __align__(1024) uint8_t shared[];
  __shared__ __align__(8) uint64_t barriers[2 * kMaxStages];
  Ring<C> ring{a, SharedAddress(shared), SharedAddress(barriers), 0, 0};
  int* prefix = reinterpret_cast<int*>(shared + a.stages * a.stage_bytes);
  int32_t* tokens = prefix + a.experts + 1;
  uint32_t* peaks = reinterpret_cast<uint32_t*>(tokens + a.width);
  if (threadIdx.x == 0) {
    for (int i = 0; i < a.stages; i++) {
      BarrierInit(ring.full + 8 * i, 1 + kGatherWarps);
      BarrierInit(ring.full + 8 * (kMaxStages + i), C::kWarpgroups * 4);
    }
    FenceAsyncProxy();
  }
  if (C::kPlanes && C::kGemm == 1 && threadIdx.x < 3 * a.width) peaks[threadIdx.x] = 0;
  // GEMM2 may start while GEMM1 still runs: the counts come from the kernel before GEMM1, which GEMM1 waited for.
  if constexpr (C::kGemm == 1) WaitForPrimary();
  LaunchDependents();
  BuildTileList(a.counts, a.experts, a.width, prefix);
  if (threadIdx.x >= C::kWarpgroups * 128) {
    RegistersDown<C::kProducerRegisters>();
    const TileList list{prefix, a.experts, (a.tiles + C::kWarpgroups - 1) / C::kWarpgroups,
                        a.width};
    if (threadIdx.x / 32 == C::kWarpgroups * 4) {
      if ((threadIdx.x & 31) == 0) ProduceWeights<C>(a, list, ring);
    } else {
      ProduceRows<C>(a, list, ring, tokens);
    }
  } else {
    RegistersUp<C::kMathRegisters>();
    Consume<C>(a, ring, peaks);
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SM90_MOE_GEMM_CUH_
