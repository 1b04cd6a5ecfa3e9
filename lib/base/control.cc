#include "lib/base/control.h"

#include "lib/base/thread_state.h"

namespace dsv4mx {
namespace {

constexpr auto kReports = std::chrono::milliseconds(200);

const char* StageName(dsv4mx_stage stage) {
  switch (stage) {
    case DSV4MX_STAGE_WAIT:
      return "while it waited for the stream";
    case DSV4MX_STAGE_OPEN:
      return "files opened";
    case DSV4MX_STAGE_LOAD:
      return "bytes read";
    case DSV4MX_STAGE_PREPARE:
      return "experts prepared";
    case DSV4MX_STAGE_SAVE:
      return "bytes written";
    case DSV4MX_STAGE_JOIN:
      return "ranks joined";
    default:
      return "experts converted";
  }
}

}  // namespace

Status Control::GoOn(dsv4mx_stage stage, int64_t done, int64_t total, bool tell) const {
  const char* by = nullptr;
  dsv4mx_status code = DSV4MX_STATUS_CANCELLED;
  if (given_.cancel != nullptr && __atomic_load_n(given_.cancel, __ATOMIC_ACQUIRE) != 0) {
    by = "was cancelled by its flag";
  } else if (given_.timeout_ns > 0 &&
             Clock::now() - begin_ >= std::chrono::nanoseconds(given_.timeout_ns)) {
    by = "did not end within its timeout";
    code = DSV4MX_STATUS_DEADLINE_EXCEEDED;
  } else if (tell && given_.progress != nullptr &&
             CallOut(given_.progress, given_.progress_user, stage, done, total) != 0) {
    by = "was cancelled by its progress callback";
  }
  if (by == nullptr) return kOk;
  if (stage == DSV4MX_STAGE_WAIT) return Fail(code, "%s %s %s", what_, by, StageName(stage));
  return Fail(code, "%s %s after %lld of %lld %s", what_, by, static_cast<long long>(done),
              static_cast<long long>(total), StageName(stage));
}

Status Control::Report(dsv4mx_stage stage, int64_t done, int64_t total) const {
  if (!Listens()) return kOk;
  const auto now = Clock::now();
  const bool tell = !is_part_ || now - told_ >= kReports;
  if (tell) told_ = now;
  return is_part_ ? GoOn(stage, before_ + done, total_, tell) : GoOn(stage, done, total, tell);
}

Status Control::Wait() const {
  if (!Listens()) return kOk;
  const auto now = Clock::now();
  const bool tell = now - told_ >= kReports;
  if (tell) told_ = now;
  return GoOn(DSV4MX_STAGE_WAIT, 0, 0, tell);
}

}  // namespace dsv4mx
