// What all long calls have in their args: flags that mean nothing yet, and control.
#ifndef DSV4MX_LIB_API_LONG_CALL_H_
#define DSV4MX_LIB_API_LONG_CALL_H_

#include "lib/api/structs.h"
#include "lib/core/weights.h"

namespace dsv4mx::api {

// Reads the args and hands on stream and control. `what` names the call in messages.
template <class Args, class Body>
Status LongCall(const Args* args, const char* what, dsv4mx_stream stream, const Body& body) {
  Args a;
  DSV4MX_TRY(ReadOptionalStruct(args, "args", &a));
  DSV4MX_TRY(RequireNoFlags(a.flags, a.reserved));
  Control control;
  DSV4MX_TRY(ReadControl(a.control, what, &control));
  return body(Weights::Call{stream, control});
}

}  // namespace dsv4mx::api

#endif  // DSV4MX_LIB_API_LONG_CALL_H_
