#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {

bool IsSticky(cudaError_t error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorContained:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorContextIsDestroyed:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorExternalDevice:
    case cudaErrorMpsClientTerminated:
      return true;
    default:
      return false;
  }
}

Status FailCuda(cudaError_t error, const char* call) {
  // The call's name alone: its arguments are this library's own.
  int length = 0;
  while (call[length] != 0 && call[length] != '(' && length < 80) ++length;
  if (error == cudaErrorMemoryAllocation) {
    return Fail(DSV4MX_STATUS_OUT_OF_MEMORY, "%.*s found no memory: %s (%d)", length, call,
                cudaGetErrorName(error), static_cast<int>(error));
  }
  return Fail(DSV4MX_STATUS_CUDA_ERROR, "%.*s failed: %s (%d), %s%s", length, call,
              cudaGetErrorName(error), static_cast<int>(error), cudaGetErrorString(error),
              IsSticky(error) ? "; work on the device broke its CUDA context during the call" : "");
}

Status FailBefore(cudaError_t error, const char* call) {
  // Not by a kernel: the host reset the device, or destroyed its primary context.
  DSV4MX_RETURN_IF(
      error == cudaErrorContextIsDestroyed, DSV4MX_STATUS_CUDA_STICKY,
      "the CUDA context was destroyed before this call (cudaDeviceReset?): %s (%d), %s; "
      "wanted a process that keeps it",
      cudaGetErrorName(error), static_cast<int>(error), cudaGetErrorString(error));
  DSV4MX_RETURN_IF(IsSticky(error), DSV4MX_STATUS_CUDA_STICKY,
                   "the CUDA context was broken before this call: %s (%d), %s; wanted a process "
                   "whose kernels have not failed",
                   cudaGetErrorName(error), static_cast<int>(error), cudaGetErrorString(error));
  return FailCuda(error, call);
}
}  // namespace dsv4mx::cuda
