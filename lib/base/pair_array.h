// Ids and router weights as the caller of apply holds them.
#ifndef DSV4MX_LIB_BASE_PAIR_ARRAY_H_
#define DSV4MX_LIB_BASE_PAIR_ARRAY_H_

#include <cstdint>

#include "lib/base/backend.h"
#include "lib/base/spec.h"

namespace dsv4mx {

// One number per (token, slot) as the caller holds them: ids or router weights, rows `stride` elements apart.
struct PairArray {
  const void* data;
  dsv4mx_dtype dtype;
  int64_t stride;

  // The same from token `token` on.
  PairArray From(int64_t token) const;
  int64_t Id(int64_t token, int slot) const;
  float Weight(int64_t token, int slot) const;
};
PairArray IdsOf(const LayerSpec& spec, const ApplyCall& call);
PairArray WeightsOf(const LayerSpec& spec, const ApplyCall& call);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_PAIR_ARRAY_H_
