// A thread's sums of a tile of planes, of whichever width: all widths share the code behind their loops. It is larger than a loop,
// and a copy for each width would have to be fetched anew whenever a tile of another width follows.
#ifndef DSV4MX_KERNELS_MMA_PLANE_SUMS_CUH_
#define DSV4MX_KERNELS_MMA_PLANE_SUMS_CUH_

namespace dsv4mx {

// Tokens are 4j + t. What is behind the tile's tokens holds any number up to the end of a step, and nothing beyond.
template <class C>
struct PlaneSums {
  static constexpr int kTokens = C::kColumns / 8;  // of a thread
  static constexpr int kStep = 4;  // tokens of a thread that are computed side by side
  static constexpr int kSteps = kTokens / kStep;
  static_assert(kTokens % kStep == 0, "the widest tile is whole steps");
  static constexpr int kTiles = C::kTilesEach;
  float at[kTiles][2 * kTokens];  // [tile][token][row half]

  template <int Tokens>
  __device__ __forceinline__ void Take(const float (&acc)[kTiles][2 * Tokens]) {
#pragma unroll
    for (int which = 0; which < kTiles; which++) {
#pragma unroll
      for (int i = 0; i < (Tokens + kStep - 1) / kStep * kStep * 2; i++)
        at[which][i] = i < 2 * Tokens ? acc[which][i] : 0.0f;
    }
  }
  // From one of the warpgroup's tiles on.
  __device__ __forceinline__ void Clear(int first) {
#pragma unroll
    for (int which = 0; which < kTiles; which++) {
      if (which < first) continue;
#pragma unroll
      for (int i = 0; i < 2 * kTokens; i++) at[which][i] = 0.0f;
    }
  }
  // f(first token of a thread) for each step that holds any of the tile's tokens.
  template <class F>
  __device__ __forceinline__ static void ForSteps(int count, F f) {
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
      if (step > 0 && 4 * kStep * step >= count) break;
      f(step * kStep);
    }
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MMA_PLANE_SUMS_CUH_
