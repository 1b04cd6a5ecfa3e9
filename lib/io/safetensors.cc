// Format facts: safetensors' own description (github.com/huggingface/safetensors, README "Format").
// The checks are ours.
#include "lib/io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "lib/base/printable.h"
#include "lib/io/json_refuser.h"

namespace dsv4mx::io {
namespace {

// The reference implementation refuses longer headers too; a real shard has about 200 kB. It bounds
// the number of tensors as well: none takes less than 50 bytes.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

// One header entry as read, before its offsets are compared with the others.
struct Entry {
  std::string name;
  DType dtype = DType::kU8;
  uint8_t rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  uint64_t begin = 0;
  uint64_t end = 0;
};

std::string Quoted(std::string_view name) {
  return "'" + Printable(name) + "'";
}

}  // namespace

// Fills a table entry by entry, then checks and sorts it as a whole.
class TableBuilder {
 public:
  explicit TableBuilder(TensorTable* table) : t_(*table) {}
  void Add(const Entry& entry) {
    TensorTable::Row row;
    row.begin = entry.begin;
    row.end = entry.end;
    row.name = static_cast<uint32_t>(t_.names_.size());
    row.length = static_cast<uint32_t>(entry.name.size());
    row.shape = static_cast<uint32_t>(t_.sizes_.size());
    row.dtype = entry.dtype;
    row.rank = entry.rank;
    t_.names_.append(entry.name).push_back('\0');
    t_.sizes_.insert(t_.sizes_.end(), entry.shape.begin(), entry.shape.begin() + entry.rank);
    t_.rows_.push_back(row);
  }

  // `data` = where the data begins in a file of `file_bytes`.
  Status Finish(uint64_t data, uint64_t file_bytes, const char* label) {
    t_.data_ = data;
    std::vector<TensorTable::Row>& rows = t_.rows_;
    // stable: of two equal ranges the one that comes second in the header is told
    std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
    });
    DSV4MX_TRY(CheckNames(label));
    DSV4MX_TRY(CheckTiling(file_bytes - data, label));
    std::sort(rows.begin(), rows.end(),
              [this](const auto& a, const auto& b) { return NameOf(a) < NameOf(b); });
    return kOk;
  }

 private:
  std::string_view NameOf(const TensorTable::Row& row) const {
    return {t_.names_.data() + row.name, row.length};
  }

  Status CheckNames(const char* label) const {
    // Sorting instead of hashing: a hostile file cannot make it slow.
    std::vector<std::string_view> names;
    names.reserve(t_.rows_.size());
    for (const TensorTable::Row& row : t_.rows_) names.push_back(NameOf(row));
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice == names.end()) return kOk;
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: tensor %s appears twice in the header", label,
                Quoted(*twice).c_str());
  }

  // shape * dtype must be exactly the byte range; nothing may wrap on the way.
  bool SizeOf(const TensorTable::Row& row, uint64_t* bytes) const {
    uint64_t bits = static_cast<uint64_t>(DTypeBits(row.dtype));
    for (int i = 0; i < row.rank; ++i) {
      const auto n = static_cast<uint64_t>(t_.sizes_[row.shape + static_cast<size_t>(i)]);
      if (__builtin_mul_overflow(bits, n, &bits)) return false;
    }
    *bytes = bits / 8;
    return bits % 8 == 0;
  }

  // Rows sorted by offset must tile [0, data_bytes) exactly.
  Status CheckTiling(uint64_t data_bytes, const char* label) const {
    uint64_t at = 0;
    const TensorTable::Row* last = nullptr;
    for (const TensorTable::Row& row : t_.rows_) {
      uint64_t bytes = 0;
      if (row.end < row.begin || row.end > data_bytes || !SizeOf(row, &bytes) ||
          bytes != row.end - row.begin || row.begin != at) {
        return FailTile(row, last, at, data_bytes, label);
      }
      at = row.end;
      last = &row;
    }
    DSV4MX_RETURN_IF(at != data_bytes, DSV4MX_STATUS_FORMAT_ERROR,
                     "%s: %llu bytes after the last tensor", label,
                     static_cast<unsigned long long>(data_bytes - at));
    return kOk;
  }

  // Why `row` does not follow `last`, which ends at byte `at` of the data.
  Status FailTile(const TensorTable::Row& row, const TensorTable::Row* last, uint64_t at,
                  uint64_t data_bytes, const char* label) const {
    constexpr auto kCode = DSV4MX_STATUS_FORMAT_ERROR;
    const auto number = [](uint64_t n) { return static_cast<unsigned long long>(n); };
    const std::string name = Quoted(NameOf(row));
    DSV4MX_RETURN_IF(row.end < row.begin, kCode,
                     "%s: tensor %s has data_offsets [%llu,%llu]: backwards", label, name.c_str(),
                     number(row.begin), number(row.end));
    DSV4MX_RETURN_IF(row.end > data_bytes, kCode,
                     "%s: tensor %s ends at byte %llu of the data, the file has %llu (truncated?)",
                     label, name.c_str(), number(row.end), number(data_bytes));
    uint64_t bytes = 0;
    if (!SizeOf(row, &bytes) || bytes != row.end - row.begin) {
      TensorInfo info;
      info.rank = row.rank;
      std::copy_n(t_.sizes_.begin() + row.shape, row.rank, info.shape.begin());
      return Fail(kCode, "%s: tensor %s is %s %s, which is not its %llu bytes", label, name.c_str(),
                  DTypeName(row.dtype), ShapeText(info).c_str(), number(row.end - row.begin));
    }
    DSV4MX_RETURN_IF(row.begin < at, kCode, "%s: tensor %s overlaps tensor %s at byte %llu", label,
                     name.c_str(), Quoted(NameOf(*last)).c_str(), number(row.begin));
    return Fail(kCode, "%s: bytes %llu to %llu before tensor %s belong to no tensor", label,
                number(at), number(row.begin), name.c_str());
  }

  TensorTable& t_;
};

namespace {

// Walks {"name": {"dtype": "I8", "shape": [..], "data_offsets": [b, e]}, "__metadata__": {..}}.
class HeaderHandler final : public JsonRefuser {
 public:
  explicit HeaderHandler(TableBuilder* table) : table_(*table) {}

  bool start_object(size_t n) override {
    switch (at_) {
      case At::kStart:
        at_ = At::kName;
        return true;
      case At::kEntry:
        at_ = At::kField;
        return true;
      case At::kMeta:
        at_ = At::kMetaKey;
        return true;
      default:
        return JsonRefuser::start_object(n);
    }
  }

  bool key(string_t& key) override {
    if (at_ == At::kMetaKey) {
      at_ = At::kMetaValue;
      return true;
    }
    if (at_ == At::kName) return NewEntry(key);
    // Only kField is left: the parser delivers keys inside objects alone.
    if (key == "dtype") return NewField(kHasDtype, At::kDtype, key);
    if (key == "shape") return NewField(kHasShape, At::kShape, key);
    if (key == "data_offsets") return NewField(kHasOffsets, At::kOffsets, key);
    return Refuse("tensor " + Quoted(entry_.name) + " has the unknown field " + Quoted(key));
  }

  bool end_object() override {
    switch (at_) {
      case At::kMetaKey:
        at_ = At::kName;
        return true;
      case At::kName:
        at_ = At::kDone;
        return true;
      default:
        return EndEntry();
    }
  }

  bool string(string_t& text) override {
    if (at_ == At::kMetaValue) {
      at_ = At::kMetaKey;
      return true;
    }
    if (at_ != At::kDtype) return JsonRefuser::string(text);
    if (!FindDType(text, &entry_.dtype)) {
      return Refuse("tensor " + Quoted(entry_.name) + " has the unknown dtype " + Quoted(text));
    }
    at_ = At::kField;
    return true;
  }

  bool start_array(size_t n) override {
    switch (at_) {
      case At::kShape:
        at_ = At::kShapeItem;
        return true;
      case At::kOffsets:
        at_ = At::kOffsetItem;
        return true;
      default:
        return JsonRefuser::start_array(n);
    }
  }

  bool end_array() override {
    if (at_ == At::kOffsetItem && offsets_ != 2) {
      return Refuse("tensor " + Quoted(entry_.name) + " has " + std::to_string(offsets_) +
                    " data_offsets, expected 2");
    }
    at_ = At::kField;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (at_ != At::kShapeItem && at_ != At::kOffsetItem) return JsonRefuser::number_unsigned(value);
    if (at_ == At::kOffsetItem) {
      if (offsets_ == 2) {
        return Refuse("tensor " + Quoted(entry_.name) + " has more than 2 data_offsets");
      }
      (offsets_++ == 0 ? entry_.begin : entry_.end) = value;
      return true;
    }
    if (entry_.rank == kMaxRank) {
      return Refuse("tensor " + Quoted(entry_.name) + " has more than " + std::to_string(kMaxRank) +
                    " dimensions");
    }
    if (value > static_cast<uint64_t>(INT64_MAX)) {
      return Refuse("tensor " + Quoted(entry_.name) + " has the dimension " +
                    std::to_string(value) + ", too large");
    }
    entry_.shape[static_cast<size_t>(entry_.rank++)] = static_cast<int64_t>(value);
    return true;
  }

  bool null() override {
    if (at_ != At::kMeta) return JsonRefuser::null();
    at_ = At::kName;
    return true;
  }

 protected:
  std::string Wanted() const override {
    switch (at_) {
      case At::kStart:
        return "an object";
      case At::kName:
        return "a tensor name";
      case At::kMeta:
        return "the __metadata__ object";
      case At::kMetaKey:
        return "a __metadata__ key";
      case At::kMetaValue:
        return "a __metadata__ string";
      case At::kDone:
        return "the end";
      default:
        break;
    }
    const char* what = at_ == At::kEntry     ? "an object"
                       : at_ == At::kField   ? "a field"
                       : at_ == At::kDtype   ? "the dtype string"
                       : at_ == At::kShape   ? "the shape array"
                       : at_ == At::kOffsets ? "the data_offsets array"
                                             : "a non-negative integer";
    return std::string(what) + " of tensor " + Quoted(entry_.name);
  }

 private:
  enum class At {
    kStart,
    kName,
    kEntry,
    kField,
    kDtype,
    kShape,
    kShapeItem,
    kOffsets,
    kOffsetItem,
    kMeta,
    kMetaKey,
    kMetaValue,
    kDone,
  };
  static constexpr unsigned kHasDtype = 1;
  static constexpr unsigned kHasShape = 2;
  static constexpr unsigned kHasOffsets = 4;

  bool NewEntry(const std::string& name) {
    if (name == "__metadata__") {
      if (has_meta_) return Refuse("has __metadata__ twice");
      has_meta_ = true;
      at_ = At::kMeta;
      return true;
    }
    // A NUL inside would make two names equal for a C caller.
    if (name.find('\0') != std::string::npos) return Refuse("has a tensor name with a NUL in it");
    entry_ = Entry{};
    entry_.name = name;
    fields_ = 0;
    offsets_ = 0;
    at_ = At::kEntry;
    return true;
  }

  bool NewField(unsigned bit, At next, const std::string& name) {
    if ((fields_ & bit) != 0) {
      return Refuse("tensor " + Quoted(entry_.name) + " has " + name + " twice");
    }
    fields_ |= bit;
    at_ = next;
    return true;
  }

  bool EndEntry() {
    const char* missing = (fields_ & kHasDtype) == 0     ? "dtype"
                          : (fields_ & kHasShape) == 0   ? "shape"
                          : (fields_ & kHasOffsets) == 0 ? "data_offsets"
                                                         : nullptr;
    if (missing != nullptr) {
      return Refuse("tensor " + Quoted(entry_.name) + " has no " + missing);
    }
    table_.Add(entry_);
    at_ = At::kName;
    return true;
  }

  TableBuilder& table_;
  Entry entry_;
  At at_ = At::kStart;
  unsigned fields_ = 0;
  int offsets_ = 0;
  bool has_meta_ = false;
};

// What a file that is no safetensors file probably is, for a message that helps; "" if unknown.
const char* GuessFormat(std::string_view head) {
  if (head.substr(0, 4) == std::string_view("PK\x03\x04", 4)) {
    return ": a zip archive, probably a PyTorch pickle checkpoint";
  }
  if (head.size() >= 2 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5) {
    return ": a Python pickle";
  }
  if (head.substr(0, 4) == "GGUF") return ": a GGUF file";
  if (head.substr(0, 8) == "version ") return ": probably a Git LFS pointer, the data is elsewhere";
  const size_t n = std::min<size_t>(head.size(), 64);
  const bool text = std::all_of(head.begin(), head.begin() + static_cast<ptrdiff_t>(n), [](char c) {
    return (c >= 0x20 && c < 0x7f) || c == '\n' || c == '\r' || c == '\t';
  });
  return text && n >= 4 ? ": text" : "";
}

}  // namespace

bool TensorInfo::HasShape(std::initializer_list<int64_t> want) const {
  return static_cast<size_t>(rank) == want.size() &&
         std::equal(want.begin(), want.end(), shape.begin());
}

std::string ShapeText(const TensorInfo& tensor) {
  std::string text = "[";
  for (int i = 0; i < tensor.rank; ++i) {
    if (i > 0) text += ',';
    text += std::to_string(tensor.shape[static_cast<size_t>(i)]);
  }
  return text + "]";
}

std::string_view TensorTable::name(size_t index) const {
  return {names_.data() + rows_[index].name, rows_[index].length};
}

TensorInfo TensorTable::operator[](size_t index) const {
  const Row& row = rows_[index];
  TensorInfo info;
  info.name = name(index);
  info.dtype = row.dtype;
  info.rank = row.rank;
  std::copy_n(sizes_.begin() + row.shape, row.rank, info.shape.begin());
  info.offset = data_ + row.begin;
  info.bytes = row.end - row.begin;
  return info;
}

size_t TensorTable::Find(std::string_view name) const {
  const auto it = std::lower_bound(
      rows_.begin(), rows_.end(), name, [this](const Row& row, std::string_view want) {
        return std::string_view(names_.data() + row.name, row.length) < want;
      });
  const auto index = static_cast<size_t>(it - rows_.begin());
  return index < rows_.size() && this->name(index) == name ? index : rows_.size();
}

Status ParseSafetensorsHead(std::string_view head, uint64_t file_bytes, const char* label,
                            uint64_t* header_bytes) {
  constexpr auto kCode = DSV4MX_STATUS_FORMAT_ERROR;
  DSV4MX_RETURN_IF(head.empty(), kCode, "%s: the file is empty", label);
  uint64_t length = 0;
  for (size_t i = 0; i < 8 && i < head.size(); ++i) {
    length |= static_cast<uint64_t>(static_cast<uint8_t>(head[i])) << (8 * i);
  }
  DSV4MX_RETURN_IF(
      file_bytes < 8 || length > file_bytes - 8, kCode,
      "%s: not a safetensors file, or a truncated one%s (%llu bytes, header length %llu)", label,
      GuessFormat(head), static_cast<unsigned long long>(file_bytes),
      static_cast<unsigned long long>(length));
  DSV4MX_RETURN_IF(
      length > kMaxHeaderBytes, kCode, "%s: header of %llu bytes, at most %llu are read", label,
      static_cast<unsigned long long>(length), static_cast<unsigned long long>(kMaxHeaderBytes));
  DSV4MX_RETURN_IF(length == 0 || head.size() < 9 || head[8] != '{', kCode,
                   "%s: not a safetensors file%s (no JSON header)", label, GuessFormat(head));
  *header_bytes = length;
  return kOk;
}

Status ParseSafetensorsHeader(std::string_view header, uint64_t file_bytes, const char* label,
                              TensorTable* out) {
  *out = TensorTable{};
  // The JSON reader takes a NUL for the end of its input and would not see what follows.
  DSV4MX_RETURN_IF(header.find('\0') != std::string_view::npos, DSV4MX_STATUS_FORMAT_ERROR,
                   "%s: the header has a NUL byte in it", label);
  TensorTable table;
  TableBuilder builder(&table);
  HeaderHandler handler(&builder);
  if (!nlohmann::json::sax_parse(header.begin(), header.end(), &handler)) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: the header %s", label, handler.error().c_str());
  }
  DSV4MX_TRY(builder.Finish(8 + header.size(), file_bytes, label));
  *out = std::move(table);
  return kOk;
}

}  // namespace dsv4mx::io
