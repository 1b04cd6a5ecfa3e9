// The calling thread's error text: a fixed buffer, so that reporting "out of memory" needs no
// memory.
#include "lib/base/status.h"

#include <cstdio>
#include <cstring>

namespace dsv4mx {
namespace {

thread_local char last_error[kErrorBytes];

}  // namespace

Status Fail(dsv4mx_status code, const char* format, ...) {
  // An argument may be LastError() itself, so the text is built beside the buffer.
  char text[kErrorBytes];
  va_list args;
  va_start(args, format);
  if (std::vsnprintf(text, sizeof(text), format, args) < 0)
    std::strcpy(text, "error text could not be formatted");
  va_end(args);
  // Names and paths of callers may hold anything; a message is one line.
  for (char* c = text; *c != '\0'; ++c) {
    if (static_cast<unsigned char>(*c) < 0x20 || *c == 0x7f) *c = '?';
  }
  std::memcpy(last_error, text, std::strlen(text) + 1);
  return Status{code};
}

const char* LastError() {
  return last_error;
}

KeepError::KeepError() {
  std::memcpy(text_, last_error, sizeof(text_));
}
void KeepError::Restore() const {
  std::memcpy(last_error, text_, sizeof(text_));
}

}  // namespace dsv4mx
