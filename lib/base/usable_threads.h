// How many threads this process may keep busy.
#ifndef DSV4MX_LIB_BASE_USABLE_THREADS_H_
#define DSV4MX_LIB_BASE_USABLE_THREADS_H_

namespace dsv4mx {

// Processors in the affinity mask, at most the CPU quota of the control groups (v1 and v2) around this process; >= 1.
int UsableThreads();

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_USABLE_THREADS_H_
