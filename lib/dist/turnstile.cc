#include "lib/dist/turnstile.h"

#include <unistd.h>

#include <chrono>
#include <random>
#include <vector>

namespace dsv4mx::dist {
namespace {

// This copy of the library in this process: no other says the same.
struct Process {
  uint64_t number, id;
  bool operator==(const Process& other) const { return number == other.number && id == other.id; }
};
Process ThisProcess() {
  static const uint64_t number = [] {
    std::random_device random;
    return uint64_t{random()} << 32 | random();
  }();
  return {number, static_cast<uint64_t>(getpid())};
}

}  // namespace

Status Turnstile::Meet(Bootstrap* bootstrap, const CommSpec& spec, const Control& control,
                       std::shared_ptr<Turnstile>* out) {
  struct Here {
    Process process;
    const std::shared_ptr<Turnstile>* own;
  };
  const auto own = std::make_shared<Turnstile>();
  std::vector<Here> all;
  DSV4MX_TRY(GatherOne(bootstrap, spec, Here{ThisProcess(), &own}, &all, control));
  std::shared_ptr<Turnstile> first;
  int members = 0;
  for (const Here& here : all) members += here.process == ThisProcess() ? 1 : 0;
  own->SetMembers(members);
  for (const Here& here : all) {
    if (first == nullptr && here.process == ThisProcess()) first = *here.own;
  }
  // References last until all have copied them.
  DSV4MX_TRY(bootstrap->AllGather(nullptr, nullptr, 0, control));
  if (members > 1) *out = std::move(first);
  return kOk;
}

void Turnstile::SetMembers(int members) {
  const std::lock_guard<std::mutex> lock(mutex_);
  members_ = members;
}

Status Turnstile::Pass(absl::FunctionRef<Status()> go_on) {
  std::unique_lock<std::mutex> lock(mutex_);
  const uint64_t turn = turn_;
  if (++come_ == members_) {
    come_ = 0;
    ++turn_;
    changed_.notify_all();
    return kOk;
  }
  while (!changed_.wait_for(lock, std::chrono::milliseconds(1), [&] { return turn_ != turn; })) {
    lock.unlock();
    const Status asked = go_on();
    lock.lock();
    if (asked.ok()) continue;
    if (turn_ == turn) --come_;
    return asked;
  }
  return kOk;
}

}  // namespace dsv4mx::dist
