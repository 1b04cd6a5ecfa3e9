// Which local expert an id means, and where an expert's panel rows begin. Every kernel that needs counts makes them by the
// functions here, so that all agree.
#ifndef DSV4MX_KERNELS_ROUTING_CUH_
#define DSV4MX_KERNELS_ROUTING_CUH_

#include <cuda_bf16.h>

#include "kernels/launch.h"

namespace dsv4mx {

// Tokens of this chunk: the host's bound, or what the device integer leaves of it.
__device__ __forceinline__ int ChunkTokens(const Routing& r) {
  if (r.tokens_device == nullptr) return r.tokens;
  // Clamped before the difference is made, so that no value overflows it.
  return min(max(*r.tokens_device, r.token_begin), r.token_begin + r.tokens) - r.token_begin;
}

// Negative, foreign and unmapped ids give -1.
__device__ __forceinline__ int ExpertOfId(const Routing& r, int64_t id) {
  if (id < 0 || id >= r.experts_global) return -1;
  if (r.expert_map != nullptr) return r.expert_map[id];
  const int64_t e = id - r.expert_first;
  return e >= 0 && e < r.experts ? static_cast<int>(e) : -1;
}
__device__ __forceinline__ int LocalExpert(const Routing& r, int64_t pair) {
  return ExpertOfId(r, r.ids_are_64 ? static_cast<const int64_t*>(r.ids)[pair]
                                    : static_cast<const int32_t*>(r.ids)[pair]);
}
// An id in two steps, the second of which waits for it: what stands between is loaded meanwhile.
__device__ __forceinline__ uint2 LoadIdBits(const void* ids, int ids_are_64, int64_t at) {
  if (ids_are_64) return static_cast<const uint2*>(ids)[at];
  return make_uint2(static_cast<const uint32_t*>(ids)[at], 0);
}
__device__ __forceinline__ int64_t IdOfBits(uint2 bits, int ids_are_64) {
  return ids_are_64 ? static_cast<int64_t>(static_cast<uint64_t>(bits.y) << 32 | bits.x)
                    : static_cast<int32_t>(bits.x);
}

// A router weight in two steps, the second of which waits for it.
__device__ __forceinline__ uint32_t LoadWeightBits(const void* w, int is_bf16, int64_t i) {
  return is_bf16 ? static_cast<const uint16_t*>(w)[i] : static_cast<const uint32_t*>(w)[i];
}
__device__ __forceinline__ float WeightOfBits(uint32_t bits, int is_bf16) {
  return __uint_as_float(is_bf16 ? bits << 16 : bits);
}
__device__ __forceinline__ float LoadWeight(const void* w, int is_bf16, int64_t i) {
  return WeightOfBits(LoadWeightBits(w, is_bf16, i), is_bf16);
}

__host__ __device__ __forceinline__ bool CountedInPlace(const Routing& r) {
  return r.listed == 0 && static_cast<int64_t>(r.tokens) * r.top_k <= kCountedInPlace;
}

// First panel row of an expert: `lower` pairs belong to lower experts, of which `hit` have any. The next expert's first
// row is at least the count away, whatever the counts are.
__device__ __forceinline__ int FirstPanelRow(int lower, int hit) {
  return (lower + 7) / 8 * 8 + 8 * hit;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_ROUTING_CUH_
