#include "tests/gpu/lines.h"

#include "kernels/dist/line.cuh"
#include "tests/gpu/gpu_launch.cuh"

namespace dsv4mx::test {
namespace {

constexpr int kThreads = 64;

__device__ __forceinline__ uint32_t Mixed(uint32_t v) {
  v = (v ^ v >> 16) * 0x7feb352du;
  v = (v ^ v >> 15) * 0x846ca68bu;
  return v ^ v >> 16;
}
// Four words that differ from those of every other round, warp, side and unit.
__device__ __forceinline__ uint4 Pattern(int side, int warp, uint32_t round, int unit) {
  const uint32_t seed = Mixed(round * 2 + static_cast<uint32_t>(side)) +
                        static_cast<uint32_t>(warp) * 64 + static_cast<uint32_t>(unit);
  return make_uint4(Mixed(seed), Mixed(seed + 0x10000000u), Mixed(seed + 0x20000000u),
                    Mixed(seed + 0x30000000u));
}

__global__ void LinesKernel(int side, int rounds, uint64_t* mine, uint64_t* theirs,
                            LineCounts* counts) {
  constexpr uint64_t kLimit = 5'000'000'000;
  const int warp = static_cast<int>(blockIdx.x * (kThreads / 32) + threadIdx.x / 32);
  const dist::BlockLane me;
  uint64_t torn = 0;
  for (uint32_t round = 1; round <= static_cast<uint32_t>(rounds); round++) {
    // Who sends a round has this side's round before, so that two blocks are enough.
    const int64_t at = (2 * warp + static_cast<int>(round & 1)) * dist::kBlockWords;
    const int left = warp % 3 == 0 ? 30 : 1 + static_cast<int>((round + warp) % 30);
    dist::StoreBlock(theirs + at, Pattern(side, warp, round, me.unit), left, round);
    dist::BlockPart part{};
    const bool used = me.Used(left);
    uint64_t begin = 0;
    for (uint32_t turn = 1;; turn++) {
      __syncwarp();
      dist::LookAtBlock(mine + at, used, &part);
      if (__all_sync(~0u, dist::IsOfRound(part, used, round))) break;
      if (turn % 64 != 0) continue;
      if (begin == 0) begin = NanoTime();
      if (__any_sync(~0u, NanoTime() - begin > kLimit)) {
        if (threadIdx.x % 32 == 0)
          atomicAdd(reinterpret_cast<unsigned long long*>(&counts->late), 1ull);
        return;
      }
      Sleep(20);
    }
    const uint4 got = dist::UnitOf(part), wanted = Pattern(1 - side, warp, round, me.unit);
    if (me.unit < left)
      torn += got.x != wanted.x || got.y != wanted.y || got.z != wanted.z || got.w != wanted.w;
  }
  if (torn != 0)
    atomicAdd(reinterpret_cast<unsigned long long*>(&counts->torn),
              static_cast<unsigned long long>(torn));
  if (threadIdx.x % 32 == 0)
    atomicAdd(reinterpret_cast<unsigned long long*>(&counts->rounds),
              static_cast<unsigned long long>(rounds));
}

}  // namespace

int64_t LineBytes(int warps) {
  return int64_t{2} * warps * dist::kBlockWords * 8;
}
void SendLines(int side, int warps, int rounds, uint64_t* mine, uint64_t* theirs,
               LineCounts* counts, cudaStream_t stream) {
  Launch(LinesKernel, warps / (kThreads / 32), kThreads, stream, side, rounds, mine, theirs,
         counts);
}

}  // namespace dsv4mx::test
