// The safetensors format: an 8-byte little-endian header length, a JSON header, raw tensor bytes.
//
// This file knows bytes only, no files: it turns one mapped file into a list of tensors, or refuses
// it with one line. A header comes from outside, so every number in it is checked before it is
// used, and what the format forbids (holes, overlaps, duplicate names) is refused, because a file
// that breaks a rule of its format was damaged or made to mislead.
#ifndef DSV4MX_LIB_IO_SAFETENSORS_H_
#define DSV4MX_LIB_IO_SAFETENSORS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"

namespace dsv4mx::io {

// Every tag of the format, so that tensors beside the experts do not stop a file from opening.
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
};

// The tag as files spell it ("F8_E8M0").
const char* DTypeName(DType dtype);
int DTypeBits(DType dtype);

inline constexpr int kMaxRank = 8;

// One tensor inside a mapped file. `data` has no alignment: tensors start at any byte of a file.
struct TensorView {
  std::string_view name;  // followed by a NUL, so name.data() is a C string
  DType dtype = DType::kU8;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  const std::byte* data = nullptr;
  size_t bytes = 0;

  bool HasShape(std::initializer_list<int64_t> want) const;
};

// "[256,4096,2048]", for messages.
std::string ShapeText(const TensorView& tensor);

// The tensors of one file in the order of their bytes. Views point into `names` and into the bytes
// that were parsed; moving a table keeps both valid.
struct TensorTable {
  std::deque<std::string> names;
  std::vector<TensorView> tensors;
};

// Reads the header of a whole file held at [bytes, bytes + size). `label` names it in messages.
// On failure *out is left empty.
Status ParseSafetensors(const std::byte* bytes, size_t size, const char* label, TensorTable* out);

// One line of printable ASCII made from text of a file: control and other bytes become '?', long
// text is cut. Nothing from outside reaches a message in any other way.
std::string Printable(std::string_view text);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_SAFETENSORS_H_
