// The linker sends every call of Fail through here (--wrap), where format and text are noted. After a run of all tests
// the main asks what was never seen.
#include "tests/error_texts.h"

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <mutex>
#include <new>
#include <set>

#include "lib/base/status.h"
#include "tests/catch.h"

namespace dsv4mx::test {
namespace {

// Texts that no test can cause, with the reason.
struct Exempt {
  const char* literal;
  const char* reason;
};
constexpr Exempt kExempt[] = {
    {"plan rule %d", "an enum outside its values"},
    {"tensor kind %d", "an enum outside its values"},
    {"the built-in plan has no row for any device, rule %d",
     "a fault in a file that is compiled in"},
#if DSV4MX_HAVE_CUDA
    {"this build has no CUDA backend, wanted device CPU or AUTO, or a build with CUDA",
     "in builds without CUDA"},
    {"this build has no CUDA backend, wanted device CPU, or a build with CUDA",
     "in builds without CUDA"},
#endif
};

// Formats are literals, so noting one takes no memory: it works where tests let memory run out.
constexpr size_t kFormats = 4096;
std::mutex mutex;
const char* formats[kFormats];  // by address, the next free place after a collision
std::set<std::string>& Texts() {
  static auto* const texts = new std::set<std::string>;  // lives as long as anything that may fail
  return *texts;
}

void Note(const char* format, const char* text) {
  const std::lock_guard lock(mutex);
  size_t at = reinterpret_cast<uintptr_t>(format) % kFormats;
  while (formats[at] != nullptr && formats[at] != format) at = (at + 1) % kFormats;
  formats[at] = format;
  try {
    Texts().insert(text);
  } catch (const std::bad_alloc&) {
  }
}

// A format, or pieces of texts that each occurred.
bool WasSeen(const ErrorText& error) {
  for (const char* literal : error.literals) {
    const auto is_literal = [&](const char* f) {
      return f != nullptr && std::strcmp(f, literal) == 0;
    };
    if (std::any_of(std::begin(formats), std::end(formats), is_literal)) return true;
  }
  return std::all_of(error.literals.begin(), error.literals.end(), [](const char* literal) {
    return std::any_of(Texts().begin(), Texts().end(), [&](const std::string& text) {
      return text.find(literal) != std::string::npos;
    });
  });
}

std::string Unseen() {
  std::string missing;
  for (const ErrorText& error : kErrorTexts) {
    const auto is_exempt = [&](const Exempt& e) {
      return std::string(e.literal) == error.literals[0];
    };
    if (std::any_of(std::begin(kExempt), std::end(kExempt), is_exempt) || WasSeen(error)) continue;
    missing += std::string(error.place) + ": no test causes \"" + error.literals[0] + "\"\n";
  }
  return missing;
}

const bool registered = [] {
  final_check = {"[F2] every error text is caused by a test", Unseen};
  return true;
}();

}  // namespace

void NoteFailure(const char* format, const char* text) {
  Note(format, text);
}

}  // namespace dsv4mx::test

// dsv4mx::Fail(int, const char*, ...) by its linker names.
extern "C" dsv4mx::Status __real__ZN6dsv4mx4FailEiPKcz(dsv4mx_status code, const char* format, ...);
extern "C" dsv4mx::Status __wrap__ZN6dsv4mx4FailEiPKcz(dsv4mx_status code, const char* format,
                                                       ...) {
  char text[dsv4mx::kErrorBytes];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  dsv4mx::test::NoteFailure(format, text);
  return __real__ZN6dsv4mx4FailEiPKcz(code, "%s", text);
}
