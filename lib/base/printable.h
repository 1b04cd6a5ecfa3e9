// Text from outside (names in files, paths) made fit for a one-line message.
#ifndef DSV4MX_LIB_BASE_PRINTABLE_H_
#define DSV4MX_LIB_BASE_PRINTABLE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4mx {

// One line: valid UTF-8 stays, control characters and bytes that are none become '?', text of more
// than 120 bytes is cut in the middle, so that both its ends can be read.
std::string Printable(std::string_view text);

// The same for a path: the last component (a file's name has at most 255 bytes) is always whole, of
// the folders before it as much as fits.
std::string PrintablePath(std::string_view path);

// "0..3, 7, 9..12" from ascending numbers.
std::string Ranges(const std::vector<int64_t>& numbers);

// The text of an errno in English, whatever the process's locale is ("No such file or directory").
std::string ErrnoText(int error);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_PRINTABLE_H_
