// Memory that the library takes on a CPU context: by the caller's hook where there is one, else from the system.
#ifndef DSV4MX_LIB_CPU_CPU_MEMORY_H_
#define DSV4MX_LIB_CPU_CPU_MEMORY_H_

#include <cstddef>

#include "lib/base/memory_hook.h"
#include "lib/base/status.h"

namespace dsv4mx::cpu {

class Memory {
 public:
  Memory() = default;
  explicit Memory(const MemoryHook& hook) : hook_(hook) {}

  // bytes 0 gives NULL.
  Status Alloc(size_t bytes, size_t alignment, void** out) const;
  // What Alloc gave, or NULL.
  void Free(void* pointer, size_t bytes) const;

 private:
  MemoryHook hook_;
};

}  // namespace dsv4mx::cpu

#endif  // DSV4MX_LIB_CPU_CPU_MEMORY_H_
