// Rows of an expert's tensor out of its file: whole rows, columns of rows, and codes with their scales out of the MXFP4 blocks
// of a GGUF file.
#ifndef DSV4MX_LIB_IO_TENSOR_ROWS_H_
#define DSV4MX_LIB_IO_TENSOR_ROWS_H_

#include <cstdint>

#include "lib/base/row_source.h"
#include "lib/io/checkpoint_reader.h"

namespace dsv4mx::io {

class TensorRows final : public RowSource {
 public:
  enum class Part {
    kAll,     // bytes as they are
    kBlocks,  // of MXFP4 blocks: a row's codes, the even value in the low half, then its scales
  };
  // Rows begin at byte `offset` of the tensor, which outlives the object, and lie `stride` bytes apart; of each `bytes` are
  // wanted: whole blocks where they are such.
  TensorRows(const TensorPlace& place, uint64_t offset, int64_t stride, int64_t bytes, Part part)
      : place_(&place), offset_(offset), stride_(stride), bytes_(bytes), part_(part) {}

  // A block is as long as what it becomes.
  int64_t RowBytes() const override { return bytes_; }
  int64_t FileBytes() const override { return stride_; }
  Status Read(int64_t first, int64_t rows, uint8_t* to) const override;
  void Prefetch(int64_t first, int64_t rows) const override;

 private:
  uint64_t At(int64_t row) const { return offset_ + static_cast<uint64_t>(row * stride_); }
  // Bytes [at, at + bytes) of a row as it is in the file, for that row as it is wanted.
  void Take(const uint8_t* from, int64_t at, int64_t bytes, uint8_t* row) const;

  const TensorPlace* place_;
  uint64_t offset_;
  int64_t stride_, bytes_;
  Part part_;
};

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_TENSOR_ROWS_H_
