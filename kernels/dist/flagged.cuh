// Words that carry their round. A word of 4 bytes and the round that it is of are stored, and arrive, as one of 8: who sees the round
// has the word. Nothing has to be ordered, and no flag follows. (The idea is that of NCCL's protocol LL.)
//
// That one buffer is enough (protocol.h) does not rest on any order within a kernel: a rank pushes words of round n+1 when its
// kernel before has ended, and that one waited for every other rank's tag of the stage between, which their kernels push
// that come after those which read the words of n. So tags may be pushed before the rest, words may be looked at that nobody
// waits for (of another round they are not used), and those that have come may be loaded again while others are missing.
//
// It speaks of words alone. Who has this rank's tag of the last stage may push a large round, whose ids and weights come as they
// are: so what a kernel reads behind its tag lies where no other rank writes (CudaGroup::Sizes).
#ifndef DSV4MX_KERNELS_DIST_FLAGGED_CUH_
#define DSV4MX_KERNELS_DIST_FLAGGED_CUH_

#include "kernels/dist/group.cuh"

namespace dsv4mx::dist {

__device__ __forceinline__ uint64_t Flagged(uint32_t word, uint32_t round) {
  return static_cast<uint64_t>(round) << 32 | word;
}

// Runs of `Words` words lie in blocks of 32, by pairs of words: what a warp stores at once, and loads, is in one piece. The first
// pair of a run; the next ones are kPairStep behind each other.
inline constexpr int kPairStep = 64;
template <int Words>
__device__ __forceinline__ uint32_t WordOfRun(uint32_t run) {
  return run / 32 * 32 * Words + run % 32 * 2;
}
template <int Words>
__device__ __forceinline__ uint64_t* RunAt(uint64_t* base, uint32_t run) {
  return base + WordOfRun<Words>(run);
}
template <int Words>
__device__ __forceinline__ const uint64_t* RunAt(const uint64_t* base, uint32_t run) {
  return base + WordOfRun<Words>(run);
}
// 16 bytes, as the n-th two pairs of a run.
__device__ __forceinline__ void StoreFlagged(uint64_t* run, int n, const uint4& v, uint32_t round) {
  StoreWords(run + 2 * n * kPairStep, Flagged(v.x, round), Flagged(v.y, round));
  StoreWords(run + (2 * n + 1) * kPairStep, Flagged(v.z, round), Flagged(v.w, round));
}
template <int Words>
__device__ __forceinline__ void LookAtRun(const uint64_t* run, uint64_t* w) {
#pragma unroll
  for (int i = 0; i < Words; i += 2) LoadWords(run + i / 2 * kPairStep, &w[i], &w[i + 1]);
}
template <int Words>
__device__ __forceinline__ bool AreOf(const uint64_t* w, uint32_t round) {
  bool all = true;
#pragma unroll
  for (int i = 0; i < Words; i++) all &= IsOf(w[i], round);
  return all;
}
// The 16 bytes of 4 words.
__device__ __forceinline__ uint4 Narrow(const uint64_t* w) {
  return make_uint4(static_cast<uint32_t>(w[0]), static_cast<uint32_t>(w[1]),
                    static_cast<uint32_t>(w[2]), static_cast<uint32_t>(w[3]));
}

// Whom words come from, and how to find out that they do not come.
struct Source {
  int stage;
  uint32_t round;
  int rank;               // of the group
  const uint64_t* other;  // what it would write had it taken the round for one of another form
};

// Until `look` says that what it looks at has come. `whom` says what is waited for, if anybody has to be blamed. False: the
// group has failed, and all have been told.
template <class Whom, class Look>
__device__ __forceinline__ bool AwaitLook(const GroupArgs& g, const Whom& whom, const Look& look) {
  constexpr uint32_t kLook = 64;  // turns between two looks at faults and clocks
  uint64_t begin = 0;
  for (uint32_t turn = 1; !look(); turn++) {
    if (turn % kLook != 0) continue;
    if (begin == 0) begin = NanoTime();
    if (Broken(g)) return false;
    const Source from = whom();
    int status = 0;
    if (IsOf(LoadRelaxedSystem(from.other), from.round)) {
      status = kCommMismatch;
    } else if (turn > kLook) {
      const uint64_t left = LoadAcquireSystem(&ControlOf(g, g.rank)->left);
      if ((left >> from.rank & 1) != 0) {
        status = kCommRankLost;
      } else if (NanoTime() - begin >= g.timeout_ns) {
        status = kCommTimeout;
      }
    }
    if (status != 0) {
      // What it stored before it left still counts.
      if (look()) return true;
      TellFault(g, PackFault({status, from.stage, from.rank, g.rank, from.round}));
      return false;
    }
    Sleep(64);
  }
  return true;
}

// Runs, each from somebody else, that are waited for together. `here` says which there are, `from` where: found before anything
// is awaited, as a turn of a wait should be its loads and little else.
template <int Runs, int Words>
struct RunsAtOnce {
  uint64_t words[Runs][Words];
  const uint64_t* from[Runs];
  bool here[Runs];

  __device__ __forceinline__ void Look() {
#pragma unroll
    for (int i = 0; i < Runs; i++) {
      if (here[i]) LookAtRun<Words>(from[i], words[i]);
    }
  }
  __device__ __forceinline__ bool Come(int i, uint32_t round) const {
    return !here[i] || AreOf<Words>(words[i], round);
  }
  __device__ __forceinline__ bool AllCome(uint32_t round) const {
    bool all = true;
#pragma unroll
    for (int i = 0; i < Runs; i++) all &= Come(i, round);
    return all;
  }
  // Every turn loads everything again before it looks at any of it, and `also` what the caller waits for next: the loads take as
  // long together as one does. What has come stays as it is until this rank is done with it.
  template <class Whom, class Also>
  __device__ __forceinline__ bool Await(const GroupArgs& g, uint32_t round, const Whom& whom,
                                        const Also& also) {
    if (AllCome(round)) return true;
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
};

// What a sender thinks the round is, and how large.
__device__ __forceinline__ void PushTag(uint64_t* to, uint64_t tag, uint32_t size, uint32_t round) {
  StoreWords(to, Flagged(static_cast<uint32_t>(tag), round),
             Flagged(static_cast<uint32_t>(tag >> 32) ^ size * 0x9e3779b1u, round));
}
// A warp's look at the tags of all others, lane by lane: every warp asks for itself, so that none waits for another. Had beside
// every look at what travels, so that the last one, which is used, is late.
struct Tags {
  const uint64_t* from[kMaxRanks / 32];  // null where there is none
  uint64_t words[kMaxRanks / 32][2];

  __device__ __forceinline__ void Look() {
#pragma unroll
    for (int i = 0; i < kMaxRanks / 32; i++) {
      if (from[i] != nullptr) LoadWords(from[i], &words[i][0], &words[i][1]);
    }
  }
};
// Whether it is what this rank thinks. A look has been had.
__device__ __forceinline__ bool AwaitTag(const GroupArgs& g, const Source& from, const uint64_t* at,
                                         uint32_t size, uint64_t* w) {
  if (!AreOf<2>(w, from.round) && !AwaitLook(
                                      g, [&] { return from; },
                                      [&] {
                                        LookAtRun<2>(at, w);
                                        return AreOf<2>(w, from.round);
                                      }))
    return false;
  if (static_cast<uint32_t>(w[0]) == static_cast<uint32_t>(g.tag) &&
      static_cast<uint32_t>(w[1]) == (static_cast<uint32_t>(g.tag >> 32) ^ size * 0x9e3779b1u))
    return true;
  TellFault(g, PackFault({kCommMismatch, from.stage, from.rank, g.rank, from.round}));
  return false;
}

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_FLAGGED_CUH_
