// Text from outside in messages: UTF-8 stays, control characters go, a file's name is never cut (J10).
#include "lib/base/printable.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "tests/catch.h"

using dsv4mx::ErrnoText;
using dsv4mx::Printable;
using dsv4mx::PrintablePath;
using dsv4mx::Ranges;

TEST_CASE("[J10] text: valid UTF-8 stays, everything else is '?'", "[unit]") {
  const char* const kept[] = {
      "plain",       "größe", "模型-00001", "\xF0\x9F\x90\x8B", "e\xCC\x81", "\xF4\x8F\xBF\xBF",
      "\xEE\x80\x80"};
  for (const char* text : kept) CHECK(Printable(text) == text);
  const std::pair<const char*, const char*> rows[] = {
      {"a\nb\tc\x7f", "a?b?c?"},
      {"\xff\xfe", "??"},
      {"a\x80", "a?"},               // a continuation without its beginning
      {"\xC3", "?"},                 // and the other way round
      {"\xC0\xAF", "??"},            // overlong '/'
      {"\xE0\x80\xAF", "???"},       // overlong
      {"\xED\xA0\x80", "???"},       // a surrogate
      {"\xF4\x90\x80\x80", "????"},  // above U+10FFFF
      {"\xF8\x88\x80\x80\x80", "?????"},
      {"\xC2\x85", "?"},          // next line
      {"\xE2\x80\xA8", "?"},      // line separator
      {"a\xE2\x80\xAEz", "a?z"},  // right-to-left override
      {"\xE2\x81\xA6", "?"},
  };
  for (const auto& [text, want] : rows) CHECK(Printable(text) == want);
  CHECK(Printable(std::string("a\0b", 3)) == "a?b");
}

TEST_CASE("[J10] text: long text keeps both ends, never half a character", "[unit]") {
  const std::string exact(120, 'x');
  CHECK(Printable(exact) == exact);
  const std::string cut = Printable("begin" + std::string(1000000, 'x') + "end");
  CHECK(cut.size() <= 120);
  CHECK(cut.find("beginx") == 0);
  CHECK(cut.find("...") != std::string::npos);
  CHECK(cut.substr(cut.size() - 4) == "xend");
  for (size_t before = 0; before < 4; ++before) {
    std::string wide(before, 'a');
    for (int i = 0; i < 100; ++i) wide += "\xE6\xA8\xA1";
    CHECK(Printable(wide).find('?') == std::string::npos);
    CHECK(Printable(Printable(wide)) == Printable(wide));
  }
}

TEST_CASE("[J10] text: the last component of a path is whole", "[unit]") {
  CHECK(PrintablePath("/a/b.safetensors") == "/a/b.safetensors");
  CHECK(PrintablePath("") == "");
  for (const size_t length : {10, 96, 97, 180, 200, 255}) {
    std::string name(length - 3, 'n');
    name += "ü.s";
    name.resize(length + 1);
    for (const size_t folders : {0, 50, 97, 170, 1000, 5000}) {
      std::string path;
      while (path.size() < folders) path += "/folder";
      const std::string text = PrintablePath(path + "/" + name);
      CAPTURE(length, folders, text);
      CHECK(text.size() <= 300);
      CHECK(text.ends_with(name));
    }
  }
  CHECK(PrintablePath(std::string(300, '/')).size() <= 303);
  CHECK(PrintablePath(std::string(6000, 'x')).size() <= 303);
}

TEST_CASE("text: ranges", "[unit]") {
  CHECK(Ranges({}) == "");
  CHECK(Ranges({5}) == "5");
  CHECK(Ranges({3, 42}) == "3, 42");
  CHECK(Ranges({3, 4}) == "3, 4");
  CHECK(Ranges({0, 1, 2, 3, 7, 9, 10, 11}) == "0..3, 7, 9..11");
  std::vector<int64_t> odd;
  for (int64_t i = 1; i < 100000; i += 2) odd.push_back(i);
  CHECK(Ranges(odd).size() < 140);
  CHECK(Ranges(odd).ends_with("..."));
}

TEST_CASE("[J10] text: errors are the system's in English, whatever the locale", "[unit]") {
  for (const int error :
       {EPERM,   ENOENT,       EIO,    ENXIO,     EAGAIN,    ENOMEM, EACCES, ENODEV,
        ENOTDIR, EISDIR,       EINVAL, ENFILE,    EMFILE,    EFBIG,  ENOSPC, EDQUOT,
        EROFS,   ENAMETOOLONG, ELOOP,  EOVERFLOW, ETIMEDOUT, ESTALE}) {
    CHECK(ErrnoText(error) == strerrordesc_np(error));  // never translated
  }
  CHECK(ErrnoText(12345) == "error 12345");
}
