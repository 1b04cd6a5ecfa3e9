// Threads that share a loop. A loop of independent items is handed out one by one from a single atomic, so that a thread
// that wakes late costs its own share only, and the caller always works itself: the pool can be slow but never stuck.
#ifndef DSV4MX_LIB_BASE_THREAD_POOL_H_
#define DSV4MX_LIB_BASE_THREAD_POOL_H_

#include <absl/functional/function_ref.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "lib/base/status.h"

namespace dsv4mx {

class ThreadPool {
 public:
  // `threads` counts the caller: threads - 1 workers are started, or as many as the system gives.
  static Status Make(int threads, std::unique_ptr<ThreadPool>* out);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  using Body = absl::FunctionRef<void(int64_t item, int thread)>;

  // Calls body(item, thread) for item 0..items-1, thread 0..threads()-1, and returns when all are done. Loops of several
  // callers take turns. Allocates nothing. The body neither throws nor starts a loop of its own.
  void For(int64_t items, Body body);

 private:
  ThreadPool() = default;
  void Work(int thread);
  bool HasWork() const;
  void Worker(int thread);

  int threads_ = 1;
  int process_ = 0;  // workers do not survive fork: a child runs its loops inline
  std::vector<std::thread> workers_;
  std::mutex turn_;

  // Loop number in the high half, next item in the low half; all ones there while the loop's fields change.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  std::atomic<uint32_t> items_{0};
  std::atomic<const Body*> body_{nullptr};
  alignas(64) std::atomic<uint32_t> done_{0};
  alignas(64) std::atomic<int> epoch_{0};  // what idle workers sleep on
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_THREAD_POOL_H_
