#include "lib/core/overlap.h"

#include <algorithm>
#include <iterator>

namespace dsv4mx {
namespace {

bool Empty(const RowRange& r) {
  return r.data == nullptr || r.rows <= 0 || r.row_bytes <= 0;
}

// Bytes from the beginning of the first row to the end of the last one.
int64_t Extent(const RowRange& r) {
  return (r.rows - 1) * r.stride_bytes + r.row_bytes;
}

// Floor and ceiling of a quotient whose divisor is positive.
int64_t FloorDiv(int64_t n, int64_t d) {
  return n / d - (n % d < 0 ? 1 : 0);
}
int64_t CeilDiv(int64_t n, int64_t d) {
  return n / d + (n % d > 0 ? 1 : 0);
}

// With one stride for both, row i of a and row j of b share a byte if and only if
// gap - a.row_bytes < (i - j) * stride < gap + b.row_bytes, where gap is from a to b.
bool OverlapOfOneStride(const RowRange& a, const RowRange& b, int64_t gap, int64_t stride) {
  const int64_t least = std::max(FloorDiv(gap - a.row_bytes, stride) + 1, -(b.rows - 1));
  const int64_t most = std::min(CeilDiv(gap + b.row_bytes, stride) - 1, a.rows - 1);
  return least <= most;
}

}  // namespace

bool Overlap(const RowRange& a, const RowRange& b) {
  if (Empty(a) || Empty(b)) return false;
  // Two's complement of the difference: both are far below 2^63.
  const int64_t gap = static_cast<int64_t>(reinterpret_cast<uintptr_t>(b.data) -
                                           reinterpret_cast<uintptr_t>(a.data));
  if (gap >= Extent(a) || -gap >= Extent(b)) return false;
  if (a.rows == 1) return OverlapOfOneStride(a, b, gap, b.stride_bytes);
  if (b.rows == 1 || a.stride_bytes == b.stride_bytes)
    return OverlapOfOneStride(a, b, gap, a.stride_bytes);
  // Rows of different strides that lie among each other: for each row of a, the one row of b that can reach furthest
  // below its end.
  for (int64_t i = 0; i < a.rows; ++i) {
    const int64_t begin = i * a.stride_bytes - gap;  // from the first row of b
    const int64_t j = std::min(CeilDiv(begin + a.row_bytes, b.stride_bytes) - 1, b.rows - 1);
    if (j >= 0 && j * b.stride_bytes + b.row_bytes > begin) return true;
  }
  return false;
}

Status CheckOverlaps(const LayerSpec& spec, const ApplyCall& call, size_t workspace_bytes) {
  const int64_t tokens = call.tokens;
  const int64_t out_bytes = spec.out_dtype == DSV4MX_DTYPE_F32 ? 4 : 2;
  const int64_t id_bytes = spec.ids_dtype == DSV4MX_DTYPE_I64 ? 8 : 4;
  const int64_t weight_bytes = spec.router_weight_dtype == DSV4MX_DTYPE_BF16 ? 2 : 4;
  const struct {
    const char* name;
    RowRange range;
  } all[] = {
      {"out", {call.out, tokens, spec.hidden * out_bytes, call.out_stride * out_bytes}},
      {"workspace", Block(call.workspace, static_cast<int64_t>(workspace_bytes))},
      {"expert_counts", Block(call.expert_counts, spec.experts * int64_t{8})},
      {"x", {call.x, tokens, spec.hidden * int64_t{2}, call.x_stride * 2}},
      {"topk_ids", {call.topk_ids, tokens, spec.top_k * id_bytes, call.topk_ids_stride * id_bytes}},
      {"topk_weights",
       {call.topk_weights, tokens, spec.top_k * weight_bytes,
        call.topk_weights_stride * weight_bytes}},
      {"tokens_device", Block(call.tokens_device, 4)},
  };
  constexpr int kWritten = 3;
  for (int w = 0; w < kWritten; ++w) {
    for (size_t other = static_cast<size_t>(w) + 1; other < std::size(all); ++other) {
      DSV4MX_RETURN_IF(
          Overlap(all[w].range, all[other].range), DSV4MX_STATUS_INVALID_ARGUMENT,
          "%s at %p overlaps %s at %p, wanted memory of its own (columns of one matrix "
          "may lie beside each other)",
          all[w].name, all[w].range.data, all[other].name, all[other].range.data);
    }
  }
  return kOk;
}

}  // namespace dsv4mx
