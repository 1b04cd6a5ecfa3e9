// The kernels of TP_INVARIANT: GEMM2 on some of the channels held here, and the tree in which such slices are added.
//
// A slice is a multiple of 128 channels, so that no block of w2's layout and no block of h's scales straddles it, and its
// products are added in the same order on whichever rank it lies and wherever on it. Slices go by the bf16 path alone: what it
// computes of a slice depends on nothing else, where planes have exponent bases for 512 channels at a time.
//
// After slice s the sums of its tokens meet those of the slices before it as a binary counter counts: as many levels fold as s
// has trailing ones. What a rank has in the end is the subtree of its slices; Reduce adds those of the ranks in the same tree.
#ifndef DSV4MX_KERNELS_DIST_LAUNCH_SLICES_H_
#define DSV4MX_KERNELS_DIST_LAUNCH_SLICES_H_

#include "kernels/launch.h"

namespace dsv4mx::dist {

inline constexpr int32_t kSliceUnit = 128;  // channels

// GEMM2 with `k`, matrix and panel of the slice; tiles of w2 follow each other as those of all channels held here.
struct SliceGemmArgs {
  GemmArgs gemm;
  int64_t tile_bytes;
};
int LaunchSliceGemm2(Path path, const SliceGemmArgs& args, KernelStream stream);

// The slice's sum over the slots of each token, in slot order; then, unless it is the last, into its level.
struct SliceSumArgs {
  CombineArgs combine;  // with fp32 slots; `out` and what belongs to it are of the last slice
  float* levels;        // [log2 of the slices][level_rows][hidden], from this chunk's first row on
  int64_t level_rows;
  int32_t slice, last;
};
int LaunchSliceSum(const SliceSumArgs& args, KernelStream stream);

int LoadSlices();

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_LAUNCH_SLICES_H_
