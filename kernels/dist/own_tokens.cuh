// A caller's tokens as a group's kernels read them: how many there are, and which copy of an expert each route takes.
#ifndef DSV4MX_KERNELS_DIST_OWN_TOKENS_CUH_
#define DSV4MX_KERNELS_DIST_OWN_TOKENS_CUH_

#include "kernels/dist/launch_exchange.h"
#include "kernels/dist/protocol.h"
#include "kernels/routing.cuh"

namespace dsv4mx::dist {

__device__ __forceinline__ int Live(const OwnTokens& o) {
  if (o.tokens_device == nullptr) return o.tokens;
  return min(max(*o.tokens_device, o.first), o.first + o.tokens) - o.first;
}
__device__ __forceinline__ int64_t IdOf(const OwnTokens& o, int token, int slot) {
  const int64_t at = token * o.ids_stride + slot;
  return o.ids_are_64 ? static_cast<const int64_t*>(o.ids)[at]
                      : static_cast<const int32_t*>(o.ids)[at];
}
// Likewise in two steps (IdOfBits).
__device__ __forceinline__ uint2 LoadIdBits(const OwnTokens& o, int token, int slot) {
  return dsv4mx::LoadIdBits(o.ids, o.ids_are_64, token * o.ids_stride + slot);
}
__device__ __forceinline__ bool IsRouted(const RouteArgs& r, int64_t id) {
  return id >= 0 && id < r.id_count;
}
// The copy that a route takes, part << 16 | local expert; by the way of its id.
__device__ __forceinline__ int CopyOnWay(const RouteArgs& r, uint64_t way, int token, int slot) {
  const auto low = static_cast<uint32_t>(way), count = static_cast<uint32_t>(way >> 32);
  if (count == 1) return static_cast<int>(low);
  return static_cast<int>(r.copies[low + CopyOf(token, slot, count)]);
}
// Or -1 for an id that means nothing.
__device__ __forceinline__ int CopyFor(const RouteArgs& r, int64_t id, int token, int slot) {
  return IsRouted(r, id) ? CopyOnWay(r, r.ids[id], token, slot) : -1;
}

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_OWN_TOKENS_CUH_
