#include "lib/base/generation.h"

#include "dsv4mx_architecture.h"
#include "kernels/few/geometry.h"
#include "lib/base/spec.h"

namespace dsv4mx {

extern const char kSm90Plan[];  // tuning/sm90.csv, by embed.py

static_assert(kMaxExperts <= kMostExperts && kMaxTopK <= kMostTopK,
              "the kernels have room for every layer that a description can ask for");
static_assert(kFewMaxTopK >= kMaxTopK, "so have those for few pairs");

const Generation kSm90 = {
    DSV4MX_CUDA_ARCHITECTURE,
    DSV4MX_CUDA_CAPABILITY,
    kSm90Plan,
    kTileWidths,
    kMaxScale,
    kF16LeastScale,
    kF16MostScale,
    kLevelLeastScale,
    kLevelMostSpread,
    kFewTokens,
    kFewPairs,
    kCountedInPlace,
    kSm90BaseK,
    [](int64_t hidden, int64_t intermediate, int64_t experts, int64_t pairs, int64_t top_k,
       bool quantised) { return FewFits(hidden, intermediate, experts, pairs, top_k, quantised); },
    [](int64_t tokens) { return tokens > kFewTokens2; },
    [](int64_t tokens) { return FewLaunches(tokens); },
    [](int64_t pairs) { return MoeLaunches(pairs); },
};

const Generation* FindGeneration(int32_t compute_capability) {
  return compute_capability == kSm90.compute_capability ? &kSm90 : nullptr;
}

}  // namespace dsv4mx
