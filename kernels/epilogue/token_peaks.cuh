// The largest magnitudes of a warp's tokens, where a lane holds two tokens of every eight: lanes of one t and all g hold the same
// tokens. Each step halves how many a lane still holds, so that all of them cost little more than two would with a
// reduction each.
#ifndef DSV4MX_KERNELS_EPILOGUE_TOKEN_PEAKS_CUH_
#define DSV4MX_KERNELS_EPILOGUE_TOKEN_PEAKS_CUH_

#include <cstdint>

#include "kernels/ptx/bits.cuh"

namespace dsv4mx {

// Of so many pairs of bf16, one for eight tokens, how many a lane is left with.
__device__ __forceinline__ constexpr int PeaksLeft(int count) {
  return (count + 7) / 8;
}
// Leaves in top[0], top[1] ... the warp's largest magnitudes, with any sign, of the pairs that begin with the one returned. Where
// a step meets an odd number, both lanes keep the middle one.
template <int Count, int With = 4, int Size>
__device__ __forceinline__ int WarpPeaks(uint32_t (&top)[Size], int lane) {
  if constexpr (With == 32) {
    return 0;
  } else {
    constexpr int kept = (Count + 1) / 2, passed = Count - kept;
    const bool upper = (lane & With) != 0;
#pragma unroll
    for (int i = 0; i < kept; i++) {
      const uint32_t own = upper ? top[i + passed] : top[i];
      const uint32_t other = upper ? top[i] : top[i + passed];
      top[i] = LargerMagnitudes(own, __shfl_xor_sync(~0u, other, With));
    }
    return (upper ? passed : 0) + WarpPeaks<kept, 2 * With>(top, lane);
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_TOKEN_PEAKS_CUH_
