// Which (token, slot) pairs go to which local expert: a stable counting sort, the first step of every apply.
#ifndef DSV4MX_LIB_CPU_ROUTING_H_
#define DSV4MX_LIB_CPU_ROUTING_H_

#include <cstdint>

#include "lib/base/carver.h"
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
void Route(const LayerSpec& spec, const void* ids, int64_t tokens, Routing* routing);

// Router weight of pair `pair`, counted from `weights`.
float RouterWeight(const LayerSpec& spec, const void* weights, int64_t pair);

// First element of token `token` in a [tokens, top_k] array whose elements have `dtype`.
const void* TokenRow(const LayerSpec& spec, const void* base, dsv4mx_dtype dtype, int64_t token);

}  // namespace dsv4mx::cpu

#endif  // DSV4MX_LIB_CPU_ROUTING_H_
