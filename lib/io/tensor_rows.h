// Rows of an expert's tensor out of its file: whole rows, columns of rows, and codes or scales out of the MXFP4 blocks of a
// GGUF file.
#ifndef DSV4MX_LIB_IO_TENSOR_ROWS_H_
#define DSV4MX_LIB_IO_TENSOR_ROWS_H_

#include <cstdint>

#include "lib/base/row_source.h"
#include "lib/io/checkpoint_reader.h"

namespace dsv4mx::io {

class TensorRows final : public RowSource {
 public:
  enum class Part {
    kAll,          // bytes as they are
    kBlockCodes,   // of MXFP4 blocks the codes, the even value in the low half
    kBlockScales,  // and the scales
  };
  // Rows begin at byte `offset` of the tensor and lie `stride` bytes apart; of each `bytes` are wanted, whole blocks of a part
  // of them.
  TensorRows(const TensorPlace& place, uint64_t offset, int64_t stride, int64_t bytes, Part part)
      : place_(place), offset_(offset), stride_(stride), bytes_(bytes), part_(part) {}

  int64_t RowBytes() const override { return Wanted(bytes_); }
  Status Read(int64_t first, int64_t rows, uint8_t* to) const override;

 private:
  // What becomes of so many bytes of a row.
  int64_t Wanted(int64_t bytes) const;
  void Take(const uint8_t* from, int64_t bytes, uint8_t* to) const;

  TensorPlace place_;
  uint64_t offset_;
  int64_t stride_, bytes_;
  Part part_;
};

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_TENSOR_ROWS_H_
