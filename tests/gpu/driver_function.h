// Functions of the driver's API, which is not linked: they are asked for, as the library does.
#ifndef DSV4MX_TESTS_GPU_DRIVER_FUNCTION_H_
#define DSV4MX_TESTS_GPU_DRIVER_FUNCTION_H_

#include <cuda_runtime.h>

namespace dsv4mx::test {

// Null where the driver does not have it. version: of the interface, 1000 * major + 10 * minor.
template <class F>
F FindDriverFunction(const char* name, unsigned version) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &found, version, cudaEnableDefault, &result);
  if (error != cudaSuccess) (void)cudaGetLastError();
  const bool good = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
  return reinterpret_cast<F>(good ? found : nullptr);
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_DRIVER_FUNCTION_H_
