// What the main loops share: the lane's words and scales of one block of a stage, asked for while the products of the
// block before it run.
//
// How the loops are built, and what was learnt (figures in kernels/README.md):
//   - A loop for each width is worth 2 to 6 % on the bf16 path and 5 to 12 % at one token. ptxas keeps registers apart that
//     belong to different loops of the same sums, and ran out of them; where each width has sums and an epilogue of its own
//     it does not. Loops of planes hand their sums on to one epilogue, which it takes as long as products stay apart: with
//     those shared, too, it runs out in GEMM2. GEMM2's widest tiles of planes have a branch around each group of products instead: their tables leave no
//     register for the compiler's choices in unrolled code.
//   - Four products to a group where registers allow, and nothing of the next group is converted before they are done:
//     all four warps of a warpgroup meet at each group, so few groups are worth more than overlap inside a warp, which
//     the other three warpgroups give anyway.
#ifndef DSV4MX_KERNELS_MMA_BLOCK_CUH_
#define DSV4MX_KERNELS_MMA_BLOCK_CUH_

#include "kernels/sched/ring.cuh"

namespace dsv4mx {

// wgmma's descriptor of a panel in shared memory (K-major, 128-byte swizzle, groups of 8 rows 1024 bytes apart) is made of a
// low word that moves with the address, in 16 bytes, and a high word that is always the same (PTX ISA, matrix descriptor).
// Said to be the same in all lanes by a shuffle, the low word lives in a uniform register, where wgmma wants it: put there
// by the compiler alone it does not stay in loops of many widths, which then spend a sixth of their instructions on moving
// it.
inline constexpr int kDescriptorUnit =
    4;  // addresses and offsets count 16 bytes, so they are shifted
inline constexpr uint32_t kDescriptorAddresses = 0x3FFFF;  // the bytes that a descriptor reaches
inline constexpr uint32_t kDescriptorLeading =
    1u << 16;  // leading offset, which a swizzled K-major matrix does not use
inline constexpr uint32_t kDescriptorStride =
    kSwizzleBytes >> kDescriptorUnit;  // from eight rows to the next eight
inline constexpr uint32_t kDescriptorSwizzle128 = 1u << (62 - 32);
inline constexpr uint32_t kDescriptorK32 =
    32 >> kDescriptorUnit;  // 32 bytes of a row: one product's K
__device__ __forceinline__ uint32_t PanelDescriptorLow(uint32_t address) {
  return __shfl_sync(~0u, kDescriptorLeading | (address & kDescriptorAddresses) >> kDescriptorUnit,
                     0);
}
// kLines: lines of 128 bytes of eight rows, one behind the other, that stand between them and the next eight.
template <int kLines = 1>
__device__ __forceinline__ uint64_t PanelDescriptor(uint32_t low) {
  return uint64_t{kDescriptorSwizzle128 | kDescriptorStride * kLines} << 32 | low;
}

// Where a block's parts stand, in bytes: the codes of each warp, of which two steps make half, then the scales of each warp.
inline constexpr int kBlockCodeBytes = kSm90CodeBytesPerK * kSm90BlockK;
inline constexpr int kWarpCodeBytes = kBlockCodeBytes / 4, kTwoStepBytes = kWarpCodeBytes / 2;
inline constexpr int kWarpScaleBytes = kSm90TileRows / 4 * kSm90BlockK / 32;
inline constexpr int kLaneCodeBytes = 16, kLaneScaleBytes = 2;  // of two steps; of a block
static_assert(kTwoStepBytes == 32 * kLaneCodeBytes && kWarpScaleBytes == 32 * kLaneScaleBytes,
              "the lanes of a warp share its codes and scales without a gap");

struct Block {
  uint4 words[2];   // steps 0 and 1, then 2 and 3: {row g, row g + 8} of each
  uint32_t scales;  // row g in bits 0..7, row g + 8 in 8..15
};

// The same with a scale for itself of each row: one load more, and nothing to take apart.
struct BlockOfRows {
  uint4 words[2];
  uint32_t scale[2];  // of rows g and g + 8
};

__device__ __forceinline__ void LoadWords(uint32_t at, const MmaThread& me, uint4* words) {
  const uint32_t own = at + me.warp * kWarpCodeBytes + me.lane * kLaneCodeBytes;
  words[0] = LoadShared16(own);
  words[1] = LoadShared16(own + kTwoStepBytes);
}
__device__ __forceinline__ uint32_t ScalesOf(uint32_t at, const MmaThread& me) {
  return at + kBlockCodeBytes + me.warp * kWarpScaleBytes + me.lane * kLaneScaleBytes;
}
// The block at this shared address, of a warpgroup's tile, in full.
__device__ __forceinline__ void LoadBlock(uint32_t at, const MmaThread& me, Block& b) {
  LoadWords(at, me, b.words);
  b.scales = LoadShared2(ScalesOf(at, me));
}
__device__ __forceinline__ void LoadBlock(uint32_t at, const MmaThread& me, BlockOfRows& b) {
  LoadWords(at, me, b.words);
  for (int row = 0; row < 2; row++) b.scale[row] = LoadShared1(ScalesOf(at, me) + row);
}
// Block `index` of a stage.
template <class C, class B>
__device__ __forceinline__ void LoadBlock(const Ring<C>& ring, const MmaThread& me, int index, B& b,
                                          int which = 0) {
  LoadBlock(ring.Tile(me, which) + index * C::kBlockBytes, me, b);
}

// A block that ends K, of 128, 64 or 32 values beginning at value `first` of its stage: where step `i` of it stands for the
// lane, and the lane's scales.
struct TailBlock {
  int length;
  uint32_t words, scales;
};
__device__ __forceinline__ TailBlock FindTail(uint32_t stage, const MmaThread& me, int first,
                                              int left) {
  const int length = left >= 128 ? 128 : left >= 64 ? 64 : 32;
  const uint32_t at = stage + kSm90BytesPerK * first;
  return {length, at + me.warp * length * 8,
          LoadShared2(at + kSm90CodeBytesPerK * length +
                      ((me.warp * 8 + me.g) * (length / 32) + me.t * length / 128) * 2)};
}
template <class C>
__device__ __forceinline__ TailBlock FindTail(const Ring<C>& ring, const MmaThread& me, int first,
                                              int left, int which = 0) {
  return FindTail(ring.Tile(me, which), me, first, left);
}
__device__ __forceinline__ uint32_t TailWord(const TailBlock& b, const MmaThread& me, int i) {
  return b.words + (b.length == 32 ? me.lane * 8
                                   : i / 2 * kTwoStepBytes + me.lane * kLaneCodeBytes +
                                         i % 2 * kLaneCodeBytes / 2);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_BLOCK_CUH_
