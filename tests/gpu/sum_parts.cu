#include "tests/gpu/sum_parts.h"

#include <cuda_bf16.h>

#include "tests/gpu/gpu_launch.cuh"

namespace dsv4mx::test {
namespace {

constexpr int kThreads = 256;

__global__ void SumKernel(PartList parts, int64_t first, int64_t count, void* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float sum = 0;
  for (int p = parts.count - 1; p >= 0; p--) {
    sum += parts.bf16
               ? __bfloat162float(static_cast<const __nv_bfloat16*>(parts.from[p])[first + i])
               : static_cast<const float*>(parts.from[p])[first + i];
  }
  if (parts.bf16) {
    static_cast<__nv_bfloat16*>(to)[i] = __float2bfloat16(sum);
  } else {
    static_cast<float*>(to)[i] = sum;
  }
}

}  // namespace

void SumParts(const PartList& parts, int64_t first, int64_t count, void* to, cudaStream_t stream) {
  Launch(SumKernel, (count + kThreads - 1) / kThreads, kThreads, stream, parts, first, count, to);
}

}  // namespace dsv4mx::test
