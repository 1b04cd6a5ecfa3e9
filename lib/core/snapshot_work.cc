#include "lib/core/snapshot_work.h"

#include <algorithm>

#include "lib/base/usable_threads.h"

namespace dsv4mx {

int SnapshotThreads(const Backend& backend, int wanted, size_t items, size_t bytes) {
  constexpr int kMost = 16;  // disks and links are busy with fewer
  if (wanted == 0) {
    dsv4mx_context_info info{};
    backend.Query(&info);
    // Beside a device the owner of the call has a processor for itself.
    const int processors = info.threads > 0 ? info.threads : UsableThreads() - 1;
    wanted = std::clamp(processors, 1, kMost);
  }
  const size_t most =
      std::min(items, std::max<size_t>(1, kSnapshotMemory / std::max<size_t>(bytes, 1)));
  return static_cast<int>(
      std::clamp<size_t>(static_cast<size_t>(wanted), 1, std::max<size_t>(most, 1)));
}

void ThreadMemory::Reserve(int threads, size_t bytes) {
  bytes_ = bytes;
  blocks_.assign(static_cast<size_t>(threads), nullptr);
}

Status ThreadMemory::Take(int thread) {
  return backend_->AllocStaging(bytes_, &blocks_[static_cast<size_t>(thread)]);
}

Status ThreadMemory::Alloc(int threads, size_t bytes) {
  Reserve(threads, bytes);
  for (int i = 0; i < threads; ++i) DSV4MX_TRY(Take(i));
  return kOk;
}

Status ThreadMemory::Free() {
  Status first;
  for (; !blocks_.empty(); blocks_.pop_back()) {
    if (blocks_.back() == nullptr) continue;
    const Status status = backend_->FreeStaging(blocks_.back(), bytes_);
    if (first.ok()) first = status;
  }
  return first;
}

}  // namespace dsv4mx
