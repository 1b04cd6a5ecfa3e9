#include "lib/cpu/routing.h"

#include <algorithm>

#include "lib/base/float_bits.h"

namespace dsv4mx::cpu {
namespace {

template <class Id>
void RouteTyped(const LayerSpec& spec, const Id* ids, int64_t tokens, Routing* r) {
  const int64_t all = tokens * spec.top_k;
  std::fill_n(r->count, spec.experts, 0);
  for (int64_t p = 0; p < all; ++p) {
    const int32_t expert = spec.LocalExpert(ids[p]);
    r->place[p] = expert;  // for the moment
    if (expert >= 0) ++r->count[expert];
  }
  r->pairs = 0;
  r->hit = 0;
  for (int32_t e = 0; e < spec.experts; ++e) {
    const int32_t count = r->count[e];
    r->count[e] = r->pairs;  // from now on the expert's next free place
    if (count == 0) continue;
    r->experts[r->hit] = e;
    r->begin[r->hit++] = r->pairs;
    r->pairs += count;
  }
  r->begin[r->hit] = r->pairs;
  for (int64_t p = 0; p < all; ++p) {
    if (r->place[p] < 0) continue;
    const int32_t place = r->count[r->place[p]]++;
    r->pair[place] = static_cast<int32_t>(p);
    r->place[p] = place;
  }
}

}  // namespace

Routing CarveRouting(const LayerSpec& spec, int64_t tokens, Carver* carver) {
  const int64_t pairs = tokens * spec.top_k, hit = std::min<int64_t>(spec.experts, pairs);
  Routing r;
  r.experts = carver->Take<int32_t>(hit);
  r.begin = carver->Take<int32_t>(hit + 1);
  r.pair = carver->Take<int32_t>(pairs);
  r.place = carver->Take<int32_t>(pairs);
  r.count = carver->Take<int32_t>(spec.experts);
  return r;
}

void Route(const LayerSpec& spec, const void* ids, int64_t tokens, Routing* routing) {
  if (spec.ids_dtype == DSV4MX_DTYPE_I64) {
    RouteTyped(spec, static_cast<const int64_t*>(ids), tokens, routing);
  } else {
    RouteTyped(spec, static_cast<const int32_t*>(ids), tokens, routing);
  }
}

float RouterWeight(const LayerSpec& spec, const void* weights, int64_t pair) {
  return spec.router_weight_dtype == DSV4MX_DTYPE_BF16
             ? FloatFromBf16(static_cast<const uint16_t*>(weights)[pair])
             : static_cast<const float*>(weights)[pair];
}

const void* TokenRow(const LayerSpec& spec, const void* base, dsv4mx_dtype dtype, int64_t token) {
  const int64_t bytes = dtype == DSV4MX_DTYPE_I64 ? 8 : dtype == DSV4MX_DTYPE_BF16 ? 2 : 4;
  return static_cast<const uint8_t*>(base) + token * spec.top_k * bytes;
}

}  // namespace dsv4mx::cpu
