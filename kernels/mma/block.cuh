// What the two main loops share: the lane's words and scales of one block of a stage, asked for while the products of the
// block before it run.
//
// How the loops are built, and what was learnt (figures in kernels/README.md):
//   - A loop for each width is worth 2 to 6 % on the bf16 path and 5 to 12 % at one token. ptxas keeps registers apart that
//     belong to different loops of the same sums, and ran out of them; where each width has sums and an epilogue of its own
//     it does not. GEMM2's widest tiles of planes have a branch around each group of products instead: their tables leave no
//     register for the compiler's choices in unrolled code.
//   - Four products to a group where registers allow, and nothing of the next group is converted before they are done:
//     all four warps of a warpgroup meet at each group, so few groups are worth more than overlap inside a warp, which
//     the other three warpgroups give anyway.
#ifndef DSV4MX_KERNELS_MMA_BLOCK_CUH_
#define DSV4MX_KERNELS_MMA_BLOCK_CUH_

#include "kernels/sched/ring.cuh"

namespace dsv4mx {

// wgmma's descriptor of rows in shared memory (K-major, 128-byte swizzle, groups of 8 rows 1024 bytes apart) is made of a low
// word that moves with the address, in 16 bytes, and a high word that is always the same. Said to be the same in all lanes
// by a shuffle, the low word lives in a uniform register, where wgmma wants it: found there by the compiler alone it does
// not stay in loops of many widths, which then spend a sixth of their instructions on moving it.
__device__ __forceinline__ uint32_t RowsAt(uint32_t address) {
  return __shfl_sync(~0u, 1u << 16 | (address & 0x3FFFF) >> 4, 0);
}
__device__ __forceinline__ uint64_t RowsDescriptor(uint32_t low) {
  return uint64_t{0x40000040} << 32 | low;
}

struct Block {
  uint4 words[2];   // steps 0 and 1, then 2 and 3: {row g, row g + 8} of each
  uint32_t scales;  // row g in bits 0..7, row g + 8 in 8..15
};

// The block at this shared address, of a warpgroup's tile, in full.
__device__ __forceinline__ void LoadBlock(uint32_t at, const Seat& s, Block& b) {
  const uint32_t words = at + s.warp * 1024 + s.lane * 16;
  b.words[0] = LoadShared16(words);
  b.words[1] = LoadShared16(words + 512);
  b.scales = LoadShared2(at + 4096 + s.warp * 64 + s.lane * 2);
}
// Block `index` of a stage.
template <class C>
__device__ __forceinline__ void LoadBlock(const Ring<C>& ring, const Seat& s, int index, Block& b,
                                          int which = 0) {
  LoadBlock(ring.Tile(s, which) + index * C::kBlockBytes, s, b);
}

// A block that ends K, of 128, 64 or 32 values beginning at value `first` of its stage: where step `i` of it stands for the
// lane, and the lane's scales.
struct TailBlock {
  int length;
  uint32_t words, scales;
};
__device__ __forceinline__ TailBlock FindTail(uint32_t stage, const Seat& s, int first, int left) {
  const int length = left >= 128 ? 128 : left >= 64 ? 64 : 32;
  const uint32_t at = stage + 34 * first;
  return {length, at + s.warp * length * 8,
          LoadShared2(at + 32 * length +
                      ((s.warp * 8 + s.g) * (length / 32) + s.t * length / 128) * 2)};
}
template <class C>
__device__ __forceinline__ TailBlock FindTail(const Ring<C>& ring, const Seat& s, int first,
                                              int left, int which = 0) {
  return FindTail(ring.Tile(s, which), s, first, left);
}
__device__ __forceinline__ uint32_t TailWord(const TailBlock& b, const Seat& s, int i) {
  return b.words + (b.length == 32 ? s.lane * 8 : i / 2 * 512 + s.lane * 16 + i % 2 * 8);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_BLOCK_CUH_
