// CUDA devices before a context exists. Nothing here makes a context on a device; free memory, which the runtime tells only
// with one, is asked of NVML where that is installed.
#include <dlfcn.h>

#include <cstdio>

#include "lib/base/backend.h"
#include "lib/cuda/cuda_check.h"
#include "lib/cuda/cuda_support.h"

namespace dsv4mx {
namespace cuda {
namespace {

// The few of NVML's declarations that are used; its ABI is stable.
struct NvmlMemory {
  unsigned long long total, free, used;  // NOLINT: NVML's types
};
using NvmlInit = int (*)();
using NvmlByBus = int (*)(const char*, void**);
using NvmlMemoryInfo = int (*)(void*, NvmlMemory*);

int64_t FreeBytes(int32_t ordinal) {
  char bus[32] = "";
  if (cudaDeviceGetPCIBusId(bus, sizeof bus, ordinal) != cudaSuccess) return -1;
  void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return -1;
  const auto init = reinterpret_cast<NvmlInit>(dlsym(library, "nvmlInit_v2"));
  const auto shutdown = reinterpret_cast<NvmlInit>(dlsym(library, "nvmlShutdown"));
  const auto by_bus =
      reinterpret_cast<NvmlByBus>(dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2"));
  const auto info = reinterpret_cast<NvmlMemoryInfo>(dlsym(library, "nvmlDeviceGetMemoryInfo"));
  int64_t bytes = -1;
  if (init != nullptr && shutdown != nullptr && by_bus != nullptr && info != nullptr &&
      init() == 0) {
    void* device = nullptr;
    NvmlMemory memory{};
    if (by_bus(bus, &device) == 0 && info(device, &memory) == 0) {
      bytes = static_cast<int64_t>(memory.free);
    }
    (void)shutdown();
  }
  (void)dlclose(library);
  return bytes;
}

DriverFacts FindDriver() {
  DriverFacts facts;
  facts.runtime = CUDART_VERSION;
  facts.error = cudaGetDeviceCount(&facts.devices);
  if (facts.error != cudaSuccess) facts.devices = 0;
  (void)cudaDriverGetVersion(&facts.installed);
  return facts;
}

}  // namespace
}  // namespace cuda

Status CountCudaDevices(int32_t* count) {
  const cuda::KeepLastError keep;
  *count = cuda::FindDriver().devices;
  return kOk;
}

Status QueryCudaDevice(int32_t ordinal, dsv4mx_device_info* info) {
  const cuda::KeepLastError keep;
  const cuda::DriverFacts driver = cuda::FindDriver();
  // Without a device to describe there is only the reason.
  if (ordinal >= driver.devices) return cuda::CheckDriver(driver, ordinal);
  cudaDeviceProp properties;
  DSV4MX_TRY(
      cuda::CheckBefore(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties"));
  info->device = DSV4MX_DEVICE_CUDA;
  info->compute_capability = 10 * properties.major + properties.minor;
  info->multiprocessors = properties.multiProcessorCount;
  info->total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  info->free_bytes = cuda::FreeBytes(ordinal);
  std::snprintf(info->name, sizeof info->name, "%.127s", properties.name);
  const KeepError text;
  Status usable = cuda::CheckDriver(driver, ordinal);
  if (usable.ok()) {
    usable = cuda::CheckDevice({ordinal, info->name, properties.major, properties.minor});
  }
  info->supported = usable.ok() ? 1 : 0;
  if (!usable.ok()) std::snprintf(info->reason, sizeof info->reason, "%.255s", LastError());
  text.Restore();
  return kOk;
}

}  // namespace dsv4mx
