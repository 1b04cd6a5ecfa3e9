#include "lib/base/crew.h"

#include <signal.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <new>
#include <system_error>
#include <vector>

#include "lib/base/thread_state.h"

namespace dsv4mx {
namespace {

constexpr auto kTick = std::chrono::milliseconds(100);

// What work gives back when the call ends early: no failure of its own.
constexpr Status kStopped{DSV4MX_STATUS_SENTINEL};

void CopyText(char* to) {
  std::snprintf(to, kErrorBytes, "%s", LastError());
}

// On a thread of the library nothing stands between an exception and the end of the process.
Status Caught(Crew::Work work, int64_t item, int worker) {
  try {
    return work(item, worker);
  } catch (const std::bad_alloc&) {
    return Fail(DSV4MX_STATUS_OUT_OF_MEMORY, "host memory ran out");
  } catch (const std::exception& e) {
    return Fail(DSV4MX_STATUS_INTERNAL, "unexpected exception: %s", e.what());
  }
}

// Threads begin with the signals blocked that are blocked where they are made: the process' handlers are for its own
// threads, and a write beyond a limit of the file's size (SIGXFSZ) is to fail, not to end the process.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~NoSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  NoSignals(const NoSignals&) = delete;
  NoSignals& operator=(const NoSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

class Crew::Members {
 public:
  explicit Members(Crew* crew) : crew_(crew) {}
  Members(const Members&) = delete;
  Members& operator=(const Members&) = delete;

  // As many as there are.
  void Start(int threads) {
    const NoSignals scope;
    threads_.reserve(static_cast<size_t>(threads));
    for (int i = 0; i < threads; ++i) {
      try {
        threads_.emplace_back([crew = crew_, i] { crew->Member(i); });
      } catch (const std::system_error&) {
        break;
      } catch (const std::bad_alloc&) {
        break;
      }
      const std::lock_guard<std::mutex> lock(crew_->mutex_);
      ++crew_->running_;
    }
  }
  bool empty() const { return threads_.empty(); }
  // Also where a callback ends the owner's thread.
  ~Members() {
    {
      const std::lock_guard<std::mutex> lock(crew_->mutex_);
      if (crew_->current_ != nullptr) {
        crew_->current_->status = kStopped;
        crew_->current_->done = true;
        crew_->current_->ended.notify_one();
      }
      crew_->Stop();
    }
    for (std::thread& t : threads_) t.join();
  }

 private:
  Crew* crew_;
  std::vector<std::thread> threads_;
};

bool Crew::Next(int64_t* item) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stop_ || next_ == items_) return false;
  *item = next_++;
  return true;
}

void Crew::Record(int64_t item, Status status) {
  if (status.ok() || status.code == kStopped.code) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!failed_ || item < failed_item_) {
    failed_item_ = item;
    status_ = status;
    CopyText(text_);
  }
  failed_ = true;
  Stop();
  for_owner_.notify_all();
}

void Crew::Stop() {
  stop_ = true;
  for_members_.notify_all();
  for (Request* request : requests_) request->ended.notify_one();
}

void Crew::Member(int worker) {
  FloatEnvironment floats;  // a new thread has that of its maker
  floats.Enter();
  for (int64_t item; Next(&item);) Record(item, Caught(*work_, item, worker));
  const std::lock_guard<std::mutex> lock(mutex_);
  --running_;
  for_owner_.notify_all();
}

void Crew::Serve(std::unique_lock<std::mutex>* lock) {
  Request* request = requests_.front();
  requests_.pop_front();
  request->started = true;
  current_ = request;
  lock->unlock();
  const Status status = request->step();  // may unwind: see Members
  lock->lock();
  current_ = nullptr;
  request->status = status;
  if (!status.ok()) CopyText(request->text);
  request->done = true;
  request->ended.notify_one();  // with the lock held: then it may go
}

Status Crew::Run(int threads, int64_t items, Work work, Step tick, Poll poll) {
  poll_ = &poll;
  return Run(threads, items, work, tick);
}

Status Crew::Run(int threads, int64_t items, Work work, Step tick) {
  owner_ = std::this_thread::get_id();
  work_ = &work;
  items_ = items;
  {
    Members members(this);
    members.Start(static_cast<int>(threads < items ? threads : items));
    if (members.empty()) {
      for (int64_t item; Next(&item);) {
        Record(item, work(item, 0));
        (void)PollOnce();
        Record(-1, tick());
      }
    }
    std::unique_lock<std::mutex> lock(mutex_);
    Own(&lock, tick);
  }
  return failed_ ? Fail(status_.code, "%s", text_) : kOk;
}

void Crew::Own(std::unique_lock<std::mutex>* lock, Step tick) {
  auto next = std::chrono::steady_clock::now() + kTick;
  while (running_ > 0) {
    if (!requests_.empty() && !stop_) Serve(lock);
    bool busy = !requests_.empty() && !stop_;
    if (poll_ != nullptr && (!stop_ || failed_item_ >= 0)) {  // earlier items may wait for it
      woken_ = false;
      lock->unlock();
      busy = PollOnce() || busy;
      lock->lock();
      busy = busy || woken_ || (!requests_.empty() && !stop_);  // asked for while it polled
    }
    if (!busy && running_ > 0) for_owner_.wait_until(*lock, next);
    if (std::chrono::steady_clock::now() < next) continue;
    lock->unlock();
    Record(-1, tick());
    lock->lock();
    next = std::chrono::steady_clock::now() + kTick;
  }
}

bool Crew::PollOnce() {
  if (poll_ == nullptr) return false;
  bool busy = false;
  Record(-1, (*poll_)(&busy));
  return busy;
}

Status Crew::OnOwner(Step step) {
  if (std::this_thread::get_id() == owner_) return step();
  Request request{step, kOk, {}, false, false, {}};
  std::unique_lock<std::mutex> lock(mutex_);
  if (stop_) return kStopped;
  requests_.push_back(&request);
  for_owner_.notify_all();
  request.ended.wait(lock, [&] { return request.done || (stop_ && !request.started); });
  if (!request.done) {
    std::erase(requests_, &request);
    return kStopped;
  }
  lock.unlock();
  if (request.status.ok() || request.status.code == kStopped.code) return request.status;
  return Fail(request.status.code, "%s", request.text);
}

Status Crew::InOrder(int64_t item, Step step) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    for_members_.wait(lock, [&] { return turn_ == item || stop_; });
    if (stop_) return kStopped;
  }
  DSV4MX_TRY(step());
  const std::lock_guard<std::mutex> lock(mutex_);
  ++turn_;
  for_members_.notify_all();
  return kOk;
}

Status Crew::Await(int64_t item, Condition condition) {
  if (std::this_thread::get_id() == owner_) {
    while (!condition()) {
      (void)PollOnce();
      if (Ended(item)) return kStopped;  // where it is the only thread, nobody else writes that
    }
    return kOk;
  }
  std::unique_lock<std::mutex> lock(mutex_);
  for_members_.wait(lock, [&] { return Ended(item) || condition(); });
  return Ended(item) ? kStopped : kOk;
}

void Crew::Changed() {
  // With the lock, so that nobody is between its question and its sleep.
  const std::lock_guard<std::mutex> lock(mutex_);
  for_members_.notify_all();
}

void Crew::Wake() {
  const std::lock_guard<std::mutex> lock(mutex_);
  woken_ = true;
  for_owner_.notify_all();
}

}  // namespace dsv4mx
