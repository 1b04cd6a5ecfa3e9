// A tile's activations as planes in shared memory, where wgmma finds them: for each block of 128 of K that the CTA has,
// eight rows (high and low of four tokens) of 128 bytes, swizzled. Made by the CTA itself, out of x or out of GEMM1's h,
// while its first weights are on their way. Rows behind the last token hold anything: no product of a token meets them.
#ifndef DSV4MX_KERNELS_FEW_PANEL_CUH_
#define DSV4MX_KERNELS_FEW_PANEL_CUH_

#include "kernels/few/pairs.cuh"
#include "kernels/mxfp4/split.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/routing.cuh"
#include "kernels/row.cuh"

namespace dsv4mx {

// Which parts of 512 of K, the units, are this CTA's, of a cluster of C CTAs with T teams each that shares a tile: local unit l of
// rank r is unit (l / T) * T C + T r + l % T, and the teams take turns.
template <int Teams>
struct FewShare {
  int rank, cluster, units;  // units: of a tile, over all CTAs
  __device__ __forceinline__ int UnitOf(int local) const {
    return local / Teams * Teams * cluster + Teams * rank + local % Teams;
  }
  // The units of this CTA are 0 .. Local() - 1, for they are in order.
  __device__ __forceinline__ int Local() const {
    const int round = Teams * cluster;
    return units / round * Teams + min(max(units % round - Teams * rank, 0), Teams);
  }
};

// Four bytes of high and low at byte `at` of block `block` of token m.
__device__ __forceinline__ void PutPlanes(uint32_t panel, int block, int m, int at, uint32_t high,
                                          uint32_t low) {
  const uint32_t row = panel + block * kFewPanelBlock + m * 256 + at % 16;
  StoreShared4(row + (at / 16 ^ (2 * m & 7)) * 16, high);
  StoreShared4(row + 128 + (at / 16 ^ ((2 * m + 1) & 7)) * 16, low);
}

// Every lane has up to four reads under way, for one by one they cost the latency of L2 each. Of one token they are of as many
// parts of it, of two of two each, of three or four of one each; without a division, of which every thread pays the whole.
struct FewReads {
  static constexpr int kMost = 4;
  int count, shift, warps;
  __device__ __forceinline__ FewReads(int tokens, int sharers)
      : count(tokens), shift(tokens > 2 ? 2 : tokens - 1), warps(sharers) {}
  __device__ __forceinline__ int Token(int j) const { return j & ((1 << shift) - 1); }
  // From the part that the warp is at.
  __device__ __forceinline__ int Part(int j) const { return (j >> shift) * warps; }
  __device__ __forceinline__ int Step() const { return warps << (2 - shift); }
};
inline constexpr int kFewUnit = 256;  // values of x that a warp reads at a time

// Eight values times the router weight.
__device__ __forceinline__ uint4 Weigh(const uint4& q, float weight) {
  float v[8];
  WidenEight(q, weight, true, v);
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; i++)
    words[i] = __float_as_uint(v[2 * i]) >> 16 | (__float_as_uint(v[2 * i + 1]) & 0xFFFF0000u);
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// W4A8: the lane's eight values as that mode computes with them, by the scale of their 128, of which 16 lanes hold eight each. All
// lanes take part.
__device__ __forceinline__ void QuantiseEight(float* v) {
  uint32_t top = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) top = max(top, __float_as_uint(v[i]) & 0x7FFFFFFFu);
#pragma unroll
  for (int x = 1; x < 16; x *= 2) top = max(top, __shfl_xor_sync(~0u, top, x));
  const float scale = E4m3Scale(top), inverse = PlaneInverse(scale);
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = RoundE4m3(v[i] * inverse) * scale;
}

// Brings all rows of x into the multiprocessor's cache where they are few, before weights are asked for: behind these a read takes
// several times as long. All math threads take part, behind WaitForPrimary.
template <int Teams>
__device__ __forceinline__ void TouchRows(const GatherArgs& a) {
  constexpr int kSector = 32 / 2;  // values of what a cache fetches at a time
  if (a.routing.tokens > kFewTokens2) return;
  const int tokens = ChunkTokens(a.routing);
  for (int m = 0; m < tokens; m++) {
    for (int k = threadIdx.x * kSector; k < a.hidden; k += Teams * 128 * kSector)
      TouchCached(a.x + m * a.x_stride + k);
  }
}

// Whether two tiles have the same tokens, hence the same rows of x.
__device__ __forceinline__ bool SameTokens(const FewPairs& list, const FewTile& tile,
                                           const FewTile& before, int top_k) {
  if (tile.count != before.count) return false;
  const int pair = PairsOfTile(list, tile), other = PairsOfTile(list, before);
  return __all_sync(~0u, pair < 0 || pair / top_k == other / top_k) != 0;
}

// Planes of `count` rows of x and their scales. `pair` is lane m's pair, `peaks` four words of shared memory.
// All math threads take part; before it all of them must be done with the panel. W4A8 leaves the low planes empty.
template <bool Quantised, int Teams>
__device__ __forceinline__ void GatherRows(const GatherArgs& a, const FewShare<Teams>& share,
                                           int pair, int count, uint32_t* peaks, uint32_t panel,
                                           float* scales) {
  constexpr int kThreads = Teams * 128, kWarps = kThreads / 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool weighted = a.weight_on_input != 0;
  const int own_token = lane < count ? pair / a.routing.top_k : 0;
  float own_weight = 1.0f;
  if (weighted && lane < count)
    own_weight = LoadWeight(a.router_weights, a.weight_is_bf16, own_token);
  // The lane's eight values from k on of token m.
  const auto read = [&](int m, int k, bool there) {
    const int64_t token = __shfl_sync(~0u, own_token, m);
    uint4 q = make_uint4(0, 0, 0, 0);
    if (there && k < a.hidden) q = *reinterpret_cast<const uint4*>(a.x + token * a.x_stride + k);
    return q;
  };
  if (threadIdx.x < kFewTokens) peaks[threadIdx.x] = 0;
  NamedBarrier(1, kThreads);
  const FewReads reads(count, kWarps);
  const int units = (a.hidden + kFewUnit - 1) / kFewUnit;
  uint32_t top[FewReads::kMost] = {};  // of two halves each
  for (int unit = warp; unit < units; unit += reads.Step()) {
    uint4 q[FewReads::kMost];
#pragma unroll
    for (int j = 0; j < FewReads::kMost; j++) {
      const int k = (unit + reads.Part(j)) * kFewUnit + lane * 8;
      q[j] = read(reads.Token(j), k, reads.Token(j) < count);
    }
#pragma unroll
    for (int j = 0; j < FewReads::kMost; j++) {
      if (weighted) q[j] = Weigh(q[j], __shfl_sync(~0u, own_weight, reads.Token(j)));
      top[j] = MaxPairs(
          MaxPairs(top[j], q[j].x & 0x7FFF7FFFu),
          MaxPairs(MaxPairs(q[j].y & 0x7FFF7FFFu, q[j].z & 0x7FFF7FFFu), q[j].w & 0x7FFF7FFFu));
    }
  }
#pragma unroll
  for (int j = 0; j < FewReads::kMost; j++) {
    const uint32_t most = __reduce_max_sync(~0u, max(top[j] & 0xFFFFu, top[j] >> 16));
    if (lane == 0 && reads.Token(j) < count) atomicMax(peaks + reads.Token(j), most << 16);
  }
  NamedBarrier(1, kThreads);
  const auto scale_of = [](uint32_t peak) {
    return Quantised ? E4m3Scale(peak) : PlaneScale(peak);
  };
  if (threadIdx.x < count) scales[threadIdx.x] = scale_of(peaks[threadIdx.x]);
  // Two at a time of this CTA's share: of one token two parts, else of two tokens one.
  constexpr int kUnits = kSm90BaseK / kFewUnit;
  const int own = share.Local() * kUnits, second = count == 1 ? kWarps : 0;
#pragma unroll 1
  for (int first = 0; first < count; first += 2) {
#pragma unroll 1
    for (int unit = warp; unit < own; unit += kWarps + second) {
      uint4 q[2];
      int at[2], token[2], k[2];
#pragma unroll
      for (int j = 0; j < 2; j++) {
        at[j] = unit + j * second;
        token[j] = second != 0 ? 0 : first + j;
        k[j] = share.UnitOf(at[j] / kUnits) * kSm90BaseK + at[j] % kUnits * kFewUnit + lane * 8;
        q[j] = read(token[j], k[j], token[j] < count && at[j] < own);
      }
#pragma unroll
      for (int j = 0; j < 2; j++) {
        if (weighted) q[j] = Weigh(q[j], __shfl_sync(~0u, own_weight, token[j]));
        if (token[j] >= count || at[j] >= own) continue;
        float v[8];
        uint32_t high[2], low[2];
        WidenEight(q[j], 1.0f, false, v);
        if (Quantised) QuantiseEight(v);
        if (k[j] >= a.hidden) continue;
        SplitEight(v, PlaneInverse(scale_of(peaks[token[j]])), high, low);
        if (Quantised) low[0] = low[1] = 0;
        const int block = (at[j] * kFewUnit + lane * 8) / kSm90BlockK,
                  byte = static_cast<int>(Sm90PlaneIndex(a.hidden, k[j])) % kSm90BlockK;
        PutPlanes(panel, block, token[j], byte, high[0], low[0]);
        PutPlanes(panel, block, token[j], byte + 16, high[1], low[1]);
      }
    }
  }
  FenceAsyncProxy();
  NamedBarrier(1, kThreads);
}

// Four values of h in each lane, which are a block of 128, as planes of token m in block `block` of the panel, with its scale. All lanes
// take part.
template <bool Quantised>
__device__ __forceinline__ void PutHidden(float4 v, uint32_t panel, int block, int m,
                                          float* scales) {
  const int lane = threadIdx.x % 32;
  if (Quantised) {
    v = make_float4(RoundBf16(v.x), RoundBf16(v.y), RoundBf16(v.z), RoundBf16(v.w));
  }
  // As integers, for NaN must win.
  const uint32_t most =
      max(max(__float_as_uint(v.x) & 0x7FFFFFFFu, __float_as_uint(v.y) & 0x7FFFFFFFu),
          max(__float_as_uint(v.z) & 0x7FFFFFFFu, __float_as_uint(v.w) & 0x7FFFFFFFu));
  const uint32_t peak = __reduce_max_sync(~0u, most);
  const float scale = Quantised ? E4m3Scale(peak) : PlaneScale(peak), inverse = PlaneInverse(scale);
  uint32_t high0, low0, high1, low1;
  SplitPlanePair(v.x * inverse, v.y * inverse, high0, low0);
  SplitPlanePair(v.z * inverse, v.w * inverse, high1, low1);
  PutPlanes(panel, block, m, lane * 4, high0 | high1 << 16, Quantised ? 0 : low0 | low1 << 16);
  if (lane == 0) scales[block * kFewTokens + m] = scale;
}

// Planes of `count` rows of h, fp32 in the order of planes, with a scale for each block of 128: scales[block][token]. W4A8 rounds
// it to bf16, then to E4M3, which leaves the low planes empty. `pair` is lane m's. Shared by `warps` warps, of which this is
// `warp`.
template <bool Quantised>
__device__ __forceinline__ void GatherHidden(const GemmArgs& a, int pair, int count, uint32_t panel,
                                             float* scales, int warp, int warps) {
  const auto* h = reinterpret_cast<const float*>(a.panel);
  const int k_all = a.k;
  if (count > 0) {
    const int lane = threadIdx.x % 32, blocks = FewBlocks(k_all);
    const FewReads reads(count, warps);
    for (int begin = warp; begin < blocks; begin += reads.Step()) {
      float4 values[FewReads::kMost];
#pragma unroll
      for (int j = 0; j < FewReads::kMost; j++) {
        const int k = (begin + reads.Part(j)) * kSm90BlockK + lane * 4;
        const int64_t row = __shfl_sync(~0u, pair, reads.Token(j));
        values[j] = make_float4(0, 0, 0, 0);
        if (k < k_all && reads.Token(j) < count)
          values[j] = __ldcg(reinterpret_cast<const float4*>(h + row * k_all + k));
      }
#pragma unroll
      for (int j = 0; j < FewReads::kMost; j++) {
        const int block = begin + reads.Part(j), m = reads.Token(j);
        if (block >= blocks || m >= count) continue;
        PutHidden<Quantised>(values[j], panel, block, m, scales);
      }
    }
  }
  FenceAsyncProxy();
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_PANEL_CUH_
