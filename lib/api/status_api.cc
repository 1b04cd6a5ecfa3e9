// Status: names of codes, and the thread's error text.
#include "lib/base/status.h"

const char* dsv4mx_status_name(dsv4mx_status status) {
  switch (status) {
    case DSV4MX_STATUS_OK:
      return "OK";
    case DSV4MX_STATUS_INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case DSV4MX_STATUS_INVALID_STRUCT:
      return "INVALID_STRUCT";
    case DSV4MX_STATUS_INVALID_STATE:
      return "INVALID_STATE";
    case DSV4MX_STATUS_INVALID_TENSOR:
      return "INVALID_TENSOR";
    case DSV4MX_STATUS_INVALID_SCALE:
      return "INVALID_SCALE";
    case DSV4MX_STATUS_NOT_FOUND:
      return "NOT_FOUND";
    case DSV4MX_STATUS_INVALID_ID:
      return "INVALID_ID";
    case DSV4MX_STATUS_UNSUPPORTED:
      return "UNSUPPORTED";
    case DSV4MX_STATUS_UNSUPPORTED_SHAPE:
      return "UNSUPPORTED_SHAPE";
    case DSV4MX_STATUS_UNSUPPORTED_DTYPE:
      return "UNSUPPORTED_DTYPE";
    case DSV4MX_STATUS_UNSUPPORTED_DEVICE:
      return "UNSUPPORTED_DEVICE";
    case DSV4MX_STATUS_OUT_OF_MEMORY:
      return "OUT_OF_MEMORY";
    case DSV4MX_STATUS_WORKSPACE_TOO_SMALL:
      return "WORKSPACE_TOO_SMALL";
    case DSV4MX_STATUS_BUFFER_TOO_SMALL:
      return "BUFFER_TOO_SMALL";
    case DSV4MX_STATUS_MISALIGNED:
      return "MISALIGNED";
    case DSV4MX_STATUS_CUDA_ERROR:
      return "CUDA_ERROR";
    case DSV4MX_STATUS_NO_DEVICE:
      return "NO_DEVICE";
    case DSV4MX_STATUS_CUDA_STICKY:
      return "CUDA_STICKY";
    case DSV4MX_STATUS_COMM_ERROR:
      return "COMM_ERROR";
    case DSV4MX_STATUS_COMM_TIMEOUT:
      return "COMM_TIMEOUT";
    case DSV4MX_STATUS_COMM_RANK_LOST:
      return "COMM_RANK_LOST";
    case DSV4MX_STATUS_COMM_MISMATCH:
      return "COMM_MISMATCH";
    case DSV4MX_STATUS_NCCL_UNAVAILABLE:
      return "NCCL_UNAVAILABLE";
    case DSV4MX_STATUS_NCCL_ERROR:
      return "NCCL_ERROR";
    case DSV4MX_STATUS_IO_ERROR:
      return "IO_ERROR";
    case DSV4MX_STATUS_FORMAT_ERROR:
      return "FORMAT_ERROR";
    case DSV4MX_STATUS_CANCELLED:
      return "CANCELLED";
    case DSV4MX_STATUS_DEADLINE_EXCEEDED:
      return "DEADLINE_EXCEEDED";
    case DSV4MX_STATUS_INTERNAL:
      return "INTERNAL";
    default:
      return "UNKNOWN";
  }
}

const char* dsv4mx_last_error(void) {
  return dsv4mx::LastError();
}
