// What saving and restoring share: the memory of their threads, and how many there are.
#ifndef DSV4MX_LIB_CORE_SNAPSHOT_WORK_H_
#define DSV4MX_LIB_CORE_SNAPSHOT_WORK_H_

#include <cstddef>
#include <cstdint>

#include "lib/base/backend.h"
#include "lib/base/status.h"

namespace dsv4mx {

// Threads for `items` pieces of work, each with `bytes` bytes of memory: `wanted`, or what the backend's processors make good
// use of; fewer where there is less to do or memory would pass kSnapshotMemory.
inline constexpr size_t kSnapshotMemory = size_t{256} << 20;
int SnapshotThreads(const Backend& backend, int wanted, size_t items, size_t bytes);

// Copies of parts of slabs that a thread has under way: it works on one while another is copied.
inline constexpr int kCopiesAhead = 2;

// Host memory of all threads, one block, by the caller's hook where there is one; it is given back with its owner. What the
// device reads and writes is page-locked.
class ThreadMemory {
 public:
  explicit ThreadMemory(const Backend* backend) : backend_(backend) {}
  ~ThreadMemory() { (void)Free(); }
  ThreadMemory(const ThreadMemory&) = delete;
  ThreadMemory& operator=(const ThreadMemory&) = delete;

  // `bytes` for each, a multiple of the alignment of staging.
  Status Alloc(int threads, size_t bytes);
  Status Free();
  uint8_t* At(int thread) const { return block_ + static_cast<size_t>(thread) * bytes_; }

 private:
  const Backend* backend_;
  size_t bytes_ = 0, all_ = 0;
  uint8_t* block_ = nullptr;
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_CORE_SNAPSHOT_WORK_H_
