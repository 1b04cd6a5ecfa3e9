// A small fp64 reference of the layer, straight from the formulas of dsv4mx.h and from raw codes: plain loops that share
// nothing with the library. It judges the library's two oracles, and gives the error bound of every element.
#ifndef DSV4MX_TESTS_REFERENCE_H_
#define DSV4MX_TESTS_REFERENCE_H_

#include <cstdint>
#include <vector>

#include "tests/layer_data.h"

namespace dsv4mx::test {

struct Reference {
  int64_t rows = 0, hidden = 0;
  std::vector<int64_t> tokens;  // which token each row is
  std::vector<double> truth;    // [rows, hidden], nothing rounded
  // h rounded once to bf16, in W4A8 x and then h also to E4M3; the last rounding to the output type is not made
  std::vector<double> spec;
  std::vector<double> bound;                    // |rsf| * sum_k |w_k| * (|W2| . |h|)
  std::vector<double> planes = {}, moved = {};  // GPU only: tests/gpu/gpu_reference.h
};

// Rows for `tokens` (empty = all).
Reference Compute(const Case& c, std::vector<int64_t> tokens = {});

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_REFERENCE_H_
