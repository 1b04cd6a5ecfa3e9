// What lib sees of the layer's kernels: their limits (which the plan chooses within), plain arguments and launch
// functions, no CUDA type but the stream. All pointers are device pointers; every launch is asynchronous, allocates
// nothing and returns a cudaError_t as int.
//
// A call is gather, GEMM1, GEMM2, combine (where h is levelled, or W4A8 takes a bf16 path: one more between the GEMMs), each a
// programmatic dependent of the one before. Activations pass
// between them in *panels*. A panel has a row for each *pair*, which is a token and one of its top-k slots, as far as the
// pair is computed here; rows are grouped by local expert in stable order, and each expert's group starts at a multiple of
// 8. So a stage of a GEMM is a contiguous piece and arrives by bulk copy, already swizzled:
//
//     bf16, f16 [K/128][panel rows / 8][2][8][64 elements]  256 bytes a row
//     planes   [K/128][panel rows][high 128, low 128]       256 bytes a row
//     e4m3     [K/128][panel rows][128]                     128 bytes a row
//
// with K in the order of Sm90Bf16Index / Sm90F16Index / Sm90PlaneIndex (mxfp4/layout.h), rounded up to 128. Eight rows take the
// same place in all but e4m3, so that one panel can hold some experts' rows in one form and some in the other.
//
// With sources, all is f16, and x is written once for each token, however many pairs it has: the panel is [tokens][K/128][128 elements],
// not swizzled. `source` says for each pair where its row begins, in pieces of 256 bytes, and GEMM1 fetches the rows of its tiles.
#ifndef DSV4MX_KERNELS_LAUNCH_H_
#define DSV4MX_KERNELS_LAUNCH_H_

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace dsv4mx {

using KernelStream = CUstream_st*;

// How numbers become operands (paths.def). W4A16: weights and two planes of x as E4M3, with CTAs for few or for more tokens an
// expert, which give the same bits; or both as f16; or bf16; wide is bf16 for scale bytes above kMaxScale (its wide range of scales), whose
// values leave the range in which bf16 can be scaled by exponent arithmetic. W4A8: one plane, with CTAs for few, for many or for
// very many tokens an expert, which give the same bits; or a bf16 path with activations that E4M3 holds.
enum class Path : int32_t {
#define X(path, name, step, widest) path,
#include "kernels/paths.def"
#undef X
};
inline constexpr int32_t kMaxScale = 128;  // largest scale byte of all but the wide path
// f16 holds weights of these scale bytes, all of them as normal numbers: weight * 2^12.
inline constexpr int32_t kF16LeastScale = 102, kF16MostScale = kF16LeastScale + 26;
inline constexpr float kF16Unit = 0x1p-12f;

// Widths of a tile, in tokens: multiples of the step up to the widest, which is what the path's kernels are compiled for.
struct TileWidths {
  int32_t step, widest;
};
inline constexpr TileWidths kTileWidths[] = {
#define X(path, name, step, widest) {step, widest},
#include "kernels/paths.def"
#undef X
};
inline constexpr int32_t kPaths = sizeof kTileWidths / sizeof kTileWidths[0];
constexpr TileWidths WidthsOf(Path path) {
  return kTileWidths[static_cast<int32_t>(path)];
}
constexpr bool IsPlanes(Path path) {
  return path == Path::kPlanes || path == Path::kPlanesBig;
}
constexpr bool IsE4m3(Path path) {
  return path == Path::kE4m3 || path == Path::kE4m3Big || path == Path::kE4m3Wide;
}

// The most experts held here, and slots of a token, that any kernel has room for.
inline constexpr int32_t kMostExperts = 4096, kMostTopK = 16;

// Which ids are held here, and how many tokens there are.
struct Routing {
  const void* ids;               // [tokens, top_k] int32 or int64, of this chunk
  const int32_t* expert_map;     // [experts_global] or null
  const int32_t* tokens_device;  // or null
  int32_t ids_are_64;
  int32_t token_begin;  // first token of this chunk
  int32_t tokens;       // host bound of this chunk
  int32_t listed;       // counts are made by a kernel of their own, however few pairs there are
  int32_t top_k;
  int32_t experts, expert_first, experts_global;
};

// Up to this many pairs (tokens * top_k, host bound) every kernel counts the ids itself and `counts` stays unused; above
// it a kernel of its own makes the counts first.
inline constexpr int64_t kCountedInPlace = 4096;
// Kernels of a call, gather to combine, with that many pairs.
constexpr int32_t MoeLaunches(int64_t pairs) {
  return pairs <= kCountedInPlace ? 4 : 5;
}

// Rows of every panel: an upper bound for any routing of `pairs` pairs, a multiple of 8.
constexpr int64_t MoePanelRows(int64_t pairs, int64_t experts) {
  return (pairs + 8 * (pairs < experts ? pairs : experts) + 7) / 8 * 8;
}
// Bytes of a panel of `k` values a row, of either number path.
constexpr int64_t MoePanelBytes(int64_t panel_rows, int64_t k) {
  return panel_rows * ((k + 127) / 128 * 256);
}
// Blocks of 128 of K: scales of h as E4M3 are [blocks][panel_rows].
constexpr int64_t MoeBlocks(int64_t k) {
  return (k + 127) / 128;
}

// Lists the pairs and writes x into its panel: permuted, for the plane path scaled and split in two.
struct GatherArgs {
  Routing routing;
  int32_t* counts;  // [experts] tokens of each expert
  // By which experts are shared out to paths, if they are: counts, or those of a larger chunk, of which this is a part and which
  // LaunchSizes made.
  const int32_t* sizes;
  int32_t* extent;  // [2] least and largest of counts that are not 0, to be written; or null
  int32_t* taken;   // [kClearedWords], to be cleared for the GEMMs behind it
  int32_t*
      panel_row;  // [tokens * top_k] of each pair; -1 = not computed here; kHalfSlot or kLevelSlot beside it where these say so
  const uint16_t* x;  // bf16 [tokens, hidden] of this chunk
  int64_t x_stride;   // elements
  int32_t hidden;
  uint8_t* panel;
  int64_t panel_rows;
  int32_t*
      source;  // [panel_rows] f16: where in the panel each pair's row begins, in pieces of 256 bytes; or null
  float* row_scale;  // [panel_rows], planes, E4M3 and f16; LaunchLevel leaves those of f16
  const void* router_weights;  // [tokens, top_k]; used where one of the two below wants it
  int32_t weight_is_bf16;
  int32_t weight_on_input;  // x is multiplied with its router weight, rounded to bf16 (top_k = 1)
  float* hidden_weight;     // [panel_rows] router weights for GEMM1's epilogue, or null
  Path path;
  // Rows of experts that are larger than this are of `beside`'s form (bf16 or f16), others of `path`'s. Not looked at where pairs are
  // counted in place.
  int32_t most;
  Path beside;
  int32_t quantised;   // W4A8: x passes through E4M3, whatever the path
  int32_t half_slots;  // pairs of f16 have slots of f16 (GemmArgs)
  int32_t levelled;    // pairs of planes or E4M3 have a levelled h, and slots of f16 in its units
};
int LaunchGather(const GatherArgs& args, KernelStream stream);
// In a pair's panel row: its slot is of f16, or of f16 in units of its row of h.
inline constexpr int32_t kHalfSlot = 1 << 30, kLevelSlot = 1 << 29;

// How many pairs each expert has in a chunk that is computed in parts, so that these take the paths of the whole.
struct SizesArgs {
  Routing routing;     // as the caller gave it; ids of the whole chunk
  int64_t ids_stride;  // elements between rows
  int32_t* sizes;      // [experts]
  int32_t* extent;     // [2] least and largest of those that are not 0
};
int LaunchSizes(const SizesArgs& args, KernelStream stream);

// Experts of a call may be shared out to launches of several paths by how many pairs they have, in each GEMM.
inline constexpr int32_t kMostParts = 3, kTakenCounters = 2 * kMostParts;
// Words that gather clears for the GEMMs behind it: those counters, and whether f16 could not hold h or slots.
inline constexpr int32_t kClearedWords = kTakenCounters + 1;
inline constexpr int32_t kAnyCount = INT32_MAX;

// GEMM1 (w13, activation, writes h) and GEMM2 (w2, writes slots).
struct GemmArgs {
  Routing routing;
  const int32_t* counts;  // as gather wrote them; not read where they are counted in place
  int32_t*
      taken;  // of this GEMM, by which its CTAs share out the last items: 0, as gather and the GEMM itself leave it
  const uint8_t* slabs;  // experts in the sm90 layout
  int64_t slab_bytes;
  int64_t matrix, bases, bias;  // offsets inside a slab (Sm90Slab); bias < 0 = none
  int32_t tiles;                // 64-row tiles of the matrix
  int32_t k;
  int64_t panel_rows;
  const uint8_t* panel;  // of x or h
  const float*
      row_scale;  // planes, E4M3: GEMM1 [panel_rows]; GEMM2 [blocks][panel_rows]; f16: GEMM1 [panel_rows]
  int32_t width;  // most tokens of a tile, one of WidthsOf(path)
  int32_t ctas;   // multiprocessors
  // GEMM1
  uint8_t* h;                         // panel
  float* h_scale;                     // planes, E4M3: [MoeBlocks(intermediate)][panel_rows]
  const float* hidden_weight;         // [panel_rows] that multiply h, or null
  float clamp_limit, alpha, beta;     // limit 0 = no clamp; h = g * sigmoid(alpha g) * (u + beta)
  float situ_beta, situ_linear_beta;  // SiTU instead where they are not 0
  // GEMM2
  void* slots;  // [panel_rows, hidden] f32 or bf16
  int32_t slots_are_bf16;
  // f16: slots are numbers of f16, value * kHalfSlotFactor, in the first halves of rows of f32. GEMM2 tells in `unfit` if f16 cannot
  // hold them; those of the launches behind it are f32.
  int32_t half_slots;
  // Planes and E4M3: rows of h have one scale each (LaunchLevel), which no product needs. Slots are numbers of f16 in units of these
  // scales, times h_factor (LevelFactor), in the first halves of rows of f32.
  int32_t levelled;
  void* const*
      targets;  // [panel_rows] where each of these rows goes instead, in bf16, or null; not for few pairs
  int32_t hidden;
  int32_t quantised;  // few pairs, W4A8: h passes through bf16 and E4M3 before it is multiplied
  // Experts of this size: all of them are 1 and kAnyCount. Other launches of this GEMM have the rest, those with larger ones in front
  // of this one; `earlier` says how many these are. Not where pairs are counted in place.
  int32_t least, most, earlier;
  int32_t
      late;  // the next of these launches begins when this one has ended: where they may not occupy the whole chip
  const int32_t *sizes, *extent;  // as gather has them; null where one launch has all experts
  // f16. GEMM1 writes h * h_factor, and tells in `unfit` if f16 cannot hold that. Behind GEMM2 both are launched `again`, GEMM1 with an h
  // of bf16 and GEMM2 by the bf16 path; these do nothing where nobody told. In GEMM2 h_factor is that of the sums.
  int32_t* unfit;
  int32_t again;
  float h_factor;
  const int32_t*
      source;  // f16, GEMM1: as gather has them; or null: each pair's row of x is in its own place
};
// The power of two between values of slots and what f16 holds of them: 2^-16 to 8,188 as well as bf16 would.
inline constexpr float kHalfSlotFactor = 0x1p3f;
int LaunchGemm1(Path path, const GemmArgs& args, KernelStream stream);
int LaunchGemm2(Path path, const GemmArgs& args, KernelStream stream);

// W4A8 on a bf16 path: passes h, a bf16 panel, through E4M3 in place.
struct QuantiseArgs {
  Routing routing;
  const int32_t* panel_row;
  uint8_t* panel;
  int64_t panel_rows;
  int32_t k;
};
int LaunchQuantise(const QuantiseArgs& args, KernelStream stream);

// Gives every row of h that is marked with kLevelSlot, of planes or of E4M3, one scale instead of one for each block of 128: the
// largest of them. A value is off by up to 2^-21 (planes) or 2^-17 (E4M3) of the row's largest magnitude. A row of E4M3 in units of the
// least scale gets a smaller one.
struct LevelArgs {
  Routing routing;
  const int32_t* panel_row;
  uint8_t* panel;  // in place
  int64_t panel_rows;
  const float* h_scale;  // [MoeBlocks(k)][panel_rows]
  float* row_scale;      // [panel_rows], to be written
  int32_t k;
  int32_t one_plane;  // E4M3
};
int LaunchLevel(const LevelArgs& args, KernelStream stream);
// Weights of levelled layers have scale bytes of at least this, so that f16 holds slots at least as well as bf16 would. And these differ
// by no more than 12: a block of h far below the row's peak, which its scale hardly reaches, counts where weights make up for that. (Such
// layers, on the emulator, relative L2: with 2^8 less and 2^8 more 6.8e-4 and in W4A8 1.9e-3, with 2^12 2.8e-3 and 3.6e-2, of which W4A8
// has 4.6e-2 anyhow.)
inline constexpr int32_t kLevelLeastScale = 110, kLevelMostSpread = 12;
// The power of two that brings every sum over k of a levelled row into f16, in units of its scale: no value of h is above 480 (planes:
// 448 and a sixteenth of it), and no weight above 6 * 2^(kMaxScale - 127).
constexpr float LevelFactor(int32_t k) {
  float factor = 1.0f;
  while (factor * static_cast<float>(k) * 480.0f * 12.0f > 65504.0f) factor *= 0.5f;
  return factor;
}

// out[token] = routed_scaling_factor * sum over slots of weight * slot, in slot order, in fp32. A token without any
// computed pair gets zeros.
struct CombineArgs {
  Routing routing;
  const int32_t* panel_row;  // null: slots are by pair
  const void* slots;
  int32_t slots_are_bf16;
  const int32_t* unfit;  // where 0, slots of kHalfSlot are of f16 (GemmArgs); null: none is
  const float*
      level_scale;      // [panel_rows] scales of rows of h, of slots of kLevelSlot; null: none is
  float level_unit;     // 1 / LevelFactor, or 1
  const void* weights;  // [tokens, top_k] or null (already applied)
  int32_t weight_is_bf16;
  float routed_scaling_factor;
  void* out;
  int64_t out_stride;  // elements
  int32_t out_is_f32;
  int32_t accumulate;  // out + y, rounded once
  int32_t hidden;
};
int LaunchCombine(const CombineArgs& args, KernelStream stream);

// The same for few pairs, on the plane and E4M3 paths and with the same bits: GEMM1 does what gather does as well, and up to kFewTokens2
// tokens GEMM2 what combine does, if `out` is not null; else it writes slots, and LaunchCombine may follow. Used where FewFits (few/geometry.h). Of the arguments
// panel rows, counts and scales are not looked at: `h` (GEMM1) and `panel` (GEMM2) are fp32 [pairs, intermediate],
// slots are by pair.
int LaunchFewGemm1(const GatherArgs& gather, const GemmArgs& gemm, KernelStream stream);
int LaunchFewGemm2(const GemmArgs& gemm, const CombineArgs& combine, KernelStream stream);

// Loads every kernel above into the current device and sets its shared-memory limits.
int LoadKernels();

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_LAUNCH_H_
