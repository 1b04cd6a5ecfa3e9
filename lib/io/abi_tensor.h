// A tensor of a file in the words of the public header.
#ifndef DSV4MX_LIB_IO_ABI_TENSOR_H_
#define DSV4MX_LIB_IO_ABI_TENSOR_H_

#include <cstddef>

#include "dsv4mx.h"
#include "lib/base/status.h"
#include "lib/io/safetensors.h"

namespace dsv4mx::io {

// Contiguous host tensor over `data`. UNSUPPORTED_SHAPE for a rank above 4; a scalar becomes [1].
Status ToAbiTensor(const TensorInfo& info, const std::byte* data, dsv4mx_tensor* out);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_ABI_TENSOR_H_
