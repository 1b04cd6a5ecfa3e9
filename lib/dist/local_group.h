// A group of threads of one process: they find each other by a number, and gather through memory with a timeout.
#ifndef DSV4MX_LIB_DIST_LOCAL_GROUP_H_
#define DSV4MX_LIB_DIST_LOCAL_GROUP_H_

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "lib/dist/bootstrap.h"

namespace dsv4mx::dist {

// What the ranks of a group share. Each holds a reference.
class LocalGroup {
 public:
  // Waits until all ranks have come. A group that has formed gives its number free.
  static Status Join(uint64_t number, const CommSpec& spec, const Control& control,
                     std::shared_ptr<LocalGroup>* out);

  Status AllGather(const CommSpec& spec, const void* mine, void* all, size_t bytes,
                   const Control& control);
  void Leave(int32_t rank);

 private:
  explicit LocalGroup(int32_t size);
  // Sleeps until `done`, which the mutex guards; looks at timeout, control and the group's end in between.
  template <class Done>
  Status WaitFor(std::unique_lock<std::mutex>* lock, const CommSpec& spec, const Control& control,
                 const char* what, const Done& done);
  // With the text of the thread's last error. The group can gather no more.
  void End(Status why);
  Status Ended() const;

  const int32_t size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<uint8_t> joined_;
  int32_t joined_count_ = 0;

  // One gather: ranks arrive with their bytes, the last one opens the way out; the next begins when all have copied.
  std::vector<uint8_t> data_, arrived_here_;
  int32_t arrived_ = 0, left_over_ = 0;
  uint64_t gather_ = 0;
  size_t bytes_ = 0;
  // Why the group can gather no more.
  Status ended_;
  char ended_text_[kErrorBytes] = "";
};

class LocalBootstrap final : public Bootstrap {
 public:
  LocalBootstrap(std::shared_ptr<LocalGroup> group, const CommSpec& spec)
      : group_(std::move(group)), spec_(spec) {}
  Status AllGather(const void* mine, void* all, size_t bytes, const Control& control) override {
    return group_->AllGather(spec_, mine, all, bytes, control);
  }
  void Leave() override { group_->Leave(spec_.rank); }

 private:
  std::shared_ptr<LocalGroup> group_;
  CommSpec spec_;
};

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_LOCAL_GROUP_H_
