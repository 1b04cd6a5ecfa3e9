#include "lib/base/shared_work.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>
#include <new>

namespace dsv4mx {
namespace {

// A loop of the pool ends so soon: for reports, and for other users of the pool.
constexpr auto kTurn = std::chrono::milliseconds(50);

// The failure of the lowest item so far, with the text that its thread has.
class FirstFailure {
 public:
  bool any() const { return any_.load(std::memory_order_relaxed); }
  void Add(int64_t item, Status status) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (any() && item_ < item) return;
    item_ = item;
    code_ = status.code;
    std::strncpy(text_, LastError(), sizeof text_ - 1);
    any_.store(true, std::memory_order_relaxed);
  }
  Status Take() const { return Fail(code_, "%s", text_); }

 private:
  std::mutex mutex_;
  std::atomic<bool> any_{false};
  int64_t item_ = 0;
  dsv4mx_status code_ = DSV4MX_STATUS_OK;
  char text_[kErrorBytes] = "";
};

Status Try(ItemBody body, int64_t item, int worker) {
  try {
    return body(item, worker);
  } catch (const std::bad_alloc&) {
    return Fail(DSV4MX_STATUS_OUT_OF_MEMORY, "no memory for a small object of a thread");
  }
}

}  // namespace

Status ShareWork(ThreadPool* pool, int workers, int64_t items, int64_t bytes,
                 const Control& control, ItemBody body) {
  std::atomic<int64_t> next{0}, done{0};
  FirstFailure failure;
  const bool timed = control.Listens();
  const auto count = static_cast<int64_t>(std::min<int64_t>({workers, pool->threads(), items}));
  while (next.load() < items && !failure.any()) {
    const auto end = std::chrono::steady_clock::now() + kTurn;
    pool->For(count, [&](int64_t worker, int) {
      // Items are taken in order, so that all before one that fails were begun and are waited for.
      while (!failure.any()) {
        const int64_t item = next.fetch_add(1);
        if (item >= items) return;
        const Status status = Try(body, item, static_cast<int>(worker));
        if (!status.ok()) return failure.Add(item, status);
        done.fetch_add(1);
        if (timed && std::chrono::steady_clock::now() >= end) return;
      }
    });
    if (failure.any()) break;
    const int64_t so_far = std::min(done.load(), items);
    if (timed && so_far < items) {
      // Of items that are not equal in size the share is close enough, and it never goes back.
      const auto share = static_cast<int64_t>(
          static_cast<double>(bytes) * static_cast<double>(so_far) / static_cast<double>(items));
      DSV4MX_TRY(control.Report(DSV4MX_STAGE_LOAD, share, bytes));
    }
  }
  return failure.any() ? failure.Take() : kOk;
}

}  // namespace dsv4mx
