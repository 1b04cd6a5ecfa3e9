// A stream that may use a few multiprocessors only: a green context of the device's primary context. Its calls are asked
// for at run time: they came with the drivers for CUDA 12.4 and 12.5.
#ifndef DSV4MX_TESTS_GPU_FEW_MULTIPROCESSORS_H_
#define DSV4MX_TESTS_GPU_FEW_MULTIPROCESSORS_H_

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <memory>
#include <string>

namespace dsv4mx::test {

class FewMultiprocessors {
 public:
  // At least `count` of the current device. "" or why there is no such thing here; what fails otherwise is thrown.
  static std::string Make(unsigned count, std::unique_ptr<FewMultiprocessors>* out);
  ~FewMultiprocessors();
  FewMultiprocessors(const FewMultiprocessors&) = delete;
  FewMultiprocessors& operator=(const FewMultiprocessors&) = delete;

  cudaStream_t stream() const { return stream_; }  // non-blocking
  unsigned multiprocessors() const { return multiprocessors_; }
  CUcontext context() const { return context_; }  // the green one, to be made current

 private:
  FewMultiprocessors() = default;
  CUgreenCtx green_ = nullptr;
  CUcontext context_ = nullptr;
  cudaStream_t stream_ = nullptr;
  unsigned multiprocessors_ = 0;
};

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_FEW_MULTIPROCESSORS_H_
