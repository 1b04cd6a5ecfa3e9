// What this processor can do at most, measured: the rate at which its threads read memory, and its fp32
// multiply-and-add rate with one instruction set.
#ifndef DSV4MX_TESTS_BENCH_CPU_CEILINGS_H_
#define DSV4MX_TESTS_BENCH_CPU_CEILINGS_H_

#include <string>

#include "dsv4mx.h"

namespace dsv4mx::bench {

struct CpuCeilings {
  double read_bytes = 0;  // bytes a second from DRAM
  double flops = 0;       // fp32 operations a second, an FMA counting two
};

// `threads` threads at once, `seconds` for each of the two.
CpuCeilings MeasureCpuCeilings(dsv4mx_cpu_isa isa, int threads, double seconds);

// "avx2"; "portable" stands for SSE2, which multiplies and adds in two instructions, or for NEON.
std::string IsaName(dsv4mx_cpu_isa isa);

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_CPU_CEILINGS_H_
