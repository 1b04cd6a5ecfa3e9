#include "lib/base/memory_hook.h"

#include <cstdint>

namespace dsv4mx {

Status MemoryHook::Alloc(size_t bytes, size_t alignment, dsv4mx_memory memory, dsv4mx_stream stream,
                         void** out) const {
  constexpr const char* kNames[] = {"host", "device", "pinned host"};
  void* pointer = CallOut(alloc_, user_, bytes, alignment, memory, stream);
  DSV4MX_RETURN_IF(pointer == nullptr, DSV4MX_STATUS_OUT_OF_MEMORY,
                   "the caller's allocator gave NULL for %zu bytes of %s memory", bytes,
                   kNames[memory]);
  if (reinterpret_cast<uintptr_t>(pointer) % alignment != 0) {
    CallOut(free_, user_, pointer, bytes, memory, stream);
    return Fail(DSV4MX_STATUS_MISALIGNED,
                "the caller's allocator gave %p for %s memory, wanted a multiple of %zu", pointer,
                kNames[memory], alignment);
  }
  *out = pointer;
  return kOk;
}

}  // namespace dsv4mx
