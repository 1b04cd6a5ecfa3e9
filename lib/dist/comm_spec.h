// The checked description of a group and of this rank in it, with every default resolved.
#ifndef DSV4MX_LIB_DIST_COMM_SPEC_H_
#define DSV4MX_LIB_DIST_COMM_SPEC_H_

#include <cstdint>

#include "kernels/dist/window.h"
#include "lib/base/control.h"
#include "lib/base/status.h"

namespace dsv4mx::dist {

// Partial sums of so many tokens are reduced at a time: enough to hide a wait, few enough that the buffers stay small.
inline constexpr int64_t kReduceTokens = 256;

struct CommSpec {
  dsv4mx_comm_kind kind = DSV4MX_COMM_SELF;
  int32_t rank = 0, size = 1, tp_size = 1;
  dsv4mx_comm_transport transport = DSV4MX_COMM_TRANSPORT_AUTO;
  dsv4mx_ep_combine ep_combine = DSV4MX_EP_ROUTE_EXACT;
  dsv4mx_tp_reduce tp_reduce = DSV4MX_TP_RANK_ORDER;
  int32_t tp_slices = 0;
  dsv4mx_dtype slot_dtype = DSV4MX_DTYPE_BF16, partial_dtype = DSV4MX_DTYPE_F32;
  int64_t max_tokens = 0;
  int32_t max_hidden = 0, max_top_k = 0;
  int64_t timeout_ns = 0;
  uint32_t flags = 0;

  int32_t ep_size() const { return size / tp_size; }
  int32_t ep_rank() const { return rank / tp_size; }
  int32_t tp_rank() const { return rank % tp_size; }
  // The rank of the group that is expert-parallel rank `ep` (tensor-parallel rank `tp`) as this one sees it.
  int32_t EpPeer(int32_t ep) const { return ep * tp_size + tp_rank(); }
  int32_t TpPeer(int32_t tp) const { return ep_rank() * tp_size + tp; }
  // Whether apply goes through this floor at all.
  bool Exchanges() const { return size > 1 || tp_reduce == DSV4MX_TP_INVARIANT; }
  int64_t reduce_tokens() const { return max_tokens < kReduceTokens ? max_tokens : kReduceTokens; }
};

inline int32_t BytesOf(dsv4mx_dtype dtype) {
  return dtype == DSV4MX_DTYPE_F32 ? 4 : 2;
}

// What a rank must know to meet the others at all: kind, rank, size.
Status CheckMembership(const dsv4mx_comm_desc& desc, CommSpec* out);
// The rest; a rank that fails here tells the others.
Status CheckRest(const dsv4mx_comm_desc& desc, CommSpec* out);

// What ranks compare, as plain numbers that travel.
struct CommFields {
  int64_t version, size, tp_size, transport, ep_combine, tp_reduce, tp_slices, slot_dtype,
      partial_dtype, max_tokens, max_hidden, max_top_k, timeout_ns, flags;
};
CommFields FieldsOf(const CommSpec& spec);
// `all` by rank: COMM_MISMATCH with field, rank, got and wanted (rank 0's).
Status CompareFields(const CommFields* all, int32_t size);

WindowShape ShapeOf(const CommSpec& spec);

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_COMM_SPEC_H_
