#include "lib/io/expert_format.h"

#include <climits>
#include <string>

#include "lib/base/printable.h"
#include "lib/base/spec.h"

namespace dsv4mx::io {
namespace {

// Parts of names that only other formats have.
struct Foreign {
  const char* part;
  const char* format;
};
constexpr Foreign kForeign[] = {
    {"weight_scale_2", "NVFP4 (groups of 16 with a second, global scale)"},
    {"global_scale", "NVFP4 (groups of 16 with a second, global scale)"},
    {"input_scale", "static activation scales (an FP8 or NVFP4 repack)"},
    {"qweight", "an INT4 repack (GPTQ or AWQ)"},
    {"qzeros", "an INT4 repack (GPTQ or AWQ)"},
    {"weight_zero_point", "an INT4 repack"},
    {"weight_shape", "an INT4 repack (compressed-tensors pack-quantized)"},
    {"biases", "an affine quantisation of MLX (scales and biases)"},
};

Status FailForeign(const TensorInfo& tensor, const char* format) {
  return Fail(
      DSV4MX_STATUS_UNSUPPORTED_DTYPE,
      "experts are no MXFP4: tensor '%s' (%s %s) means %s; expected E2M1 codes with one E8M0 "
      "scale per 32 values",
      Printable(tensor.name).c_str(), DTypeName(tensor.dtype), ShapeText(tensor).c_str(), format);
}

Status CheckScalesDType(const TensorInfo& codes, const TensorInfo& scales) {
  switch (scales.dtype) {
    case DType::kF8E8M0:
    case DType::kI8:
    case DType::kU8:
      return kOk;
    case DType::kF32:
    case DType::kBF16:
    case DType::kF16:
      // Words with numbers as scales are MLX's own four bits, which are no E2M1.
      if (codes.dtype != DType::kU32) return kOk;
      return FailForeign(scales, "an affine quantisation of MLX (scales and biases)");
    case DType::kF8E4M3:
      return FailForeign(scales, "NVFP4 (E4M3 scales)");
    default:
      return FailForeign(scales, "an unknown format");
  }
}

// Values in an item of codes.
int64_t PerItem(DType dtype) {
  return dtype == DType::kF4 ? 1 : dtype == DType::kU32 ? 8 : 2;
}

}  // namespace

Status CheckForeignName(const TensorInfo& tensor, std::string_view rest) {
  for (const Foreign& foreign : kForeign) {
    if (rest.find(foreign.part) == std::string_view::npos) continue;
    const bool int4 = tensor.dtype == DType::kI32;  // eight codes a word, whatever the name
    return FailForeign(tensor, int4 ? "an INT4 repack" : foreign.format);
  }
  return kOk;
}

Status CheckCodesDType(const TensorInfo& codes) {
  switch (codes.dtype) {
    case DType::kI8:
    case DType::kU8:
    case DType::kF4:
    case DType::kU32:
      return kOk;
    case DType::kF8E4M3:
    case DType::kF8E5M2:
    case DType::kF8E4M3Fnuz:
    case DType::kF8E5M2Fnuz:
      return FailForeign(codes, "FP8 experts (a -Base release or an FP8 repack)");
    case DType::kI32:
    case DType::kI64:
      return FailForeign(codes, "an INT4 repack");
    case DType::kBF16:
    case DType::kF16:
    case DType::kF32:
    case DType::kF64:
      return FailForeign(codes, "experts that are not quantised");
    default:
      return FailForeign(codes, "an unknown format");
  }
}

Status MeasureMatrix(const TensorInfo& codes, const TensorInfo& scales, bool all, MatrixSize* out) {
  constexpr auto kCode = DSV4MX_STATUS_FORMAT_ERROR;
  DSV4MX_TRY(CheckCodesDType(codes));
  DSV4MX_TRY(CheckScalesDType(codes, scales));
  const int rank = all ? 3 : 2;
  const std::string name = Printable(codes.name);
  const std::string codes_text = ShapeText(codes);
  const std::string scales_text = ShapeText(scales);
  const auto size = [](const TensorInfo& t, int i) { return t.shape[static_cast<size_t>(i)]; };
  const bool blocks = codes.rank == rank + 1 && size(codes, rank) == kGroupSize / 2 &&
                      (codes.dtype == DType::kU8 || codes.dtype == DType::kI8);
  const bool equal = !all || size(codes, 0) == size(scales, 0);
  DSV4MX_RETURN_IF(
      (codes.rank != rank && !blocks) || scales.rank != rank || !equal, kCode,
      "tensor '%s' is %s with scales %s, expected %d dimensions and equal expert counts",
      name.c_str(), codes_text.c_str(), scales_text.c_str(), rank);
  MatrixSize found;
  found.experts = all ? size(codes, 0) : 1;
  DSV4MX_RETURN_IF(found.experts < 1 || found.experts > kMaxExperts, kCode,
                   "tensor '%s' is %s: no number of experts", name.c_str(), codes_text.c_str());
  found.rows = size(codes, rank - 2);
  const int64_t items = size(codes, rank - 1);
  const int64_t per_item = blocks ? kGroupSize : PerItem(codes.dtype);
  const int64_t groups = size(scales, rank - 1);
  DSV4MX_RETURN_IF(found.rows < 1 || found.rows > INT32_MAX || items < 1 ||
                       items > INT32_MAX / per_item || groups > INT32_MAX,
                   kCode, "tensor '%s' is %s: no size of an expert", name.c_str(),
                   codes_text.c_str());
  found.k = items * per_item;
  const bool same_rows = size(scales, rank - 2) == found.rows;
  if (same_rows && groups * 16 == found.k) {
    return FailForeign(scales, "groups of 16 values (NVFP4)");
  }
  if (same_rows && codes.dtype == DType::kU32 && groups * 64 == found.k) {
    return FailForeign(codes, "values of eight bits (MXFP8)");
  }
  DSV4MX_RETURN_IF(!same_rows || found.k % kGroupSize != 0 || groups != found.k / kGroupSize, kCode,
                   "tensor '%s' is %s, expected rows of '%s' %s with one scale per 32 values",
                   Printable(scales.name).c_str(), scales_text.c_str(), name.c_str(),
                   codes_text.c_str());
  *out = found;
  return kOk;
}

Status MeasureBlocks(const TensorInfo& blocks, MatrixSize* out) {
  if (blocks.dtype != DType::kMxfp4Blocks) {
    return FailForeign(blocks, "a GGUF file of another quantisation than MXFP4");
  }
  const auto& shape = blocks.shape;
  DSV4MX_RETURN_IF(blocks.rank != 3 || shape[0] < 1 || shape[0] > kMaxExperts || shape[1] < 1 ||
                       shape[1] > INT32_MAX || shape[2] < kGroupSize || shape[2] > INT32_MAX,
                   DSV4MX_STATUS_FORMAT_ERROR, "tensor '%s' is %s, expected experts, rows and K",
                   Printable(blocks.name).c_str(), ShapeText(blocks).c_str());
  *out = {shape[0], shape[1], shape[2]};
  return kOk;
}

Status CheckBias(const TensorInfo& bias, bool all, const MatrixSize& want) {
  DSV4MX_RETURN_IF(bias.dtype != DType::kBF16 && bias.dtype != DType::kF32,
                   DSV4MX_STATUS_UNSUPPORTED_DTYPE,
                   "tensor '%s' is a bias of %s, wanted BF16 or F32", Printable(bias.name).c_str(),
                   DTypeName(bias.dtype));
  const bool fits = all ? bias.HasShape({want.experts, want.rows}) : bias.HasShape({want.rows});
  DSV4MX_RETURN_IF(!fits, DSV4MX_STATUS_FORMAT_ERROR,
                   "tensor '%s' is %s, expected a bias of %lld rows", Printable(bias.name).c_str(),
                   ShapeText(bias).c_str(), static_cast<long long>(want.rows));
  return kOk;
}

}  // namespace dsv4mx::io
