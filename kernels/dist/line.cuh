// Lines that carry their round. 128 bytes, which a warp stores and loads as one, hold seven and a half units of 16 and end with the
// round that they are of: who sees the round has the line. Nothing has to be ordered, no flag follows, and 15 of 16 bytes are data.
// (The idea is that of NCCL's protocol LL128.)
//
// A block is what a warp has at once: four lines with 30 units (kFlaggedUnits). Lanes 0 to 6 of each line hold one each; its last
// lane half a one, beside the round: unit 28 ends lines 0 and 1, unit 29 lines 2 and 3. A block that holds fewer units, the last of
// a row, ends with the line of its last one.
#ifndef DSV4MX_KERNELS_DIST_LINE_CUH_
#define DSV4MX_KERNELS_DIST_LINE_CUH_

#include "kernels/dist/launch_exchange.h"
#include "kernels/ptx/system.cuh"

namespace dsv4mx::dist {

inline constexpr int kBlockWords = static_cast<int>(kFlaggedBlock) / 8;

struct BlockLane {
  int unit;      // of the block's; of lanes that hold none it is behind every row's end
  int line;      // the first unit of its line
  bool ends;     // a line
  bool seconds;  // of the lanes that end lines: which has the second half

  __device__ __forceinline__ BlockLane() {
    constexpr int kNone = 1 << 27;
    const int lane = static_cast<int>(threadIdx.x % 32);
    line = lane / 8 * 7;
    ends = lane % 8 == 7;
    seconds = (lane & 8) != 0;
    unit = !ends ? line + lane % 8 : seconds ? kNone : 28 + lane / 16;
  }
  // Whether a block that has `left` units, or more than it can hold, has this lane's line.
  __device__ __forceinline__ bool Used(int left) const { return line < left; }
};

// A lane's 16 bytes of a block.
struct BlockPart {
  uint64_t a, b;
};
__device__ __forceinline__ uint64_t WordOf(uint32_t low, uint32_t high) {
  return static_cast<uint64_t>(high) << 32 | low;
}

// By whole warps: `v` of every lane that holds a unit. `to`: the block.
__device__ __forceinline__ void StoreBlock(uint64_t* to, const uint4& v, int left, uint32_t round) {
  const BlockLane me;
  const uint64_t half = WordOf(__shfl_xor_sync(~0u, v.z, 8), __shfl_xor_sync(~0u, v.w, 8));
  const uint64_t first = me.ends && me.seconds ? half : WordOf(v.x, v.y);
  const uint64_t second = me.ends ? WordOf(0, round) : WordOf(v.z, v.w);
  StoreLines(to + 2 * (threadIdx.x % 32), me.Used(left), first, second);
}
// Likewise, by warps that have just met; a lane whose line is not `used` keeps what it has.
__device__ __forceinline__ void LookAtBlock(const uint64_t* from, bool used, BlockPart* p) {
  LoadLines(from + 2 * (threadIdx.x % 32), used, &p->a, &p->b);
}
// As far as this lane can tell: that of a line which ends it.
__device__ __forceinline__ bool IsOfRound(const BlockPart& p, bool used, uint32_t round) {
  return !used || threadIdx.x % 8 != 7 || static_cast<uint32_t>(p.b >> 32) == round;
}
// The unit of a lane that holds one, of a block that has come. By whole warps.
__device__ __forceinline__ uint4 UnitOf(const BlockPart& p) {
  const BlockLane me;
  const uint32_t low = __shfl_xor_sync(~0u, static_cast<uint32_t>(p.a), 8),
                 high = __shfl_xor_sync(~0u, static_cast<uint32_t>(p.a >> 32), 8);
  return make_uint4(static_cast<uint32_t>(p.a), static_cast<uint32_t>(p.a >> 32),
                    me.ends ? low : static_cast<uint32_t>(p.b),
                    me.ends ? high : static_cast<uint32_t>(p.b >> 32));
}

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_LINE_CUH_
