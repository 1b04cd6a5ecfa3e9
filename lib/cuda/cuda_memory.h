// Memory that the library takes on a CUDA context: by the caller's hook where there is one, else from the CUDA runtime. All
// calls are made with the device current (DeviceScope).
#ifndef DSV4MX_LIB_CUDA_CUDA_MEMORY_H_
#define DSV4MX_LIB_CUDA_CUDA_MEMORY_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "lib/base/memory_hook.h"
#include "lib/base/status.h"

namespace dsv4mx::cuda {

class Memory {
 public:
  Memory(const MemoryHook& hook, int32_t ordinal) : hook_(hook), ordinal_(ordinal) {}

  // `kind` is DEVICE or PINNED. Pinned memory is read and written by the device at the same address.
  Status Alloc(size_t bytes, size_t alignment, dsv4mx_memory kind, cudaStream_t stream,
               void** out) const;
  // PINNED memory in two steps: what this gives may be written, by any thread, and is to be pinned before much is copied. Pages
  // are made by whoever touches them first, so that threads share that work; the hook's memory, and little of it, is pinned.
  Status AllocToPin(size_t bytes, size_t alignment, cudaStream_t stream, void** out) const;
  // Where the system refuses, copies from it take longer, and nothing else changes.
  void Pin(void* pointer, size_t bytes) const;
  // What an Alloc gave, or NULL. Work that used it has finished.
  Status Free(void* pointer, size_t bytes, dsv4mx_memory kind) const;

 private:
  // Pinned memory of the driver's own costs most of a millisecond for each MiB, page by page, which for staging is a tenth of
  // the load that it serves; pages of 2 MiB that are pinned afterwards cost little. A last part of less than that is of small
  // pages, so that no more is taken than was asked for, to 4 KiB. Null where that does not work out.
  struct Huge {
    void* at;
    bool pinned;
  };
  void* AllocHuge(size_t bytes) const;
  void* MapHuge(size_t bytes) const;
  bool PinHuge(void* pointer, size_t bytes) const;
  bool TakeHuge(void* pointer, Huge* out) const;  // whether it was such; it is forgotten then

  MemoryHook hook_;
  int32_t ordinal_;
  mutable std::mutex mutex_;
  mutable std::vector<Huge> huge_;
  mutable bool refused_ = false;  // to pin pages, once
};

// The CUDA context that is current on this thread, and a call of the free hook with that one current again: the hook is
// called when the call of the library ends (MemoryHook). In cuda_device.cc, beside the driver's functions.
void* CurrentContext();
void FreeInContext(const FreeCall& call);

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_MEMORY_H_
