// What saving and restoring share: the memory of their threads, and how many there are.
#ifndef DSV4MX_LIB_CORE_SNAPSHOT_WORK_H_
#define DSV4MX_LIB_CORE_SNAPSHOT_WORK_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "lib/base/backend.h"
#include "lib/base/status.h"

namespace dsv4mx {

// Threads for `items` pieces of work, each with `bytes` bytes of memory: `wanted`, or what the backend's processors make good
// use of; fewer where there is less to do or memory would pass kSnapshotMemory.
inline constexpr size_t kSnapshotMemory = size_t{256} << 20;
int SnapshotThreads(const Backend& backend, int wanted, size_t items, size_t bytes);

// Copies of parts of slabs that a thread has under way: it works on one while another is copied.
inline constexpr int kCopiesAhead = 2;

// A block of host memory for each thread, by the caller's hook where there is one, given back with its owner. What the
// device reads and writes is page-locked.
class ThreadMemory {
 public:
  explicit ThreadMemory(const Backend* backend) : backend_(backend) {}
  ~ThreadMemory() { (void)Free(); }
  ThreadMemory(const ThreadMemory&) = delete;
  ThreadMemory& operator=(const ThreadMemory&) = delete;

  Status Alloc(int threads, size_t bytes);
  // The same one by one: room for so many, then Take for a thread that has none yet, by the one that owns the call.
  void Reserve(int threads, size_t bytes);
  bool Has(int thread) const { return blocks_[static_cast<size_t>(thread)] != nullptr; }
  Status Take(int thread);
  // All of it; the first failure is told.
  Status Free();
  uint8_t* At(int thread) const {
    return static_cast<uint8_t*>(blocks_[static_cast<size_t>(thread)]);
  }

 private:
  const Backend* backend_;
  size_t bytes_ = 0;
  std::vector<void*> blocks_;
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_CORE_SNAPSHOT_WORK_H_
