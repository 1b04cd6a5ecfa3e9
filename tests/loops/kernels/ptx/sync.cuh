// In place of kernels/ptx/sync.cuh: every stage is in shared memory before the loop begins, so no barrier is waited for.
#ifndef DSV4MX_KERNELS_PTX_SYNC_CUH_
#define DSV4MX_KERNELS_PTX_SYNC_CUH_

#include "tests/loops/lanes.h"

namespace dsv4mx {

inline void BarrierArrive(uint32_t) {}
inline void BarrierWait(uint32_t, uint32_t) {}
inline uint4 LoadShared16(uint32_t at) {
  return test::LoadShared<uint4>(at);
}
inline uint32_t LoadShared4(uint32_t at) {
  return test::LoadShared<uint32_t>(at);
}
inline uint32_t LoadShared2(uint32_t at) {
  return test::LoadShared<uint16_t>(at);
}
inline uint32_t LoadShared1(uint32_t at) {
  return test::LoadShared<uint8_t>(at);
}
inline float2 LoadSharedFloat2(uint32_t at) {
  return test::LoadShared<float2>(at);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_PTX_SYNC_CUH_
