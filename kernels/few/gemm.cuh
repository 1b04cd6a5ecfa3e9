// GEMM1 and GEMM2 for few pairs on the plane path, a launch each. GEMM1 reads the ids, gathers and splits x itself while its first
// weights are on their way, and writes h by pair; GEMM2 splits h, and up to four tokens it writes their outputs itself. There
// are no panels in memory.
#ifndef DSV4MX_KERNELS_FEW_GEMM_CUH_
#define DSV4MX_KERNELS_FEW_GEMM_CUH_

#include "kernels/few/shared_slots.cuh"
#include "kernels/few/split_tiles.cuh"
#include "kernels/few/whole_tiles.cuh"
#include "kernels/few/whole_tokens.cuh"

namespace dsv4mx {

// Of kLong2, whose CTA has a multiprocessor to itself, and whose producer warps are a warpgroup.
inline constexpr int kFewProducerRegisters = 32, kFewMathRegisters = 112;
static_assert(FewTeams(FewKind::kLong2) == 4, "four producer warps are a warpgroup");

// `Blocks`: of every stage (FewGeometry::straight). `Quantised`: W4A8.
template <FewKind Kind, int Blocks, bool Quantised>
__global__ void __launch_bounds__(FewThreads(Kind), Kind == FewKind::kLong2 ? 1 : 2)
    FewGemm(const __grid_constant__ FewKernelArgs a) {
  constexpr bool kTokens = FewOfTokens(Kind), kClustered = kTokens || Kind == FewKind::kSplit1;
  constexpr int kGemm = Kind == FewKind::kSplit1 || Kind == FewKind::kWhole1 ? 1 : 2;
  constexpr int kTeams = FewTeams(Kind), kThreads = FewThreads(Kind);
  DSV4MX_DYNAMIC_SHARED(shared);
  __shared__ __align__(8) uint64_t barriers[kTeams * kFewBarriers + kFewExchangeBarriers];
  __shared__ uint32_t peaks[kFewTokens], computed[kFewTokens2];
  const Routing& r = a.gemm.routing;
  // GEMM2 begins when GEMM1 is past its wait: the ids are there, and are asked for before all else.
  uint2 id = make_uint2(0, 0);
  if (kTokens && threadIdx.x < r.tokens * r.top_k)
    id = LoadIdBits(r.ids, r.ids_are_64, threadIdx.x);
  const FewExchange exchange(barriers + kTeams * kFewBarriers);
  const FewPairs list(reinterpret_cast<int*>(shared + a.geometry.tables), r.tokens * r.top_k,
                      r.experts);
  // Each ring by the thread that will fill it.
  if (threadIdx.x >= kTeams * 128 && threadIdx.x % 32 == 0) {
    FewRing::Init(a.geometry, barriers, (threadIdx.x - kTeams * 128) / 32);
    FenceBarrierInit();
  }
  if (kClustered && threadIdx.x == 0) {
    exchange.Init(kTokens ? 1 : 4, kTeams * 4);
    FenceBarrierInit();
  }
  if (!kTokens) ClearPairs<kThreads>(r, list);
  __syncthreads();
  if (kClustered) ClusterBegin();
  // The ids are the caller's and may have been written by the kernel before GEMM1. When GEMM2 starts, all of GEMM1 is past
  // this wait.
  if (kGemm == 1) WaitForPrimary();
  LaunchDependents();
  if (kGemm == 1 && threadIdx.x < kTeams * 128) TouchRows<kTeams>(a.gather);
  if constexpr (kTokens) {
    ListComputed(r, id, list.expert, computed);
  } else {
    ListPairs<kThreads>(r, list);
  }
  if (threadIdx.x >= kTeams * 128) {
    if constexpr (Kind == FewKind::kLong2) RegistersDown<kFewProducerRegisters>();
    const int team = (threadIdx.x - kTeams * 128) / 32;
    const FewRing ring(a.geometry, shared, barriers, team);
    if (threadIdx.x % 32 != 0) return;
    if constexpr (Kind == FewKind::kLong2) {
      ProduceShared<kTeams>(a, list.expert, computed, ring, team);
    } else if constexpr (kTokens) {
      ProduceToken<kTeams>(a, list.expert, computed, ring, team);
    } else if constexpr (Kind == FewKind::kSplit1) {
      ProduceSplit<kTeams>(a, list, ring, team);
    } else {
      ProduceWhole<kTeams>(a, list, ring, team);
    }
  } else {
    if constexpr (Kind == FewKind::kLong2) RegistersUp<kFewMathRegisters>();
    const FewRing ring(a.geometry, shared, barriers, ThisMmaThread().wg);
    if constexpr (Kind == FewKind::kLong2) {
      ConsumeShared<Blocks, Quantised, kTeams>(a, list.expert, computed, ring, exchange, shared);
    } else if constexpr (kTokens) {
      ConsumeToken<Blocks, Quantised, kTeams>(a, list.expert, computed, ring, exchange, shared);
    } else if constexpr (Kind == FewKind::kSplit1) {
      ConsumeSplit<Blocks, Quantised, kTeams>(a, list, ring, exchange, shared, peaks);
    } else {
      ConsumeWhole<kGemm, Blocks, Quantised, kTeams>(a, list, ring, shared, peaks);
    }
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_GEMM_CUH_
