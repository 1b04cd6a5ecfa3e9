// How tensors that are read on demand pass through staging: in pieces, runs of rows of one tensor that fill whole tiles, each
// of which any thread reads into any slot and which is packed by itself.
#ifndef DSV4MX_LIB_CUDA_CUDA_READ_PLAN_H_
#define DSV4MX_LIB_CUDA_CUDA_READ_PLAN_H_

#include <absl/types/span.h>

#include <cstdint>
#include <vector>

#include "lib/base/backend.h"
#include "lib/base/spec.h"

namespace dsv4mx::cuda {

class ReadPlan {
 public:
  struct Piece {
    const RowsToRead* tensor;
    int64_t first, rows;  // of the source; of a bias all of them
  };

  // Bytes that a slot must hold of tensors of such a layer.
  static int64_t LeastSlot(const LayerSpec& spec);

  // Pieces of at most `slot_bytes` bytes, at least LeastSlot, and smaller where there is little to read, so that there is work
  // for `slots` slots.
  ReadPlan(absl::Span<const RowsToRead> tensors, const LayerSpec& spec, int64_t slot_bytes,
           int slots);

  int64_t pieces() const { return pieces_; }
  int64_t file_bytes() const { return file_bytes_; }
  Piece At(int64_t piece) const;

 private:
  struct Run {
    const RowsToRead* tensor;
    int64_t rows, piece_rows, first_piece;
  };
  std::vector<Run> runs_;  // one for each tensor
  int64_t pieces_ = 0, file_bytes_ = 0;
};

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_READ_PLAN_H_
