// Memory that other devices and the host read and write while kernels run: one thin wrapper per instruction.
#ifndef DSV4MX_KERNELS_PTX_SYSTEM_CUH_
#define DSV4MX_KERNELS_PTX_SYSTEM_CUH_

#include <cstdint>

namespace dsv4mx {

__device__ __forceinline__ uint64_t LoadAcquireSystem(const uint64_t* from) {
  uint64_t v;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(from) : "memory");
  return v;
}
// Orders nothing: who uses it late does not wait for it.
__device__ __forceinline__ uint64_t LoadRelaxedSystem(const uint64_t* from) {
  uint64_t v;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(v) : "l"(from) : "memory");
  return v;
}
__device__ __forceinline__ void StoreReleaseSystem(uint64_t* to, uint64_t v) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(to), "l"(v) : "memory");
}
// Returns what was there.
__device__ __forceinline__ uint64_t CompareSwapSystem(uint64_t* at, uint64_t wanted, uint64_t v) {
  uint64_t old;
  asm volatile("atom.acq_rel.sys.global.cas.b64 %0, [%1], %2, %3;"
               : "=l"(old)
               : "l"(at), "l"(wanted), "l"(v)
               : "memory");
  return old;
}
__device__ __forceinline__ void OrSystem(uint64_t* at, uint64_t bits) {
  asm volatile("red.release.sys.global.or.b64 [%0], %1;" ::"l"(at), "l"(bits) : "memory");
}
// One or two words of 8 bytes, each of which arrives whole.
__device__ __forceinline__ void StoreWord(uint64_t* to, uint64_t a) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(to), "l"(a) : "memory");
}
__device__ __forceinline__ void StoreWords(uint64_t* to, uint64_t a, uint64_t b) {
  asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1, %2};" ::"l"(to), "l"(a), "l"(b) : "memory");
}
__device__ __forceinline__ void LoadWords(const uint64_t* from, uint64_t* a, uint64_t* b) {
  asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];"
               : "=l"(*a), "=l"(*b)
               : "l"(from)
               : "memory");
}
// Lines of 128 bytes, 16 a lane, by whole warps that have just met: one instruction stores, or loads, all of a line, whose lanes are all `used` or
// none is. Over NVLink a line that is stored at once arrives at once, and one that is loaded at once is of one moment: the memory
// model does not say so, the chips do (NCCL's protocol LL128 rests on it where its graph says NVLink).
__device__ __forceinline__ void StoreLines(uint64_t* to, bool used, uint64_t a, uint64_t b) {
  if (used) StoreWords(to, a, b);
}
__device__ __forceinline__ void LoadLines(const uint64_t* from, bool used, uint64_t* a,
                                          uint64_t* b) {
  if (used) LoadWords(from, a, b);
}
// What this thread, and whoever it has met, wrote comes before what it stores from here on, for every device.
__device__ __forceinline__ void FenceSystem() {
  asm volatile("fence.acq_rel.sys;" ::: "memory");
}
// Likewise for this device alone.
__device__ __forceinline__ void FenceDevice() {
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
}
// Nanoseconds, of one clock per device.
__device__ __forceinline__ uint64_t NanoTime() {
  uint64_t t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}
__device__ __forceinline__ void Sleep(uint32_t nanoseconds) {
  asm volatile("nanosleep.u32 %0;" ::"r"(nanoseconds));
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_PTX_SYSTEM_CUH_
