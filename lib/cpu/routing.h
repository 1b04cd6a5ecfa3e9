// Which (token, slot) pairs go to which local expert: a stable counting sort, the first step of every apply.
#ifndef DSV4MX_LIB_CPU_ROUTING_H_
#define DSV4MX_LIB_CPU_ROUTING_H_

#include <cstdint>

#include "lib/base/backend.h"
#include "lib/base/carver.h"
#include "lib/base/pair_array.h"
#include "lib/base/spec.h"

namespace dsv4mx::cpu {

struct Routing {
  int32_t pairs = 0;           // local pairs
  int32_t hit = 0;             // experts with at least one
  int32_t* experts = nullptr;  // [hit] local experts, ascending
  int32_t* begin = nullptr;    // [hit + 1] their first place in `pair`
  int32_t* pair = nullptr;     // [pairs] token * top_k + slot, ascending within an expert
  int32_t* place = nullptr;  // [tokens * top_k] place of a pair in `pair`, or -1 if it is not local
  int32_t* count = nullptr;  // [experts] scratch
};

// Takes the arrays for up to `tokens` tokens from the carver.
Routing CarveRouting(const LayerSpec& spec, int64_t tokens, Carver* carver);

// Fills them for the tokens whose ids begin at `ids`. Writes nothing for pairs that are not local but their place.
void Route(const LayerSpec& spec, const PairArray& ids, int64_t tokens, Routing* routing);
// The same of local experts [tokens, top_k], -1 = none.
void RouteLocal(const LayerSpec& spec, const int32_t* experts, int64_t tokens, Routing* routing);

// Adds the pairs of each local expert to what the caller counts, if it does.
void CountPairs(const Routing& routing, int64_t* expert_counts);

// Refuses ids of no expert with INVALID_ID, naming the first, and says how many there are.
Status CheckIds(const LayerSpec& spec, const PairArray& ids, int64_t tokens, int64_t* invalid);

// Router weight of pair `pair`, counted from `weights`.
inline float RouterWeight(const LayerSpec& spec, const PairArray& weights, int64_t pair) {
  return weights.Weight(pair / spec.top_k, static_cast<int>(pair % spec.top_k));
}

}  // namespace dsv4mx::cpu

#endif  // DSV4MX_LIB_CPU_ROUTING_H_
