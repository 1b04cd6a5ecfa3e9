// What the backend runs on, decided over plain facts, so that every refusal is tested without a device or a driver. The
// one who gathers the facts is Device::Open.
#ifndef DSV4MX_LIB_CUDA_CUDA_SUPPORT_H_
#define DSV4MX_LIB_CUDA_CUDA_SUPPORT_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "lib/base/status.h"

namespace dsv4mx::cuda {

// CUDA writes versions as 1000 * major + 10 * minor.
struct DriverFacts {
  int32_t installed = 0;            // CUDA version of the driver; 0 = none was found
  int32_t runtime = 0;              // of the runtime that this library is linked with
  cudaError_t error = cudaSuccess;  // what cudaGetDeviceCount said
  int32_t devices = 0;
};

// The least CUDA version of a driver. A runtime runs on every driver of its major version: CUDA 13.x on 580 and newer,
// CUDA 12.x on 525 and newer. Apply can be captured, and its kernels are programmatic dependents of each other, for which
// graphs have edges since CUDA 12.3 (545).
int32_t NeededDriver(int32_t runtime);

// NO_DEVICE without a driver or the device; UNSUPPORTED_DEVICE for a driver that cannot run this build; CUDA_STICKY or
// CUDA_ERROR for what has nothing to do with either.
Status CheckDriver(const DriverFacts& facts, int32_t ordinal);
// UNSUPPORTED_DEVICE for a driver that lacks a function that every needed one has.
Status RefuseDriverWithout(const char* function, int32_t runtime);

struct DeviceFacts {
  int32_t ordinal = 0;
  const char* name = "";
  int32_t major = 0, minor = 0;  // compute capability
};
// The kernels are built for one architecture (lib/base/generation.h), whose code runs on no later one.
Status CheckDevice(const DeviceFacts& facts);

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_SUPPORT_H_
