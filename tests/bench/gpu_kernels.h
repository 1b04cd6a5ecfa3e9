// The benchmark's own device code, as plain launch functions: each returns a cudaError_t as int.
#ifndef DSV4MX_TESTS_BENCH_GPU_KERNELS_H_
#define DSV4MX_TESTS_BENCH_GPU_KERNELS_H_

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace dsv4mx::bench {

using Stream = CUstream_st*;

// Reads `bytes` bytes once: bulk copies into a ring of shared memory, one CTA per multiprocessor, or plain loads. `sink`
// is a device word that is never written in practice.
int LaunchBulkRead(const void* from, size_t bytes, int multiprocessors, uint32_t* sink,
                   Stream stream);
int LaunchPlainRead(const void* from, size_t bytes, int multiprocessors, uint32_t* sink,
                    Stream stream);

// to[0] = cycles and to[1] = nanoseconds of about 100 us on one multiprocessor: their ratio is its clock in GHz.
int LaunchClock(uint64_t* to, Stream stream);

// Random bits, and random bf16 numbers near a normal distribution: what is moved and multiplied decides the power.
int LaunchFillBits(void* to, size_t bytes, uint64_t seed, Stream stream);
int LaunchFillBf16(void* to, size_t count, uint64_t seed, Stream stream);

// Two copies by one plain kernel, as a router writes ids and x for the layer that follows.
int LaunchCopies(void* to0, const void* from0, size_t bytes0, void* to1, const void* from1,
                 size_t bytes1, Stream stream);

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_GPU_KERNELS_H_
