// Result of every internal call: a status code; the text goes straight into the calling thread's error buffer, so that
// failing allocates nothing and the text survives any unwinding.
#ifndef DSV4MX_LIB_BASE_STATUS_H_
#define DSV4MX_LIB_BASE_STATUS_H_

#include <cstdarg>

#include "dsv4mx.h"

namespace dsv4mx {

struct [[nodiscard]] Status {
  dsv4mx_status code = DSV4MX_STATUS_OK;
  bool ok() const { return code == DSV4MX_STATUS_OK; }
};

inline constexpr Status kOk{};

// Formats one line into the thread's buffer (longer text is cut) and returns `code`.
Status Fail(dsv4mx_status code, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Text of the last failure on this thread; "" if there was none.
const char* LastError();

// For a call that tries something, fails inside and still succeeds: the text of earlier failures must survive it.
inline constexpr int kErrorBytes = 512;
class KeepError {
 public:
  KeepError();
  void Restore() const;

 private:
  char text_[kErrorBytes];
};

}  // namespace dsv4mx

#define DSV4MX_TRY(expr)                                                              \
  do {                                                                                \
    if (::dsv4mx::Status dsv4mx_try_ = (expr); !dsv4mx_try_.ok()) return dsv4mx_try_; \
  } while (0)

// Returns `code` itself rather than what Fail gives back, so that readers of one file, static analysis among them, see
// that the way on is not taken.
#define DSV4MX_RETURN_IF(cond, code, ...)      \
  do {                                         \
    if (cond) {                                \
      (void)::dsv4mx::Fail(code, __VA_ARGS__); \
      return ::dsv4mx::Status{code};           \
    }                                          \
  } while (0)

#endif  // DSV4MX_LIB_BASE_STATUS_H_
