// Where every thread of the process is, on stderr: for a program that hangs.
#ifndef DSV4MX_TESTS_GPU_THREAD_STACKS_H_
#define DSV4MX_TESTS_GPU_THREAD_STACKS_H_

#include <execinfo.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <thread>

namespace dsv4mx::test {

inline void TellOwnStack(int) {
  char line[64];
  const int bytes = std::snprintf(line, sizeof(line), "thread %ld:\n", syscall(SYS_gettid));
  (void)!write(STDERR_FILENO, line, static_cast<size_t>(bytes));
  void* frames[48];
  backtrace_symbols_fd(frames, backtrace(frames, 48), STDERR_FILENO);
}

inline void TellStacks() {
  void* frame = nullptr;
  (void)backtrace(&frame, 1);  // loads what it needs, outside a handler
  struct sigaction action = {};
  action.sa_handler = TellOwnStack;
  action.sa_flags = SA_RESTART;
  (void)sigaction(SIGUSR2, &action, nullptr);
  const long own = syscall(SYS_gettid);
  std::error_code unused;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task", unused)) {
    const long thread = std::atol(task.path().filename().c_str());
    if (thread == own || thread == 0) continue;
    (void)syscall(SYS_tgkill, getpid(), thread, SIGUSR2);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_THREAD_STACKS_H_
