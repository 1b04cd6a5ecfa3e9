// In place of kernels/ptx/sync.cuh.
#ifndef DSV4MX_KERNELS_PTX_SYNC_CUH_
#define DSV4MX_KERNELS_PTX_SYNC_CUH_

#include "tests/emulator/device.h"

namespace dsv4mx {

inline uint32_t SharedAddress(const void* p) {
  return emulator::AddressOf(p);
}
#define DSV4MX_DYNAMIC_SHARED(name) uint8_t* const name = emulator::DynamicShared()
inline void BarrierInit(uint32_t bar, uint32_t count) {
  emulator::BarrierInit(bar, count);
}
inline void FenceBarrierInit() {}
inline void BarrierArrive(uint32_t bar) {
  emulator::BarrierArrive(bar);
}
inline void BarrierArriveExpect(uint32_t bar, uint32_t bytes) {
  emulator::BarrierArriveExpect(bar, bytes);
}
inline void BarrierWait(uint32_t bar, uint32_t parity) {
  emulator::BarrierWait(bar, parity);
}
inline bool BarrierTest(uint32_t bar, uint32_t parity) {
  return emulator::BarrierTest(bar, parity);
}
inline void NamedBarrier(int id, int threads) {
  emulator::NamedBarrier(id, threads);
}
inline void FenceAsyncProxy() {}
inline void TouchCached(const void* at) {
  [[maybe_unused]] const volatile uint32_t unused = *static_cast<const uint32_t*>(at);
}
inline uint64_t PolicyEvictFirst() {
  return 0;
}
inline uint64_t PolicyEvictNormal() {
  return 0;
}
inline void BulkCopy(uint32_t to, const void* from, uint32_t bytes, uint32_t bar, uint64_t) {
  emulator::BulkCopy(to, from, bytes, bar);
}
inline void BulkCopy(uint32_t to, const void* from, uint32_t bytes, uint32_t bar) {
  emulator::BulkCopy(to, from, bytes, bar);
}
inline void AsyncCopy16(uint32_t to, const void* from) {
  emulator::AsyncCopy16(to, from);
}
inline void AsyncCopiesArrive(uint32_t bar) {
  emulator::AsyncCopiesArrive(bar);
}
inline void BulkStore(void* to, uint32_t from, uint32_t bytes) {
  emulator::BulkStore(to, from, bytes);
}
inline void BulkStoreWait() {
  emulator::BulkStoreWait();
}

template <class T>
T LoadShared(uint32_t at) {
  T value;
  if (at % alignof(T) != 0 || (sizeof(T) == 16 && at % 16 != 0)) emulator::At(~0u, sizeof(T));
  std::memcpy(&value, emulator::At(at, sizeof(T)), sizeof(T));
  return value;
}
inline uint4 LoadShared16(uint32_t at) {
  return LoadShared<uint4>(at);
}
inline uint32_t LoadShared4(uint32_t at) {
  return LoadShared<uint32_t>(at);
}
inline uint32_t LoadShared2(uint32_t at) {
  return LoadShared<uint16_t>(at);
}
inline uint32_t LoadShared1(uint32_t at) {
  return LoadShared<uint8_t>(at);
}
inline uint2 LoadShared8(uint32_t at) {
  return LoadShared<uint2>(at);
}
inline float2 LoadSharedFloat2(uint32_t at) {
  return LoadShared<float2>(at);
}
inline float LoadSharedFloat(uint32_t at) {
  return LoadShared<float>(at);
}
inline void StoreShared16(uint32_t at, int x, int y, int z, int w) {
  const int words[4] = {x, y, z, w};
  std::memcpy(emulator::At(at, 16), words, 16);
}
inline void StoreShared4(uint32_t at, uint32_t v) {
  std::memcpy(emulator::At(at, 4), &v, 4);
}
inline void StoreShared1(uint32_t at, uint16_t v) {
  *emulator::At(at, 1) = static_cast<uint8_t>(v);
}
inline void StoreShared1(uint32_t at, uint32_t v) {
  *emulator::At(at, 1) = static_cast<uint8_t>(v);
}
inline void StoreGlobalFloat2(float* to, float x, float y) {
  to[0] = x;
  to[1] = y;
}
inline void SharedMax(uint32_t at, uint32_t v) {
  StoreShared4(at, std::max(LoadShared4(at), v));
}
inline void SharedMin(uint32_t at, uint32_t v) {
  StoreShared4(at, std::min(LoadShared4(at), v));
}

inline void LaunchDependents() {}
inline void WaitForPrimary() {}
template <int>
void RegistersUp() {}
template <int>
void RegistersDown() {}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_PTX_SYNC_CUH_
