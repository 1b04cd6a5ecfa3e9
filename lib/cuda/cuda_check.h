// Checked CUDA calls: every failure becomes a status and one line that has the call, CUDA's name and its number.
#ifndef DSV4MX_LIB_CUDA_CUDA_CHECK_H_
#define DSV4MX_LIB_CUDA_CUDA_CHECK_H_

#include <cuda_runtime_api.h>

#include "lib/base/status.h"

namespace dsv4mx::cuda {

// Whether an error means that the CUDA context is beyond use: every later call on it fails with the same error, whoever
// caused it. Others belong to the call that returned them.
bool IsSticky(cudaError_t error);

// OUT_OF_MEMORY for a failed allocation, else CUDA_ERROR. `call` is the text of the call.
Status FailCuda(cudaError_t error, const char* call);
// The same where this call of the library has nothing running on the device yet: what is broken was broken before, which
// is CUDA_STICKY.
Status FailBefore(cudaError_t error, const char* call);

inline Status Check(cudaError_t error, const char* call) {
  return error == cudaSuccess ? kOk : FailCuda(error, call);
}
// Launch functions of kernels/ return their cudaError_t as int.
inline Status Check(int error, const char* call) {
  return Check(static_cast<cudaError_t>(error), call);
}
inline Status CheckBefore(cudaError_t error, const char* call) {
  return error == cudaSuccess ? kOk : FailBefore(error, call);
}

// The runtime's "last error" is a variable per thread of our own runtime. Where libdsv4mx.a is linked beside the host's own
// static runtime the variable is shared, so it is never read as a result, and cleared only of what this library left in it:
// if it was empty before. (A failure of ours on top of an unread one of the host's replaces it; nothing can put that back.)
class KeepLastError {
 public:
  KeepLastError() : clean_(cudaPeekAtLastError() == cudaSuccess) {}
  ~KeepLastError() { Restore(); }
  void Restore() {
    if (clean_) (void)cudaGetLastError();
    clean_ = false;
  }
  KeepLastError(const KeepLastError&) = delete;
  KeepLastError& operator=(const KeepLastError&) = delete;

 private:
  bool clean_;
};

}  // namespace dsv4mx::cuda

#define DSV4MX_CUDA(expr) DSV4MX_TRY(::dsv4mx::cuda::Check((expr), #expr))

#endif  // DSV4MX_LIB_CUDA_CUDA_CHECK_H_
