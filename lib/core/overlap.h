// Whether two ranges of rows share a byte. Addresses are only compared, never read, so it holds for device memory as well.
#ifndef DSV4MX_LIB_CORE_OVERLAP_H_
#define DSV4MX_LIB_CORE_OVERLAP_H_

#include <cstddef>
#include <cstdint>

#include "lib/base/backend.h"
#include "lib/base/spec.h"
#include "lib/base/status.h"

namespace dsv4mx {

// `rows` rows of `row_bytes` bytes, each `stride_bytes` after the one before it (row_bytes or more).
struct RowRange {
  const void* data;
  int64_t rows, row_bytes, stride_bytes;
};

// One block of memory.
inline RowRange Block(const void* data, int64_t bytes) {
  return {data, 1, bytes, bytes};
}

// Exact: columns of one matrix that lie beside each other do not overlap.
bool Overlap(const RowRange& a, const RowRange& b);

// Refuses a call in which memory that apply writes (out, expert counts, the workspace up to `workspace_bytes`) overlaps another argument.
Status CheckOverlaps(const LayerSpec& spec, const ApplyCall& call, size_t workspace_bytes);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_CORE_OVERLAP_H_
