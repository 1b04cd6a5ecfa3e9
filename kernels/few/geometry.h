// How the kernels for few pairs cut a matrix and share a multiprocessor: plain arithmetic, so that the plan can ask whether
// a layer fits. Nothing here changes a bit of the result (few/sums.cuh says why).
#ifndef DSV4MX_KERNELS_FEW_GEOMETRY_H_
#define DSV4MX_KERNELS_FEW_GEOMETRY_H_

#include <cstdint>

#include "kernels/mxfp4/layout.h"

namespace dsv4mx {

inline constexpr int kFewTokens = 4;    // of a tile: 8 columns, the narrowest product
inline constexpr int kFewTeams = 2;     // warpgroups of a CTA that multiply
inline constexpr int kFewPairs = 1024;  // most pairs of a call
inline constexpr int kFewMaxStages = 8;
// Two CTAs of a multiprocessor, so that the next kernel's begin, and fill their rings, while this one's end.
inline constexpr int64_t kFewSharedLimit = 112 * 1024;

// A record of sums: two rows of 128 threads, the exponent bases of 64 rows, the scales of the tokens.
inline constexpr int kFewSumBytes = 1024, kFewRecordBytes = kFewSumBytes + 64 + 4 * kFewTokens;

struct FewGeometry {
  int32_t stage_blocks;  // blocks of 128 of K in a stage, 1 to 4
  int32_t cluster;       // CTAs that share a tile of 64 rows, 1, 2 or 4
  int32_t local_stages;  // most stages of a tile that a CTA has
  int32_t records;       // sums that make an output, in order
  int32_t stages, stage_bytes;
  int32_t panel, ring, sums, tables;  // where the parts of shared memory begin
  int64_t shared_bytes;               // 0 = does not fit
};

DSV4MX_HD int32_t FewBlocks(int64_t k) {
  return static_cast<int32_t>((k + kSm90BlockK - 1) / kSm90BlockK);
}
// Blocks of GEMM1 whose products share a sum with their neighbours of the same 512: those of whole stages of the kernels
// for many pairs (256 of K), with which the bits must agree.
DSV4MX_HD int32_t FewJoinedBlocks(int64_t k) {
  return static_cast<int32_t>(k / 256 * 2);
}

DSV4MX_HD FewGeometry FewGeometryOf(int gemm, int64_t k, int64_t experts, int64_t pairs) {
  FewGeometry g{};
  const int32_t blocks = FewBlocks(k), joined = FewJoinedBlocks(k);
  // GEMM1 sums over 512 of K at a time, so that is its grain; GEMM2 over 128, which lets both teams have a part of little K.
  g.stage_blocks = gemm == 1 || blocks > 7 ? 4 : (blocks + 1) / 2;
  const int32_t of_tile = (blocks + g.stage_blocks - 1) / g.stage_blocks;
  g.cluster = of_tile >= 7 ? 4 : of_tile >= 3 ? 2 : 1;
  const int32_t round = kFewTeams * g.cluster;
  g.local_stages = (of_tile + round - 1) / round * kFewTeams;
  g.records = gemm == 1 ? (joined + 3) / 4 + blocks - joined : blocks;
  g.stage_bytes = g.stage_blocks * 34 * kSm90BlockK + kSm90TileRows;
  int64_t at = static_cast<int64_t>(g.local_stages) * g.stage_blocks * 1024;
  g.sums = static_cast<int32_t>(at), at += static_cast<int64_t>(g.records) * kFewRecordBytes;
  // The tables of few/pairs.cuh.
  g.tables = static_cast<int32_t>(at), at += 8 * experts + 8 * pairs;
  at = (at + 127) / 128 * 128;
  g.ring = static_cast<int32_t>(at);
  const int64_t stages = (kFewSharedLimit - at) / g.stage_bytes;
  g.stages = static_cast<int32_t>(stages < kFewMaxStages ? stages : kFewMaxStages);
  if (stages >= 2) g.shared_bytes = at + g.stages * g.stage_bytes;
  return g;
}

// Whether a layer's calls of that many pairs can take these kernels.
DSV4MX_HD bool FewFits(int64_t hidden, int64_t intermediate, int64_t experts, int64_t pairs) {
  return pairs <= kFewPairs && FewGeometryOf(1, hidden, experts, pairs).shared_bytes > 0 &&
         FewGeometryOf(2, intermediate, experts, pairs).shared_bytes > 0;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_GEOMETRY_H_
