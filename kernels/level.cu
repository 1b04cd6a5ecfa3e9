// One scale for a row of h instead of one for each block of 128 of it, in place: then GEMM2 needs no scale between its products, and
// its sums, in units of that scale, have a bound that f16 holds (launch.h). GEMM1 cannot do it, since no CTA of it sees a whole row.
#include "kernels/mxfp4/split.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/routing.cuh"

namespace dsv4mx {
namespace {

constexpr int kThreads = 256, kBlockChunks = 8;
constexpr int kAtOnce = 4;  // chunks of a lane that are under way together

__device__ __forceinline__ float2 WidenE4m3(uint32_t pair) {
  return __half22float2(__half2(
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(pair & 0xFFFFu), __NV_E4M3)));
}

// Sixteen values times a power of two, of which `low` holds the low plane.
template <bool kOnePlane>
__device__ __forceinline__ void Scale(uint4& high, uint4& low, float by) {
  uint32_t* const h = &high.x;
  uint32_t* const l = &low.x;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    uint32_t pair[2], rest[2];
#pragma unroll
    for (int n = 0; n < 2; n++) {
      float2 v = WidenE4m3(h[i] >> 16 * n);
      if constexpr (kOnePlane) {
        pair[n] = E4m3Pair(v.x * by, v.y * by);
      } else {
        const float2 below = WidenE4m3(l[i] >> 16 * n);
        v.x = fmaf(below.x, 0.0625f, v.x) * by, v.y = fmaf(below.y, 0.0625f, v.y) * by;
        SplitPlanePair(v.x, v.y, pair[n], rest[n]);
      }
    }
    h[i] = pair[0] | pair[1] << 16;
    if constexpr (!kOnePlane) l[i] = rest[0] | rest[1] << 16;
  }
}

// The largest magnitude of a row of E4M3, as its code, by a warp.
__device__ __forceinline__ uint32_t LargestByte(const LevelArgs& a, int64_t row, int chunks) {
  uint32_t most = 0;
  for (int chunk = threadIdx.x % 32; chunk < chunks; chunk += 32) {
    const uint4 q = reinterpret_cast<const uint4*>(
        a.panel + (chunk / kBlockChunks * a.panel_rows + row) * 128)[chunk % kBlockChunks];
    const uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 16; i++) most = max(most, words[i / 4] >> i % 4 * 8 & 0x7Fu);
  }
  return __reduce_max_sync(~0u, most);
}
// The power of two that brings it to 128 or more, where all numbers of E4M3 have a place.
__device__ __forceinline__ float RaiseOf(uint32_t code) {
  if (code == 0) return 1.0f;
  const uint32_t exponent = __float_as_uint(WidenE4m3(code).x) & 0x7F800000u;
  return fmaxf(1.0f, __uint_as_float((261u << 23) - exponent));
}

// A warp has a pair's row, a lane 16 values of a plane at a time, whose order inside a block does not matter.
template <bool kOnePlane>
__global__ void __launch_bounds__(kThreads) Level(const __grid_constant__ LevelArgs a) {
  WaitForPrimary();
  LaunchDependents();
  const int pair = blockIdx.x * (kThreads / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (pair >= ChunkTokens(a.routing) * a.routing.top_k) return;
  const int found = a.panel_row[pair];
  if (found < 0 || (found & kLevelSlot) == 0) return;
  const int64_t row = found & ~kLevelSlot;
  const int blocks = (a.k + 127) / 128, chunks = blocks * kBlockChunks;
  const auto scale_bits = [&](int block) {
    return __float_as_uint(a.h_scale[block * a.panel_rows + row]);
  };
  // Of numbers without a sign the largest is that of their bits, and NaN, which its whole row becomes, is above all.
  uint32_t top = 0;
  for (int block = lane; block < blocks; block += 32) top = max(top, scale_bits(block));
  top = __reduce_max_sync(~0u, top);
  float up = 1.0f;
  if (kOnePlane && top == __float_as_uint(E4m3Scale(0))) {
    // The least scale there is, and so that of all blocks: what is small in its units would be so in those of slots.
    up = RaiseOf(LargestByte(a, row, chunks));
  }
  constexpr uint32_t kOne = 127u << 23;
  if (lane == 0) a.row_scale[row] = __uint_as_float(top - (__float_as_uint(up) - kOne));
#pragma unroll 1
  for (int first = lane; first < chunks; first += 32 * kAtOnce) {
    uint4 *high_at[kAtOnce], *low_at[kAtOnce], high[kAtOnce], low[kAtOnce];
    float by[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      const int chunk = first + 32 * i, block = chunk / kBlockChunks;
      // Scales are powers of two: their quotient is the difference of their exponents. One that would be below all numbers is 0.
      const uint32_t steps = chunk < chunks ? (top - scale_bits(block)) >> 23 : 0;
      by[i] = steps > 126 ? 0.0f : __uint_as_float((127u - steps) << 23);
      if (chunk < chunks) by[i] *= up;
      // The low plane's line follows the high one's, and their swizzles differ in the last bit.
      const int c = chunk % kBlockChunks;
      uint8_t* const at = a.panel + (block * a.panel_rows + row) * (kOnePlane ? 128 : 256);
      high_at[i] = reinterpret_cast<uint4*>(at) + c;
      low_at[i] = reinterpret_cast<uint4*>(at + 128) + (c ^ 1);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      if (by[i] == 1.0f) continue;
      high[i] = *high_at[i];
      if constexpr (!kOnePlane) low[i] = *low_at[i];
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      if (by[i] == 1.0f) continue;
      Scale<kOnePlane>(high[i], low[i], by[i]);
      *high_at[i] = high[i];
      if constexpr (!kOnePlane) *low_at[i] = low[i];
    }
  }
}

}  // namespace

cudaError_t LoadLevel() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, Level<false>);
  return error != cudaSuccess ? error : cudaFuncGetAttributes(&attributes, Level<true>);
}

int LaunchLevel(const LevelArgs& args, KernelStream stream) {
  constexpr int kPairs = kThreads / 32;
  const dim3 grid((args.routing.tokens * args.routing.top_k + kPairs - 1) / kPairs);
  return LaunchDependent(args.one_plane != 0 ? Level<true> : Level<false>, grid, dim3(kThreads), 0,
                         stream, args);
}

}  // namespace dsv4mx
