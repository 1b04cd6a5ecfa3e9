// A plain fp64 reference of the layer on the device, from raw codes and scale bytes: fast enough for real sizes, row by
// row, and with nothing in common with the library's kernels. The same formulas as tests/reference.cc, against which a
// test checks it. C++17, for nvcc too.
#ifndef DSV4MX_TESTS_GPU_GPU_REFERENCE_H_
#define DSV4MX_TESTS_GPU_GPU_REFERENCE_H_

#include <cstdint>
#include <vector>

namespace dsv4mx::test {

// Experts as a checkpoint holds them, in device memory; gate and up are [hidden -> intermediate], down the other way.
struct GpuExperts {
  int64_t hidden, intermediate;
  const uint8_t* codes[3];   // [experts, rows, k/2], low nibble = even k
  const uint8_t* scales[3];  // [experts, rows, k/32]
  const float* bias[3];      // [experts, rows] or null
};

// One (token, slot) that is computed here.
struct GpuPair {
  int64_t token;
  int32_t expert;  // local
  float weight;
};

struct GpuSemantics {
  bool gptoss;
  double clamp, alpha, beta;  // clamp 0 = none
  bool weight_before_w2, weight_on_input;
  double routed_scaling_factor;
  bool quantised;  // W4A8
};

// Results in host memory, [rows, hidden]: see tests/reference.h. planes: how far two E4M3 planes may be off because the
// tensor cores add with about 14 bits relative to what is added, which shows where products cancel:
// |rsf| * sum_k |w_k| * |W2| . (2^-13 |h| + what h moves when gate and up move by 2^-13 sum |w13 x|)
// W4A8: spec, bound and planes are those of activations that pass through E4M3, and planes also holds what h moves where it
// rounds to another E4M3 number for such a doubt.
// moved, [rows], W4A16: what share of a row's norm is in values of h that sums of fp32 may round to another neighbour in bf16 than spec
// does, as a root of a sum of squares. Columns of w2 count alike, which they do where hidden is long.
struct GpuTruth {
  std::vector<double> truth, spec, bound, planes, moved;
};

// Row r has the pairs [first[r], first[r + 1]) in slot order; first has one entry more than there are rows. x is bf16 in
// device memory, `x_stride` elements from row to row.
GpuTruth ComputeTruth(const GpuExperts& experts, const GpuSemantics& semantics, const uint16_t* x,
                      int64_t x_stride, const std::vector<GpuPair>& pairs,
                      const std::vector<int64_t>& first);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_GPU_REFERENCE_H_
