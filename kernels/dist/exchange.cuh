// What the two forms of an exchange share: warps that work together, the ways of a token, counts of pairs.
#ifndef DSV4MX_KERNELS_DIST_EXCHANGE_CUH_
#define DSV4MX_KERNELS_DIST_EXCHANGE_CUH_

#include "kernels/dist/group.cuh"
#include "kernels/dist/own_tokens.cuh"
#include "kernels/routing.cuh"
#include "kernels/run.cuh"

namespace dsv4mx::dist {

// Warps that work on one item together, of the CTAs that share out the items: few items are spread, many keep a warp each.
template <int CtaWarps>
struct Teams {
  static_assert((CtaWarps & (CtaWarps - 1)) == 0, "teams halve a CTA");
  int warps;  // of a team, a power of two
  int shift;  // teams of a CTA, as a power of two
  int cta, ctas;
  __device__ __forceinline__ int Count() const { return ctas << shift; }
  __device__ __forceinline__ int Mine() const {
    return (cta << shift) + (threadIdx.x / 32 << shift) / CtaWarps;
  }
  __device__ __forceinline__ int Warp() const { return threadIdx.x / 32 & (warps - 1); }
  __device__ __forceinline__ int Thread() const { return Warp() * 32 + threadIdx.x % 32; }
  __device__ __forceinline__ int Threads() const { return warps * 32; }
};
template <int CtaWarps>
__device__ __forceinline__ Teams<CtaWarps> TeamsFor(int items, int cta, int ctas) {
  int warps = CtaWarps, shift = 0;
  while (warps > 1 && ctas << shift < items) warps /= 2, shift++;
  return {warps, shift, cta, ctas};
}

// Items that lie by the part they go to, in an order in which all parts take turns, each rank beginning with its next neighbour. In
// their own order all ranks would send to the first part, then all to the second, and each would take as much as one GPU can
// receive. For i < Count() the number of an item, or a number behind the last.
struct InTurn {
  int items, parts, each, me;
  __device__ __forceinline__ InTurn(int items, const GroupArgs& g)
      : items(items), parts(EpSize(g)), each((items + parts - 1) / parts), me(EpRank(g)) {}
  __device__ __forceinline__ int Count() const { return each * parts; }
  __device__ __forceinline__ int Item(int i) const {
    const int turn = i / parts;
    return (i - turn * parts + me + 1) % parts * each + turn;
  }
};
// The same of parts alone.
__device__ __forceinline__ int PartInTurn(const GroupArgs& g, int i) {
  const int p = EpRank(g) + 1 + i;
  return p < EpSize(g) ? p : p - EpSize(g);
}

// Of one token, by lanes: the copy of slot `lane`; and the parts that any of them is on.
struct Ways {
  int copy;
  uint32_t low, high;
  __device__ __forceinline__ bool Touches(int part) const {
    return ((part < 32 ? low >> part : high >> (part - 32)) & 1) != 0;
  }
};
__device__ __forceinline__ Ways WaysOf(int copy) {
  const int part = copy >> 16;
  return {copy, __reduce_or_sync(~0u, copy >= 0 && part < 32 ? 1u << part : 0u),
          __reduce_or_sync(~0u, copy >= 0 && part >= 32 ? 1u << (part - 32) : 0u)};
}
__device__ __forceinline__ Ways WaysOf(const RouteArgs& r, const OwnTokens& o, int token,
                                       bool live) {
  const int lane = threadIdx.x % 32;
  int copy = -1;
  if (live && lane < o.top_k) copy = CopyFor(r, IdOf(o, token, lane), o.first + token, lane);
  return WaysOf(copy);
}

// Args: ReturnArgs or PlaceArgs.
template <class Args>
__device__ __forceinline__ void CountPair(const Args& a, int expert) {
  if (expert >= a.experts) return;
  if (a.loads != nullptr) atomicAdd(reinterpret_cast<unsigned long long*>(a.loads) + expert, 1ull);
  if (a.expert_counts != nullptr)
    atomicAdd(reinterpret_cast<unsigned long long*>(a.expert_counts) + expert, 1ull);
}

// Eight columns of a row's results that are `computed`, in slot order, each with its weight. Lane i has the result's place and
// weight of slot i; all lanes of the warp go through this, also those whose columns lie behind the row's end. Loads of some
// results are under way before the first is used.
__device__ __forceinline__ void AddResults(const void* results, bool is_bf16, int hidden,
                                           int column, uint32_t computed, int result, float weight,
                                           float* sum) {
  constexpr int kAtOnce = 4;
  for (uint32_t todo = computed; todo != 0;) {
    uint4 units[kAtOnce][2];  // as they are stored: to widen one is to wait for it
    float w[kAtOnce];
    bool here[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      here[i] = todo != 0 && column < hidden;
      const int which = todo != 0 ? __ffs(todo) - 1 : 0;
      todo &= todo - 1;  // 0 stays 0
      const int64_t from = __shfl_sync(~0u, result, which);
      w[i] = __shfl_sync(~0u, weight, which);
      if (!here[i]) continue;
      const auto* at =
          static_cast<const uint8_t*>(results) + (from * hidden + column) * (is_bf16 ? 2 : 4);
      units[i][0] = reinterpret_cast<const uint4*>(at)[0];
      if (!is_bf16) units[i][1] = reinterpret_cast<const uint4*>(at)[1];
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      if (!here[i]) continue;
      float v[kRunElements];
      LoadRun(units[i], is_bf16, 0, v);
#pragma unroll
      for (int j = 0; j < kRunElements; j++) sum[j] = fmaf(w[i], v[j], sum[j]);
    }
  }
}

// Tells the host how many pairs the round has brought, when all of them are counted.
__device__ __forceinline__ void TellLoads(const SumArgs& a, int first, int step) {
  if (a.loads_told == nullptr) return;
  // Loads before stores, which they would otherwise wait for one by one.
  constexpr int kAtOnce = 8;
  for (int e = first; e < a.experts; e += kAtOnce * step) {
    int64_t v[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; i++)
      v[i] = e + i * step < a.experts ? __ldcg(a.loads + e + i * step) : 0;
#pragma unroll
    for (int i = 0; i < kAtOnce; i++)
      if (e + i * step < a.experts) a.loads_told[e + i * step] = v[i];
  }
}

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_EXCHANGE_CUH_
