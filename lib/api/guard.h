// The barrier around every entry point's body: nothing leaves it but a status, and the caller's thread is given back as it
// came (lib/base/thread_state.h).
//
// One thing passes through: the unwinding of a thread that ends inside a callback (pthread_exit, pthread_cancel, an
// interpreter that ends its threads). It must not be stopped, so nothing on the way from an entry point to a callback is
// noexcept.
#ifndef DSV4MX_LIB_API_GUARD_H_
#define DSV4MX_LIB_API_GUARD_H_

#include <cxxabi.h>

#include <exception>
#include <new>
#include <utility>

#include "lib/base/status.h"
#include "lib/base/thread_state.h"

namespace dsv4mx::api {

// The status of `body`, whatever it throws. Forced unwinding has no exception object, so that the reference by which it is
// caught binds to nothing, which UBSan would report.
template <class Body>
__attribute__((no_sanitize("undefined"))) dsv4mx_status Catch(Body&& body) {
  try {
    return std::forward<Body>(body)().code;
  } catch (const std::bad_alloc&) {
    return Fail(DSV4MX_STATUS_OUT_OF_MEMORY, "host memory ran out").code;
  } catch (const std::exception& e) {
    return Fail(DSV4MX_STATUS_INTERNAL, "unexpected exception: %s", e.what()).code;
  } catch (const abi::__forced_unwind&) {
    throw;
  } catch (...) {
    return Fail(DSV4MX_STATUS_INTERNAL, "unexpected exception of unknown type").code;
  }
}

template <class Body>
dsv4mx_status Guard(Body&& body) {
  const LibraryScope scope;
  const dsv4mx_status status = Catch(std::forward<Body>(body));
  if (!scope.CallsWait()) return status;
  const dsv4mx_status freed = Catch([] {
    LibraryScope::RunLater();
    return kOk;
  });
  return status != DSV4MX_STATUS_OK ? status : freed;
}

// For functions without a result: what is thrown ends here, and nobody is told.
template <class Body>
void GuardVoid(Body&& body) {
  const KeepError keep;
  (void)Guard([&]() -> Status {
    std::forward<Body>(body)();
    return kOk;
  });
  keep.Restore();
}

inline Status NotNull(const void* pointer, const char* name) {
  DSV4MX_RETURN_IF(pointer == nullptr, DSV4MX_STATUS_INVALID_ARGUMENT, "%s is NULL", name);
  return kOk;
}

}  // namespace dsv4mx::api

#endif  // DSV4MX_LIB_API_GUARD_H_
