// The sum of several arrays on the device, from the last to the first. C++17, for nvcc too.
#ifndef DSV4MX_TESTS_GPU_SUM_PARTS_H_
#define DSV4MX_TESTS_GPU_SUM_PARTS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace dsv4mx::test {

struct PartList {
  static constexpr int kMost = 16;
  const void* from[kMost];
  int count;
  bool bf16;  // else fp32
};
// Elements first..first+count-1 of each part.
void SumParts(const PartList& parts, int64_t first, int64_t count, void* to, cudaStream_t stream);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_SUM_PARTS_H_
