#include "lib/base/thread_pool.h"

#include <unistd.h>

#include <new>
#include <system_error>

#include "lib/base/thread_state.h"

namespace dsv4mx {
namespace {

constexpr uint64_t kClosed = 0xffffffffu;

// The loops of one apply follow each other within microseconds: a worker looks that long before it sleeps.
constexpr int kSpins = 2000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

Status ThreadPool::Make(int threads, std::unique_ptr<ThreadPool>* out) {
  std::unique_ptr<ThreadPool> pool(new (std::nothrow) ThreadPool);
  DSV4MX_RETURN_IF(pool == nullptr, DSV4MX_STATUS_OUT_OF_MEMORY, "no memory for the thread pool");
  pool->threads_ = threads;
  pool->process_ = static_cast<int>(getpid());
  try {
    pool->workers_.reserve(static_cast<size_t>(threads - 1));
    for (int t = 1; t < threads; ++t) {
      pool->workers_.emplace_back([p = pool.get(), t] { p->Worker(t); });
    }
  } catch (const std::system_error&) {
    pool->threads_ = static_cast<int>(pool->workers_.size()) + 1;
  } catch (const std::bad_alloc&) {
    return Fail(DSV4MX_STATUS_OUT_OF_MEMORY, "no memory for %d threads", threads);
  }
  *out = std::move(pool);
  return kOk;
}

ThreadPool::~ThreadPool() {
  if (process_ != static_cast<int>(getpid())) {
    for (std::thread& w : workers_) w.detach();
    return;
  }
  stop_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& w : workers_) w.join();
}

void ThreadPool::For(int64_t items, Body body) {
  if (items <= 0) return;
  if (items == 1 || workers_.empty() || process_ != static_cast<int>(getpid())) {
    for (int64_t i = 0; i < items; ++i) body(i, 0);
    return;
  }
  const std::lock_guard<std::mutex> turn(turn_);
  const uint64_t loop = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  // Closed first: a worker that still holds the old ticket must not take an item of the new loop with it.
  ticket_.store(loop << 32 | kClosed);
  items_.store(static_cast<uint32_t>(items), std::memory_order_relaxed);
  body_.store(&body, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  ticket_.store(loop << 32);
  if (sleepers_.load() > 0) {
    epoch_.fetch_add(1);
    epoch_.notify_all();
  }
  Work(0);
  for (int spin = 0; done_.load(std::memory_order_acquire) != static_cast<uint32_t>(items);
       ++spin) {
    if (spin < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::Work(int thread) {
  uint64_t ticket = ticket_.load();
  for (;;) {
    const uint32_t item = static_cast<uint32_t>(ticket);
    if (item >= items_.load(std::memory_order_relaxed)) return;
    const Body* body = body_.load(std::memory_order_relaxed);
    // Taking the item proves that the field read above belongs to its loop: it changes only while that is closed.
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1)) continue;
    (*body)(item, thread);
    done_.fetch_add(1, std::memory_order_release);
    ticket = ticket_.load();
  }
}

bool ThreadPool::HasWork() const {
  return static_cast<uint32_t>(ticket_.load()) < items_.load(std::memory_order_relaxed);
}

void ThreadPool::Worker(int thread) {
  FloatEnvironment floats;  // a new thread has that of its maker, whoever that was
  floats.Enter();
  while (!stop_.load(std::memory_order_relaxed)) {
    Work(thread);
    bool found = false;
    for (int spin = 0; spin < kSpins && !found; ++spin) {
      Pause();
      found = HasWork();
    }
    if (found) continue;
    const int epoch = epoch_.load();
    sleepers_.fetch_add(1);  // before the last look, as Run looks at it after publishing
    if (!HasWork() && !stop_.load()) epoch_.wait(epoch);
    sleepers_.fetch_sub(1);
  }
}

}  // namespace dsv4mx
