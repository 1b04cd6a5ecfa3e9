// What a calling thread brings along that must neither change what the library does nor be changed by it: the
// floating-point environment (rounding, flush to zero, traps, sticky flags) and whether the thread may be cancelled.
//
// Every entry point runs inside a LibraryScope: default environment, no cancellation. A callback is the caller's code
// and runs as if the library were not there: inside a CallerScope, which gives the thread its own state back. What the
// callback changes in it is the thread's state from then on.
//
// A callback may also end its thread, which unwinds through the library. Destructors must not be unwound through, so memory
// for the caller's free hook waits in the scope until the next callback, or the end of the call.
#ifndef DSV4MX_LIB_BASE_THREAD_STATE_H_
#define DSV4MX_LIB_BASE_THREAD_STATE_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "dsv4mx.h"

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <cfenv>
#endif

namespace dsv4mx {

class FloatEnvironment {
 public:
  // Keeps the thread's environment here and sets the default one.
  void Enter();
  // Gives back what Enter kept, sticky flags included. Between the two only the flags may differ from the default.
  void Leave() const;

 private:
#if defined(__x86_64__)
  uint32_t mxcsr_;
  // libc asks x87's control word for the rounding mode when it reads or prints numbers. Storing and loading the whole
  // of it is slow, so that happens only where its control word is not the default, or its status was changed.
  uint16_t x87_control_, x87_status_;
  alignas(4) uint8_t x87_[28];
#elif defined(__aarch64__)
  uint64_t control_, status_;
#else
  std::fenv_t all_;
#endif
};

// One call of a free hook. `run` makes it, inside a CallerScope.
struct FreeCall {
  void (*run)(const FreeCall& call);
  dsv4mx_free_fn hook;
  void* user;
  void* pointer;
  size_t bytes;
  dsv4mx_memory memory;
  dsv4mx_stream stream;
  void* place;  // what `run` needs to know of where the memory lives
};

class LibraryScope {
 public:
  LibraryScope();
  // Where the caller allows asynchronous cancellation, one that came meanwhile unwinds from here.
  ~LibraryScope() noexcept(false);
  LibraryScope(const LibraryScope&) = delete;
  LibraryScope& operator=(const LibraryScope&) = delete;

  // Makes the call as soon as a thread may end in it; at once outside of any scope, or when many wait.
  static void Later(const FreeCall& call);
  // Makes the calls that wait in the thread's scope. What a thread that ends in one leaves is not given back.
  static void RunLater();
  bool CallsWait() const { return later_count_ > 0; }

 private:
  friend class CallerScope;
  void Enter();
  void Leave() const;

  FloatEnvironment floats_;
  int cancel_state_;
  LibraryScope** current_;  // the thread's own, which to look up takes time
  LibraryScope* outer_;     // a callback may call the library
  int later_count_ = 0;
  FreeCall later_[16];
};

// Nothing happens on a thread that is in no LibraryScope.
class CallerScope {
 public:
  CallerScope();
  ~CallerScope();
  CallerScope(const CallerScope&) = delete;
  CallerScope& operator=(const CallerScope&) = delete;

 private:
  LibraryScope* library_;
};

// The one way to call what the caller hooked in.
template <class Result, class... Params, class... Args>
Result CallOut(Result (*callback)(Params...), Args&&... args) {
  LibraryScope::RunLater();
  const CallerScope scope;
  return callback(std::forward<Args>(args)...);
}

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_THREAD_STATE_H_
