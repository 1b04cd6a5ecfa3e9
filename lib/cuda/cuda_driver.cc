#include "lib/cuda/cuda_driver.h"

#include <mutex>

#include "lib/cuda/cuda_support.h"

namespace dsv4mx::cuda {
namespace {

std::mutex mutex;
bool loaded = false;
Driver driver;

template <class F>
Status FindFunction(const char* name, F* out) {
  constexpr unsigned kVersion = 12000;  // of the interface: all that is used is older
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  void* function = nullptr;
  DSV4MX_CUDA(
      cudaGetDriverEntryPointByVersion(name, &function, kVersion, cudaEnableDefault, &result));
  if (function == nullptr || result != cudaDriverEntryPointSuccess)
    return RefuseDriverWithout(name, CUDART_VERSION);
  *out = reinterpret_cast<F>(function);
  return kOk;
}

}  // namespace

Status Driver::Find(Driver* out) {
  Driver d;
  DSV4MX_TRY(FindFunction("cuCtxGetCurrent", &d.get_current));
  DSV4MX_TRY(FindFunction("cuCtxSetCurrent", &d.set_current));
  DSV4MX_TRY(FindFunction("cuDeviceGet", &d.get_device));
  DSV4MX_TRY(FindFunction("cuDevicePrimaryCtxRetain", &d.retain_primary));
  DSV4MX_TRY(FindFunction("cuMemGetAllocationGranularity", &d.granularity));
  DSV4MX_TRY(FindFunction("cuMemAddressReserve", &d.reserve));
  DSV4MX_TRY(FindFunction("cuMemAddressFree", &d.free_address));
  DSV4MX_TRY(FindFunction("cuMemCreate", &d.create));
  DSV4MX_TRY(FindFunction("cuMemRelease", &d.release));
  DSV4MX_TRY(FindFunction("cuMemMap", &d.map));
  DSV4MX_TRY(FindFunction("cuMemUnmap", &d.unmap));
  DSV4MX_TRY(FindFunction("cuMemSetAccess", &d.set_access));
  DSV4MX_TRY(FindFunction("cuMemExportToShareableHandle", &d.share));
  DSV4MX_TRY(FindFunction("cuMemImportFromShareableHandle", &d.import));
  *out = d;
  return kOk;
}

Status LoadDriver() {
  const std::lock_guard<std::mutex> lock(mutex);
  if (loaded) return kOk;
  DSV4MX_TRY(Driver::Find(&driver));
  loaded = true;
  return kOk;
}

const Driver& TheDriver() {
  return driver;
}

}  // namespace dsv4mx::cuda
