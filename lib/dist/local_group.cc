#include "lib/dist/local_group.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>

#include "lib/base/text.h"

namespace dsv4mx::dist {
namespace {

constexpr auto kLook = std::chrono::milliseconds(5);
constexpr auto kTell = std::chrono::milliseconds(200);

// Groups that are forming. Never destroyed: threads may still join while the process ends.
struct Forming {
  std::mutex mutex;
  std::map<uint64_t, std::shared_ptr<LocalGroup>> groups;
};
Forming& TheForming() {
  static Forming* forming = new Forming;
  return *forming;
}

}  // namespace

LocalGroup::LocalGroup(int32_t size)
    : size_(size), joined_(static_cast<size_t>(size)), arrived_here_(static_cast<size_t>(size)) {}

Status LocalGroup::Ended() const {
  return Fail(ended_.code, "%s", ended_text_);
}

template <class Done>
Status LocalGroup::WaitFor(std::unique_lock<std::mutex>* lock, const CommSpec& spec,
                           const Control& control, const char* what, const Done& done) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  auto told = begin;
  Status status = kOk;
  while (!done()) {
    if (!ended_.ok()) return Ended();
    changed_.wait_for(*lock, kLook);
    if (done()) break;
    const auto now = Clock::now();
    const bool tell = now - told >= kTell;
    if (tell) told = now;
    // Who is here: of those that join, then of those that gather.
    const std::vector<uint8_t>& present = joined_count_ < size_ ? joined_ : arrived_here_;
    const int32_t here = joined_count_ < size_ ? joined_count_ : arrived_;
    if (control.Listens()) {
      // Callbacks run without the lock.
      lock->unlock();
      status = tell ? control.Report(DSV4MX_STAGE_JOIN, here, size_)
                    : control.Part(0, size_).Report(DSV4MX_STAGE_JOIN, here, size_);
      lock->lock();
    }
    if (status.ok() && now - begin >= std::chrono::nanoseconds(spec.timeout_ns)) {
      const auto missing =
          static_cast<int32_t>(std::find(present.begin(), present.end(), 0) - present.begin());
      status = Fail(DSV4MX_STATUS_COMM_TIMEOUT, "rank %d of %d did not %s within %s s", missing,
                    size_, what, Text(static_cast<double>(spec.timeout_ns) * 1e-9, 3).text);
    }
    if (status.ok()) continue;
    if (ended_.ok()) End(status);
    return status;
  }
  return kOk;
}

Status LocalGroup::Join(uint64_t number, const CommSpec& spec, const Control& control,
                        std::shared_ptr<LocalGroup>* out) {
  Forming& forming = TheForming();
  std::shared_ptr<LocalGroup> group;
  {
    const std::lock_guard<std::mutex> lock(forming.mutex);
    std::shared_ptr<LocalGroup>& place = forming.groups[number];
    if (place == nullptr) place.reset(new LocalGroup(spec.size));
    group = place;
  }
  const auto forget = [&] {
    const std::lock_guard<std::mutex> lock(forming.mutex);
    const auto found = forming.groups.find(number);
    if (found != forming.groups.end() && found->second == group) forming.groups.erase(found);
  };
  Status status = kOk;
  {
    std::unique_lock<std::mutex> lock(group->mutex_);
    const auto rank = static_cast<size_t>(spec.rank);
    // Who does not fit is refused alone: the others still wait for theirs.
    DSV4MX_RETURN_IF(group->size_ != spec.size, DSV4MX_STATUS_COMM_MISMATCH,
                     "size is %d on rank %d, wanted %d as another rank of group %llu has it",
                     spec.size, spec.rank, group->size_, static_cast<unsigned long long>(number));
    DSV4MX_RETURN_IF(group->joined_[rank] != 0, DSV4MX_STATUS_COMM_MISMATCH,
                     "rank %d of group %llu has come already, wanted every rank once", spec.rank,
                     static_cast<unsigned long long>(number));
    group->joined_[rank] = 1;
    if (++group->joined_count_ == group->size_) {
      group->changed_.notify_all();
    } else {
      status = group->WaitFor(&lock, spec, control, "join",
                              [&] { return group->joined_count_ == group->size_; });
    }
  }
  forget();
  DSV4MX_TRY(status);
  *out = std::move(group);
  return kOk;
}

Status LocalGroup::AllGather(const CommSpec& spec, const void* mine, void* all, size_t bytes,
                             const Control& control) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!ended_.ok()) return Ended();
  // The gather before may still have ranks that copy.
  DSV4MX_TRY(
      WaitFor(&lock, spec, control, "leave the call before", [&] { return left_over_ == 0; }));
  if (arrived_ == 0) {
    bytes_ = bytes;
    data_.resize(bytes * static_cast<size_t>(size_));
    std::fill(arrived_here_.begin(), arrived_here_.end(), uint8_t{0});
  }
  if (bytes != bytes_) {
    End(Fail(DSV4MX_STATUS_COMM_MISMATCH,
             "rank %d gathers %zu bytes where others gather %zu, wanted the same collective "
             "calls in the same order on every rank",
             spec.rank, bytes, bytes_));
    return ended_;
  }
  if (bytes != 0) std::memcpy(data_.data() + bytes * static_cast<size_t>(spec.rank), mine, bytes);
  arrived_here_[static_cast<size_t>(spec.rank)] = 1;
  const uint64_t gather = gather_;
  if (++arrived_ == size_) {
    ++gather_;
    arrived_ = 0;
    left_over_ = size_;
    changed_.notify_all();
  } else {
    DSV4MX_TRY(WaitFor(&lock, spec, control, "come to a collective call",
                       [&] { return gather_ != gather; }));
  }
  if (bytes != 0) std::memcpy(all, data_.data(), data_.size());
  if (--left_over_ == 0) changed_.notify_all();
  return kOk;
}

void LocalGroup::End(Status why) {
  ended_ = why;
  std::memcpy(ended_text_, LastError(), sizeof(ended_text_));
  changed_.notify_all();
}

void LocalGroup::Leave(int32_t rank) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!ended_.ok()) return;
  const KeepError keep;
  End(Fail(DSV4MX_STATUS_COMM_RANK_LOST, "rank %d of %d has left the group", rank, size_));
  keep.Restore();
}

}  // namespace dsv4mx::dist
