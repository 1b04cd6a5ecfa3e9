// A fake driver's functions by the names under which the runtime is asked for them. They stand in the library's own table, so
// that the compiler compares their types with the driver's.
#ifndef DSV4MX_TESTS_DRIVER_DRIVER_FUNCTIONS_H_
#define DSV4MX_TESTS_DRIVER_DRIVER_FUNCTIONS_H_

#include <cstring>

#include "lib/cuda/cuda_driver.h"

namespace dsv4mx::test {

// Null where there is none of that name.
inline void* DriverFunction(const cuda::Driver& d, const char* name) {
  const struct {
    const char* name;
    void* function;
  } all[] = {{"cuCtxGetCurrent", reinterpret_cast<void*>(d.get_current)},
             {"cuCtxSetCurrent", reinterpret_cast<void*>(d.set_current)},
             {"cuDeviceGet", reinterpret_cast<void*>(d.get_device)},
             {"cuDevicePrimaryCtxRetain", reinterpret_cast<void*>(d.retain_primary)},
             {"cuMemGetAllocationGranularity", reinterpret_cast<void*>(d.granularity)},
             {"cuMemAddressReserve", reinterpret_cast<void*>(d.reserve)},
             {"cuMemAddressFree", reinterpret_cast<void*>(d.free_address)},
             {"cuMemCreate", reinterpret_cast<void*>(d.create)},
             {"cuMemRelease", reinterpret_cast<void*>(d.release)},
             {"cuMemMap", reinterpret_cast<void*>(d.map)},
             {"cuMemUnmap", reinterpret_cast<void*>(d.unmap)},
             {"cuMemSetAccess", reinterpret_cast<void*>(d.set_access)},
             {"cuMemExportToShareableHandle", reinterpret_cast<void*>(d.share)},
             {"cuMemImportFromShareableHandle", reinterpret_cast<void*>(d.import)}};
  for (const auto& f : all) {
    if (std::strcmp(f.name, name) == 0) return f.function;
  }
  return nullptr;
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_DRIVER_DRIVER_FUNCTIONS_H_
