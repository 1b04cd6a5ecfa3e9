#include "lib/cuda/cuda_device.h"

#include <cuda.h>

#include <cstdio>
#include <mutex>

#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {
namespace {

// The driver is not linked, so that the library loads without one: its functions are asked for once a device was found.
struct Driver {
  decltype(&cuCtxGetCurrent) get_current = nullptr;
  decltype(&cuCtxSetCurrent) set_current = nullptr;
  decltype(&cuDeviceGet) get_device = nullptr;
  decltype(&cuDevicePrimaryCtxRetain) retain_primary = nullptr;
};

template <class F>
Status FindFunction(const char* name, F* out) {
  constexpr unsigned kVersion = 12000;  // of the interface: all of these are older
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  DSV4MX_CUDA(
      cudaGetDriverEntryPointByVersion(name, &function, kVersion, cudaEnableDefault, &result));
  DSV4MX_RETURN_IF(function == nullptr || result != cudaDriverEntryPointSuccess,
                   DSV4MX_STATUS_UNSUPPORTED_DEVICE,
                   "the CUDA driver has no %s, wanted driver 12.0 or later", name);
  *out = reinterpret_cast<F>(function);
  return kOk;
}

std::mutex driver_mutex;
Driver driver;  // complete before any Device exists, constant from then on

Status LoadDriver() {
  const std::lock_guard lock(driver_mutex);
  if (driver.retain_primary != nullptr) return kOk;
  DSV4MX_TRY(FindFunction("cuCtxGetCurrent", &driver.get_current));
  DSV4MX_TRY(FindFunction("cuCtxSetCurrent", &driver.set_current));
  DSV4MX_TRY(FindFunction("cuDeviceGet", &driver.get_device));
  return FindFunction("cuDevicePrimaryCtxRetain", &driver.retain_primary);
}

// A failure where this call has nothing running on the device yet: what is broken was broken before.
Status FailBefore(cudaError_t error, const char* call) {
  DSV4MX_RETURN_IF(IsSticky(error), DSV4MX_STATUS_CUDA_STICKY,
                   "the CUDA context was broken before this call: %s (%d), %s; wanted a process "
                   "whose kernels have not failed",
                   cudaGetErrorName(error), static_cast<int>(error), cudaGetErrorString(error));
  return FailCuda(error, call);
}
Status CheckBefore(cudaError_t error, const char* call) {
  return error == cudaSuccess ? kOk : FailBefore(error, call);
}

struct Version {
  int major, minor;
};
Version VersionOf(int number) {
  return {number / 1000, number % 1000 / 10};
}

// Turns what cudaGetDeviceCount said into a status that names what was found and what is needed.
Status RefuseDevices(cudaError_t error) {
  int installed = 0, needed = 0;
  (void)cudaDriverGetVersion(&installed);
  (void)cudaRuntimeGetVersion(&needed);
  (void)cudaGetLastError();
  const Version has = VersionOf(installed), wants = VersionOf(needed);
  switch (error) {
    case cudaErrorNoDevice:
      return Fail(DSV4MX_STATUS_NO_DEVICE, "no CUDA device is visible, wanted one of SM 9.0");
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
      DSV4MX_RETURN_IF(installed == 0, DSV4MX_STATUS_NO_DEVICE,
                       "no CUDA driver is installed, wanted one for CUDA %d.%d or later",
                       wants.major, wants.minor);
      return Fail(DSV4MX_STATUS_UNSUPPORTED_DEVICE,
                  "the CUDA driver is for CUDA %d.%d, wanted %d.%d or later", has.major, has.minor,
                  wants.major, wants.minor);
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
      return Fail(DSV4MX_STATUS_UNSUPPORTED_DEVICE,
                  "the CUDA driver for %d.%d does not fit this system (%s), wanted %d.%d or later",
                  has.major, has.minor, cudaGetErrorName(error), wants.major, wants.minor);
    default:
      return FailBefore(error, "cudaGetDeviceCount");
  }
}

}  // namespace

bool IsSticky(cudaError_t error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
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

Status Device::Open(int32_t ordinal, std::unique_ptr<Device>* out) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    return RefuseDevices(error);
  }
  if (count == 0) return RefuseDevices(cudaErrorNoDevice);
  DSV4MX_RETURN_IF(ordinal >= count, DSV4MX_STATUS_NO_DEVICE,
                   "device_ordinal is %d, but %d CUDA device%s visible, wanted 0..%d", ordinal,
                   count, count == 1 ? " is" : "s are", count - 1);
  std::unique_ptr<Device> device(new Device);
  device->ordinal_ = ordinal;
  DSV4MX_TRY(device->ReadProperties());
  DSV4MX_TRY(LoadDriver());
  // Held once per process and ordinal, and never given back: a primary context that goes and comes again would leave
  // this library's runtime with the handles of a dead one.
  static std::mutex mutex;
  static CUcontext held[64] = {};
  const std::lock_guard lock(mutex);
  DSV4MX_RETURN_IF(ordinal >= 64, DSV4MX_STATUS_UNSUPPORTED_DEVICE,
                   "device_ordinal is %d, wanted 0..63", ordinal);
  if (held[ordinal] == nullptr) {
    CUdevice handle = 0;
    CUresult result = driver.get_device(&handle, ordinal);
    if (result == CUDA_SUCCESS) result = driver.retain_primary(&held[ordinal], handle);
    if (result != CUDA_SUCCESS) {
      held[ordinal] = nullptr;
      // The runtime's numbers are the driver's.
      return FailBefore(static_cast<cudaError_t>(result), "cuDevicePrimaryCtxRetain");
    }
  }
  device->context_ = held[ordinal];
  *out = std::move(device);
  return kOk;
}

// None of these creates a context.
Status Device::ReadProperties() {
  const auto get = [this](cudaDeviceAttr attribute, int* value) {
    return cudaDeviceGetAttribute(value, attribute, ordinal_);
  };
  const auto need = [&](cudaDeviceAttr attribute, int* value) {
    return CheckBefore(get(attribute, value), "cudaDeviceGetAttribute");
  };
  int major = 0, minor = 0, l2 = 0, pageable = 0, khz = 0, bits = 0;
  DSV4MX_TRY(need(cudaDevAttrComputeCapabilityMajor, &major));
  DSV4MX_TRY(need(cudaDevAttrComputeCapabilityMinor, &minor));
  DSV4MX_TRY(need(cudaDevAttrMultiProcessorCount, &plan_device_.multiprocessors));
  DSV4MX_TRY(need(cudaDevAttrL2CacheSize, &l2));
  DSV4MX_TRY(need(cudaDevAttrPageableMemoryAccess, &pageable));
  l2_bytes_ = l2;
  reads_pageable_ = pageable != 0;
  cudaDeviceProp properties;
  DSV4MX_TRY(
      CheckBefore(cudaGetDeviceProperties(&properties, ordinal_), "cudaGetDeviceProperties"));
  std::snprintf(name_, sizeof name_, "%.127s", properties.name);
  DSV4MX_RETURN_IF(major != 9 || minor != 0, DSV4MX_STATUS_UNSUPPORTED_DEVICE,
                   "CUDA device %d (%s) has compute capability %d.%d, wanted 9.0 (Hopper)",
                   ordinal_, name_, major, minor);
  // Where a virtual machine hides them, the plan falls back to rows for any device.
  if (get(cudaDevAttrMemoryClockRate, &khz) != cudaSuccess ||
      get(cudaDevAttrGlobalMemoryBusWidth, &bits) != cudaSuccess) {
    khz = bits = 0;
    (void)cudaGetLastError();
  }
  plan_device_.bandwidth = BandwidthClass(int64_t{2} * khz * bits / 8 / 1000000);
  return kOk;
}

Status Device::CheckPointer(const void* pointer, const char* what, dsv4mx_status code) const {
  cudaPointerAttributes attributes;
  DSV4MX_CUDA(cudaPointerGetAttributes(&attributes, pointer));
  DSV4MX_RETURN_IF(attributes.type == cudaMemoryTypeUnregistered && !reads_pageable_, code,
                   "%s is %p, which is host memory, wanted memory of CUDA device %d", what, pointer,
                   ordinal_);
  DSV4MX_RETURN_IF(attributes.type == cudaMemoryTypeDevice && attributes.device != ordinal_, code,
                   "%s is %p, which is memory of CUDA device %d, wanted memory of CUDA device %d",
                   what, pointer, attributes.device, ordinal_);
  return kOk;
}

DeviceScope::DeviceScope(const Device& device, Capture capture)
    : clean_(cudaPeekAtLastError() == cudaSuccess), relaxed_(capture == Capture::kRelaxed) {
  CUresult result = driver.get_current(&before_);
  if (result == CUDA_SUCCESS && before_ != device.context_) {
    result = driver.set_current(device.context_);
    switched_ = result == CUDA_SUCCESS;
  }
  error_ = result;
  if (relaxed_) relaxed_ = cudaThreadExchangeStreamCaptureMode(&mode_) == cudaSuccess;
}

DeviceScope::~DeviceScope() {
  if (relaxed_) (void)cudaThreadExchangeStreamCaptureMode(&mode_);
  if (clean_) (void)cudaGetLastError();
  if (switched_) (void)driver.set_current(before_);
}

Status DeviceScope::Begin(cudaStream_t stream) const {
  const char* call = "cuCtxSetCurrent";
  auto error = static_cast<cudaError_t>(error_);  // the runtime's numbers are the driver's
  if (error == cudaSuccess) {
    // Does nothing, is legal during capture, and returns what earlier work did to the context.
    call = "cudaStreamIsCapturing";
    cudaStreamCaptureStatus unused;
    error = cudaStreamIsCapturing(stream, &unused);
  }
  // The legacy stream cannot be asked while another one is captured; the capture is not harmed.
  if (error == cudaSuccess || error == cudaErrorStreamCaptureImplicit) return kOk;
  return FailBefore(error, call);
}

}  // namespace dsv4mx::cuda
