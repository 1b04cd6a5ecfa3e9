// The kernels for few pairs, and how each cuts its matrix and shares a multiprocessor: plain arithmetic, so that the plan can
// ask whether a layer fits. Nothing here changes a bit of the result (few/sums.cuh says why).
#ifndef DSV4MX_KERNELS_FEW_GEOMETRY_H_
#define DSV4MX_KERNELS_FEW_GEOMETRY_H_

#include <cstdint>

#include "kernels/mxfp4/layout.h"

namespace dsv4mx {

// A tile is 64 rows times up to four tokens of an expert.
//   kSplit1  GEMM1, the teams of a cluster of two CTAs share the K of a tile: for so few tiles that not every team would get one
//   kWhole1  GEMM1, each team has tiles of its own
//   kToken2  GEMM2, a cluster has a token's 64 columns in all its slots and adds them up: no slots in memory, no combine
//   kWhole2  GEMM2, each team has tiles of its own and writes slots
//   kLong2   the same where K is long, with a multiprocessor to itself: the teams share the K of all slots
enum class FewKind : int32_t { kSplit1 = 0, kWhole1 = 1, kToken2 = 2, kLong2 = 3, kWhole2 = 4 };

inline constexpr int kFewTokens = 4;              // of a tile: 8 columns, the narrowest product
DSV4MX_HD constexpr int FewTeams(FewKind kind) {  // warpgroups of a CTA that multiply
  return kind == FewKind::kLong2 ? 4 : 2;
}
DSV4MX_HD constexpr bool FewOfTokens(FewKind kind) {
  return kind == FewKind::kToken2 || kind == FewKind::kLong2;
}
inline constexpr int kFewCluster = 2;   // CTAs of a cluster, where there is one
inline constexpr int kFewPairs = 1024;  // most pairs of a call
inline constexpr int kFewMaxTopK = 16;
inline constexpr int kFewMaxStages = 8;  // of a team
// Else two CTAs share a multiprocessor, so that the next kernel's begin, and fill their rings, while this one's end.
DSV4MX_HD constexpr int64_t FewSharedLimit(FewKind kind) {
  return (kind == FewKind::kLong2 ? 225 : 112) * 1024;
}

inline constexpr int kFewPanelBlock = 2 * kFewTokens * 128;  // bytes of a block of 128 of K
inline constexpr int kFewBasesBytes =
    128;  // of a stage; half used, so that stages stand at multiples of 128

// A record of sums: two rows of 128 threads, and the exponent bases of 32 pairs of rows.
inline constexpr int kFewSumBytes = 1024, kFewRecordBytes = kFewSumBytes + 128;

// Beside the lists of experts and pairs: totals and the sums of the warps.
inline constexpr int kFewTableBytes = 4 * (2 + 32);

// Up to here kToken2, whose tokens share no weights, and which leaves no combine to do.
inline constexpr int kFewTokens2 = 4;
DSV4MX_HD constexpr int32_t FewLaunches(int64_t tokens) {
  return tokens <= kFewTokens2 ? 2 : 3;
}
// Up to here kSplit1: as many tiles as keep every team busy twice are better left whole.
inline constexpr int64_t kFewSplitTiles = 1024;
// From here on kLong2.
inline constexpr int64_t kFewLongK = 1024;

DSV4MX_HD FewKind FewTokenKind(int64_t k) {
  return k < kFewLongK ? FewKind::kToken2 : FewKind::kLong2;
}

struct FewGeometry {
  int32_t stage_blocks;                // blocks of 128 of K in a stage
  int32_t straight;                    // the same where all stages have as many, 0 = they do not
  int32_t tile_stages;                 // stages of a tile
  int32_t units;                       // kSplit1: parts of 512 of K, in which it is shared
  int32_t sum_blocks;                  // GEMM1: blocks whose products share a sum (FewSumBlocks)
  int32_t records;                     // kSplit1: sums that make an output, in order
  int32_t panel_blocks;                // of a panel, which is a team's in GEMM2 of tokens
  int32_t stages, stage_bytes;         // of a team's ring
  int32_t scales, sums, tables, ring;  // where the parts of shared memory begin; panels are first
  int64_t shared_bytes;                // 0 = does not fit
};

DSV4MX_HD int32_t FewBlocks(int64_t k) {
  return static_cast<int32_t>((k + kSm90BlockK - 1) / kSm90BlockK);
}
// Blocks of GEMM1 whose products share a sum, as in the kernels for many pairs, with which the bits must agree: 512 of K, or 256
// in W4A8.
DSV4MX_HD constexpr int32_t FewSumBlocks(bool quantised) {
  return quantised ? 2 : 4;
}
// Those that share it at all: of whole stages of the kernels for many pairs (256 of K).
DSV4MX_HD int32_t FewJoinedBlocks(int64_t k) {
  return static_cast<int32_t>(k / 256 * 2);
}

// The stages for which there is a kernel in straight-line code: all of them alike, and in GEMM1 the end of K no sum of its own.
DSV4MX_HD int32_t FewStraight(FewKind kind, int64_t k, int32_t stage_blocks) {
  const bool alike = k % kSm90BlockK == 0 && k / kSm90BlockK % stage_blocks == 0;
  const bool first = kind == FewKind::kSplit1 || kind == FewKind::kWhole1;
  return alike && stage_blocks >= 2 && !(first && stage_blocks == 3) ? stage_blocks : 0;
}

// Of a token's stages a team has no more than a warp has lanes.
inline constexpr int32_t kFewMostOwnStages = 32;

// Blocks of a panel, behind the stages' geometry.
DSV4MX_HD int32_t FewPanelBlocks(FewKind kind, const FewGeometry& g, int32_t blocks,
                                 int64_t top_k) {
  const int32_t teams = FewTeams(kind), round = teams * kFewCluster;
  if (kind == FewKind::kSplit1) return (g.units + round - 1) / round * teams * 4;
  if (kind != FewKind::kLong2) return blocks;
  // A team's stages, of which four stand side by side. It has no more of them than those of whole slots.
  const int32_t own = static_cast<int32_t>((top_k + round - 1) / round * g.tile_stages);
  return own > kFewMostOwnStages ? 0 : (own + kFewTokens - 1) / kFewTokens * g.stage_blocks;
}

DSV4MX_HD FewGeometry FewGeometryOf(FewKind kind, int64_t k, int64_t experts, int64_t pairs,
                                    int64_t top_k, bool quantised) {
  FewGeometry g{};
  const int32_t blocks = FewBlocks(k), joined = FewJoinedBlocks(k);
  g.units = (blocks + 3) / 4;
  const bool first = kind == FewKind::kSplit1 || kind == FewKind::kWhole1;
  g.sum_blocks = FewSumBlocks(quantised);
  g.records =
      kind == FewKind::kSplit1 ? (joined + g.sum_blocks - 1) / g.sum_blocks + blocks - joined : 0;
  const int teams = FewTeams(kind);
  // Up to 512 of K to a stage, which have one set of exponent bases; half of that where the ring would have less than two, or
  // where that is what shares a sum.
  for (int most = first ? g.sum_blocks : 4; most >= 2 && g.shared_bytes == 0; most /= 2) {
    g.stage_blocks = blocks < most ? blocks : blocks % 4 == 2 ? 2 : most;
    g.stage_bytes = g.stage_blocks * kSm90BytesPerK * kSm90BlockK + kFewBasesBytes;
    g.tile_stages = (blocks + g.stage_blocks - 1) / g.stage_blocks;
    g.panel_blocks = FewPanelBlocks(kind, g, blocks, top_k);
    if (g.panel_blocks == 0) continue;
    const int64_t panels = int64_t{g.panel_blocks} * (FewOfTokens(kind) ? teams : 1);
    int64_t at = panels * kFewPanelBlock;
    g.scales = static_cast<int32_t>(at), at += panels * 4 * kFewTokens;
    g.sums = static_cast<int32_t>(at);
    // Of up to half as many slots as there are teams each 128 of K, of more one sum each (few/shared_slots.cuh).
    const int64_t shared = top_k < teams * kFewCluster / 2 ? top_k : teams * kFewCluster / 2;
    const int64_t sums = shared * blocks > top_k ? shared * blocks : top_k;
    at += kind == FewKind::kLong2 ? sums * kSm90TileRows * 4
          : FewOfTokens(kind)     ? kFewMaxTopK * kSm90TileRows * 4
                                  : g.records * kFewRecordBytes;
    // The tables of few/pairs.cuh.
    g.tables = static_cast<int32_t>(at), at += 8 * experts + 8 * pairs + kFewTableBytes;
    at = (at + 127) / 128 * 128;
    g.ring = static_cast<int32_t>(at);
    const int64_t stages = (FewSharedLimit(kind) - at) / (teams * g.stage_bytes);
    g.stages = static_cast<int32_t>(stages < kFewMaxStages ? stages : kFewMaxStages);
    if (stages >= 2) g.shared_bytes = at + teams * g.stages * g.stage_bytes;
  }
  g.straight = FewStraight(kind, k, g.stage_blocks);
  return g;
}

// Whether a layer's calls of that many pairs can take these kernels.
DSV4MX_HD bool FewFits(int64_t hidden, int64_t intermediate, int64_t experts, int64_t pairs,
                       int64_t top_k, bool quantised) {
  const auto fits = [&](FewKind kind, int64_t k) {
    return FewGeometryOf(kind, k, experts, pairs, top_k, quantised).shared_bytes > 0;
  };
  return pairs <= kFewPairs && fits(FewKind::kSplit1, hidden) && fits(FewKind::kWhole1, hidden) &&
         fits(FewTokenKind(intermediate), intermediate) && fits(FewKind::kWhole2, intermediate);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_GEOMETRY_H_
