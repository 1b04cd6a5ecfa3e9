// The sums that end a call: rows of routes, of ranks or of slices, in fp32 and in a fixed order.
#ifndef DSV4MX_LIB_DIST_SUMS_H_
#define DSV4MX_LIB_DIST_SUMS_H_

#include <cstdint>

#include "lib/base/backend.h"
#include "lib/base/spec.h"

namespace dsv4mx::dist {

inline constexpr int64_t kRun = 256;  // elements at a time

// y = row * weight in fp32, rounded: a product is never fused into the sum it goes to, as in the layer's own combine.
void Weigh(const void* row, dsv4mx_dtype dtype, float weight, int64_t count, float* y);
// The same without a weight.
void Widen(const void* row, dsv4mx_dtype dtype, int64_t count, float* y);
void Add(const float* y, int64_t count, float* sum);
void Narrow(const float* y, dsv4mx_dtype dtype, int64_t count, void* row);

// Row `token` of the caller's output from its unscaled sum, `begin` on.
void Write(const LayerSpec& spec, const ApplyCall& call, int64_t token, int64_t begin,
           int64_t count, const float* sum);
// NaN in rows 0..tokens-1.
void Poison(const LayerSpec& spec, const ApplyCall& call, int64_t tokens);

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_SUMS_H_
