#include "lib/base/printable.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>

namespace dsv4mx {
namespace {

constexpr size_t kMaxText = 120;
constexpr size_t kMaxPath = 180;  // of a path whose last component is shorter

// Bytes of the well-formed UTF-8 sequence at the front of `text` (RFC 3629: no overlong form, no
// surrogate, nothing above U+10FFFF), or 0.
size_t SequenceLength(std::string_view text, uint32_t* code) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = at(0);
  if (first < 0x80) {
    *code = first;
    return 1;
  }
  const size_t length = first < 0xc2   ? 0
                        : first < 0xe0 ? 2
                        : first < 0xf0 ? 3
                        : first < 0xf5 ? 4
                                       : 0;
  if (length == 0 || text.size() < length) return 0;
  *code = first & (0x7fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((at(i) & 0xc0) != 0x80) return 0;
    *code = *code << 6 | (at(i) & 0x3fu);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (*code < kSmallest[length] || *code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000))
    return 0;
  return length;
}

// Control characters, line breaks, and what would turn the direction of the rest of the line.
bool IsControl(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0) || (code >= 0x2028 && code <= 0x202e) ||
         (code >= 0x2066 && code <= 0x2069) || code == 0x200e || code == 0x200f;
}

std::string Clean(std::string_view text) {
  std::string line;
  while (!text.empty()) {
    uint32_t code = 0;
    const size_t length = SequenceLength(text, &code);
    if (length == 0 || IsControl(code)) {
      line += '?';
    } else {
      line += text.substr(0, length);
    }
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return line;
}

// Whether a UTF-8 text may be cut before byte `at`.
bool IsBoundary(std::string_view text, size_t at) {
  return at >= text.size() || (static_cast<uint8_t>(text[at]) & 0xc0) != 0x80;
}

// The last `bytes` bytes or a little less.
std::string_view Tail(std::string_view text, size_t bytes) {
  size_t at = text.size() - std::min(bytes, text.size());
  while (!IsBoundary(text, at)) ++at;
  return text.substr(at);
}

std::string_view Head(std::string_view text, size_t bytes) {
  size_t end = std::min(bytes, text.size());
  while (!IsBoundary(text, end)) --end;
  return text.substr(0, end);
}

}  // namespace

std::string Printable(std::string_view text) {
  // What is far from both ends is not looked at: a name in a file may have megabytes.
  constexpr size_t kFar = 4 * kMaxText;
  std::string line = text.size() <= 2 * kFar
                         ? Clean(text)
                         : Clean(text.substr(0, kFar)) + Clean(text.substr(text.size() - kFar));
  if (line.size() <= kMaxText) return line;
  const std::string_view all = line;
  return std::string(Head(all, kMaxText / 2)) + "..." + std::string(Tail(all, kMaxText / 2 - 3));
}

std::string PrintablePath(std::string_view path) {
  std::string line = Clean(path.size() <= 4096 ? path : path.substr(path.size() - 4096));
  if (line.size() <= kMaxPath && path.size() <= 4096) return line;
  // A trailing slash belongs to the component before it.
  const size_t end = line.find_last_not_of('/');
  const size_t slash = end == std::string::npos ? end : line.find_last_of('/', end);
  const size_t component = slash == std::string::npos ? line.size() : line.size() - slash;
  const std::string_view all = line;
  return "..." + std::string(Tail(all, std::min<size_t>(std::max(component, kMaxPath - 3), 300)));
}

std::string Ranges(const std::vector<int64_t>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    if (!text.empty()) text += ", ";
    if (text.size() > kMaxText) return text + "...";
    text += std::to_string(numbers[i]);
    if (last > i) text += (last == i + 1 ? ", " : "..") + std::to_string(numbers[last]);
    i = last + 1;
  }
  return text;
}

std::string ErrnoText(int error) {
  // Not strerror: it speaks the language of the locale, and is not thread-safe.
  switch (error) {
    case EPERM:
      return "Operation not permitted";
    case ENOENT:
      return "No such file or directory";
    case EIO:
      return "Input/output error";
    case ENXIO:
      return "No such device or address";
    case EAGAIN:
      return "Resource temporarily unavailable";
    case ENOMEM:
      return "Cannot allocate memory";
    case EACCES:
      return "Permission denied";
    case ENODEV:
      return "No such device";
    case ENOTDIR:
      return "Not a directory";
    case EISDIR:
      return "Is a directory";
    case EINVAL:
      return "Invalid argument";
    case ENFILE:
      return "Too many open files in system";
    case EMFILE:
      return "Too many open files";
    case EFBIG:
      return "File too large";
    case ENOSPC:
      return "No space left on device";
    case EDQUOT:
      return "Disk quota exceeded";
    case EROFS:
      return "Read-only file system";
    case ENAMETOOLONG:
      return "File name too long";
    case ELOOP:
      return "Too many levels of symbolic links";
    case EOVERFLOW:
      return "Value too large for defined data type";
    case ETIMEDOUT:
      return "Connection timed out";
    case ESTALE:
      return "Stale file handle";
    default:
      return "error " + std::to_string(error);
  }
}

}  // namespace dsv4mx
