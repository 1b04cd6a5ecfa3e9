#include "lib/io/abi_tensor.h"

namespace dsv4mx::io {

dsv4mx_dtype AbiDType(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return DSV4MX_DTYPE_BF16;
    case DType::kF32:
      return DSV4MX_DTYPE_F32;
    case DType::kF16:
      return DSV4MX_DTYPE_F16;
    case DType::kI8:
      return DSV4MX_DTYPE_I8;
    case DType::kU8:
      return DSV4MX_DTYPE_U8;
    case DType::kF4:
      return DSV4MX_DTYPE_E2M1;
    case DType::kF8E8M0:
      return DSV4MX_DTYPE_E8M0;
    case DType::kF8E4M3:
      return DSV4MX_DTYPE_E4M3;
    case DType::kF8E5M2:
      return DSV4MX_DTYPE_E5M2;
    case DType::kI32:
      return DSV4MX_DTYPE_I32;
    case DType::kI64:
      return DSV4MX_DTYPE_I64;
    case DType::kF64:
      return DSV4MX_DTYPE_F64;
    default:
      return DSV4MX_DTYPE_OTHER;
  }
}

Status ToAbiTensor(const TensorView& view, dsv4mx_tensor* out) {
  if (view.rank > 4) {
    return Fail(DSV4MX_STATUS_UNSUPPORTED_SHAPE,
                "tensor '%s' is %s: rank %d, at most 4 is supported", Printable(view.name).c_str(),
                ShapeText(view).c_str(), view.rank);
  }
  *out = dsv4mx_tensor{};
  out->struct_size = sizeof(*out);
  out->data = view.data;
  out->dtype = AbiDType(view.dtype);
  out->memory = DSV4MX_MEMORY_HOST;
  out->rank = view.rank == 0 ? 1 : view.rank;
  out->shape[0] = 1;
  for (int i = 0; i < view.rank; ++i) out->shape[i] = view.shape[static_cast<size_t>(i)];
  return Status{};
}

}  // namespace dsv4mx::io
