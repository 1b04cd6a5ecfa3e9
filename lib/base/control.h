// The caller's control over a long call: progress, cancel flag, deadline (dsv4mx_control).
#ifndef DSV4MX_LIB_BASE_CONTROL_H_
#define DSV4MX_LIB_BASE_CONTROL_H_

#include <chrono>
#include <cstdint>

#include "lib/base/status.h"

namespace dsv4mx {

class Control {
 public:
  using Clock = std::chrono::steady_clock;

  // Nothing to report to, never ends a call.
  Control() = default;
  // The clock starts here. `what` names the call in messages and outlives the object.
  Control(const dsv4mx_control& given, const char* what)
      : given_(given), what_(what), begin_(Clock::now()) {}

  // Reports and says whether to go on: CANCELLED or DEADLINE_EXCEEDED if not.
  Status Report(dsv4mx_stage stage, int64_t done, int64_t total) const;
  // The same control for a part of the call, which begins at `before` of `total`: ends it as well, and tells of progress a few
  // times a second as the whole's.
  Control Part(int64_t before, int64_t total) const {
    Control part = *this;
    part.is_part_ = true;
    part.before_ = before_ + before;
    part.total_ = is_part_ ? total_ : total;
    if (!is_part_) part.told_ = Clock::now();
    return part;
  }
  // The same while waiting: cheap, and reports a few times per second. Never calls progress more often.
  Status Wait() const;
  // Whether anybody could end the call or wants to hear of it.
  bool Listens() const {
    return given_.progress != nullptr || given_.cancel != nullptr || given_.timeout_ns > 0;
  }

 private:
  Status GoOn(dsv4mx_stage stage, int64_t done, int64_t total, bool tell) const;

  dsv4mx_control given_{};
  const char* what_ = "";
  Clock::time_point begin_{};
  bool is_part_ = false;
  int64_t before_ = 0, total_ = 0;  // of a part: in the whole
  mutable Clock::time_point told_{};
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_CONTROL_H_
