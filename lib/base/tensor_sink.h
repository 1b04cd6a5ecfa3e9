// Where a tensor of a prepared expert is to be written, and the form that its rows take there.
#ifndef DSV4MX_LIB_BASE_TENSOR_SINK_H_
#define DSV4MX_LIB_BASE_TENSOR_SINK_H_

#include <cstdint>

#include "lib/base/spec.h"

namespace dsv4mx {

// Two codes to a byte; E8M0 bytes; f32; or codes times scales as bf16, which is exact but for overflow.
enum class TensorForm { kCodes, kScales, kBias, kWeights };

// Element (row, column) at data + row * row_stride + column * column_stride; elements do not overlap.
struct TensorSink {
  uint8_t* data;
  int64_t row_stride, column_stride;  // bytes
  TensorForm form;
  bool high_first;  // of codes: high nibble is the even k
  bool device;      // data is device memory

  int64_t ElementBytes() const {
    return form == TensorForm::kBias ? 4 : form == TensorForm::kWeights ? 2 : 1;
  }
  // Elements of a row.
  int64_t Columns(int64_t k) const {
    switch (form) {
      case TensorForm::kCodes:
        return k / 2;
      case TensorForm::kScales:
        return k / kGroupSize;
      case TensorForm::kBias:
        return 1;
      default:
        return k;
    }
  }
  int64_t RowBytes(int64_t k) const { return Columns(k) * ElementBytes(); }

  // The raw form of a row (expert_rows.h) in this one, without gaps. Not for biases.
  void MakeRow(const uint8_t* codes, const uint8_t* scales, int64_t k, uint8_t* row) const;
  // Such a row put in its place. Host memory alone.
  void PutRow(const uint8_t* row, int64_t k, int64_t number) const;
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_TENSOR_SINK_H_
