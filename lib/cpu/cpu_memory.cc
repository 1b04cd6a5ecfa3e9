#include "lib/cpu/cpu_memory.h"

#include <sys/mman.h>

#include <cstdlib>

namespace dsv4mx::cpu {

Status Memory::Alloc(size_t bytes, size_t alignment, void** out) const {
  *out = nullptr;
  if (bytes == 0) return kOk;
  if (hook_.given()) return hook_.Alloc(bytes, alignment, DSV4MX_MEMORY_HOST, nullptr, out);
  // Weights are read from end to end at full speed: large pages spare the address translation.
  constexpr size_t kLargePage = size_t{2} << 20;
  const bool large = bytes >= 4 * kLargePage;
  if (large && alignment < kLargePage) alignment = kLargePage;
  if (alignment < sizeof(void*)) alignment = sizeof(void*);
  DSV4MX_RETURN_IF(posix_memalign(out, alignment, bytes) != 0, DSV4MX_STATUS_OUT_OF_MEMORY,
                   "no memory for %zu bytes aligned to %zu", bytes, alignment);
  if (large) {
    // A wish: its refusal changes nothing.
    madvise(*out, bytes / kLargePage * kLargePage, MADV_HUGEPAGE);
  }
  return kOk;
}

void Memory::Free(void* pointer, size_t bytes) const {
  if (pointer == nullptr) return;
  if (hook_.given()) {
    hook_.Free(pointer, bytes, DSV4MX_MEMORY_HOST, nullptr);
  } else {
    std::free(pointer);
  }
}

}  // namespace dsv4mx::cpu
