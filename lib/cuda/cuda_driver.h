// What is called of the CUDA driver itself. It is not linked, so that the library loads on machines without one: its functions
// are asked for when the first device is opened, all at once, in this one table.
#ifndef DSV4MX_LIB_CUDA_CUDA_DRIVER_H_
#define DSV4MX_LIB_CUDA_CUDA_DRIVER_H_

#include <cuda.h>

#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {

struct Driver {
  // Contexts.
  decltype(&cuCtxGetCurrent) get_current = nullptr;
  decltype(&cuCtxSetCurrent) set_current = nullptr;
  decltype(&cuDeviceGet) get_device = nullptr;
  decltype(&cuDevicePrimaryCtxRetain) retain_primary = nullptr;
  // Virtual memory.
  decltype(&cuMemGetAllocationGranularity) granularity = nullptr;
  decltype(&cuMemAddressReserve) reserve = nullptr;
  decltype(&cuMemAddressFree) free_address = nullptr;
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;
  decltype(&cuMemExportToShareableHandle) share = nullptr;
  decltype(&cuMemImportFromShareableHandle) import = nullptr;

  // UNSUPPORTED_DEVICE, by name, for a driver that lacks one.
  static Status Find(Driver* out);
};

// Fills the table that TheDriver gives; does nothing once that is done.
Status LoadDriver();
// Complete, and constant, from the first successful LoadDriver on.
const Driver& TheDriver();

// The runtime's numbers are the driver's.
inline cudaError_t RuntimeError(CUresult result) {
  return static_cast<cudaError_t>(result);
}
inline Status CheckDriverCall(CUresult result, const char* call) {
  return Check(RuntimeError(result), call);
}

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_DRIVER_H_
