#include "lib/io/abi_tensor.h"

#include "lib/base/printable.h"

namespace dsv4mx::io {

Status ToAbiTensor(const TensorInfo& info, const std::byte* data, dsv4mx_tensor* out) {
  DSV4MX_RETURN_IF(info.rank > 4, DSV4MX_STATUS_UNSUPPORTED_SHAPE,
                   "tensor '%s' is %s: rank %d, at most 4 is supported",
                   Printable(info.name).c_str(), ShapeText(info).c_str(), info.rank);
  *out = dsv4mx_tensor{};
  out->struct_size = sizeof(*out);
  out->data = data;
  out->dtype = AbiDType(info.dtype);
  out->memory = DSV4MX_MEMORY_HOST;
  out->rank = info.rank == 0 ? 1 : info.rank;
  out->shape[0] = 1;
  for (int i = 0; i < info.rank; ++i) out->shape[i] = info.shape[static_cast<size_t>(i)];
  return kOk;
}

}  // namespace dsv4mx::io
