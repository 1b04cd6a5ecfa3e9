// What nvcc gives to device code, for the host compiler: included before every kernel that is compiled for the emulator.
// Instructions that kernels/ptx spells in PTX are in the folder kernels/ptx beside this file.
#ifndef DSV4MX_TESTS_EMULATOR_DEVICE_H_
#define DSV4MX_TESTS_EMULATOR_DEVICE_H_

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tests/emulator/emulated_launch.h"
#include "tests/emulator/machine.h"

#undef __shared__
#define __shared__ static thread_local
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __noinline__
#define __noinline__ __attribute__((noinline))
#undef __grid_constant__
#define __grid_constant__

#define cudaLaunchKernelEx dsv4mx::emulator::LaunchEx
#define cudaFuncSetAttribute(...) cudaSuccess
#define cudaFuncGetAttributes(attributes, kernel) \
  (static_cast<void>(attributes), static_cast<void>(kernel), cudaSuccess)

// Not macros: the launch configuration has members of these names.
namespace dsv4mx {
template <emulator::Size emulator::Thread::*Which>
struct DeviceSize {
  template <unsigned emulator::Size::*Part>
  struct Component {
    operator unsigned() const { return emulator::This().*Which.*Part; }
  };
  Component<&emulator::Size::x> x;
  Component<&emulator::Size::y> y;
  Component<&emulator::Size::z> z;
};
inline constexpr DeviceSize<&emulator::Thread::index> threadIdx{};
inline constexpr DeviceSize<&emulator::Thread::block> blockIdx{};
inline constexpr DeviceSize<&emulator::Thread::block_size> blockDim{};
inline constexpr DeviceSize<&emulator::Thread::grid> gridDim{};
}  // namespace dsv4mx

using std::fmaf;
using std::max;
using std::min;
inline int64_t min(int64_t a, int b) {
  return a < b ? a : b;
}

inline float __uint_as_float(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
inline uint32_t __float_as_uint(float value) {
  return std::bit_cast<uint32_t>(value);
}
inline double __longlong_as_double(long long bits) {
  return std::bit_cast<double>(bits);
}
inline double cospi(double x) {
  return std::cos(x * 3.14159265358979323846);
}
inline long long clock64() {
  return std::chrono::steady_clock::now().time_since_epoch().count();
}
using std::isfinite;
inline int __popc(uint32_t bits) {
  return std::popcount(bits);
}
inline int __ffs(uint32_t bits) {
  return bits == 0 ? 0 : std::countr_zero(bits) + 1;
}
inline int __clz(uint32_t bits) {
  return std::countl_zero(bits);
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline uint32_t __vmaxu2(uint32_t a, uint32_t b) {
  return std::max(a >> 16, b >> 16) << 16 | std::max(a & 0xFFFF, b & 0xFFFF);
}
template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T __ldcg(const T* from) {
  return *from;
}

// --- Warps and CTAs ---------------------------------------------------------------------------------------------------

namespace dsv4mx::emulator {

template <class T>
uint64_t Bits(T value) {
  uint64_t bits = 0;
  static_assert(sizeof value <= sizeof bits);
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T Of(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
// What lane `from` brought; the device leaves open what a lane that has ended would give.
template <class T>
T From(const Lanes& lanes, int from) {
  return Of<T>(lanes.values[from]);
}

}  // namespace dsv4mx::emulator

template <class T>
T __shfl_sync(uint32_t mask, T value, int from) {
  return dsv4mx::emulator::From<T>(
      dsv4mx::emulator::Meet("shfl.idx", mask, dsv4mx::emulator::Bits(value)), from & 31);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int with) {
  const auto lanes = dsv4mx::emulator::Meet("shfl.bfly", mask, dsv4mx::emulator::Bits(value));
  return dsv4mx::emulator::From<T>(lanes, lanes.lane ^ with);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned by) {
  const auto lanes = dsv4mx::emulator::Meet("shfl.up", mask, dsv4mx::emulator::Bits(value));
  return dsv4mx::emulator::From<T>(lanes,
                                   std::max(lanes.lane - static_cast<int>(by),
                                            lanes.lane < static_cast<int>(by) ? lanes.lane : 0));
}
inline uint32_t __ballot_sync(uint32_t mask, bool predicate) {
  const auto lanes = dsv4mx::emulator::Meet("vote.ballot", mask, predicate ? 1 : 0);
  uint32_t all = 0;
  for (int i = 0; i < 32; i++)
    all |= (lanes.present >> i & 1 & static_cast<uint32_t>(lanes.values[i])) << i;
  return all;
}
inline bool __all_sync(uint32_t mask, bool predicate) {
  return __ballot_sync(mask, !predicate) == 0;
}
inline bool __any_sync(uint32_t mask, bool predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline uint32_t __match_any_sync(uint32_t mask, int value) {
  const auto lanes = dsv4mx::emulator::Meet("match.any", mask, dsv4mx::emulator::Bits(value));
  uint32_t same = 0;
  for (int i = 0; i < 32; i++) {
    if ((lanes.present >> i & 1) != 0 && dsv4mx::emulator::Of<int>(lanes.values[i]) == value)
      same |= 1u << i;
  }
  return same;
}
template <class T, class F>
T dsv4mx_reduce(const char* name, uint32_t mask, T value, F f) {
  const auto lanes = dsv4mx::emulator::Meet(name, mask, dsv4mx::emulator::Bits(value));
  for (int i = 0; i < 32; i++) {
    if (i != lanes.lane && (lanes.present >> i & 1) != 0)
      value = f(value, dsv4mx::emulator::Of<T>(lanes.values[i]));
  }
  return value;
}
inline int __reduce_add_sync(uint32_t mask, int value) {
  return dsv4mx_reduce("redux.add", mask, value, [](int a, int b) { return a + b; });
}
inline uint32_t __reduce_or_sync(uint32_t mask, uint32_t value) {
  return dsv4mx_reduce("redux.or", mask, value, [](uint32_t a, uint32_t b) { return a | b; });
}
inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t value) {
  return dsv4mx_reduce("redux.max", mask, value,
                       [](uint32_t a, uint32_t b) { return std::max(a, b); });
}
inline void __syncwarp(uint32_t mask = ~0u) {
  dsv4mx::emulator::Meet("syncwarp", mask, 0);
}
inline void __syncthreads() {
  dsv4mx::emulator::NamedBarrier(0, 0);
}
inline int __syncthreads_or(int mine) {
  return dsv4mx::emulator::AnyOfAll(mine != 0);
}

// --- Atomics: CTAs run side by side -----------------------------------------------------------------------------------

template <class T, class F>
T dsv4mx_atomic(T* at, F f) {
  T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (
      !__atomic_compare_exchange_n(at, &old, f(old), false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
  }
  return old;
}
template <class T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  return dsv4mx_atomic(at, [&](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicAdd_system(T* at, std::type_identity_t<T> value) {
  return atomicAdd(at, value);
}
template <class T>
T atomicMax(T* at, std::type_identity_t<T> value) {
  return dsv4mx_atomic(at, [&](T old) { return std::max(old, value); });
}
template <class T>
T atomicMin(T* at, std::type_identity_t<T> value) {
  return dsv4mx_atomic(at, [&](T old) { return std::min(old, value); });
}
template <class T>
T atomicOr(T* at, std::type_identity_t<T> value) {
  return dsv4mx_atomic(at, [&](T old) { return static_cast<T>(old | value); });
}

#endif  // DSV4MX_TESTS_EMULATOR_DEVICE_H_
