// What the dtypes and shapes of experts' tensors say: their sizes, or which other format they are.
#ifndef DSV4MX_LIB_IO_EXPERT_FORMAT_H_
#define DSV4MX_LIB_IO_EXPERT_FORMAT_H_

#include <cstdint>
#include <string_view>

#include "lib/base/status.h"
#include "lib/io/safetensors.h"

namespace dsv4mx::io {

// The most experts a tensor of all of them may have: what expert ids of a layer reach.
inline constexpr int64_t kMaxExperts = int64_t{1} << 20;

// UNSUPPORTED_DTYPE, by name, for a part of a name that only another format has.
Status CheckForeignName(const TensorInfo& tensor, std::string_view rest);
// UNSUPPORTED_DTYPE, by name, for codes that are none of MXFP4.
Status CheckCodesDType(const TensorInfo& codes);

struct MatrixSize {
  int64_t experts = 0;  // of a tensor of all of them
  int64_t rows = 0, k = 0;
};

// Sizes of a matrix from its codes and scales. `all`: they hold all experts. Codes may be bytes, values
// or words of eight, with K as one dimension or as [K/32, 16] bytes.
Status MeasureMatrix(const TensorInfo& codes, const TensorInfo& scales, bool all, MatrixSize* out);

// The same of MXFP4 blocks of a GGUF file, [experts, rows, K] values.
Status MeasureBlocks(const TensorInfo& blocks, MatrixSize* out);

// The same rows for a bias, [rows] or [experts, rows].
Status CheckBias(const TensorInfo& bias, bool all, const MatrixSize& want);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_EXPERT_FORMAT_H_
