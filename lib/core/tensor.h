// From a caller's tensor to the views that a backend reads: one place decides which shapes, dtypes
// and strides are accepted, and where in them each expert's matrices lie.
#ifndef DSV4MX_LIB_CORE_TENSOR_H_
#define DSV4MX_LIB_CORE_TENSOR_H_

#include <cstdint>
#include <string_view>

#include "lib/base/backend.h"
#include "lib/base/names.h"
#include "lib/base/spec.h"
#include "lib/base/status.h"

namespace dsv4mx {

// A tensor that was found to have the right dtype and shape: experts x rows x columns, where a
// column is a byte of codes, a scale or (for a bias) nothing. Strides are in bytes.
struct CheckedTensor {
  const uint8_t* data = nullptr;
  dsv4mx_dtype dtype = 0;
  bool device = false;
  bool high_first = false;
  TensorTarget target = TensorTarget::kW13;
  dsv4mx_w13_order order = DSV4MX_W13_ORDER_UNSET;
  int64_t half = 0;  // rows of one matrix in a fused tensor
  int64_t expert_stride = 0, row_stride = 0, column_stride = 0;
  int64_t rows = 0, row_bytes = 0;  // of one expert, as the caller holds them

  int64_t ExpertBytes() const { return rows * row_bytes; }

  // `index` counts the tensor's own experts: 0 for a tensor of one expert.
  CodesView Codes(int64_t index, Matrix m) const;
  ScalesView Scales(int64_t index, Matrix m) const;
  BiasView Bias(int64_t index, Matrix m) const;

 private:
  void Locate(int64_t index, Matrix m, const uint8_t** at, int64_t* stride) const;
};

// Checks `tensor` against what `name` is in this layer. `whole` says whether it covers all experts
// ([E, ...]) or one. Accepted beside the shapes of the public table: a leading 1 for one expert,
// and codes whose last dimension is split in two that lie together ([.., K/32, 16], GPT-OSS).
Status CheckTensor(const LayerSpec& spec, const TensorName& name, std::string_view full_name,
                   bool whole, const dsv4mx_tensor& tensor, CheckedTensor* out);

// The same for a tensor of one matrix of one expert that is to be written.
Status CheckSink(const LayerSpec& spec, const TensorName& name, std::string_view full_name,
                 const dsv4mx_tensor& tensor, TensorSink* out);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_CORE_TENSOR_H_
