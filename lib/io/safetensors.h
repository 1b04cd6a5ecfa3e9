// The safetensors format: an 8-byte little-endian header length, a JSON header, raw tensor bytes.
//
// This file knows text only, no files: it turns a header into a table of tensors, or refuses it with
// one line. A header comes from outside, so every number in it is checked before it is used, and what
// the format forbids (holes, overlaps, duplicate names) is refused, because a file that breaks a rule
// of its format was damaged or made to mislead.
#ifndef DSV4MX_LIB_IO_SAFETENSORS_H_
#define DSV4MX_LIB_IO_SAFETENSORS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/dtype.h"
#include "lib/base/status.h"

namespace dsv4mx::io {

inline constexpr int kMaxRank = 8;
// One tensor of a file. Tensors start at any byte of a file.
struct TensorInfo {
  std::string_view name;  // followed by a NUL, so name.data() is a C string
  DType dtype = DType::kU8;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  uint64_t offset = 0;  // of its first byte in the file
  uint64_t bytes = 0;

  bool HasShape(std::initializer_list<int64_t> want) const;
};

// "[256,4096,2048]", for messages.
std::string ShapeText(const TensorInfo& tensor);

// The tensors of one file in name order, in about as many bytes as their names have and 40 more each:
// a header may name millions.
class TensorTable {
 public:
  size_t size() const { return rows_.size(); }
  TensorInfo operator[](size_t index) const;
  std::string_view name(size_t index) const;
  // The index of that name, or size().
  size_t Find(std::string_view name) const;

 private:
  friend class TableBuilder;
  friend class GgufParser;
  struct Row {
    uint64_t begin = 0, end = 0;  // in the data behind the header
    uint32_t name = 0;            // in names_
    uint32_t length = 0;          // of the name
    uint32_t shape = 0;           // in sizes_
    DType dtype = DType::kU8;
    uint8_t rank = 0;
  };

  std::string names_;           // with a NUL behind each
  std::vector<int64_t> sizes_;  // of all shapes
  std::vector<Row> rows_;
  uint64_t data_ = 0;  // where the data begins in the file
};

// The first bytes of a file.
inline constexpr size_t kHeadBytes = 72;

// The header's length from the file's first `head.size()` bytes (kHeadBytes, or all of a shorter file),
// or why they are not a safetensors file's. `label` names the file in messages.
Status ParseSafetensorsHead(std::string_view head, uint64_t file_bytes, const char* label,
                            uint64_t* header_bytes);

// Reads the JSON header of a file of that size. On failure *out is left empty.
Status ParseSafetensorsHeader(std::string_view header, uint64_t file_bytes, const char* label,
                              TensorTable* out);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_SAFETENSORS_H_
