// Threads that take turns on one thread of the host.
#ifndef DSV4MX_TESTS_EMULATOR_FIBER_H_
#define DSV4MX_TESTS_EMULATOR_FIBER_H_

#include <cstddef>
#include <cstdint>

namespace dsv4mx::emulator {

// A stack and where it stopped.
class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // `start` runs at the first Resume and never returns: it calls Leave for the last time instead.
  void Begin(void (*start)());
  // From outside: runs the fiber until it leaves.
  void Resume();
  // From inside: back to who resumed.
  void Leave();

 private:
  static constexpr size_t kStackBytes = size_t{256} << 10;
  uint8_t* stack_ = nullptr;
  void* inside_ = nullptr;   // stack pointer of the fiber while it is not running
  void* outside_ = nullptr;  // of who resumed it
#if defined(__SANITIZE_ADDRESS__)
  void* fake_inside_ = nullptr;
  void* fake_outside_ = nullptr;
  const void* outside_stack_ = nullptr;
  size_t outside_bytes_ = 0;
  void (*start_)() = nullptr;
  static void Entered();
#endif
};

}  // namespace dsv4mx::emulator

#endif  // DSV4MX_TESTS_EMULATOR_FIBER_H_
