// The one main of the test binaries: runs Catch2 and ends with "N passed, N failed, N skipped", counted per test case.
#define CATCH_CONFIG_RUNNER
#include "tests/catch.h"

#include <cctype>
#include <cstdio>
#include <sstream>
#include <string>

#if __has_include(<catch2/catch_all.hpp>)
using ListenerBase = Catch::EventListenerBase;
#else
using ListenerBase = Catch::TestEventListenerBase;
#endif

namespace {

struct Counts {
  long passed = 0, failed = 0, skipped = 0, assertions = 0;
  bool skip_now = false;
  std::string name;
} counts;

class Counter : public ListenerBase {
 public:
  using ListenerBase::ListenerBase;
  void testCaseStarting(Catch::TestCaseInfo const& info) override {
    counts.skip_now = false;
    counts.name = info.name;
  }
  void testCaseEnded(Catch::TestCaseStats const& stats) override {
    counts.assertions += static_cast<long>(stats.totals.assertions.total());
    if (stats.totals.assertions.failed > 0 || stats.totals.testCases.failed > 0) {
      ++counts.failed;
    } else if (counts.skip_now) {
      ++counts.skipped;
    } else {
      ++counts.passed;
    }
  }
};

CATCH_REGISTER_LISTENER(Counter)

std::string Lower(std::string s) {
  for (char& c : s) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return s;
}

}  // namespace

namespace dsv4mx::test {

FinalCheck final_check{};

void Skip(const std::string& reason) {
  counts.skip_now = true;
  std::printf("skipped: %s: %s\n", counts.name.c_str(), reason.c_str());
}

const std::string& WhyNoGpu() {
  static const std::string reason = [] {
    dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
    desc.device = DSV4MX_DEVICE_CUDA;
    dsv4mx_context* context = nullptr;
    const dsv4mx_status status = dsv4mx_context_create(&desc, &context);
    if (status != DSV4MX_STATUS_OK) {
      return std::string("needs a CUDA device: ") + dsv4mx_status_name(status) + ": " +
             dsv4mx_last_error();
    }
    dsv4mx_context_destroy(context);
    return std::string();
  }();
  return reason;
}

std::string MissingWords(const std::string& text, const std::string& words) {
  if (text.empty()) return "no text at all";
  if (text.find('\n') != std::string::npos) return "more than one line";
  std::istringstream in(words);
  std::string word, missing;
  while (std::getline(in, word, ',')) {
    if (Lower(text).find(Lower(word)) == std::string::npos)
      missing += (missing.empty() ? "" : ",") + word;
  }
  return missing;
}

}  // namespace dsv4mx::test

int main(int argc, char** argv) {
  Catch::Session session;
  if (const int error = session.applyCommandLine(argc, argv); error != 0) return error;
  const bool quiet = session.configData().showHelp ||
#if __has_include(<catch2/catch_all.hpp>)
                     bool(session.configData().listTests) || bool(session.configData().listTags);
#else
                     session.configData().listTests || session.configData().listTags ||
                     session.configData().listTestNamesOnly;
#endif
  int result = session.run();
  if (const auto& check = dsv4mx::test::final_check;
      check.run != nullptr && !quiet && result == 0 && !session.config().hasTestFilters()) {
    const std::string wrong = check.run();
    if (wrong.empty()) {
      ++counts.passed;
    } else {
      std::printf("%s:\n%s", check.name, wrong.c_str());
      ++counts.failed;
      result = 1;
    }
  }
  if (!quiet) {
    std::printf("%ld assertions\n%ld passed, %ld failed, %ld skipped\n", counts.assertions,
                counts.passed, counts.failed, counts.skipped);
  }
  return result;
}
