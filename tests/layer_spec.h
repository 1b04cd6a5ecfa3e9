// Sizes of a layer for tests of the layers below the API: it holds all its experts and the whole intermediate size.
#ifndef DSV4MX_TESTS_LAYER_SPEC_H_
#define DSV4MX_TESTS_LAYER_SPEC_H_

#include <cstdint>

#include "lib/base/spec.h"

namespace dsv4mx::test {

inline LayerSpec SpecOf(int32_t hidden, int32_t intermediate, int32_t experts = 1,
                        int32_t top_k = 1) {
  LayerSpec spec;
  spec.hidden = hidden;
  spec.intermediate = spec.intermediate_global = intermediate;
  spec.experts = spec.placement.experts = experts;
  spec.placement.experts_global = spec.placement.id_count = experts;
  spec.top_k = top_k;
  return spec;
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_LAYER_SPEC_H_
