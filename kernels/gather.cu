// Lists the pairs and writes x into its panel. With few pairs every block finds the panel rows of its tokens itself; with many,
// one cluster of blocks lists them in a launch before it (gather/align.cuh).
#include <algorithm>

#include "kernels/gather/align.cuh"
#include "kernels/gather/own_pairs.cuh"
#include "kernels/gather/rewrite.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"

namespace dsv4mx {
namespace {

// ------------------------------------------------------------------------------------------- listed in the launch before --

constexpr int kThreads = 256;

// Behind Align, one token a block. Ids and x are ready from the start: Align let this kernel begin when all before it had ended.
// Only what Align writes, and what the call before may still read, is touched behind the wait.
__global__ void __launch_bounds__(kThreads) Rewrite(const __grid_constant__ GatherArgs a) {
  DSV4MX_DYNAMIC_SHARED(row);
  __shared__ __align__(8) uint64_t arrived;
  __shared__ int own[kMostTopK],
      place[2][kMostTopK];  // of the path's form, and of rows beside it
  __shared__ uint32_t peak;
  const Routing& r = a.routing;
  Team<kThreads> team{a, static_cast<int>(threadIdx.x), row, SharedAddress(&arrived), 0};
  const int token = blockIdx.x, me = team.me, pair = token * r.top_k + me;
  const bool real = token < ChunkTokens(r);
  if (real && me < r.top_k) own[me] = LocalExpert(r, pair);
  if (me == 0) peak = 0;
  team.Init();
  __syncthreads();
  // Of a group's rows, many are not computed here.
  if (!real || !AnyOf(own, r.top_k)) {
    // In every block, so that this kernel's end implies the end of all before it.
    WaitForPrimary();
    LaunchDependents();
    return;
  }
  team.Ask(token, 0);
  team.Wait();
  if (IsScaled(a.path) || IsScaled(a.beside)) {
    const uint32_t top = team.Peak(token);
    if (me % 32 == 0) atomicMax(&peak, top);
    __syncthreads();
  }
  const float scale = RowScale(a.path, peak), beside_scale = RowScale(a.beside, peak);
  bool any = true, beside = false;  // whether a slot has either
  for (int first = 0;;) {
    if (any) team.Put(a.path, token, first, PlaneInverse(scale));
    if (first == 0) {
      // The places are needed only now.
      WaitForPrimary();
      LaunchDependents();
      int to = -1;
      if (me < r.top_k) {
        to = a.panel_row[pair];
      }
      const bool is_beside = to >= 0 && a.most != kAnyCount && a.sizes[own[me]] > a.most;
      const Path own_path = is_beside ? a.beside : a.path;
      if (to >= 0) WriteScalars(a, own_path, pair, to, is_beside ? beside_scale : scale);
      if (a.source != nullptr && me < 32) WriteSources(a, token, to);
      if (me < r.top_k) place[0][me] = is_beside ? -1 : to, place[1][me] = is_beside ? to : -1;
      const int mark = SlotMark(a, own_path);
      if (to >= 0 && mark != 0) a.panel_row[pair] = to | mark;
      any = __syncthreads_or(to >= 0 && !is_beside) != 0;
      beside = __syncthreads_or(is_beside) != 0;
    } else {
      __syncthreads();
    }
    if (any) team.Write(a.path, token, first, place[0]);
    if (beside) {
      __syncthreads();
      team.Put(a.beside, token, first, PlaneInverse(beside_scale));
      __syncthreads();
    }
    const int next = first + kRowK;
    if (next < a.hidden) team.Ask(token, next);
    if (beside) team.Write(a.beside, token, first, place[1]);
    if (next >= a.hidden) break;
    first = next;
    team.Wait();
    __syncthreads();
  }
}

// --------------------------------------------------------------------------------------------------- counted in place --

struct CountingArgs : GatherArgs {
  int32_t turns;  // tokens of a team, one after the other
};

// Some tokens a block, so that few blocks count the ids and all run at once. With so little work, what takes long is to wait for
// memory: ids and the first rows of x, also of tokens without any pair here, are asked for before any of them is looked at, and
// the next row before this one is written.
template <int kTeam, int kMostTeams>
__global__ void __launch_bounds__(kTeam* kMostTeams, 1)
    CountAndRewrite(const __grid_constant__ CountingArgs a) {
  DSV4MX_DYNAMIC_SHARED(shared);  // of each team, the counts, the block's pairs
  __shared__ __align__(8) uint64_t arrived[kMostTeams];
  const Routing& r = a.routing;
  const int teams = blockDim.x / kTeam, my_team = threadIdx.x / kTeam;
  Team<kTeam> team{a, static_cast<int>(threadIdx.x % kTeam), shared + my_team * TeamBytes(a.hidden),
                   SharedAddress(arrived + my_team), 0};
  PairCount* const counts = reinterpret_cast<PairCount*>(shared + teams * TeamBytes(a.hidden));
  OwnPairs& own =
      *reinterpret_cast<OwnPairs*>(reinterpret_cast<uint8_t*>(counts) + PairCountBytes(r.experts));
  team.Init();
  ClearPairs(r.experts, own, counts);
  __syncthreads();
  WaitForPrimary();
  LaunchDependents();
  ClearTaken(a);
  // Token t of the block is token first_token + t of the chunk; a team has those from its own number on, `teams` apart.
  const int chunk = ChunkTokens(r), block_tokens = teams * a.turns;
  const int first_token = blockIdx.x * block_tokens, first_pair = first_token * r.top_k;
  const int tokens = min(block_tokens, chunk - first_token);
  if (my_team < tokens) team.Ask(first_token + my_team, 0);
  CountPairs<1024 / kTeam>(r, chunk * r.top_k, first_pair, block_tokens * r.top_k, own, counts);
  __syncthreads();
#pragma unroll 1
  for (int i = threadIdx.x / 32; i < tokens * r.top_k; i += blockDim.x / 32) {
    const Place found = own.expert[i] < 0 ? Place{-1, false} : PlaceOf(own, counts, i);
    if (threadIdx.x % 32 != 0) continue;
    own.place[i] = found.row;
    a.panel_row[first_pair + i] = found.row < 0 ? -1 : found.row | SlotMark(a, a.path);
    if (found.last) ClearUnusedScales(a, found.row + 1);
  }
  // All teams take the same steps; those without a token of their own only meet the others.
  const auto any_of = [&](int t) { return t < tokens && AnyOf(own.expert + t * r.top_k, r.top_k); };
  bool asked = my_team < tokens;
#pragma unroll 1
  for (int turn = 0, first = 0; turn < a.turns;) {
    const int t = my_team + turn * teams, token = first_token + t;
    if (asked) team.Wait();
    const bool wanted = asked && any_of(t);
    if (wanted && first == 0 && IsScaled(a.path)) {
      const uint32_t top = team.Peak(token);
      if (team.me % 32 == 0) atomicMax(own.peak + t, top);
    }
    __syncthreads();
    const float scale = RowScale(a.path, wanted ? own.peak[t] : 0);
    if (wanted) team.Put(a.path, token, first, PlaneInverse(scale));
    __syncthreads();
    const bool more = first + kRowK < a.hidden;
    const int next = more ? first + kRowK : 0;
    asked = more ? wanted : turn + 1 < a.turns && any_of(t + teams);
    if (asked) team.Ask(more ? token : token + teams, next);
    if (wanted) {
      const int* const place = own.place + t * r.top_k;
      if (first == 0 && team.me < 32) {
        const int to = team.me < r.top_k ? place[team.me] : -1;
        if (to >= 0) WriteScalars(a, a.path, token * r.top_k + team.me, to, scale);
        if (a.path == Path::kF16 && a.source != nullptr) WriteSources(a, token, to);
      }
      team.Write(a.path, token, first, place);
    }
    first = next;
    if (!more) turn++;
  }
}

// Where there are few tokens, more threads have each. As many blocks as run at once, one a multiprocessor.
constexpr int kBlocks = 132;
constexpr int kTeam = 128, kMostTeams = 6, kLargeTeam = 256, kMostLargeTeams = 2;

constexpr int CountingBytes(int teams, int hidden, int experts) {
  return teams * TeamBytes(hidden) + PairCountBytes(experts) + static_cast<int>(sizeof(OwnPairs));
}

}  // namespace

cudaError_t LoadGather() {
  static_assert(AlignSharedBytes(kMostExperts) <= 227 * 1024 && ListingWarps(kMostExperts) > 0,
                "the counts of the most experts fit into a multiprocessor's shared memory");
  static_assert(CountingBytes(kMostTeams, kRowK, kMostExperts) <= 224 * 1024,
                "the rows of the most teams fit as well");
  static_assert(kCountedInPlace / kBlocks + kMostTeams * kMostTopK <= kMostOwn,
                "a block's tokens, rounded up to teams, have no more pairs than it has room for");
  cudaError_t error = cudaFuncSetAttribute(Align, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(AlignSharedBytes(kMostExperts)));
  if (error != cudaSuccess) return error;
  error =
      cudaFuncSetAttribute(Rewrite, cudaFuncAttributeMaxDynamicSharedMemorySize, TeamBytes(kRowK));
  if (error != cudaSuccess) return error;
  error = cudaFuncSetAttribute(CountAndRewrite<kTeam, kMostTeams>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               CountingBytes(kMostTeams, kRowK, kMostExperts));
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(CountAndRewrite<kLargeTeam, kMostLargeTeams>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              CountingBytes(kMostLargeTeams, kRowK, kMostExperts));
}

int LaunchGather(const GatherArgs& args, KernelStream stream) {
  const Routing& r = args.routing;
  if (CountedInPlace(r)) {
    const int each = (r.tokens + kBlocks - 1) / kBlocks;  // tokens of a block, at least
    const int turns = (each + kMostTeams - 1) / kMostTeams, teams = (each + turns - 1) / turns;
    const bool large = teams <= kMostLargeTeams;
    const CountingArgs counting{args, turns};
    return LaunchDependent(
        large ? CountAndRewrite<kLargeTeam, kMostLargeTeams> : CountAndRewrite<kTeam, kMostTeams>,
        dim3((r.tokens + turns * teams - 1) / (turns * teams)),
        dim3(teams * (large ? kLargeTeam : kTeam)), CountingBytes(teams, args.hidden, r.experts),
        stream, counting);
  }
  const cudaError_t error =
      LaunchDependent(Align, dim3(kAlignBlocks), dim3(kAlignThreads), AlignSharedBytes(r.experts),
                      stream, args, kAlignBlocks);
  if (error != cudaSuccess) return error;
  return LaunchDependent(Rewrite, dim3(r.tokens), dim3(kThreads), TeamBytes(args.hidden), stream,
                         args);
}

}  // namespace dsv4mx
