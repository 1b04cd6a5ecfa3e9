// Tags: safetensors/src/tensor.rs of github.com/huggingface/safetensors.
#include "lib/base/dtype.h"

namespace dsv4mx {
namespace {

struct Row {
  const char* tag;
  DType dtype;
  int bits;
  dsv4mx_dtype abi;
};

// The first row of a dtype is the spelling used in messages; later ones are what some writers emit.
constexpr Row kTable[] = {
    {"BOOL", DType::kBool, 8, DSV4MX_DTYPE_OTHER},
    {"F4", DType::kF4, 4, DSV4MX_DTYPE_E2M1},
    {"F6_E2M3", DType::kF6E2M3, 6, DSV4MX_DTYPE_OTHER},
    {"F6_E3M2", DType::kF6E3M2, 6, DSV4MX_DTYPE_OTHER},
    {"U8", DType::kU8, 8, DSV4MX_DTYPE_U8},
    {"I8", DType::kI8, 8, DSV4MX_DTYPE_I8},
    {"F8_E5M2", DType::kF8E5M2, 8, DSV4MX_DTYPE_E5M2},
    {"F8_E4M3", DType::kF8E4M3, 8, DSV4MX_DTYPE_E4M3},
    {"F8_E4M3FN", DType::kF8E4M3, 8, DSV4MX_DTYPE_E4M3},
    {"F8_E8M0", DType::kF8E8M0, 8, DSV4MX_DTYPE_E8M0},
    {"F8_E8M0FNU", DType::kF8E8M0, 8, DSV4MX_DTYPE_E8M0},
    {"F8_E4M3FNUZ", DType::kF8E4M3Fnuz, 8, DSV4MX_DTYPE_OTHER},
    {"F8_E5M2FNUZ", DType::kF8E5M2Fnuz, 8, DSV4MX_DTYPE_OTHER},
    {"I16", DType::kI16, 16, DSV4MX_DTYPE_OTHER},
    {"U16", DType::kU16, 16, DSV4MX_DTYPE_OTHER},
    {"F16", DType::kF16, 16, DSV4MX_DTYPE_F16},
    {"BF16", DType::kBF16, 16, DSV4MX_DTYPE_BF16},
    {"I32", DType::kI32, 32, DSV4MX_DTYPE_I32},
    {"U32", DType::kU32, 32, DSV4MX_DTYPE_U32},
    {"F32", DType::kF32, 32, DSV4MX_DTYPE_F32},
    {"C64", DType::kC64, 64, DSV4MX_DTYPE_OTHER},
    {"I64", DType::kI64, 64, DSV4MX_DTYPE_I64},
    {"U64", DType::kU64, 64, DSV4MX_DTYPE_OTHER},
    {"F64", DType::kF64, 64, DSV4MX_DTYPE_F64},
    {"MXFP4 blocks", DType::kMxfp4Blocks, 0, DSV4MX_DTYPE_OTHER},
    {"of another type", DType::kOther, 0, DSV4MX_DTYPE_OTHER},
};

const Row& RowOf(DType dtype) {
  for (const Row& row : kTable) {
    if (row.dtype == dtype) return row;
  }
  return kTable[0];  // unreachable: the table has every enumerator
}

}  // namespace

const char* DTypeName(DType dtype) {
  return RowOf(dtype).tag;
}
int DTypeBits(DType dtype) {
  return RowOf(dtype).bits;
}
dsv4mx_dtype AbiDType(DType dtype) {
  return RowOf(dtype).abi;
}

bool FindDType(std::string_view tag, DType* out) {
  for (const Row& row : kTable) {
    if (tag != row.tag || row.bits == 0) continue;
    *out = row.dtype;
    return true;
  }
  return false;
}

const char* DtypeName(dsv4mx_dtype dtype) {
  if (dtype == DSV4MX_DTYPE_DEFAULT) return "unset";
  for (const Row& row : kTable) {
    if (row.abi == dtype && dtype != DSV4MX_DTYPE_OTHER) return row.tag;
  }
  return "of another kind";
}

}  // namespace dsv4mx
