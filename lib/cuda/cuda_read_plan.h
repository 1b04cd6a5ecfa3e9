// How tensors that are read on demand pass through staging: in blocks, runs of rows of one tensor or of several that follow
// each other, so that every copy is a large one. A thread reads a block, and it is packed by itself.
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
  // Rows of the source that fill whole tiles; of a bias all of them.
  struct Run {
    const RowsToRead* tensor;
    int64_t first, rows;
    int64_t at;  // in the block, bytes
  };
  struct Block {
    size_t begin, end;  // runs
    int64_t bytes;      // up to the end of the last run
    int64_t file_bytes;
  };

  // Bytes that a block must hold of tensors of such a layer.
  static int64_t LeastBlock(const LayerSpec& spec);

  // Blocks of at most `block_bytes` bytes, at least LeastBlock, and smaller where there is little to read, so that there is
  // work for `blocks` of them.
  ReadPlan(absl::Span<const RowsToRead> tensors, const LayerSpec& spec, int64_t block_bytes,
           int blocks);

  int64_t file_bytes() const { return file_bytes_; }
  const std::vector<Run>& runs() const { return runs_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  // Asks for a block's rows ahead; nothing behind the last one.
  void Prefetch(int64_t block) const;

 private:
  std::vector<Run> runs_;
  std::vector<Block> blocks_;
  int64_t file_bytes_ = 0;
};

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_READ_PLAN_H_
