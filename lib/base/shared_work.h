// Work of many items under the caller's control: threads share it, and the thread that made the call is back a few times a
// second to tell of progress and to ask whether to go on.
#ifndef DSV4MX_LIB_BASE_SHARED_WORK_H_
#define DSV4MX_LIB_BASE_SHARED_WORK_H_

#include <absl/functional/function_ref.h>

#include <cstdint>

#include "lib/base/control.h"
#include "lib/base/status.h"
#include "lib/base/thread_pool.h"

namespace dsv4mx {

// Calls body(item, worker) for items 0..items-1 on at most `workers` threads of the pool, worker 0..workers-1. The failure of
// the first item that fails is the call's, with its text, whatever thread met it; items behind it may not be begun. `bytes`
// is what all items together count as progress of a load. The body throws nothing but std::bad_alloc.
using ItemBody = absl::FunctionRef<Status(int64_t item, int worker)>;
Status ShareWork(ThreadPool* pool, int workers, int64_t items, int64_t bytes,
                 const Control& control, ItemBody body);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_SHARED_WORK_H_
