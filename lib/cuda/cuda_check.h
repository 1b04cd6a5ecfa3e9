// Checked CUDA calls: every failure becomes a status and one line that has the call, CUDA's name and its number.
#ifndef DSV4MX_LIB_CUDA_CUDA_CHECK_H_
#define DSV4MX_LIB_CUDA_CUDA_CHECK_H_

#include <cuda_runtime_api.h>

#include "lib/core/status.h"

namespace dsv4mx::cuda {

// Whether an error means that the CUDA context is beyond use: every later call on it fails with the same error, whoever
// caused it. Others belong to the call that returned them.
bool IsSticky(cudaError_t error);

// OUT_OF_MEMORY for a failed allocation, else CUDA_ERROR. `call` is the text of the call.
Status FailCuda(cudaError_t error, const char* call);

inline Status Check(cudaError_t error, const char* call) {
  return error == cudaSuccess ? kOk : FailCuda(error, call);
}
// Launch functions of kernels/ return their cudaError_t as int.
inline Status Check(int error, const char* call) {
  return Check(static_cast<cudaError_t>(error), call);
}

}  // namespace dsv4mx::cuda

#define DSV4MX_CUDA(expr) DSV4MX_TRY(::dsv4mx::cuda::Check((expr), #expr))

#endif  // DSV4MX_LIB_CUDA_CUDA_CHECK_H_
