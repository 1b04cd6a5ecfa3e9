// What a GEMM instance is made of: its number path and matrix, its warps and registers, the size of its stages.
#ifndef DSV4MX_KERNELS_SCHED_GEMM_CONFIG_CUH_
#define DSV4MX_KERNELS_SCHED_GEMM_CONFIG_CUH_

#include "kernels/launch.h"
#include "kernels/mxfp4/layout.h"

namespace dsv4mx {

inline constexpr int kMaxStages = 12;
inline constexpr int kProducerWarps = 3;
inline constexpr int kHeaderBytes = 16;
inline constexpr int kSwizzleBytes =
    1024;  // eight rows of 128 bytes, after which the swizzle repeats
inline constexpr int kBulkAlignment = 16;       // of what a bulk copy moves, at both ends
inline constexpr int kChipRegisters = 65536;    // of a multiprocessor
inline constexpr int kMostRegisters = 256 - 8;  // of a thread, that setmaxnreg can ask for

template <Path P, int Gemm, bool Levelled = false>
struct GemmConfig {
  static constexpr bool kPlanes = IsPlanes(P);
  static constexpr bool kE4m3 = IsE4m3(P);
  static constexpr bool kFp8 = kPlanes || kE4m3;  // products of E4M3 numbers, h with scales
  static constexpr bool kF16 = P == Path::kF16;
  // GEMM2 of an h whose rows have one scale each (level.cu), in units of which its slots are.
  static constexpr bool kLevelled = Levelled;
  static constexpr bool kBlockScales =
      kFp8 && Gemm == 2 && !Levelled;  // h has one for each 128 of K
  static constexpr bool kRowScales =
      Gemm == 1 ? kFp8 || kF16 : kBlockScales;  // of a stage's panel rows
  // Where f16 could not hold h or slots (GemmArgs::again).
  static constexpr bool kMayRunAgain = Gemm == 1 ? kF16 : P == Path::kBf16;
  static constexpr bool kWideScales = P == Path::kBf16Wide;
  static constexpr int kGemm = Gemm;
  // Of a tile's stages the last is released by its loop as well; where not, the epilogue reads it.
  static constexpr bool kReleasesAll = kPlanes && Gemm == 2;
  // Rows of a tile's panel by the lanes of a warp, where a token has one for all its pairs (sched/fetch.cuh); else one lane copies a
  // stage's panel as it stands.
  static constexpr bool kMayFetchRows = kF16 && Gemm == 1;
  static constexpr bool kShares = true;  // CTAs share out the last items (sched/share.cuh)
  static constexpr bool kBig = P == Path::kPlanesBig || P == Path::kE4m3Big;
  static constexpr bool kWide = P == Path::kE4m3Wide;
  // Of an item: 256 rows, which are 128 channels of h, and these share a scale where h is E4M3.
  static constexpr int kTiles = kWide && Gemm == 2 ? 2 : 4;
  // So often an item goes through K, each time with other tiles.
  static constexpr int kPasses = kWide && Gemm == 1 ? 2 : 1;
  static constexpr int kStageTiles = kTiles / kPasses;
  // Two warpgroups have registers for many more tokens, whose weights are decoded once: with two tiles each, or with one tile
  // and tokens in two halves, each as wide as a product.
  static constexpr int kWarpgroups = kBig || kWide ? 2 : 4;
  static constexpr int kTilesEach = kStageTiles / kWarpgroups;
  static constexpr int kHalves = kWide ? 2 : 1;
  static constexpr int kThreads = kWarpgroups * 128 + 128;
  static constexpr int kProducerRegisters = kWarpgroups == 2 ? 40 : 32;
  // Registers are granted in groups of four warps; the sum must not exceed what the launch was given.
  static constexpr int kLaunchRegisters = kChipRegisters / kThreads / 8 * 8;
  static constexpr int kMathRegisters =
      (kLaunchRegisters * kThreads - kProducerRegisters * 128) / (kWarpgroups * 128) / 8 * 8;
  static constexpr int kGrain = WidthsOf(P).step;  // tokens in a swizzle group of 8 columns
  // W4A8's tiles of GEMM2 end earlier where its scales leave no more registers.
  static constexpr int kWidest =
      kE4m3 && kWarpgroups == 2 && kBlockScales ? 96 * kHalves : WidthsOf(P).widest;
  static constexpr int kColumns = kWidest * 8 / kGrain;  // of the widest tile, or of half of it
  // Widest tile of planes with a loop of its own; ptxas has no registers for one more (C7511).
  static constexpr int kUnrolled = P == Path::kPlanes && kBlockScales ? 56 : kColumns;
  // Narrower tiles take the loop of this width, and those between two loops the wider one: not worth the code where they are
  // rare, or where a loop is long.
  static constexpr int kLeastLoop = P == Path::kPlanesBig ? 80 : kWide ? 56 : kBig ? 64 : 8;
  static constexpr int kLoopStep = P == Path::kPlanesBig ? 16 : 8;
  static constexpr int kTokenBytes = kE4m3 ? 128 : 256;
  static constexpr int kPartK = kSm90BlockK;
  static constexpr int kStageBlocks = kFp8 && !kWide && P != Path::kPlanesBig ? 2 : 1;
  static constexpr int kStageK = kStageBlocks * kSm90BlockK;
  // Planes of two tiles a warpgroup, which share one set of sums in the tensor cores: so many stages, between which these are not
  // promoted, are gone through with the one tile and then with the other.
  static constexpr int kTurnStages = P == Path::kPlanesBig && Gemm == 1 ? kSm90BaseK / kStageK : 1;
  // As many as are held at a time, and one that fills; of a turn, the first is free again when the last is in use.
  static constexpr int kLeastStages = kTurnStages > 1 ? kTurnStages : kWide ? 3 : 2;
  static constexpr int kParts = kStageK / kPartK;
  static constexpr int kBlockBytes = kSm90BytesPerK * kSm90BlockK;
  static constexpr int kWeightBytes = kStageBlocks * kBlockBytes;  // of a tile
  static constexpr int kBaseBytes = kFp8 ? kStageTiles * kSm90TileRows : 0;

  static_assert(kStageTiles % kWarpgroups == 0, "every warpgroup has as many tiles");
  static_assert(kMathRegisters * kWarpgroups * 128 + kProducerRegisters * 128 <=
                    kLaunchRegisters * kThreads,
                "the warpgroups together have no more registers than the launch was given");
  static_assert(kMathRegisters <= kMostRegisters && kMathRegisters % 8 == 0 &&
                    kProducerRegisters >= 24,
                "setmaxnreg takes multiples of 8 from 24 on, up to what an instruction can name");
  static_assert(
      kTokenBytes * kGrain % kSwizzleBytes == 0,
      "each part of a stage's panel begins where the swizzle does, at every width of a tile");
  static_assert(kWeightBytes % kBulkAlignment == 0 && kHeaderBytes % kBulkAlignment == 0 &&
                    kBaseBytes % kBulkAlignment == 0,
                "what stands in a stage behind the weights is aligned for bulk copies");
  static_assert(!kFp8 || kSm90BaseK % kStageK == 0,
                "a stage never crosses 512 of K, where the exponent bases change and sums are "
                "promoted to fp32");
  static_assert(kPartK == kSm90BlockK, "GEMM2's scales of h come one per part of the panel");
};

template <class C>
__host__ __device__ constexpr int StageBytes(int width) {
  const int bytes = C::kParts * C::kTokenBytes * width + C::kStageTiles * C::kWeightBytes +
                    kHeaderBytes + C::kBaseBytes +
                    (C::kRowScales ? C::kStageBlocks * 4 * width : 0) + kSwizzleBytes - 1;
  // The narrowest loop may be wider than the tiles: what it reads past their tokens must be there.
  const int least = C::kTokenBytes * C::kGrain / 8 * C::kLeastLoop;
  return (bytes < least ? least : bytes) / kSwizzleBytes * kSwizzleBytes;
}

// Arguments with what only the kernels need.
struct GemmKernelArgs : GemmArgs {
  int32_t stages, stage_bytes;
  int32_t taken_each;   // TakenEach (sched/share.cuh)
  int32_t plain_slots;  // GEMM2: without a bias, and to slots
};

template <class C>
__device__ __forceinline__ bool FetchesRows(const GemmKernelArgs& a) {
  return C::kMayFetchRows && a.source != nullptr;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SCHED_GEMM_CONFIG_CUH_
