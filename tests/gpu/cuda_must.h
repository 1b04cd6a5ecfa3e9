// CUDA runtime calls of the tests: what fails is thrown with its name and text. C++17, for nvcc too.
#ifndef DSV4MX_TESTS_GPU_CUDA_MUST_H_
#define DSV4MX_TESTS_GPU_CUDA_MUST_H_

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace dsv4mx::test {

inline void CudaMust(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(call) + ": " + cudaGetErrorName(error) + ": " +
                           cudaGetErrorString(error));
}

}  // namespace dsv4mx::test

#define CUDA_MUST(expr) ::dsv4mx::test::CudaMust((expr), #expr)

#endif  // DSV4MX_TESTS_GPU_CUDA_MUST_H_
