// The threads of one long call. They share out its items; the thread that made the call, the owner, waits, reports, and
// does for them what only it may do: calls of a store on a device, and of what the caller hooked in.
//
// Where the system gives fewer threads than asked the work is the same and slower; where it gives none the owner does it.
#ifndef DSV4MX_LIB_BASE_CREW_H_
#define DSV4MX_LIB_BASE_CREW_H_

#include <absl/functional/function_ref.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <thread>

#include "lib/base/status.h"

namespace dsv4mx {

class Crew {
 public:
  using Work = absl::FunctionRef<Status(int64_t item, int worker)>;
  using Step = absl::FunctionRef<Status()>;
  // What the owner does beside: says in *busy whether it is to be called again at once, else the owner may sleep until Wake.
  // Where it finds nothing to do for long, it yields the processor.
  using Poll = absl::FunctionRef<Status(bool* busy)>;

  Crew() = default;
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  // Calls work(item, worker) for item 0..items-1, in this order to begin with, worker 0..threads-1; and `tick` on this
  // thread a few times a second. After a failure no item is begun, and the failure of the lowest item is the result; that
  // of a tick comes first. May be called once.
  Status Run(int threads, int64_t items, Work work, Step tick);
  // The same, and the owner polls in between.
  Status Run(int threads, int64_t items, Work work, Step tick, Poll poll);

  // For work alone; what they give when the call ends early is to be returned as it is.
  // Runs `step` on the owner.
  Status OnOwner(Step step);
  // Runs `step` when all items before this one have been through theirs.
  Status InOrder(int64_t item, Step step);
  // Waits until `condition` holds, which is asked again after every Changed. What it waits for must be on its way by work on
  // items before this one, or by what the owner polls: an owner without threads does them one by one. Goes on where a later
  // item failed, since this one's failure would come first.
  using Condition = absl::FunctionRef<bool()>;
  Status Await(int64_t item, Condition condition);
  void Changed();
  // Whether this thread is the owner, which is no place to wait for the owner.
  bool IsOwner() const { return std::this_thread::get_id() == owner_; }
  // There is something to poll for.
  void Wake();

 private:
  struct Request {
    Step step;
    Status status;
    char text[kErrorBytes];
    bool started = false, done = false;
    std::condition_variable ended;
  };
  class Members;  // the threads, joined whatever happens

  void Member(int worker);
  bool Next(int64_t* item);
  void Record(int64_t item, Status status);
  void Serve(std::unique_lock<std::mutex>* lock);
  void Stop();  // with the lock held
  void Own(std::unique_lock<std::mutex>* lock, Step tick);
  bool Ended(int64_t item) const { return stop_ && (!failed_ || failed_item_ <= item); }
  bool PollOnce();  // whether it is to be done again at once

  std::mutex mutex_;
  std::condition_variable for_owner_, for_members_;
  std::deque<Request*> requests_;
  Request* current_ = nullptr;  // what the owner is at
  const Work* work_ = nullptr;
  const Poll* poll_ = nullptr;
  bool woken_ = false;
  int64_t items_ = 0, next_ = 0, turn_ = 0;
  int running_ = 0;
  bool stop_ = false;
  bool failed_ = false;
  int64_t failed_item_ = 0;
  Status status_;
  char text_[kErrorBytes];
  std::thread::id owner_;
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_CREW_H_
