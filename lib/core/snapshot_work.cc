#include "lib/core/snapshot_work.h"

#include <algorithm>
#include <utility>

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

Status ThreadMemory::Alloc(int threads, size_t bytes) {
  void* memory = nullptr;
  DSV4MX_TRY(backend_->AllocStaging(static_cast<size_t>(threads) * bytes, &memory));
  block_ = static_cast<uint8_t*>(memory);
  bytes_ = bytes;
  all_ = static_cast<size_t>(threads) * bytes;
  return kOk;
}

Status ThreadMemory::Free() {
  if (block_ == nullptr) return kOk;
  return backend_->FreeStaging(std::exchange(block_, nullptr), all_);
}

}  // namespace dsv4mx
