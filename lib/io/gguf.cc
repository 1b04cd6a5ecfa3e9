#include "lib/io/gguf.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "lib/base/printable.h"

namespace dsv4mx::io {
namespace {

constexpr auto kCode = DSV4MX_STATUS_FORMAT_ERROR;
constexpr uint64_t kMaxHeaderBytes = uint64_t{256} << 20;  // vocabularies have some ten million
constexpr uint64_t kMaxName = 1024;
constexpr uint64_t kMaxAlignment = uint64_t{1} << 20;

// Bytes of a value by its type; 0 for strings and arrays.
constexpr int kValueBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
constexpr uint32_t kString = 8, kArray = 9, kUint32 = 4;
constexpr uint64_t kMaxLayers = 4096;  // values of a key that has one a layer
// What is kept of keys, behind the architecture's name.
constexpr std::string_view kKept[] = {".embedding_length",     ".expert_feed_forward_length",
                                      ".expert_count",         ".expert_used_count",
                                      ".expert_weights_scale", ".swiglu_clamp_exp"};
constexpr uint32_t kValueTypes = sizeof(kValueBytes) / sizeof(kValueBytes[0]);

struct Type {
  uint32_t id;
  DType dtype;
  uint64_t values, bytes;  // of a block
};
constexpr Type kTypes[] = {
    {0, DType::kF32, 1, 4},
    {1, DType::kF16, 1, 2},
    {24, DType::kI8, 1, 1},
    {25, DType::kI16, 1, 2},
    {26, DType::kI32, 1, 4},
    {27, DType::kI64, 1, 8},
    {28, DType::kF64, 1, 8},
    {30, DType::kBF16, 1, 2},
    {39, DType::kMxfp4Blocks, 32, kMxfp4BlockBytes},
};

// Reads forward through a window of the file.
class Stream {
 public:
  Stream(const ReadAt& read, uint64_t file_bytes, const char* label)
      : read_(read),
        limit_(std::min(file_bytes, kMaxHeaderBytes)),
        file_(file_bytes),
        label_(label) {}

  uint64_t at() const { return at_; }

  Status Skip(uint64_t bytes) {
    DSV4MX_TRY(Has(bytes));
    at_ += bytes;
    return kOk;
  }

  Status Bytes(void* to, size_t bytes) {
    DSV4MX_TRY(Has(bytes));
    auto* out = static_cast<char*>(to);
    while (bytes > 0) {
      if (at_ < begin_ || at_ >= begin_ + window_.size()) DSV4MX_TRY(Fill());
      const auto from = static_cast<size_t>(at_ - begin_);
      const size_t n = std::min(bytes, window_.size() - from);
      std::memcpy(out, window_.data() + from, n);
      out += n;
      at_ += n;
      bytes -= n;
    }
    return kOk;
  }

  template <class T>
  Status Number(T* out) {
    return Bytes(out, sizeof(T));  // little-endian hosts only, as the whole library
  }

  Status Text(uint64_t most, std::string* out) {
    uint64_t length = 0;
    DSV4MX_TRY(Number(&length));
    DSV4MX_RETURN_IF(length > most, kCode, "%s: a GGUF name of %llu bytes, at most %llu are read",
                     label_, static_cast<unsigned long long>(length),
                     static_cast<unsigned long long>(most));
    DSV4MX_TRY(Has(length));
    out->resize(static_cast<size_t>(length));
    return Bytes(out->data(), out->size());
  }

 private:
  Status Has(uint64_t bytes) const {
    DSV4MX_RETURN_IF(bytes > limit_ - at_, kCode, "%s: the GGUF header %s", label_,
                     limit_ < file_ ? "has more than 256 MiB" : "is truncated");
    return kOk;
  }

  Status Fill() {
    begin_ = at_;
    window_.resize(static_cast<size_t>(std::min<uint64_t>(limit_ - at_, 65536)));
    return read_(begin_, window_.size(), window_.data());
  }

  const ReadAt& read_;
  uint64_t limit_, file_;
  const char* label_;
  uint64_t at_ = 0, begin_ = 0;
  std::string window_;
};

}  // namespace

class GgufParser {
 public:
  GgufParser(const ReadAt& read, uint64_t file_bytes, const char* label, TensorTable* table,
             GgufKeys* keys)
      : in_(read, file_bytes, label),
        file_bytes_(file_bytes),
        label_(label),
        t_(*table),
        keys_(*keys) {}

  Status Parse() {
    uint32_t magic = 0, version = 0;
    uint64_t tensors = 0, keys = 0;
    DSV4MX_TRY(in_.Number(&magic));
    DSV4MX_TRY(in_.Number(&version));
    DSV4MX_RETURN_IF(version != 2 && version != 3, kCode,
                     "%s: GGUF version %u, wanted 2 or 3 in little-endian order", label_, version);
    DSV4MX_TRY(in_.Number(&tensors));
    DSV4MX_TRY(in_.Number(&keys));
    for (uint64_t i = 0; i < keys; ++i) DSV4MX_TRY(Key());
    for (uint64_t i = 0; i < tensors; ++i) DSV4MX_TRY(Info());
    return Finish();
  }

 private:
  Status Key() {
    std::string name;
    uint32_t type = 0;
    DSV4MX_TRY(in_.Text(65536, &name));
    DSV4MX_TRY(in_.Number(&type));
    if (name == "general.alignment" && type == kUint32) {
      uint32_t alignment = 0;
      DSV4MX_TRY(in_.Number(&alignment));
      DSV4MX_RETURN_IF(
          alignment == 0 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0, kCode,
          "%s: general.alignment is %u, wanted a power of two up to 2^20", label_, alignment);
      alignment_ = alignment;
      return kOk;
    }
    if (name == "general.architecture" && type == kString) {
      return in_.Text(kMaxName, &keys_.architecture);
    }
    for (const std::string_view kept : kKept) {
      if (name.size() <= kMaxName && name.ends_with(kept)) return Keep(name, type);
    }
    return SkipValue(type, true);
  }

  // The numbers of a key, whatever type they have; what is no number is passed over.
  Status Keep(const std::string& name, uint32_t type) {
    uint64_t count = 1;
    uint32_t of = type;
    if (type == kArray) {
      DSV4MX_TRY(in_.Number(&of));
      DSV4MX_TRY(in_.Number(&count));
    }
    const bool number = of < kValueTypes && kValueBytes[of] > 0;
    if (!number || count > kMaxLayers) return SkipValues(of, count);
    std::vector<double> values;
    for (uint64_t i = 0; i < count; ++i) {
      values.push_back(0);
      DSV4MX_TRY(ReadNumber(of, &values.back()));
    }
    keys_.numbers.emplace(name, std::move(values));  // the first of two equal keys
    return kOk;
  }

  template <class T>
  Status As(double* out) {
    T value{};
    DSV4MX_TRY(in_.Number(&value));
    *out = static_cast<double>(value);
    return kOk;
  }
  Status ReadNumber(uint32_t type, double* out) {
    switch (type) {
      case 0:
      case 7:
        return As<uint8_t>(out);
      case 1:
        return As<int8_t>(out);
      case 2:
        return As<uint16_t>(out);
      case 3:
        return As<int16_t>(out);
      case 4:
        return As<uint32_t>(out);
      case 5:
        return As<int32_t>(out);
      case 6:
        return As<float>(out);
      case 10:
        return As<uint64_t>(out);
      case 11:
        return As<int64_t>(out);
      default:
        return As<double>(out);
    }
  }

  Status SkipValue(uint32_t type, bool arrays) {
    DSV4MX_RETURN_IF(type >= kValueTypes || (type == kArray && !arrays), kCode,
                     "%s: a GGUF value of type %u, wanted a plain type or an array of one", label_,
                     type);
    if (type == kString) {
      uint64_t length = 0;
      DSV4MX_TRY(in_.Number(&length));
      return in_.Skip(length);
    }
    if (type != kArray) return in_.Skip(static_cast<uint64_t>(kValueBytes[type]));
    uint32_t of = 0;
    uint64_t count = 0;
    DSV4MX_TRY(in_.Number(&of));
    DSV4MX_TRY(in_.Number(&count));
    return SkipValues(of, count);
  }

  // The values of an array.
  Status SkipValues(uint32_t of, uint64_t count) {
    if (of < kValueTypes && kValueBytes[of] > 0) {
      uint64_t bytes = 0;
      if (__builtin_mul_overflow(count, static_cast<uint64_t>(kValueBytes[of]), &bytes)) {
        bytes = UINT64_MAX;  // more than any file has
      }
      return in_.Skip(bytes);
    }
    for (uint64_t i = 0; i < count; ++i) DSV4MX_TRY(SkipValue(of, false));
    return kOk;
  }

  Status Info() {
    std::string name;
    uint32_t rank = 0, type = 0;
    uint64_t size[4] = {};
    TensorTable::Row row;
    DSV4MX_TRY(in_.Text(kMaxName, &name));
    DSV4MX_RETURN_IF(name.find('\0') != std::string::npos, kCode,
                     "%s: a GGUF tensor's name has a NUL in it", label_);
    DSV4MX_TRY(in_.Number(&rank));
    DSV4MX_RETURN_IF(rank > 4, kCode, "%s: tensor '%s' has %u dimensions, at most 4 are there",
                     label_, Printable(name).c_str(), rank);
    for (uint32_t i = 0; i < rank; ++i) DSV4MX_TRY(in_.Number(&size[i]));
    DSV4MX_TRY(in_.Number(&type));
    DSV4MX_TRY(in_.Number(&row.begin));
    const Type* known = nullptr;
    for (const Type& t : kTypes) known = t.id == type ? &t : known;
    uint64_t values = 1, bytes = 0;
    bool fits = true;
    for (uint32_t i = 0; i < rank; ++i) {
      fits = fits && size[i] <= static_cast<uint64_t>(INT64_MAX) &&
             !__builtin_mul_overflow(values, size[i], &values);
    }
    // Blocks run along the innermost dimension, which GGUF names first.
    const uint64_t block = known == nullptr ? 1 : known->values;
    fits = fits && (block == 1 || (rank > 0 && size[0] % block == 0));
    fits = fits &&
           (known == nullptr || !__builtin_mul_overflow(values / block, known->bytes, &bytes)) &&
           !__builtin_add_overflow(row.begin, bytes, &row.end);
    DSV4MX_RETURN_IF(!fits, kCode, "%s: tensor '%s' of GGML type %u has sizes that cannot be",
                     label_, Printable(name).c_str(), type);
    row.dtype = known == nullptr ? DType::kOther : known->dtype;
    row.name = static_cast<uint32_t>(t_.names_.size());
    row.length = static_cast<uint32_t>(name.size());
    row.shape = static_cast<uint32_t>(t_.sizes_.size());
    row.rank = static_cast<uint8_t>(rank);
    t_.names_.append(name).push_back('\0');
    for (uint32_t i = rank; i-- > 0;) t_.sizes_.push_back(static_cast<int64_t>(size[i]));
    t_.rows_.push_back(row);
    return kOk;
  }

  Status Finish() {
    // A file may end before the padding of a header whose tensors are all empty.
    t_.data_ = std::min((in_.at() + alignment_ - 1) / alignment_ * alignment_, file_bytes_);
    const uint64_t data = file_bytes_ - t_.data_;
    std::vector<TensorTable::Row>& rows = t_.rows_;
    std::sort(rows.begin(), rows.end(),
              [](const auto& a, const auto& b) { return a.begin < b.begin; });
    for (size_t i = 0; i < rows.size(); ++i) {
      TensorTable::Row& row = rows[i];
      const uint64_t next = i + 1 < rows.size() ? rows[i + 1].begin : data;
      const std::string name = Printable(NameOf(row));
      DSV4MX_RETURN_IF(
          row.end > data, kCode,
          "%s: tensor '%s' ends at byte %llu of the data, the file has %llu (truncated?)", label_,
          name.c_str(), static_cast<unsigned long long>(row.end),
          static_cast<unsigned long long>(data));
      DSV4MX_RETURN_IF(row.begin % alignment_ != 0 || row.end > next, kCode,
                       "%s: tensor '%s' is not aligned, or overlaps another", label_, name.c_str());
      if (row.dtype == DType::kOther) row.end = next;  // with its padding: the type is not known
    }
    std::sort(rows.begin(), rows.end(),
              [this](const auto& a, const auto& b) { return NameOf(a) < NameOf(b); });
    const auto twice =
        std::adjacent_find(rows.begin(), rows.end(),
                           [this](const auto& a, const auto& b) { return NameOf(a) == NameOf(b); });
    DSV4MX_RETURN_IF(twice != rows.end(), kCode, "%s: tensor '%s' appears twice in the GGUF header",
                     label_, Printable(NameOf(*twice)).c_str());
    return kOk;
  }

  std::string_view NameOf(const TensorTable::Row& row) const {
    return {t_.names_.data() + row.name, row.length};
  }

  Stream in_;
  uint64_t file_bytes_;
  const char* label_;
  TensorTable& t_;
  GgufKeys& keys_;
  uint64_t alignment_ = 32;
};

bool IsGguf(std::string_view head) {
  return head.substr(0, 4) == "GGUF";
}

Status ParseGguf(const ReadAt& read, uint64_t file_bytes, const char* label, TensorTable* out,
                 GgufKeys* keys) {
  *out = TensorTable{};
  if (keys != nullptr) *keys = GgufKeys{};
  TensorTable table;
  GgufKeys found;
  DSV4MX_TRY(GgufParser(read, file_bytes, label, &table, &found).Parse());
  *out = std::move(table);
  if (keys != nullptr) *keys = std::move(found);
  return kOk;
}

void CodesOfMxfp4Blocks(const uint8_t* blocks, int64_t count, uint8_t* codes) {
  for (int64_t b = 0; b < count; ++b, codes += 16) {
    uint8_t from[16];
    std::memcpy(from, blocks + b * kMxfp4BlockBytes + 1, sizeof from);
    for (int j = 0; j < 8; ++j) {
      const uint8_t even = from[2 * j], odd = from[2 * j + 1];
      codes[j] = static_cast<uint8_t>((even & 0x0f) | odd << 4);
      codes[j + 8] = static_cast<uint8_t>(even >> 4 | (odd & 0xf0));
    }
  }
}

}  // namespace dsv4mx::io
