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

// Panel rows of one token's pairs, from all ids. Fills place[0..top_k).
__device__ void FindPositions(const GatherArgs& a, int token, int* place) {
  __shared__ int own[kMostTopK], lower[kMostTopK], rank[kMostTopK], count[kMostTopK];
  __shared__ uint8_t hit[kMostExperts];
  const Routing& r = a.routing;
  const int pairs = ChunkTokens(r) * r.top_k, first = token * r.top_k;
  if (threadIdx.x < r.top_k) {
    own[threadIdx.x] = LocalExpert(r, first + threadIdx.x);
    lower[threadIdx.x] = rank[threadIdx.x] = count[threadIdx.x] = 0;
  }
  for (int e = threadIdx.x; e < r.experts; e += kThreads) hit[e] = 0;
  __syncthreads();
  // A pair counts into the lower sums of pairs with a higher expert, and into the rank of later pairs of its own.
  for (int begin = 0; begin < pairs; begin += kThreads) {
    const int p = begin + threadIdx.x, e = p < pairs ? LocalExpert(r, p) : -1;
    if (e >= 0) hit[e] = 1;
    for (int s = 0; s < r.top_k; s++) {
      const uint32_t low = __ballot_sync(~0u, e >= 0 && e < own[s]);
      const uint32_t same = __ballot_sync(~0u, e >= 0 && e == own[s]);
      const uint32_t earlier = __ballot_sync(~0u, p < first + s) & same;
      if (threadIdx.x % 32 == 0) {
        if (low != 0) atomicAdd(lower + s, __popc(low));
        if (earlier != 0) atomicAdd(rank + s, __popc(earlier));
        if (same != 0) atomicAdd(count + s, __popc(same));
      }
    }
  }
  __syncthreads();
  // One warp a pair counts the experts below that are hit.
  for (int s = threadIdx.x / 32; s < r.top_k; s += kWarps) {
    int hits = 0;
    for (int e = threadIdx.x % 32; e < own[s]; e += 32) hits += hit[e];
    hits = __reduce_add_sync(~0u, hits);
    if (threadIdx.x % 32 == 0) {
      place[s] = own[s] < 0 ? -1 : FirstPanelRow(lower[s], hits) + rank[s];
      a.panel_row[first + s] = place[s];
      if (own[s] >= 0 && rank[s] == count[s] - 1) ClearUnusedScales(a, place[s] + 1);
    }
  }
  __syncthreads();
}

// ---------------------------------------------------------------------------------------------------------- panels --

// Scale of a token, from its largest magnitude; all threads get it.
__device__ float RowScale(const GatherArgs& a, const uint16_t* x, float weight, bool weighted) {
  __shared__ uint32_t peak;
  if (threadIdx.x == 0) peak = 0;
  __syncthreads();
  uint32_t top = 0;
  float v[8];
  for (int k = threadIdx.x * 8; k < a.hidden; k += kThreads * 8) {
    LoadEight(x + k, weight, weighted, v);
#pragma unroll
    for (int i = 0; i < 8; i++) top = max(top, __float_as_uint(v[i]) & 0x7FFFFFFFu);
  }
  top = __reduce_max_sync(~0u, top);
  if (threadIdx.x % 32 == 0) atomicMax(&peak, top);
  __syncthreads();
  return OnePlane(a.path) ? E4m3Scale(peak) : PlaneScale(peak);
}

// W4A8: the scale of 128 values, of which 16 neighbouring threads hold eight each. All threads take part.
__device__ __forceinline__ float GroupScale(const float* v) {
  uint32_t top = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) top = max(top, __float_as_uint(v[i]) & 0x7FFFFFFFu);
#pragma unroll
  for (int x = 1; x < 16; x *= 2) top = max(top, __shfl_xor_sync(~0u, top, x));
  return E4m3Scale(top);
}

// Values of x that a block rewrites at a time: 16 bytes a thread come and go.
constexpr int kPieceK = kThreads * 8;

// Eight values of one lane and step into their places inside a piece: planes [block][high 128, low 128], others in order.
__device__ __forceinline__ void PutEight(const GatherArgs& a, int k, const float* v, float inverse,
                                         uint8_t* piece) {
  if (a.path == Path::kPlanes) {
    uint32_t high[2], low[2];
    SplitEight(v, inverse, high, low);
    const int at = static_cast<int>(Sm90PlaneIndex(a.hidden, k)) % kPieceK;
    uint8_t* to = piece + at / 128 * 256 + at % 128;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      *reinterpret_cast<uint32_t*>(to + 16 * h) = high[h];
      *reinterpret_cast<uint32_t*>(to + 16 * h + 128) = low[h];
    }
  } else if (OnePlane(a.path)) {
    uint8_t* to = piece + static_cast<int>(Sm90PlaneIndex(a.hidden, k)) % kPieceK;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      *reinterpret_cast<uint32_t*>(to + 16 * h) = E4m3Pair(v[h] * inverse, v[h + 2] * inverse) |
                                                  E4m3Pair(v[h + 4] * inverse, v[h + 6] * inverse)
                                                      << 16;
    }
  } else {
    uint8_t* to = piece + static_cast<int>(Sm90Bf16Index(a.hidden, k)) % kPieceK * 2;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
      *reinterpret_cast<__nv_bfloat162*>(to + 16 * i) = pair;
    }
  }
}

__global__ void __launch_bounds__(kThreads) Rewrite(const __grid_constant__ GatherArgs a) {
  __shared__ int place[kMostTopK];
  __shared__ __align__(16) uint8_t piece[2 * kPieceK];
  WaitForPrimary();
  LaunchDependents();
  const Routing& r = a.routing;
  const int token = blockIdx.x;
  if (token >= ChunkTokens(r)) return;
  if (CountedInPlace(r)) {
    FindPositions(a, token, place);
  } else {
    if (threadIdx.x < r.top_k) place[threadIdx.x] = a.panel_row[token * r.top_k + threadIdx.x];
    __syncthreads();
  }
  // Of a group's rows, many are not computed here.
  bool wanted = false;
  for (int s = 0; s < r.top_k; s++) wanted |= place[s] >= 0;
  if (!wanted) return;
  const uint16_t* x = a.x + token * a.x_stride;
  const bool weighted = a.weight_on_input != 0;
  const float weight = weighted ? LoadWeight(a.router_weights, a.weight_is_bf16, token) : 1.0f;
  const bool planes = a.path == Path::kPlanes, e4m3 = OnePlane(a.path);
  const bool scaled = planes || e4m3;
  const float scale = scaled ? RowScale(a, x, weight, weighted) : 1.0f;
  const float inverse = scaled ? PlaneInverse(scale) : 1.0f;
  if (threadIdx.x < r.top_k && place[threadIdx.x] >= 0) {
    if (scaled) a.row_scale[place[threadIdx.x]] = scale;
    if (a.hidden_weight != nullptr) {
      a.hidden_weight[place[threadIdx.x]] =
          LoadWeight(a.router_weights, a.weight_is_bf16, token * r.top_k + threadIdx.x);
    }
  }
  // A thread's 16 bytes: chunk c of row `line` of the panel, which the swizzle moves by the row's place in its group of 8.
  const int c = threadIdx.x % 8, line = threadIdx.x / 8;
  for (int first = 0; first < a.hidden; first += kPieceK) {
    const int k = first + threadIdx.x * 8;
    float v[8] = {};
    if (k < a.hidden) LoadEight(x + k, weight, weighted, v);
    if (a.quantised) {
      // What W4A8 computes with, by the scale of its 128 values; NaN by that scale, where there is one. On the E4M3 paths all
      // then take the scale of the row, which is not less: that moves an exponent and loses bits below 2^-9 of the row's
      // scale alone, 2^-17 of its peak, which is finer than what the tensor cores keep of a sum (2^-13).
      const float group = GroupScale(v), own = PlaneInverse(group);
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = RoundE4m3(v[i] * own) * group;
    }
    if (k < a.hidden) PutEight(a, k, v, inverse, piece);
    __syncthreads();
    const int plane = planes ? line % 2 : 0, block = planes ? line / 2 : line;
    const int length = planes || e4m3 ? 128 : 64, at = first + block * length + c * (length / 8);
    // A line is copied whole, so what K leaves of the last one is filled with zeros.
    const uint4 q = at < a.hidden ? *reinterpret_cast<const uint4*>(piece + threadIdx.x * 16)
                                  : make_uint4(0, 0, 0, 0);
    if (at < (a.hidden + length - 1) / length * length && block < kPieceK / length) {
      for (int s = 0; s < r.top_k; s++) {
        const int64_t p = place[s];
        if (p < 0) continue;
        const int64_t row = planes ? ((first / 128 + block) * a.panel_rows + p) * 2 + plane
                                   : (first / length + block) * a.panel_rows + p;
        const int swizzle = static_cast<int>(planes ? 2 * p + plane : p) & 7;
        *reinterpret_cast<uint4*>(a.panel + row * 128 + (c ^ swizzle) * 16) = q;
      }
    }
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
