// The one table of element types: what a file calls them, how wide they are, and which type of the
// public header they are.
#ifndef DSV4MX_LIB_BASE_DTYPE_H_
#define DSV4MX_LIB_BASE_DTYPE_H_

#include <cstdint>
#include <string_view>

#include "dsv4mx.h"

namespace dsv4mx {

// Every tag of the safetensors format, so that tensors beside the experts do not stop a file from
// opening.
enum class DType : uint8_t {
  kBool,
  kF4,  // E2M1; the shape counts values, two per byte
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kI64,
  kU64,
  kF64,
  // Of GGUF files: blocks of 32 values in 17 bytes, and what is none of all these.
  kMxfp4Blocks,
  kOther,
};

// The tag as files spell it ("F8_E8M0").
const char* DTypeName(DType dtype);
int DTypeBits(DType dtype);  // 0 for types of GGUF files alone
// DSV4MX_DTYPE_OTHER for what the header does not name.
dsv4mx_dtype AbiDType(DType dtype);
// False for a tag that the format does not have. Some writers' spellings count too (F8_E4M3FN).
bool FindDType(std::string_view tag, DType* out);

// The same tags for the header's types, for messages; "unset" for 0.
const char* DtypeName(dsv4mx_dtype dtype);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_DTYPE_H_
