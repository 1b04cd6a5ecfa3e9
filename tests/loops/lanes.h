// What device code asks of its surroundings, on the host: 128 threads stand for the lanes of a warpgroup, an array for shared
// memory. Only what main loops use.
#ifndef DSV4MX_TESTS_LOOPS_LANES_H_
#define DSV4MX_TESTS_LOOPS_LANES_H_

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline

struct uint4 {
  uint32_t x, y, z, w;
};
struct float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
// Loops only exchange what all lanes know already.
template <class T>
T __shfl_sync(uint32_t, T value, int) {
  return value;
}
inline void __syncwarp() {}
using std::fmaf;
using std::max;
using std::min;

namespace dsv4mx::test {

inline constexpr int kSharedBytes = 1 << 20;
extern uint8_t* const shared_memory;  // 1024-byte aligned

template <class T>
T LoadShared(uint32_t at) {
  T value;
  std::memcpy(&value, shared_memory + at, sizeof value);
  return value;
}

// m64 x n x k32 of E4M3 numbers, fragments as kernels/ptx/wgmma.cuh describes them, rows in shared memory K-major with
// 128-byte swizzle. All lanes of the warpgroup take part.
void Multiply(int columns, float* d, const uint32_t* a, uint64_t descriptor, int accumulate);

// Calls f(lane of the warpgroup) side by side.
void RunLanes(const std::function<void(int)>& f);

double FromE4m3(uint8_t bits);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_LOOPS_LANES_H_
