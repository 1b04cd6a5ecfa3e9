// Lists the pairs and writes x into its panel: one block per token, which writes the token once for each pair that is
// computed here. With few pairs a block finds the panel rows of its pairs itself; with many, one cluster of blocks lists
// them in a launch before it.
#include <cooperative_groups.h>

#include "kernels/mxfp4/layout.h"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/routing.cuh"
#include "kernels/row.cuh"
#include "kernels/scan.cuh"

namespace dsv4mx {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

__device__ __forceinline__ bool OnePlane(Path path) {
  return path == Path::kE4m3 || path == Path::kE4m3Big;
}

// Scales are copied four at a time, so those behind an expert's last one are read, though no product uses them.
__device__ __forceinline__ void ClearUnusedScales(const GatherArgs& a, int end) {
  if (a.path != Path::kPlanes && !OnePlane(a.path)) return;
  for (int p = end; p % 4 != 0; p++) a.row_scale[p] = 0.0f;
}
// By one block of the kernel that comes first. The GEMMs look at it when they have waited for the one before them.
__device__ __forceinline__ void ClearTaken(const GatherArgs& a) {
  if (blockIdx.x == 0 && threadIdx.x < 2) a.taken[threadIdx.x] = 0;
}

// ------------------------------------------------------------------------------------------------------ many pairs --

// Pairs keep their order: they are cut into one run per warp, over the blocks of one cluster. Each warp counts its run, the
// counts become the panel rows where each warp's pairs of each expert begin, and each warp goes through its run again.
constexpr int kAlignBlocks = 8, kAlignThreads = 1024, kAlignWarps = kAlignThreads / 32;
constexpr int kMostCounts = 32768;  // of a block's warps together

// Warps that list pairs; the more experts, the fewer warps have room for their counts.
__host__ __device__ constexpr int ListingWarps(int experts) {
  return experts * kAlignWarps <= kMostCounts ? kAlignWarps : kMostCounts / experts;
}

// f(pair, expert, lanes with the same expert) for the pairs of [begin, end), 32 side by side. All lanes take part.
template <class F>
__device__ __forceinline__ void ForEachPair(const Routing& r, int begin, int end, F f) {
  // Ids read together: the latency of one at a time would be the kernel's time.
  constexpr int kRounds = 8;
  const int lane = threadIdx.x % 32;
  for (int first = begin; first < end; first += 32 * kRounds) {
    int expert[kRounds];
#pragma unroll
    for (int i = 0; i < kRounds; i++) {
      const int p = first + 32 * i + lane;
      expert[i] = p < end ? LocalExpert(r, p) : -1;
    }
#pragma unroll
    for (int i = 0; i < kRounds; i++) {
      if (first + 32 * i >= end) break;
      f(first + 32 * i + lane, expert[i], __match_any_sync(~0u, expert[i]));
      __syncwarp();
    }
  }
}

__global__ void __launch_bounds__(kAlignThreads) Align(const __grid_constant__ GatherArgs a) {
  DSV4MX_DYNAMIC_SHARED(shared);
  int* const memory = reinterpret_cast<int*>(shared);
  WaitForPrimary();  // the workspace may still be read by the call before
  LaunchDependents();
  ClearTaken(a);
  const Routing& r = a.routing;
  const auto cluster = cooperative_groups::this_cluster();
  const int block = cluster.block_rank(), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int experts = r.experts, listing_warps = ListingWarps(experts),
            pairs = ChunkTokens(r) * r.top_k;
  int* own = memory;                       // [experts] pairs of this block
  int* place = memory + experts;           // [listing_warps][experts] counts, then panel rows
  int* my_place = place + warp * experts;  // where warp < listing_warps
  const int run =
      (pairs + kAlignBlocks * listing_warps * 32 - 1) / (kAlignBlocks * listing_warps * 32) * 32;
  const int begin = (block * listing_warps + warp) * run,
            end = warp < listing_warps ? min(pairs, begin + run) : 0;
  const uint32_t lower_lanes = (1u << lane) - 1;

  for (int i = threadIdx.x; i < listing_warps * experts; i += kAlignThreads) place[i] = 0;
  __syncthreads();
  ForEachPair(r, begin, end, [&](int, int expert, uint32_t same) {
    if (expert >= 0 && (same & lower_lanes) == 0) my_place[expert] += __popc(same);
  });
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += kAlignThreads) {
    int sum = 0;
    for (int w = 0; w < listing_warps; w++) {
      const int count = place[w * experts + e];
      place[w * experts + e] = sum;
      sum += count;
    }
    own[e] = sum;
  }
  cluster.sync();
  uint64_t carry = 0;  // pairs in the lower half, experts hit in the upper
  for (int lowest = 0; lowest < experts; lowest += kAlignThreads) {
    const int e = lowest + threadIdx.x;
    int lower_blocks = 0, count = 0;
    for (int b = 0; e < experts && b < kAlignBlocks; b++) {
      const int there = cluster.map_shared_rank(own, b)[e];
      lower_blocks += b < block ? there : 0;
      count += there;
    }
    const uint64_t lower = ExclusiveSum<kAlignThreads>(
        static_cast<uint64_t>(count > 0) << 32 | static_cast<uint32_t>(count), carry);
    if (e >= experts) continue;
    const int first = FirstPanelRow(static_cast<int>(lower), static_cast<int>(lower >> 32));
    if (block == 0) {
      a.counts[e] = count;
      if (count > 0) ClearUnusedScales(a, first + count);
    }
    for (int w = 0; w < listing_warps; w++) place[w * experts + e] += first + lower_blocks;
  }
  cluster.sync();  // no block may end while others read its counts
  ForEachPair(r, begin, end, [&](int pair, int expert, uint32_t same) {
    if (pair < end) {
      a.panel_row[pair] = expert < 0 ? -1 : my_place[expert] + __popc(same & lower_lanes);
    }
    __syncwarp();
    if (expert >= 0 && (same & lower_lanes) == 0) my_place[expert] += __popc(same);
  });
}

constexpr size_t AlignSharedBytes(int experts) {
  return sizeof(int) * experts * (1 + static_cast<size_t>(ListingWarps(experts)));
}

// ------------------------------------------------------------------------------------------------------- few pairs --

// A token's pairs: their experts here, and their panel rows. Shared memory of a block.
struct TokenPairs {
  int own[kMostTopK], place[kMostTopK];
};

// Whether any pair of the token is computed here.
__device__ __forceinline__ bool AnyOf(const int* values, int count) {
  bool any = false;
  for (int s = 0; s < count; s++) any |= values[s] >= 0;
  return any;
}

// Panel rows of one token's pairs, from all ids, read as in BuildTileList (with one function for both this one spills): fills
// t.place. Sums of several slots stay in registers; a ballot for each slot and 32 ids would be most of the time.
__device__ __forceinline__ void FindPlaces(const GatherArgs& a, int token, TokenPairs& t) {
  constexpr int kSlots = 8, kRounds = 4;
  static_assert(kCountedInPlace < 1 << 16, "two sums share 32 bits");
  __shared__ uint32_t lower[kMostTopK];
  __shared__ uint32_t same[kMostTopK];  // all in the upper half, earlier ones in the lower
  __shared__ __align__(16) uint8_t hit[kMostExperts];
  const Routing& r = a.routing;
  const int pairs = ChunkTokens(r) * r.top_k, first = token * r.top_k;
  const int lane = threadIdx.x % 32;
  if (threadIdx.x < kMostTopK) lower[threadIdx.x] = same[threadIdx.x] = 0;
  for (int e = threadIdx.x * 4; e < r.experts; e += kThreads * 4)
    *reinterpret_cast<uint32_t*>(hit + e) = 0;
  __syncthreads();
  for (int s0 = 0; s0 < r.top_k; s0 += kSlots) {
    int own[kSlots];
    uint32_t low[kSlots] = {}, both[kSlots] = {};
#pragma unroll
    for (int i = 0; i < kSlots; i++) own[i] = s0 + i < r.top_k ? t.own[s0 + i] : -1;
    for (int begin = threadIdx.x; begin < pairs; begin += kThreads * kRounds) {
      int expert[kRounds];
#pragma unroll
      for (int i = 0; i < kRounds; i++)
        expert[i] = begin + i * kThreads < pairs ? LocalExpert(r, begin + i * kThreads) : -1;
#pragma unroll
      for (int i = 0; i < kRounds; i++) {
        const int e = expert[i], earlier = first + s0 - (begin + i * kThreads);
        if (e >= 0) hit[e] = 1;
#pragma unroll
        for (int j = 0; j < kSlots; j++) {
          low[j] += static_cast<uint32_t>(e) < static_cast<uint32_t>(own[j]);
          if (e == own[j]) both[j] += earlier + j > 0 ? 0x10001u : 0x10000u;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kSlots; j++) {
      if (s0 + j >= r.top_k) break;
      const uint32_t l = __reduce_add_sync(~0u, low[j]), b = __reduce_add_sync(~0u, both[j]);
      if (lane == 0) atomicAdd(lower + s0 + j, l), atomicAdd(same + s0 + j, b);
    }
  }
  __syncthreads();
  // One warp a pair counts the experts below that are hit, four to a word.
  for (int s = threadIdx.x / 32; s < r.top_k; s += kWarps) {
    const int own = t.own[s];
    int hits = 0;
    for (int e = lane * 4; e < own; e += 128) {
      const uint32_t word = *reinterpret_cast<const uint32_t*>(hit + e);
      hits += __popc(own - e < 4 ? word & ((1u << 8 * (own - e)) - 1) : word);
    }
    hits = __reduce_add_sync(~0u, hits);
    if (lane == 0) {
      const int rank = static_cast<int>(same[s] & 0xFFFF);
      const int place = own < 0 ? -1 : FirstPanelRow(static_cast<int>(lower[s]), hits) + rank;
      t.place[s] = a.panel_row[first + s] = place;
      if (own >= 0 && rank == static_cast<int>(same[s] >> 16) - 1) ClearUnusedScales(a, place + 1);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------- panels --

// Values of x that a block rewrites at a time: four times 16 bytes a thread come and go.
constexpr int kPieces = 4, kPieceK = kThreads * 8, kRowK = kPieces * kPieceK;

// A thread's part of kRowK values from `first` on, as they are; those behind the row are zeros.
__device__ __forceinline__ void LoadPieces(const uint16_t* x, int first, int hidden,
                                           uint4 (&q)[kPieces]) {
#pragma unroll
  for (int i = 0; i < kPieces; i++) {
    const int k = first + i * kPieceK + static_cast<int>(threadIdx.x) * 8;
    q[i] = k < hidden ? *reinterpret_cast<const uint4*>(x + k) : make_uint4(0, 0, 0, 0);
  }
}
__device__ __forceinline__ uint32_t PeakOf(const float* v) {
  uint32_t top = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) top = max(top, __float_as_uint(v[i]) & 0x7FFFFFFFu);
  return top;
}

// W4A8: the scale of 128 values, of which 16 neighbouring threads hold eight each. All threads take part.
__device__ __forceinline__ float GroupScale(const float* v) {
  uint32_t top = PeakOf(v);
#pragma unroll
  for (int x = 1; x < 16; x *= 2) top = max(top, __shfl_xor_sync(~0u, top, x));
  return E4m3Scale(top);
}

// Eight values of one lane and step into their places in a part of a row: planes [block][high 128, low 128], others in order.
__device__ __forceinline__ void PutEight(const GatherArgs& a, int k, const float* v, float inverse,
                                         uint8_t* row) {
  if (a.path == Path::kPlanes) {
    uint32_t high[2], low[2];
    SplitEight(v, inverse, high, low);
    const int at = static_cast<int>(Sm90PlaneIndex(a.hidden, k)) % kRowK;
    uint8_t* to = row + at / 128 * 256 + at % 128;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      *reinterpret_cast<uint32_t*>(to + 16 * h) = high[h];
      *reinterpret_cast<uint32_t*>(to + 16 * h + 128) = low[h];
    }
  } else if (OnePlane(a.path)) {
    uint8_t* to = row + static_cast<int>(Sm90PlaneIndex(a.hidden, k)) % kRowK;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      *reinterpret_cast<uint32_t*>(to + 16 * h) = E4m3Pair(v[h] * inverse, v[h + 2] * inverse) |
                                                  E4m3Pair(v[h + 4] * inverse, v[h + 6] * inverse)
                                                      << 16;
    }
  } else {
    uint8_t* to = row + static_cast<int>(Sm90Bf16Index(a.hidden, k)) % kRowK * 2;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
      *reinterpret_cast<__nv_bfloat162*>(to + 16 * i) = pair;
    }
  }
}

// kRowK values from `first` on to all panel rows of the token.
__device__ __forceinline__ void WriteRows(const GatherArgs& a, const TokenPairs& t, int first,
                                          const uint8_t* row) {
  const bool planes = a.path == Path::kPlanes, one_plane = OnePlane(a.path);
  const int length = planes || one_plane ? 128 : 64;  // values of a line of 128 bytes
  const int lines = kRowK / length * (planes ? 2 : 1);
  // A line is copied whole, so what K leaves of the last one is filled with zeros.
  const int end = (a.hidden + length - 1) / length * length;
  // Chunk of 16 bytes of a line, which the swizzle moves by the row's place in its group of 8.
  const int c = threadIdx.x % 8;
  for (int line = threadIdx.x / 8; line < lines; line += kThreads / 8) {
    const int plane = planes ? line % 2 : 0, block = planes ? line / 2 : line;
    const int at = first + block * length + c * (length / 8);
    if (at >= end) break;
    const uint4 q = at < a.hidden ? *reinterpret_cast<const uint4*>(row + line * 128 + c * 16)
                                  : make_uint4(0, 0, 0, 0);
    const int64_t part = (first / length + block) * a.panel_rows;
    for (int s = 0; s < a.routing.top_k; s++) {
      const int64_t p = t.place[s];
      if (p < 0) continue;
      const int64_t to = planes ? (part + p) * 2 + plane : part + p;
      const int swizzle = static_cast<int>(planes ? 2 * p + plane : p) & 7;
      *reinterpret_cast<uint4*>(a.panel + to * 128 + (c ^ swizzle) * 16) = q;
    }
  }
}

// What belongs to a panel row beside its values.
__device__ __forceinline__ void WriteScalars(const GatherArgs& a, const TokenPairs& t, int token,
                                             float scale) {
  const int s = threadIdx.x;
  if (s >= a.routing.top_k || t.place[s] < 0) return;
  if (a.path == Path::kPlanes || OnePlane(a.path)) a.row_scale[t.place[s]] = scale;
  if (a.hidden_weight != nullptr) {
    a.hidden_weight[t.place[s]] =
        LoadWeight(a.router_weights, a.weight_is_bf16, token * a.routing.top_k + s);
  }
}

__global__ void __launch_bounds__(kThreads) Rewrite(const __grid_constant__ GatherArgs a) {
  __shared__ TokenPairs t;
  __shared__ __align__(16) uint8_t row[2 * kRowK];
  __shared__ uint32_t peak;
  const Routing& r = a.routing;
  const int token = blockIdx.x, pair = token * r.top_k + static_cast<int>(threadIdx.x);
  const bool in_place = CountedInPlace(r);
  // Behind Align, ids and x are ready from the start: Align let this kernel begin when all before it had ended. Only what
  // Align writes, and what the call before may still read, is touched behind the second wait.
  if (in_place) {
    WaitForPrimary();
    LaunchDependents();
    ClearTaken(a);
  }
  const bool real = token < ChunkTokens(r);
  if (real && threadIdx.x < r.top_k) t.own[threadIdx.x] = LocalExpert(r, pair);
  if (threadIdx.x == 0) peak = 0;
  __syncthreads();
  // Of a group's rows, many are not computed here.
  if (!real || !AnyOf(t.own, r.top_k)) {
    // In every block, so that this kernel's end implies the end of all before it.
    if (!in_place) {
      WaitForPrimary();
      LaunchDependents();
    }
    if (real && in_place && threadIdx.x < r.top_k) a.panel_row[pair] = -1;
    return;
  }
  const uint16_t* x = a.x + token * a.x_stride;
  const bool weighted = a.weight_on_input != 0;
  const float weight = weighted ? LoadWeight(a.router_weights, a.weight_is_bf16, token) : 1.0f;
  const bool scaled = a.path == Path::kPlanes || OnePlane(a.path);
  uint4 q[kPieces];
  float v[8];
  LoadPieces(x, 0, a.hidden, q);
  if (scaled) {
    uint32_t top = 0;
#pragma unroll
    for (int i = 0; i < kPieces; i++) {
      WidenEight(q[i], weight, weighted, v);
      top = max(top, PeakOf(v));
    }
    for (int k = kRowK + threadIdx.x * 8; k < a.hidden; k += kPieceK) {
      LoadEight(x + k, weight, weighted, v);
      top = max(top, PeakOf(v));
    }
    top = __reduce_max_sync(~0u, top);
    if (threadIdx.x % 32 == 0) atomicMax(&peak, top);
    __syncthreads();
  }
  const float scale = !scaled ? 1.0f : OnePlane(a.path) ? E4m3Scale(peak) : PlaneScale(peak);
  const float inverse = PlaneInverse(scale);
  for (int first = 0;;) {
#pragma unroll
    for (int i = 0; i < kPieces; i++) {
      const int k = first + i * kPieceK + threadIdx.x * 8;
      WidenEight(q[i], weight, weighted, v);
      if (a.quantised) {
        // What W4A8 computes with, by the scale of its 128 values; NaN by that scale, where there is one. On the E4M3 paths
        // all then take the scale of the row, which is not less: that moves an exponent and loses bits below 2^-9 of the
        // row's scale alone, 2^-17 of its peak, which is finer than what the tensor cores keep of a sum (2^-13).
        const float group = GroupScale(v), own = PlaneInverse(group);
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = RoundE4m3(v[j] * own) * group;
      }
      if (k < a.hidden) PutEight(a, k, v, inverse, row);
    }
    if (first == 0) {
      // The places are needed only now.
      if (in_place) {
        FindPlaces(a, token, t);
      } else {
        WaitForPrimary();
        LaunchDependents();
        if (threadIdx.x < r.top_k) t.place[threadIdx.x] = a.panel_row[pair];
      }
      __syncthreads();
      WriteScalars(a, t, token, scale);
    } else {
      __syncthreads();
    }
    WriteRows(a, t, first, row);
    first += kRowK;
    if (first >= a.hidden) break;
    LoadPieces(x, first, a.hidden, q);
    __syncthreads();
  }
}

}  // namespace

cudaError_t LoadGather() {
  static_assert(AlignSharedBytes(kMostExperts) <= 227 * 1024 && ListingWarps(kMostExperts) > 0,
                "the counts of the most experts fit into a multiprocessor's shared memory");
  cudaError_t error = cudaFuncSetAttribute(Align, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(AlignSharedBytes(kMostExperts)));
  if (error != cudaSuccess) return error;
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, Rewrite);
}

int LaunchGather(const GatherArgs& args, KernelStream stream) {
  if (!CountedInPlace(args.routing)) {
    const cudaError_t error =
        LaunchDependent(Align, dim3(kAlignBlocks), dim3(kAlignThreads),
                        AlignSharedBytes(args.routing.experts), stream, args, kAlignBlocks);
    if (error != cudaSuccess) return error;
  }
  return LaunchDependent(Rewrite, dim3(args.routing.tokens), dim3(kThreads), 0, stream, args);
}

}  // namespace dsv4mx
