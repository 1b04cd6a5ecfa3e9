// What a GEMM instance is made of: its number path and matrix, its warps and registers, the size of its stages.
#ifndef DSV4MX_KERNELS_SCHED_GEMM_CONFIG_CUH_
#define DSV4MX_KERNELS_SCHED_GEMM_CONFIG_CUH_

#include "kernels/launch.h"
#include "kernels/mxfp4/layout.h"

namespace dsv4mx {

inline constexpr int kMaxStages = 12;
inline constexpr int kHeaderBytes = 16;

template <Path P, int Gemm>
struct GemmConfig {
  static constexpr bool kPlanes = P == Path::kPlanes;
  static constexpr bool kE4m3 = IsE4m3(P);
  static constexpr bool kFp8 = kPlanes || kE4m3;  // products of E4M3 numbers, h with scales
  static constexpr bool kWide = P == Path::kBf16Wide;
  static constexpr int kGemm = Gemm;
  // 256 rows: 128 channels of h, which share a scale where h is E4M3.
  static constexpr int kTiles = 4;
  // Two warpgroups with two tiles each have registers for many more tokens, whose weights are decoded once.
  static constexpr int kWarpgroups = P == Path::kE4m3Big ? 2 : 4;
  static constexpr int kTilesEach = kTiles / kWarpgroups;
  static constexpr int kThreads = kWarpgroups * 128 + 128;
  static constexpr int kProducerRegisters = 32;
  // Registers are granted in groups of four warps; the sum must not exceed what the launch was given.
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kMathRegisters =
      (kLaunchRegisters * kThreads - kProducerRegisters * 128) / (kWarpgroups * 128) / 8 * 8;
  static constexpr int kGrain = WidthsOf(P).step;  // tokens in a swizzle group of 8 columns
  // Tiles of GEMM2 end earlier where its scales leave no more registers.
  static constexpr int kWidest = P == Path::kE4m3Big && Gemm == 2 ? 96 : WidthsOf(P).widest;
  static constexpr int kColumns = kWidest * 8 / kGrain;  // of the widest tile
  // Widest tile of planes with a loop of its own; ptxas has no registers for one more (C7511).
  static constexpr int kUnrolled = kGemm == 1 ? 64 : 56;
  // Narrower tiles take the loop of this width: not worth the code where they are rare.
  static constexpr int kLeastLoop = P == Path::kE4m3Big ? 64 : 8;
  static constexpr int kTokenBytes = kPlanes ? 256 : 128;
  static constexpr int kPartK = kFp8 ? 128 : 64;  // K of a part: one 128-byte line
  static constexpr int kStageBlocks = kFp8 ? 2 : 1;
  static constexpr int kStageK = kStageBlocks * kSm90BlockK;
  static constexpr int kParts = kStageK / kPartK;
  static constexpr int kBlockBytes = 34 * kSm90BlockK;
  static constexpr int kWeightBytes = kStageBlocks * kBlockBytes;  // of a tile
  static constexpr int kBaseBytes = kFp8 ? kTiles * kSm90TileRows : 0;
};

template <class C>
__host__ __device__ constexpr int StageBytes(int width) {
  return (C::kParts * C::kTokenBytes * width + C::kTiles * C::kWeightBytes + kHeaderBytes +
          C::kBaseBytes + (C::kFp8 ? C::kStageBlocks * 4 * width : 0) + 1023) /
         1024 * 1024;
}

// Arguments with what only the kernels need.
struct GemmKernelArgs : GemmArgs {
  int32_t stages, stage_bytes;
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SCHED_GEMM_CONFIG_CUH_
