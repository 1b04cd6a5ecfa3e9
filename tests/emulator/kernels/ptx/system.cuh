// In place of kernels/ptx/system.cuh.
#ifndef DSV4MX_KERNELS_PTX_SYSTEM_CUH_
#define DSV4MX_KERNELS_PTX_SYSTEM_CUH_

#include <chrono>
#include <thread>

#include "tests/emulator/device.h"

namespace dsv4mx {

inline uint64_t LoadAcquireSystem(const uint64_t* from) {
  return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}
inline uint64_t LoadRelaxedSystem(const uint64_t* from) {
  return __atomic_load_n(from, __ATOMIC_RELAXED);
}
inline void StoreReleaseSystem(uint64_t* to, uint64_t v) {
  __atomic_store_n(to, v, __ATOMIC_RELEASE);
}
inline uint64_t CompareSwapSystem(uint64_t* at, uint64_t wanted, uint64_t v) {
  __atomic_compare_exchange_n(at, &wanted, v, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
  return wanted;
}
inline void OrSystem(uint64_t* at, uint64_t bits) {
  __atomic_fetch_or(at, bits, __ATOMIC_RELEASE);
}
inline void StoreWord(uint64_t* to, uint64_t a) {
  __atomic_store_n(to, a, __ATOMIC_RELAXED);
}
inline void StoreWords(uint64_t* to, uint64_t a, uint64_t b) {
  __atomic_store_n(to, a, __ATOMIC_RELAXED);
  __atomic_store_n(to + 1, b, __ATOMIC_RELAXED);
}
inline void LoadWords(const uint64_t* from, uint64_t* a, uint64_t* b) {
  *a = __atomic_load_n(from, __ATOMIC_RELAXED);
  *b = __atomic_load_n(from + 1, __ATOMIC_RELAXED);
}
// A line's last word is written last and read first, so that who has it has the line.
inline bool EndsLine() {
  return threadIdx.x % 8 == 7;
}
inline void StoreLines(uint64_t* to, bool used, uint64_t a, uint64_t b) {
  if (used && !EndsLine()) StoreWords(to, a, b);
  __syncwarp();
  if (used && EndsLine()) {
    __atomic_store_n(to, a, __ATOMIC_RELAXED);
    __atomic_store_n(to + 1, b, __ATOMIC_RELEASE);
  }
}
inline void LoadLines(const uint64_t* from, bool used, uint64_t* a, uint64_t* b) {
  if (used && EndsLine()) {
    *b = __atomic_load_n(from + 1, __ATOMIC_ACQUIRE);
    *a = __atomic_load_n(from, __ATOMIC_RELAXED);
  }
  __syncwarp();
  if (used && !EndsLine()) LoadWords(from, a, b);
}
inline void FenceSystem() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
inline void FenceDevice() {
  FenceSystem();
}
inline uint64_t NanoTime() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}
// The host has few processors: whoever waits leaves one to the others, and its own to its CTA.
inline void Sleep(uint32_t) {
  std::this_thread::sleep_for(std::chrono::microseconds(20));
  emulator::Rest();
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_PTX_SYSTEM_CUH_
