// What the command-line tools share: exit codes, options by glibc's getopt_long, and one line to stderr before a usage
// error ends them. Not by Abseil's flags and StrFormat: its flags answer --help and unknown options with exit code 1, that of a
// failed case, warn of the value in "--json -", know no -h, and both would have to be linked into tools that are installed and
// need nothing but the library, where the compiler checks printf's formats as well.
#ifndef DSV4MX_TESTS_BENCH_TOOL_H_
#define DSV4MX_TESTS_BENCH_TOOL_H_

#include <getopt.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

namespace dsv4mx::bench {

enum ExitCode { kGood = 0, kFailed = 1, kUsage = 2 };

[[noreturn]] inline void UsageError(const char* tool, const std::string& what) {
  std::fprintf(stderr, "%s: %s (--help tells more)\n", tool, what.c_str());
  std::exit(kUsage);
}

// The code of the next option, its value in optarg; -1 when only operands are left, from optind on. -h stands for 'h'.
inline int NextOption(const char* tool, int argc, char** argv, const option* known) {
  const int at = optind;
  const int code = getopt_long(argc, argv, ":h", known, nullptr);
  // An unknown option or an ambiguous abbreviation; a value too few, or one that an option does not take.
  if (code == '?')
    UsageError(tool, std::string("unknown option ") + argv[at < optind ? optind - 1 : at]);
  if (code == ':') UsageError(tool, std::string(argv[optind - 1]) + ": wanted a value");
  return code;
}

// What main returns: that of `run`, or kFailed with the text of what it threw.
template <class Run>
int RunTool(const char* tool, const Run& run) {
  try {
    return run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", tool, error.what());
    return kFailed;
  }
}

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_TOOL_H_
