#include "lib/cuda/cuda_memory.h"

#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {

Status Memory::Alloc(size_t bytes, size_t alignment, dsv4mx_memory kind, cudaStream_t stream,
                     void** out) const {
  *out = nullptr;
  if (hook_.given()) return hook_.Alloc(bytes, alignment, kind, stream, out);
  const bool pinned = kind == DSV4MX_MEMORY_PINNED;
  const char* call = pinned ? "cudaHostAlloc" : "cudaMalloc";
  void* memory = nullptr;
  const cudaError_t error =
      pinned ? cudaHostAlloc(&memory, bytes, cudaHostAllocDefault) : cudaMalloc(&memory, bytes);
  DSV4MX_RETURN_IF(error == cudaErrorMemoryAllocation, DSV4MX_STATUS_OUT_OF_MEMORY,
                   "device %d has no memory for %zu bytes: %s: %s (%d)", ordinal_, bytes, call,
                   cudaGetErrorName(error), static_cast<int>(error));
  DSV4MX_TRY(Check(error, call));
  if (reinterpret_cast<uintptr_t>(memory) % alignment != 0) {
    (void)Free(memory, bytes, kind);
    return Fail(DSV4MX_STATUS_INTERNAL, "%s gave %p, wanted a multiple of %zu", call, memory,
                alignment);
  }
  *out = memory;
  return kOk;
}

Status Memory::Free(void* pointer, size_t bytes, dsv4mx_memory kind) const {
  if (pointer == nullptr) return kOk;  // freeing nothing would still make the runtime open a device
  if (hook_.given()) {
    hook_.Free(pointer, bytes, kind, nullptr, FreeInContext, CurrentContext());
    return kOk;
  }
  return kind == DSV4MX_MEMORY_PINNED ? Check(cudaFreeHost(pointer), "cudaFreeHost")
                                      : Check(cudaFree(pointer), "cudaFree");
}

}  // namespace dsv4mx::cuda
