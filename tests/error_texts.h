// Every error text of the library once: the texts in its sources (made by error_texts.py) against those seen in a run of
// all tests.
#ifndef DSV4MX_TESTS_ERROR_TEXTS_H_
#define DSV4MX_TESTS_ERROR_TEXTS_H_

#include <string>
#include <vector>

namespace dsv4mx::test {

struct ErrorText {
  const char* place;                  // file:line
  std::vector<const char*> literals;  // the format, or what it is put together from
};
extern const std::vector<ErrorText> kErrorTexts;

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_ERROR_TEXTS_H_
