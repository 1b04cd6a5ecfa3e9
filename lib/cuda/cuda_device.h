// One opened GPU, and what every entry point does around its CUDA calls: make the device current, find out whether the
// device was broken before, and leave the thread as it was.
//
// The thread's current device is kept and restored as a driver context, not as an ordinal. This library has a CUDA
// runtime of its own (static, hidden), which shares nothing with the host program's but the driver's current context;
// and setting an ordinal would create a context on a device that the host never touched. Setting a context does not, is
// legal while a stream is captured, and also restores contexts that are no primary ones.
//
// A sticky error (cuda_check.h) lives in the driver: it is asked for when a call begins and reported as CUDA_STICKY, so
// that later failures are known to be of this call or of work on the device meanwhile.
#ifndef DSV4MX_LIB_CUDA_CUDA_DEVICE_H_
#define DSV4MX_LIB_CUDA_CUDA_DEVICE_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "lib/base/plan.h"
#include "lib/base/status.h"
#include "lib/cuda/cuda_check.h"
#include "lib/cuda/cuda_memory.h"

struct CUctx_st;

namespace dsv4mx::cuda {

class Device {
 public:
  // Refuses what cuda_support.h says.
  static Status Open(int32_t ordinal, const MemoryHook& hook, std::unique_ptr<Device>* out);

  int32_t ordinal() const { return ordinal_; }
  int32_t multiprocessors() const { return plan_device_.multiprocessors; }
  int64_t l2_bytes() const { return l2_bytes_; }
  const char* name() const { return name_; }
  const PlanDevice& plan_device() const { return plan_device_; }
  const Memory& memory() const { return memory_; }

  // Refuses, with `code`, host memory that is given as device memory, and memory of another device: a kernel that read it
  // would break the CUDA context of the whole process. Pinned and managed memory pass. Within a DeviceScope.
  Status CheckPointer(const void* pointer, const char* what, dsv4mx_status code) const;

 private:
  friend class DeviceScope;
  Device(int32_t ordinal, const MemoryHook& hook) : ordinal_(ordinal), memory_(hook, ordinal) {}
  Status ReadProperties();

  int32_t ordinal_;
  Memory memory_;
  int64_t l2_bytes_ = 0;
  bool reads_pageable_ = false;  // the GPU reads all host memory
  char name_[128] = "";
  PlanDevice plan_device_;
  CUctx_st* context_ =
      nullptr;  // the primary one; held until the process ends, as the CUDA runtime does
};

// While it lives, the device is current on this thread.
class DeviceScope {
 public:
  enum class Capture {
    kAsIs,    // only enqueues, legal while the stream is captured
    kRelaxed  // allocates or waits: must not spoil a capture that another thread has going
  };
  DeviceScope(const Device& device, Capture capture);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

  // First thing on every way in: whether the device can be used at all. CUDA_STICKY if it was broken before.
  Status Begin(cudaStream_t stream) const;
  // Refuses a stream that is being captured: `what` would run at each replay, without what it means to the host.
  static Status NotCaptured(cudaStream_t stream, const char* what);

 private:
  KeepLastError keep_;
  CUctx_st* before_ = nullptr;
  bool switched_ = false, relaxed_ = false;
  int error_ = 0;  // of the switch, a CUresult
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_DEVICE_H_
