// What carries its round: rows and results in lines (line.cuh), tags, ids and weights in words. A word of 4 bytes and the round
// that it is of are stored, and arrive, as one of 8: who sees the round has the word. (The idea is that of NCCL's protocol LL.)
//
// That one buffer is enough (protocol.h) does not rest on any order within a kernel: a rank pushes words of round n+1 when its
// kernel before has ended, and that one waited for every other rank's tag of the stage between, which their kernels push
// that come after those which read the words of n. So tags may be pushed before the rest, words may be looked at that nobody
// waits for (of another round they are not used), and those that have come may be loaded again while others are missing. The same
// holds for lines.
//
// It speaks of these alone. Who has this rank's tag of the last stage may push a large round, whose ids and weights come as they
// are: so what a kernel reads behind its tag lies where no other rank writes (CudaGroup::Sizes).
#ifndef DSV4MX_KERNELS_DIST_FLAGGED_CUH_
#define DSV4MX_KERNELS_DIST_FLAGGED_CUH_

#include "kernels/dist/group.cuh"
#include "kernels/dist/line.cuh"

namespace dsv4mx::dist {

__device__ __forceinline__ uint64_t Flagged(uint32_t word, uint32_t round) {
  return static_cast<uint64_t>(round) << 32 | word;
}

// Whom something comes from, as who has waited for it a while wants to know.
struct Source {
  int stage;
  uint32_t round;
  int rank;      // of the group
  bool differs;  // it has told that it takes the round for another one
};

// What a sender thinks the round is, and how large.
__device__ __forceinline__ uint32_t LowTag(const GroupArgs& g) {
  return static_cast<uint32_t>(g.tag);
}
__device__ __forceinline__ uint32_t HighTag(const GroupArgs& g, uint32_t size) {
  return static_cast<uint32_t>(g.tag >> 32) ^ size * 0x9e3779b1u;
}
__device__ __forceinline__ void PushTag(const GroupArgs& g, uint64_t* to, uint32_t size,
                                        uint32_t round) {
  StoreWords(to, Flagged(LowTag(g), round), Flagged(HighTag(g, size), round));
}
// Whether another rank's tag has come, and is not what this one thinks.
__device__ __forceinline__ bool TagDiffers(const GroupArgs& g, const uint64_t* at, uint32_t size,
                                           uint32_t round) {
  uint64_t low, high;
  LoadWords(at, &low, &high);
  return IsOf(low, round) && IsOf(high, round) &&
         (low != Flagged(LowTag(g), round) || high != Flagged(HighTag(g, size), round));
}

// Whole warps, until `look` says to every lane that what it looks at has come. `whom` says what a lane waits for, if anybody has
// to be blamed. False: the group has failed, and all have been told.
template <class Whom, class Look>
__device__ __forceinline__ bool AwaitLook(const GroupArgs& g, const Whom& whom, const Look& look) {
  constexpr uint32_t kLook = 64;  // turns between two looks at faults and clocks
  uint64_t begin = 0;
  for (uint32_t turn = 1;; turn++) {
    const bool come = look();
    if (__all_sync(~0u, come)) return true;
    if (turn % kLook != 0) continue;
    if (begin == 0) begin = NanoTime();
    if (__any_sync(~0u, Broken(g))) return false;
    int status = 0;
    Source from{};
    if (!come) {
      from = whom();
      if (from.differs) {
        status = kCommMismatch;
      } else if (turn > kLook) {
        const uint64_t left = LoadAcquireSystem(&ControlOf(g, g.rank)->left);
        if ((left >> from.rank & 1) != 0) {
          status = kCommRankLost;
        } else if (NanoTime() - begin >= g.timeout_ns) {
          status = kCommTimeout;
        }
      }
    }
    if (__any_sync(~0u, status != 0)) {
      // What it stored before it left still counts.
      const bool missing = !look() && status != 0;
      if (missing) TellFault(g, PackFault({status, from.stage, from.rank, g.rank, from.round}));
      if (__any_sync(~0u, missing)) return false;
    }
    Sleep(64);
  }
}

// Runs of `Blocks` blocks, each from somebody else, that are waited for together, by whole warps. `here`: whether this lane's lines
// of them are used; `from`: where they are. Both are found before anything is awaited, as a turn of a wait should be its loads and
// little else.
template <int Runs, int Blocks>
struct RunsAtOnce {
  BlockPart parts[Runs][Blocks];
  const uint64_t* from[Runs];
  bool here[Runs];

  __device__ __forceinline__ void Look() {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < Runs; i++) {
#pragma unroll
      for (int n = 0; n < Blocks; n++)
        LookAtBlock(from[i] + n * kBlockWords, here[i], &parts[i][n]);
    }
  }
  __device__ __forceinline__ bool Come(int i, uint32_t round) const {
    bool all = true;
#pragma unroll
    for (int n = 0; n < Blocks; n++) all &= IsOfRound(parts[i][n], here[i], round);
    return all;
  }
  __device__ __forceinline__ bool AllCome(uint32_t round) const {
    bool all = true;
#pragma unroll
    for (int i = 0; i < Runs; i++) all &= Come(i, round);
    return all;
  }
  // Every turn loads everything again before it looks at any of it, and `also` what the caller waits for next: the loads take as
  // long together as one does. What has come stays as it is until this rank is done with it. A look has been had.
  template <class Whom, class Also>
  __device__ __forceinline__ bool Await(const GroupArgs& g, uint32_t round, const Whom& whom,
                                        const Also& also) {
    if (__all_sync(~0u, AllCome(round))) return true;
    const auto missing = [&] {
      int first = 0;
#pragma unroll
      for (int i = Runs - 1; i >= 0; i--) {
        if (!Come(i, round)) first = i;
      }
      return whom(first);
    };
    return AwaitLook(g, missing, [&] {
      also();
      Look();
      return AllCome(round);
    });
  }
  // The units of run i, of the lanes that hold one.
  __device__ __forceinline__ void Units(int i, uint4* units) const {
#pragma unroll
    for (int n = 0; n < Blocks; n++) units[n] = UnitOf(parts[i][n]);
  }
};

// A warp's look at the tags of all others, lane by lane: every warp asks for itself, so that none waits for another. Had beside
// every look at what travels, so that the last one, which is used, is late.
struct Tags {
  static constexpr int kEach = kMaxRanks / 32;
  const uint64_t* from[kEach];  // null where there is none
  uint64_t words[kEach][2];

  __device__ __forceinline__ void Look() {
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      if (from[i] != nullptr) LoadWords(from[i], &words[i][0], &words[i][1]);
    }
  }
  __device__ __forceinline__ bool Come(int i, uint32_t round) const {
    return from[i] == nullptr || (IsOf(words[i][0], round) & IsOf(words[i][1], round));
  }
  // By whole warps: whether they are what this rank thinks. `source` of the tag of rank, or part, n. A look has been had.
  template <class SourceFor>
  __device__ __forceinline__ bool Await(const GroupArgs& g, uint32_t size, uint32_t round,
                                        const SourceFor& source) {
    const auto whom = [&] {
      int first = 0;
#pragma unroll
      for (int i = kEach - 1; i >= 0; i--) {
        if (!Come(i, round)) first = i;
      }
      return source(first * 32 + static_cast<int>(threadIdx.x % 32));
    };
    const auto come = [&] {
      bool all = true;
#pragma unroll
      for (int i = 0; i < kEach; i++) all &= Come(i, round);
      return all;
    };
    if (!__all_sync(~0u, come()) && !AwaitLook(g, whom, [&] {
          Look();
          return come();
        }))
      return false;
    bool good = true;
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      if (from[i] == nullptr) continue;
      if (words[i][0] == Flagged(LowTag(g), round) &&
          words[i][1] == Flagged(HighTag(g, size), round))
        continue;
      const Source at = source(i * 32 + static_cast<int>(threadIdx.x % 32));
      TellFault(g, PackFault({kCommMismatch, at.stage, at.rank, g.rank, at.round}));
      good = false;
    }
    return __all_sync(~0u, good);
  }
};

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_FLAGGED_CUH_
