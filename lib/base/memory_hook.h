// The caller's allocator, if it gave one: every large block that a backend takes, of any kind of memory, is asked for here
// first.
#ifndef DSV4MX_LIB_BASE_MEMORY_HOOK_H_
#define DSV4MX_LIB_BASE_MEMORY_HOOK_H_

#include <cstddef>

#include "lib/base/status.h"
#include "lib/base/thread_state.h"

namespace dsv4mx {

class MemoryHook {
 public:
  MemoryHook() = default;
  explicit MemoryHook(const dsv4mx_context_desc& d)
      : alloc_(d.alloc), free_(d.free), user_(d.alloc_user) {}

  bool given() const { return alloc_ != nullptr; }
  // OUT_OF_MEMORY for NULL, MISALIGNED for what is not aligned (and given back).
  Status Alloc(size_t bytes, size_t alignment, dsv4mx_memory memory, dsv4mx_stream stream,
               void** out) const;
  // At the end of the library's call (LibraryScope), so that the hook may end the thread.
  void Free(void* pointer, size_t bytes, dsv4mx_memory memory, dsv4mx_stream stream,
            void (*run)(const FreeCall&) = Run, void* place = nullptr) const {
    LibraryScope::Later({run, free_, user_, pointer, bytes, memory, stream, place});
  }
  static void Run(const FreeCall& call) {
    call.hook(call.user, call.pointer, call.bytes, call.memory, call.stream);
  }

 private:
  dsv4mx_alloc_fn alloc_ = nullptr;
  dsv4mx_free_fn free_ = nullptr;
  void* user_ = nullptr;
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_MEMORY_HOOK_H_
