// Numbers in messages: the same text in every locale, which printf's %g is not.
#ifndef DSV4MX_LIB_BASE_TEXT_H_
#define DSV4MX_LIB_BASE_TEXT_H_

#include <charconv>

namespace dsv4mx {

struct NumberText {
  char text[32];
};

// The shortest text that reads back as the same number.
inline NumberText Text(float value) {
  NumberText t;
  *std::to_chars(t.text, t.text + sizeof(t.text) - 1, value).ptr = '\0';
  return t;
}

// With `digits` digits behind the point.
inline NumberText Text(double value, int digits) {
  NumberText t;
  char* end = t.text + sizeof(t.text) - 1;
  auto result = std::to_chars(t.text, end, value, std::chars_format::fixed, digits);
  if (result.ec != std::errc{}) result = std::to_chars(t.text, end, value);  // too long for it
  *result.ptr = '\0';
  return t;
}

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_TEXT_H_
