#include "tests/emulator/fiber.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#error "CUDA builds of this project are for x86-64"
#endif

// Keeps what a called function must keep, on the stack, and goes on with the other stack. (swapcontext asks the system for
// the signal mask each time, which costs more than all the rest here.)
extern "C" void dsv4mx_emulator_switch(void** from, void* to);
asm(R"(
.text
.globl dsv4mx_emulator_switch
.hidden dsv4mx_emulator_switch
.type dsv4mx_emulator_switch, @function
dsv4mx_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size dsv4mx_emulator_switch, .-dsv4mx_emulator_switch
.section .note.GNU-stack, "", @progbits
.text
)");

namespace dsv4mx::emulator {

#if defined(__SANITIZE_ADDRESS__)
namespace {
thread_local Fiber* entering;
}
void Fiber::Entered() {
  Fiber* self = entering;
  __sanitizer_finish_switch_fiber(nullptr, &self->outside_stack_, &self->outside_bytes_);
  self->start_();
}
#endif

Fiber::~Fiber() {
  if (stack_ != nullptr) munmap(stack_, kStackBytes);
}

void Fiber::Begin(void (*start)()) {
  if (stack_ == nullptr) {
    void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stack_ = static_cast<uint8_t*>(memory);
  }
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(stack_, kStackBytes);
  start_ = start;
  fake_inside_ = nullptr;
  start = Entered;
#endif
  // As if it had been left: six registers, then where to go on. There the stack is 8 off a multiple of 16, as after a call.
  void** top = reinterpret_cast<void**>(stack_ + kStackBytes) - 2;
  *top = reinterpret_cast<void*>(start);
  top -= 6;
  std::memset(top, 0, 6 * sizeof *top);
  inside_ = top;
}

void Fiber::Resume() {
#if defined(__SANITIZE_ADDRESS__)
  entering = this;
  __sanitizer_start_switch_fiber(&fake_outside_, stack_, kStackBytes);
#endif
  dsv4mx_emulator_switch(&outside_, inside_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_outside_, nullptr, nullptr);
#endif
}

void Fiber::Leave() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_inside_, outside_stack_, outside_bytes_);
#endif
  dsv4mx_emulator_switch(&inside_, outside_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_inside_, &outside_stack_, &outside_bytes_);
#endif
}

}  // namespace dsv4mx::emulator
