#include "lib/cuda/cuda_gate.h"

#include <algorithm>
#include <chrono>

namespace dsv4mx::cuda {

void Gate::SetMembers(int count) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto n = static_cast<size_t>(count);
  if (visits_.size() == n) return;
  visits_.resize(n);
  here_.assign(n, 0);
  left_.assign(n, 0);
}

int Gate::Pass(int member, const GateVisit& visit, int64_t timeout_ns,
               absl::FunctionRef<bool()> ended, std::vector<GateVisit>* all) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kLook = std::chrono::milliseconds(2);
  std::unique_lock<std::mutex> lock(mutex_);
  const auto me = static_cast<size_t>(member);
  visits_[me] = visit;
  here_[me] = 1;
  const uint64_t round = round_;
  if (++arrived_ == static_cast<int>(visits_.size())) {
    arrived_ = 0;
    ++round_;
    // Nobody comes to the next round before all have taken this one's visits: that one begins with a visit of each.
    passed_ = visits_;
    std::fill(here_.begin(), here_.end(), uint8_t{0});
    changed_.notify_all();
    *all = passed_;
    return kAllCame;
  }
  const auto begin = Clock::now();
  while (round_ == round) {
    changed_.wait_for(lock, kLook);
    if (round_ != round) break;
    int missing = -1;
    for (size_t i = 0; i < here_.size() && missing < 0; ++i) {
      if (here_[i] == 0) missing = static_cast<int>(i);
    }
    const bool gone = missing >= 0 &&
                      std::any_of(left_.begin(), left_.end(), [](uint8_t one) { return one != 0; });
    const bool late = Clock::now() - begin >= std::chrono::nanoseconds(timeout_ns);
    const bool over = ended();
    if (!gone && !late && !over) continue;
    here_[me] = 0;
    --arrived_;
    if (over) return kEnded;
    if (gone) {
      for (size_t i = 0; i < left_.size(); ++i) {
        if (left_[i] != 0) return static_cast<int>(i);
      }
    }
    return missing;
  }
  *all = passed_;
  return kAllCame;
}

void Gate::Leave(int member) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (static_cast<size_t>(member) < left_.size()) left_[static_cast<size_t>(member)] = 1;
  changed_.notify_all();
}

bool Gate::Left(int member) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return left_[static_cast<size_t>(member)] != 0;
}

void Gate::Reset() {
  const std::lock_guard<std::mutex> lock(mutex_);
  arrived_ = 0;
  std::fill(here_.begin(), here_.end(), uint8_t{0});
}

}  // namespace dsv4mx::cuda
