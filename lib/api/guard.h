// The exception barrier: every entry point's body runs inside Guard, and nothing leaves it but a
// status.
#ifndef DSV4MX_LIB_API_GUARD_H_
#define DSV4MX_LIB_API_GUARD_H_

#include <exception>
#include <new>
#include <utility>

#include "lib/base/status.h"

namespace dsv4mx::api {

template <class Body>
dsv4mx_status Guard(Body&& body) noexcept {
  try {
    return std::forward<Body>(body)().code;
  } catch (const std::bad_alloc&) {
    return Fail(DSV4MX_STATUS_OUT_OF_MEMORY, "host memory ran out").code;
  } catch (const std::exception& e) {
    return Fail(DSV4MX_STATUS_INTERNAL, "unexpected exception: %s", e.what()).code;
  } catch (...) {
    return Fail(DSV4MX_STATUS_INTERNAL, "unexpected exception of unknown type").code;
  }
}

// For functions without a result: a destructor that throws ends here.
template <class Body>
void GuardVoid(Body&& body) noexcept {
  try {
    std::forward<Body>(body)();
  } catch (...) {
  }
}

inline Status NotNull(const void* pointer, const char* name) {
  DSV4MX_RETURN_IF(pointer == nullptr, DSV4MX_STATUS_INVALID_ARGUMENT, "%s is NULL", name);
  return kOk;
}

}  // namespace dsv4mx::api

#endif  // DSV4MX_LIB_API_GUARD_H_
