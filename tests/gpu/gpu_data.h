// Numbers made and looked at on the device. Weights and activations come from a counter-based hash of (seed, expert,
// matrix, position), so that a layer of gigabytes costs no host time and any expert is the same whoever holds it. The
// checks read device memory in place and give the first position that is wrong, or -1.
//
// Everything runs on the legacy default stream and has finished on return. Failures are thrown. C++17, for nvcc too.
#ifndef DSV4MX_TESTS_GPU_GPU_DATA_H_
#define DSV4MX_TESTS_GPU_GPU_DATA_H_

#include <cstdint>

struct CUstream_st;

namespace dsv4mx::test {

// Which part of a whole model's matrix is held: experts [first, first + count), one after the other.
struct HashedPart {
  uint64_t seed;
  int32_t matrix;  // kGate, kUp, kDown
  int32_t first, count;
};

// Random E2M1 codes, two a byte; `bytes` of each expert, a multiple of 8.
void FillCodes(const HashedPart& part, int64_t bytes, uint8_t* codes);
// Random E8M0 bytes in [lo, hi].
void FillScales(const HashedPart& part, int64_t bytes, int lo, int hi, uint8_t* scales);
// Standard normal numbers, exact in bf16 if asked for.
void FillBias(const HashedPart& part, int64_t rows, bool bf16, float* bias);
// bf16 activations of that standard deviation, normally distributed; gaps between rows are left alone.
void FillX(uint64_t seed, int64_t tokens, int64_t hidden, int64_t stride, double amplitude,
           uint16_t* x);

// First byte of p[0, n) that is not `value`.
int64_t FirstOtherByte(const uint8_t* p, int64_t n, uint8_t value);
// First byte in which a and b differ.
int64_t FirstDifference(const uint8_t* a, const uint8_t* b, int64_t n);
// First byte of the gaps between rows that is not `value`, counted from p; the last row has no gap.
int64_t FirstOtherByteInGaps(const uint8_t* p, int64_t rows, int64_t row_bytes,
                             int64_t stride_bytes, uint8_t value);
// First element that is NaN or Inf, counted without gaps; `stride` in elements.
int64_t FirstNotFinite(const void* y, bool f32, int64_t rows, int64_t hidden, int64_t stride);

// Enqueues work that keeps about `blocks` multiprocessors busy for that many clock cycles.
void KeepBusy(CUstream_st* stream, int blocks, int64_t cycles);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_GPU_DATA_H_
