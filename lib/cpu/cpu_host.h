// What this machine allows: the instruction set.
#ifndef DSV4MX_LIB_CPU_CPU_HOST_H_
#define DSV4MX_LIB_CPU_CPU_HOST_H_

#include <cstdint>

#include "lib/base/status.h"

namespace dsv4mx::cpu {

// Whether this processor has an instruction set, one of DSV4MX_CPU_ISA_*.
bool HasIsa(dsv4mx_cpu_isa isa);
const char* IsaName(dsv4mx_cpu_isa isa);

// What a context runs on: the best that `has` says is there, or `asked`, refused where it is not.
Status ChooseIsa(dsv4mx_cpu_isa asked, bool (*has)(dsv4mx_cpu_isa), dsv4mx_cpu_isa* out);

// Memory that the system gives without swapping: Linux's MemAvailable, which counts page cache that can be dropped, or
// what is free where there is no such line.
int64_t AvailableBytes();

}  // namespace dsv4mx::cpu

#endif  // DSV4MX_LIB_CPU_CPU_HOST_H_
