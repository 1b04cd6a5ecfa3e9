#include "lib/cuda/cuda_device.h"

#include <cstdio>
#include <mutex>

#include "lib/cuda/cuda_check.h"
#include "lib/cuda/cuda_driver.h"
#include "lib/cuda/cuda_support.h"

namespace dsv4mx::cuda {
Status Device::Open(int32_t ordinal, const MemoryHook& hook, std::unique_ptr<Device>* out) {
  const KeepLastError keep;
  DriverFacts driver_facts;
  driver_facts.runtime = CUDART_VERSION;
  driver_facts.error = cudaGetDeviceCount(&driver_facts.devices);
  (void)cudaDriverGetVersion(&driver_facts.installed);
  DSV4MX_TRY(CheckDriver(driver_facts, ordinal));
  std::unique_ptr<Device> device(new Device(ordinal, hook));
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
    CUresult result = TheDriver().get_device(&handle, ordinal);
    if (result == CUDA_SUCCESS) result = TheDriver().retain_primary(&held[ordinal], handle);
    if (result != CUDA_SUCCESS) {
      held[ordinal] = nullptr;
      return FailBefore(RuntimeError(result), "cuDevicePrimaryCtxRetain");
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
  DSV4MX_TRY(CheckDevice({ordinal_, name_, major, minor}));
  plan_device_.generation = FindGeneration(10 * major + minor);
  // Where a virtual machine hides them, the plan falls back to rows for any device.
  if (get(cudaDevAttrMemoryClockRate, &khz) != cudaSuccess ||
      get(cudaDevAttrGlobalMemoryBusWidth, &bits) != cudaSuccess) {
    khz = bits = 0;
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
    : relaxed_(capture == Capture::kRelaxed) {
  CUresult result = TheDriver().get_current(&before_);
  if (result == CUDA_SUCCESS && before_ != device.context_) {
    result = TheDriver().set_current(device.context_);
    switched_ = result == CUDA_SUCCESS;
  }
  error_ = result;
  if (relaxed_) relaxed_ = cudaThreadExchangeStreamCaptureMode(&mode_) == cudaSuccess;
}

DeviceScope::~DeviceScope() {
  if (relaxed_) (void)cudaThreadExchangeStreamCaptureMode(&mode_);
  keep_.Restore();  // before the host's context is current again
  if (switched_) (void)TheDriver().set_current(before_);
}

Status DeviceScope::Begin(cudaStream_t stream) const {
  const char* call = "cuCtxSetCurrent";
  cudaError_t error = RuntimeError(static_cast<CUresult>(error_));
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

Status DeviceScope::NotCaptured(cudaStream_t stream, const char* what) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  DSV4MX_CUDA(cudaStreamIsCapturing(stream, &status));
  DSV4MX_RETURN_IF(
      status != cudaStreamCaptureStatusNone, DSV4MX_STATUS_INVALID_STATE,
      "%s on a stream that is being captured, wanted it outside: replays of a graph go "
      "by it as well",
      what);
  return kOk;
}

void* CurrentContext() {
  CUcontext context = nullptr;
  return TheDriver().get_current(&context) == CUDA_SUCCESS ? context : nullptr;
}

void FreeInContext(const FreeCall& call) {
  struct Scope {
    explicit Scope(CUcontext wanted) {
      switched = wanted != nullptr && TheDriver().get_current(&before) == CUDA_SUCCESS &&
                 before != wanted && TheDriver().set_current(wanted) == CUDA_SUCCESS;
    }
    ~Scope() {
      if (switched) (void)TheDriver().set_current(before);
    }
    CUcontext before = nullptr;
    bool switched = false;
  };
  const Scope scope(static_cast<CUcontext>(call.place));
  MemoryHook::Run(call);
}

}  // namespace dsv4mx::cuda
