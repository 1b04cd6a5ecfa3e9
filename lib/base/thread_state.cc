#include "lib/base/thread_state.h"

#include <pthread.h>

#include <cstring>
#include <iterator>

namespace dsv4mx {
namespace {

constinit thread_local LibraryScope* current = nullptr;

}  // namespace

// "memory": what is computed from memory, and stored there, stays on its side of the change.
#if defined(__x86_64__)

namespace {

constexpr uint32_t kDefaultMxcsr = 0x1F80, kMxcsrFlags = 0x3F;
constexpr uint16_t kDefaultX87 = 0x037F;

uint32_t Mxcsr() {
  uint32_t mxcsr;
  asm volatile("stmxcsr %0" : "=m"(mxcsr) : : "memory");
  return mxcsr;
}
// Costs as much as the rest of an empty call, so it is done only where it changes something.
void SetMxcsr(uint32_t mxcsr) {
  asm volatile("ldmxcsr %0" : : "m"(mxcsr) : "memory");
}
uint16_t X87Status() {
  uint16_t status;
  asm volatile("fnstsw %0" : "=m"(status) : : "memory");
  return status;
}

}  // namespace

void FloatEnvironment::Enter() {
  mxcsr_ = Mxcsr();
  if ((mxcsr_ & ~kMxcsrFlags) != kDefaultMxcsr) SetMxcsr(kDefaultMxcsr);
  asm volatile("fnstcw %0" : "=m"(x87_control_) : : "memory");
  if (x87_control_ == kDefaultX87) {
    x87_status_ = X87Status();
  } else {
    // Neither waits for an exception that is pending, as loading a control word would. No value is lost: between
    // functions the stack is empty.
    asm volatile("fnstenv %0\n\tfninit" : "=m"(x87_) : : "memory");
  }
}

void FloatEnvironment::Leave() const {
  if (x87_control_ != kDefaultX87) {
    asm volatile("fldenv %0" : : "m"(x87_) : "memory");
  } else if (X87Status() != x87_status_) {
    uint8_t all[sizeof x87_];
    asm volatile("fnstenv %0" : "=m"(all) : : "memory");
    constexpr int kStatusAt = 4;
    std::memcpy(all + kStatusAt, &x87_status_, sizeof x87_status_);
    std::memcpy(all, &x87_control_, sizeof x87_control_);  // storing has masked it
    asm volatile("fldenv %0" : : "m"(all) : "memory");
  }
  if (Mxcsr() != mxcsr_) SetMxcsr(mxcsr_);
}

#elif defined(__aarch64__)

void FloatEnvironment::Enter() {
  asm volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(control_), "=r"(status_) : : "memory");
  if (control_ != 0) asm volatile("msr fpcr, %0" : : "r"(uint64_t{0}) : "memory");
}

void FloatEnvironment::Leave() const {
  asm volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(control_), "r"(status_) : "memory");
}

#else

void FloatEnvironment::Enter() {
  std::fegetenv(&all_);
  std::fesetenv(FE_DFL_ENV);
}

void FloatEnvironment::Leave() const {
  std::fesetenv(&all_);
}

#endif

void LibraryScope::Enter() {
  floats_.Enter();
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state_);
}

void LibraryScope::Leave() const {
  floats_.Leave();
  pthread_setcancelstate(cancel_state_, nullptr);
}

LibraryScope::LibraryScope() : current_(&current), outer_(*current_) {
  Enter();
  *current_ = this;
}

void LibraryScope::Later(const FreeCall& call) {
  if (current == nullptr || current->later_count_ == static_cast<int>(std::size(current->later_))) {
    const CallerScope scope;
    call.run(call);
    return;
  }
  current->later_[current->later_count_++] = call;
}

void LibraryScope::RunLater() {
  if (current == nullptr) return;
  while (current->later_count_ > 0) {
    const FreeCall call = current->later_[--current->later_count_];
    const CallerScope scope;
    call.run(call);
  }
}

LibraryScope::~LibraryScope() noexcept(false) {
  *current_ = outer_;
  Leave();
}

CallerScope::CallerScope() : library_(current) {
  if (library_ != nullptr) library_->Leave();
}

CallerScope::~CallerScope() {
  if (library_ != nullptr) library_->Enter();
}

}  // namespace dsv4mx
