// Eight neighbouring elements of a row, as the sums that end a call read and write them.
#ifndef DSV4MX_KERNELS_RUN_CUH_
#define DSV4MX_KERNELS_RUN_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace dsv4mx {

inline constexpr int kRunElements = 8;

// As fp32.
__device__ __forceinline__ void LoadRun(const void* from_memory, bool is_bf16, int64_t at,
                                        float* v) {
  if (is_bf16) {
    const uint4 q = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(from_memory) + at);
    const uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      v[2 * i] = __uint_as_float(words[i] << 16);
      v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
    }
  } else {
    const float4* from =
        reinterpret_cast<const float4*>(static_cast<const float*>(from_memory) + at);
    const float4 p = from[0], q = from[1];
    v[0] = p.x, v[1] = p.y, v[2] = p.z, v[3] = p.w;
    v[4] = q.x, v[5] = q.y, v[6] = q.z, v[7] = q.w;
  }
}

// Of f16, as fp32.
__device__ __forceinline__ void WidenHalves(const uint4& q, float* v) {
  const uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(words + i));
    v[2 * i] = pair.x, v[2 * i + 1] = pair.y;
  }
}

__device__ __forceinline__ void StoreRun(void* memory, bool is_bf16, int64_t at, const float* v) {
  if (is_bf16) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
      words[i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    *reinterpret_cast<uint4*>(static_cast<uint16_t*>(memory) + at) =
        make_uint4(words[0], words[1], words[2], words[3]);
  } else {
    float4* to = reinterpret_cast<float4*>(static_cast<float*>(memory) + at);
    to[0] = make_float4(v[0], v[1], v[2], v[3]);
    to[1] = make_float4(v[4], v[5], v[6], v[7]);
  }
}

// out = factor * sum, or out + that, rounded once.
__device__ __forceinline__ void WriteRun(void* out, bool is_bf16, bool accumulate, int64_t at,
                                         float factor, float* sum) {
#pragma unroll
  for (int i = 0; i < kRunElements; i++) sum[i] *= factor;
  if (accumulate) {
    float v[kRunElements];
    LoadRun(out, is_bf16, at, v);
#pragma unroll
    for (int i = 0; i < kRunElements; i++) sum[i] += v[i];
  }
  StoreRun(out, is_bf16, at, sum);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_RUN_CUH_
