// Numbers and bits: one thin wrapper per instruction that no intrinsic of CUDA gives.
#ifndef DSV4MX_KERNELS_PTX_BITS_CUH_
#define DSV4MX_KERNELS_PTX_BITS_CUH_

#include <cstdint>

namespace dsv4mx {

// Byte i of the result is the byte of {high, low} that nibble i of `selector` names. Unlike __byte_perm it does not mask the
// selector, whose upper bits must not matter: bit 3 of a nibble copies the byte's sign.
__device__ __forceinline__ uint32_t PermuteBytes(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(low), "r"(high), "r"(selector));
  return r;
}
template <uint32_t Selector>
__device__ __forceinline__ uint32_t PermuteBytes(uint32_t low, uint32_t high) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(low), "r"(high), "n"(Selector));
  return r;
}
// (a & Mask) | (b & ~Mask) as one instruction; the compiler would make two of it.
template <uint32_t Mask>
__device__ __forceinline__ uint32_t SelectBits(uint32_t a, uint32_t b) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0xE4;" : "=r"(r) : "r"(a), "r"(b), "n"(Mask));
  return r;
}

// The upper half of v, in both halves, by an addition of f16: the ALU, where a shift goes, has nothing to do with it. Exact but for NaN.
__device__ __forceinline__ uint32_t UpperHalves(uint32_t v) {
  uint32_t r;
  asm("{\n.reg .b16 low, high;\n.reg .b32 halves;\nmov.b32 {low, high}, %1;\n"
      "mov.b32 halves, {high, high};\nadd.rn.f16x2 %0, halves, %2;\n}\n"
      : "=r"(r)
      : "r"(v), "r"(0x80008000u));
  return r;
}

__device__ __forceinline__ uint32_t MulBf16x2(uint32_t a, uint32_t b) {
  uint32_t r;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
// The larger ones of two pairs of 16 bits.
__device__ __forceinline__ uint32_t MaxPairs(uint32_t a, uint32_t b) {
  uint32_t r;
  asm("max.u16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
// Two numbers as bf16, the first in the low half.
__device__ __forceinline__ uint32_t Bf16Pair(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
// Two numbers as f16, the first in the low half.
__device__ __forceinline__ uint32_t F16Pair(float low, float high) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
// The larger magnitudes of two pairs of bf16, NaN where one is NaN. Signs are not looked at; those of the result mean nothing.
__device__ __forceinline__ uint32_t LargerMagnitudes(uint32_t a, uint32_t b) {
  uint32_t r;
  asm("max.NaN.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
// The larger magnitudes of two pairs of f16; of a number and NaN, the number's. Signs of the result mean nothing.
__device__ __forceinline__ uint32_t LargerF16(uint32_t a, uint32_t b) {
  uint32_t r;
  asm("max.xorsign.abs.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
// Two numbers as E4M3, the first in the low byte.
__device__ __forceinline__ uint32_t E4m3Pair(float low, float high) {
  uint16_t r;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(high), "f"(low));
  return r;
}
// One number as E4M3, in the low byte; what is above it means nothing.
__device__ __forceinline__ uint16_t E4m3(float v) {
  uint16_t r;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %1;" : "=h"(r) : "f"(v));
  return r;
}
// NaN goes through, which fminf and fmaxf would hide.
__device__ __forceinline__ float MinOrNan(float a, float b) {
  float r;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
__device__ __forceinline__ float MaxOrNan(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
// 2^x within 2 ulp; subnormal results are 0.
__device__ __forceinline__ float Exp2Fast(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

// 1 / x within 1 ulp; subnormal results are 0, and so 1 / x of x above 2^126.
__device__ __forceinline__ float ReciprocalFast(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

// The same value, of which the compiler does not know: what is made of it is not made, and kept, before a loop.
__device__ __forceinline__ uint32_t Anew(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}
// threadIdx.x, found anew: kept across a main loop it would spill.
__device__ __forceinline__ int ThreadAnew() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_PTX_BITS_CUH_
