// W4A8's activation: from a warpgroup's sums to h as W4A16 has it, rounded to bf16. What is computed from rows past the last token
// stays in their columns.
#ifndef DSV4MX_KERNELS_EPILOGUE_HIDDEN_PAIRS_CUH_
#define DSV4MX_KERNELS_EPILOGUE_HIDDEN_PAIRS_CUH_

#include "kernels/epilogue/activation.cuh"
#include "kernels/epilogue/bias.cuh"
#include "kernels/mma/e4m3_sums.cuh"

namespace dsv4mx {

// h[sum][j]: tokens 8j + 2t and 8j + 2t + 1 of that sum's tile and half. Zero in tiles past the matrix's end.
template <class C, int Width>
__device__ __forceinline__ void HiddenPairs(E4m3Sums<C, Width>& loop, const GemmKernelArgs& a,
                                            const WorkTile& work, const MmaThread& me,
                                            const uint8_t* slab, uint32_t scales,
                                            uint32_t (&h)[C::kTilesEach * C::kHalves][Width / 8]) {
  constexpr int kEach = C::kTilesEach, kSums = kEach * C::kHalves, kPairs = Width / 8;
  const Activation act = MakeActivation(a);
  RowBias bias[kEach];
#pragma unroll
  for (int which = 0; which < kEach; which++) {
    bias[which] = work.tile + which < a.tiles ? LoadBias(a, slab, work.tile + which, me)
                                              : RowBias{0.0f, 0.0f};
  }
  uint32_t gate = 0;
#pragma unroll
  for (int half = 0; half < C::kHalves; half++) {
#pragma unroll
    for (int j = 0; j < kPairs; j++) {
      const float2 scale = LoadSharedFloat2(scales + (half * Width + 8 * j + 2 * me.t) * 4);
#pragma unroll
      for (int which = 0; which < kEach; which++) {
        float* const acc = loop.acc[half * kEach + which] + 4 * j;
        acc[0] = fmaf(acc[0], scale.x, bias[which].row0);
        acc[1] = fmaf(acc[1], scale.y, bias[which].row0);
        acc[2] = fmaf(acc[2], scale.x, bias[which].row1);
        acc[3] = fmaf(acc[3], scale.y, bias[which].row1);
        gate = max(gate, max(__float_as_uint(acc[0]), __float_as_uint(acc[1])));
      }
    }
  }
  const auto each = [&](auto activate) {
#pragma unroll
    for (int sum = 0; sum < kSums; sum++) {
#pragma unroll
      for (int j = 0; j < kPairs; j++) {
        float* const acc = loop.acc[sum] + 4 * j;
        acc[0] = activate(acc[0], acc[2]);
        acc[1] = activate(acc[1], acc[3]);
      }
    }
  };
  const bool near = __all_sync(~0u, gate <= FarGate(act));
  if (near && !IsSitu(act) && a.hidden_weight == nullptr && work.tile + kEach <= a.tiles) {
    each([&](float g, float u) { return NearGatedOf(g, u, act); });
  } else {
    ActivateAll(act, each);
#pragma unroll
    for (int sum = 0; sum < kSums; sum++) {
#pragma unroll
      for (int j = 0; j < kPairs; j++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const int m = sum / kEach * Width + 8 * j + 2 * me.t + i;
          float weight = 1.0f;
          if (a.hidden_weight != nullptr && m < work.count)
            weight = a.hidden_weight[work.panel_row + m];
          float& value = loop.acc[sum][4 * j + i];
          value = work.tile + sum % kEach < a.tiles ? value * weight : 0.0f;
        }
      }
    }
  }
#pragma unroll
  for (int sum = 0; sum < kSums; sum++) {
#pragma unroll
    for (int j = 0; j < kPairs; j++) {
      const float* const acc = loop.acc[sum] + 4 * j;
      h[sum][j] = Bf16Pair(acc[0], acc[1]);
    }
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_HIDDEN_PAIRS_CUH_
