// One device: a backend, and what the caller hooked into it (allocator, log).
#ifndef DSV4MX_LIB_CORE_CONTEXT_H_
#define DSV4MX_LIB_CORE_CONTEXT_H_

#include <cstddef>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "lib/base/backend.h"
#include "lib/base/status.h"

namespace dsv4mx {

inline constexpr size_t kDeviceAlignment = 256;  // of everything Alloc gives, and of a workspace

class Context {
 public:
  // Checks the descriptor (already brought to the current struct size) and opens the device; AUTO
  // means CUDA where this build and this machine have it, else the CPU.
  static Status Create(const dsv4mx_context_desc& desc, std::shared_ptr<const Context>* out);

  const Backend& backend() const { return *backend_; }

  // Memory of the device through the caller's hook, or the backend's own. Threads: any.
  Status Alloc(size_t bytes, size_t alignment, void** out) const;
  // NULL is fine; what Alloc did not give is refused.
  Status Free(void* pointer) const;

  // One line to the caller's log, if the level is wanted.
  void Log(dsv4mx_log_level level, const char* format, ...) const
      __attribute__((format(printf, 3, 4)));

 private:
  Context() = default;
  Status AllocRaw(size_t bytes, size_t alignment, void** out) const;
  Status FreeRaw(void* pointer, size_t bytes) const;

  std::unique_ptr<Backend> backend_;
  dsv4mx_alloc_fn alloc_ = nullptr;
  dsv4mx_free_fn free_ = nullptr;
  void* alloc_user_ = nullptr;
  dsv4mx_log_fn log_ = nullptr;
  void* log_user_ = nullptr;
  dsv4mx_log_level log_level_ = DSV4MX_LOG_WARNING;

  // Sizes of live blocks: the free hook is told them, and a foreign pointer is caught.
  mutable std::mutex mutex_;
  mutable std::unordered_map<void*, size_t> sizes_;
};

// A block of device memory that is given back with its owner.
class DeviceBlock {
 public:
  DeviceBlock() = default;
  DeviceBlock(const DeviceBlock&) = delete;
  DeviceBlock& operator=(const DeviceBlock&) = delete;
  ~DeviceBlock();
  Status Alloc(const Context* context, size_t bytes, size_t alignment);
  void* get() const { return pointer_; }

 private:
  const Context* context_ = nullptr;  // outlives the block: owners hold a reference on it
  void* pointer_ = nullptr;
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_CORE_CONTEXT_H_
