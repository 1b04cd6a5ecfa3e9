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
  // Checks the descriptor and opens the device; AUTO means CUDA where this build and this machine have
  // it, else the CPU.
  static Status Create(const BackendDesc& desc, std::shared_ptr<const Context>* out);

  const Backend& backend() const { return *backend_; }

  // Memory of the device through the caller's hook, or the backend's own. Threads: any.
  Status Alloc(size_t bytes, size_t alignment, void** out) const;
  // NULL is fine; what Alloc did not give is left alone and logged.
  void Free(void* pointer) const;

  // Waits for the stream, and reports what layers that check ids have met since the last report.
  Status Synchronize(dsv4mx_stream stream) const;
  // From Watch to Unwatch a layer's ids are reported.
  void Watch(const LayerBackend* layer) const;
  void Unwatch(const LayerBackend* layer) const;

  // One line to the caller's log, if the level is wanted.
  void Log(dsv4mx_log_level level, const char* format, ...) const
      __attribute__((format(printf, 3, 4)));

 private:
  Context() = default;

  std::unique_ptr<Backend> backend_;
  dsv4mx_log_fn log_ = nullptr;
  void* log_user_ = nullptr;
  dsv4mx_log_level log_level_ = DSV4MX_LOG_WARNING;

  mutable std::mutex mutex_;
  // Sizes of live blocks: the free hook is told them, and a foreign pointer is caught.
  mutable std::unordered_map<void*, size_t> sizes_;
  // Layers that check ids, and how many bad ones were reported.
  mutable std::unordered_map<const LayerBackend*, int64_t> checked_;
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
