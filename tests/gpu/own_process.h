// A hidden test in a process of its own, which is this program asked for that test: for what breaks the CUDA context, and
// for what has to come first in a process.
#ifndef DSV4MX_TESTS_GPU_OWN_PROCESS_H_
#define DSV4MX_TESTS_GPU_OWN_PROCESS_H_

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>

namespace dsv4mx::test {

// "" if the tests of that tag passed there, all of them and at least one; else what the process printed.
inline std::string RunInOwnProcess(const std::string& tag) {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  if (length <= 0) return "the path of this program is unknown";
  const std::string command =
      "'" + std::string(path, static_cast<size_t>(length)) + "' '" + tag + "' 2>&1";
  std::fflush(stdout);
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return "no process for " + command;
  std::string output;
  char part[1024];
  for (size_t n; (n = std::fread(part, 1, sizeof part, pipe)) > 0;) output.append(part, n);
  const int status = pclose(pipe);
  const bool passed = WIFEXITED(status) && WEXITSTATUS(status) == 0 &&
                      output.find(" passed, 0 failed, 0 skipped\n") != std::string::npos &&
                      output.find("\n0 passed, ") == std::string::npos;
  return passed ? "" : command + " ended with status " + std::to_string(status) + ":\n" + output;
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_OWN_PROCESS_H_
