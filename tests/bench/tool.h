// What the command-line tools share: exit codes, and one line to stderr before a usage error ends them.
#ifndef DSV4MX_TESTS_BENCH_TOOL_H_
#define DSV4MX_TESTS_BENCH_TOOL_H_

#include <cstdio>
#include <cstdlib>
#include <string>

namespace dsv4mx::bench {

enum ExitCode { kGood = 0, kFailed = 1, kUsage = 2 };

[[noreturn]] inline void UsageError(const char* tool, const std::string& what) {
  std::fprintf(stderr, "%s: %s (--help tells more)\n", tool, what.c_str());
  std::exit(kUsage);
}

// The value behind option argv[*i], which it moves to.
inline std::string OptionValue(const char* tool, int argc, char** argv, int* i) {
  if (*i + 1 >= argc) UsageError(tool, std::string(argv[*i]) + ": wanted a value");
  return argv[++*i];
}

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_TOOL_H_
