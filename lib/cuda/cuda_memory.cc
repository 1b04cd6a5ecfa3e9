#include "lib/cuda/cuda_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// What a query promised is taken, not more: the last pages are small ones.
size_t Mapped(size_t bytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

// From the start of a huge page, of huge pages if the system has any to give; null where there is no memory.
void* Map(size_t bytes) {
  const size_t mapped = Mapped(bytes);
  void* const all =
      mmap(nullptr, mapped + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<uint8_t*>(all);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  uint8_t* const at = begin + before;
  if (before > 0) munmap(begin, before);
  munmap(at + mapped, kHugePage - before);
  (void)madvise(at, mapped, MADV_HUGEPAGE);
  return at;
}

}  // namespace

void* Memory::MapHuge(size_t bytes) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (refused_) return nullptr;
  huge_.reserve(huge_.size() + 1);
  void* const memory = Map(bytes);
  if (memory != nullptr) huge_.push_back({memory, false});
  return memory;
}

bool Memory::PinHuge(void* pointer, size_t bytes) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Huge& huge : huge_) {
    if (huge.at != pointer || huge.pinned) continue;
    if (refused_) return false;
    huge.pinned = cudaHostRegister(pointer, bytes, cudaHostRegisterDefault) == cudaSuccess;
    if (huge.pinned) return true;
    (void)cudaGetLastError();
    refused_ = true;
    return false;
  }
  return true;
}

void* Memory::AllocHuge(size_t bytes) const {
  void* const memory = MapHuge(bytes);
  if (memory == nullptr || PinHuge(memory, bytes)) return memory;
  (void)Free(memory, bytes, DSV4MX_MEMORY_PINNED);
  return nullptr;
}

bool Memory::TakeHuge(void* pointer, Huge* out) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto huge = huge_.begin(); huge != huge_.end(); ++huge) {
    if (huge->at != pointer) continue;
    *out = *huge;
    huge_.erase(huge);
    return true;
  }
  return false;
}

Status Memory::AllocToPin(size_t bytes, size_t alignment, cudaStream_t stream, void** out) const {
  *out = nullptr;
  if (!hook_.given() && bytes >= kHugePage) {
    *out = MapHuge(bytes);
    if (*out != nullptr) return kOk;
  }
  return Alloc(bytes, alignment, DSV4MX_MEMORY_PINNED, stream, out);
}

void Memory::Pin(void* pointer, size_t bytes) const {
  (void)PinHuge(pointer, bytes);
}

Status Memory::Alloc(size_t bytes, size_t alignment, dsv4mx_memory kind, cudaStream_t stream,
                     void** out) const {
  *out = nullptr;
  if (hook_.given()) return hook_.Alloc(bytes, alignment, kind, stream, out);
  const bool pinned = kind == DSV4MX_MEMORY_PINNED;
  if (pinned && bytes >= kHugePage) {
    *out = AllocHuge(bytes);
    if (*out != nullptr) return kOk;
  }
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
  Huge huge;
  if (kind == DSV4MX_MEMORY_PINNED && TakeHuge(pointer, &huge)) {
    const cudaError_t error = huge.pinned ? cudaHostUnregister(pointer) : cudaSuccess;
    munmap(pointer, Mapped(bytes));
    return Check(error, "cudaHostUnregister");
  }
  return kind == DSV4MX_MEMORY_PINNED ? Check(cudaFreeHost(pointer), "cudaFreeHost")
                                      : Check(cudaFree(pointer), "cudaFree");
}

}  // namespace dsv4mx::cuda
