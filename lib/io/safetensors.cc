// Format facts: safetensors' own description (github.com/huggingface/safetensors, README "Format")
// and its dtype list (safetensors/src/tensor.rs). The checks are ours.
#include "lib/io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "dsv4mx.h"
#include "lib/io/json_refuser.h"

namespace dsv4mx::io {
namespace {

// The reference implementation refuses longer headers too; a real shard has about 200 kB.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

struct Tag {
  const char* name;
  DType dtype;
  int bits;
};

// The first row of a dtype is the spelling used in messages; later ones are what some writers emit.
constexpr Tag kTags[] = {
    {"BOOL", DType::kBool, 8},
    {"F4", DType::kF4, 4},
    {"F6_E2M3", DType::kF6E2M3, 6},
    {"F6_E3M2", DType::kF6E3M2, 6},
    {"U8", DType::kU8, 8},
    {"I8", DType::kI8, 8},
    {"F8_E5M2", DType::kF8E5M2, 8},
    {"F8_E4M3", DType::kF8E4M3, 8},
    {"F8_E4M3FN", DType::kF8E4M3, 8},
    {"F8_E8M0", DType::kF8E8M0, 8},
    {"F8_E8M0FNU", DType::kF8E8M0, 8},
    {"F8_E4M3FNUZ", DType::kF8E4M3Fnuz, 8},
    {"F8_E5M2FNUZ", DType::kF8E5M2Fnuz, 8},
    {"I16", DType::kI16, 16},
    {"U16", DType::kU16, 16},
    {"F16", DType::kF16, 16},
    {"BF16", DType::kBF16, 16},
    {"I32", DType::kI32, 32},
    {"U32", DType::kU32, 32},
    {"F32", DType::kF32, 32},
    {"C64", DType::kC64, 64},
    {"I64", DType::kI64, 64},
    {"U64", DType::kU64, 64},
    {"F64", DType::kF64, 64},
};

const Tag& TagOf(DType dtype) {
  for (const Tag& tag : kTags) {
    if (tag.dtype == dtype) return tag;
  }
  return kTags[0];  // unreachable: the table has every enumerator
}

const Tag* FindTag(std::string_view name) {
  for (const Tag& tag : kTags) {
    if (name == tag.name) return &tag;
  }
  return nullptr;
}

// One header entry as read, before its offsets are compared with the others.
struct Entry {
  std::string name;
  DType dtype = DType::kU8;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  uint64_t begin = 0;
  uint64_t end = 0;
};

std::string Quoted(std::string_view name) {
  return "'" + Printable(name) + "'";
}

// Walks {"name": {"dtype": "I8", "shape": [..], "data_offsets": [b, e]}, "__metadata__": {..}}.
class HeaderHandler final : public JsonRefuser {
 public:
  std::vector<Entry> entries;

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
    return Refuse("tensor " + Quoted(entries.back().name) + " has the unknown field " +
                  Quoted(key));
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
    const Tag* tag = FindTag(text);
    if (tag == nullptr) {
      return Refuse("tensor " + Quoted(entries.back().name) + " has the unknown dtype " +
                    Quoted(text));
    }
    entries.back().dtype = tag->dtype;
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
      return Refuse("tensor " + Quoted(entries.back().name) + " has " + std::to_string(offsets_) +
                    " data_offsets, expected 2");
    }
    at_ = At::kField;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (at_ != At::kShapeItem && at_ != At::kOffsetItem) return JsonRefuser::number_unsigned(value);
    Entry& entry = entries.back();
    if (at_ == At::kOffsetItem) {
      if (offsets_ == 2) {
        return Refuse("tensor " + Quoted(entry.name) + " has more than 2 data_offsets");
      }
      (offsets_++ == 0 ? entry.begin : entry.end) = value;
      return true;
    }
    if (entry.rank == kMaxRank) {
      return Refuse("tensor " + Quoted(entry.name) + " has more than " + std::to_string(kMaxRank) +
                    " dimensions");
    }
    if (value > static_cast<uint64_t>(INT64_MAX)) {
      return Refuse("tensor " + Quoted(entry.name) + " has the dimension " + std::to_string(value) +
                    ", too large");
    }
    entry.shape[static_cast<size_t>(entry.rank++)] = static_cast<int64_t>(value);
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
    return std::string(what) + " of tensor " + Quoted(entries.back().name);
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
    entries.emplace_back();
    entries.back().name = name;
    fields_ = 0;
    offsets_ = 0;
    at_ = At::kEntry;
    return true;
  }

  bool NewField(unsigned bit, At next, const std::string& name) {
    if ((fields_ & bit) != 0) {
      return Refuse("tensor " + Quoted(entries.back().name) + " has " + name + " twice");
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
      return Refuse("tensor " + Quoted(entries.back().name) + " has no " + missing);
    }
    at_ = At::kName;
    return true;
  }

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

// shape * dtype must be exactly the byte range; nothing may wrap on the way.
bool SizeOf(const Entry& entry, uint64_t* bytes) {
  uint64_t bits = static_cast<uint64_t>(DTypeBits(entry.dtype));
  for (int i = 0; i < entry.rank; ++i) {
    if (__builtin_mul_overflow(bits, static_cast<uint64_t>(entry.shape[static_cast<size_t>(i)]),
                               &bits)) {
      return false;
    }
  }
  *bytes = bits / 8;
  return bits % 8 == 0;
}

TensorView ViewOf(const Entry& entry, const std::byte* data) {
  TensorView view;
  view.dtype = entry.dtype;
  view.rank = entry.rank;
  view.shape = entry.shape;
  view.data = data + entry.begin;
  view.bytes = static_cast<size_t>(entry.end - entry.begin);
  return view;
}

// Entries sorted by offset must tile [0, data_bytes) exactly.
Status CheckTiling(const std::vector<Entry>& entries, uint64_t data_bytes, const char* label) {
  uint64_t at = 0;
  const Entry* last = nullptr;
  for (const Entry& entry : entries) {
    const std::string name = Quoted(entry.name);
    if (entry.end < entry.begin) {
      return Fail(DSV4MX_STATUS_FORMAT_ERROR,
                  "%s: tensor %s has data_offsets [%llu,%llu]: backwards", label, name.c_str(),
                  static_cast<unsigned long long>(entry.begin),
                  static_cast<unsigned long long>(entry.end));
    }
    if (entry.end > data_bytes) {
      return Fail(DSV4MX_STATUS_FORMAT_ERROR,
                  "%s: tensor %s ends at byte %llu of the data, the file has %llu (truncated?)",
                  label, name.c_str(), static_cast<unsigned long long>(entry.end),
                  static_cast<unsigned long long>(data_bytes));
    }
    uint64_t bytes = 0;
    if (!SizeOf(entry, &bytes) || bytes != entry.end - entry.begin) {
      TensorView view;
      view.rank = entry.rank;
      view.shape = entry.shape;
      return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: tensor %s is %s %s, which is not its %llu bytes",
                  label, name.c_str(), DTypeName(entry.dtype), ShapeText(view).c_str(),
                  static_cast<unsigned long long>(entry.end - entry.begin));
    }
    if (entry.begin < at) {
      return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: tensor %s overlaps tensor %s at byte %llu",
                  label, name.c_str(), Quoted(last->name).c_str(),
                  static_cast<unsigned long long>(entry.begin));
    }
    if (entry.begin > at) {
      return Fail(DSV4MX_STATUS_FORMAT_ERROR,
                  "%s: bytes %llu to %llu before tensor %s belong to no tensor", label,
                  static_cast<unsigned long long>(at), static_cast<unsigned long long>(entry.begin),
                  name.c_str());
    }
    at = entry.end;
    last = &entry;
  }
  if (at != data_bytes) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: %llu bytes after the last tensor", label,
                static_cast<unsigned long long>(data_bytes - at));
  }
  return Status{};
}

Status CheckNames(const std::vector<Entry>& entries, const char* label) {
  // Sorting instead of hashing: a hostile file cannot make it slow.
  std::vector<std::string_view> names;
  names.reserve(entries.size());
  for (const Entry& entry : entries) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return Status{};
  return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: tensor %s appears twice in the header", label,
              Quoted(*twice).c_str());
}

}  // namespace

const char* DTypeName(DType dtype) {
  return TagOf(dtype).name;
}
int DTypeBits(DType dtype) {
  return TagOf(dtype).bits;
}

bool TensorView::HasShape(std::initializer_list<int64_t> want) const {
  return static_cast<size_t>(rank) == want.size() &&
         std::equal(want.begin(), want.end(), shape.begin());
}

std::string ShapeText(const TensorView& tensor) {
  std::string text = "[";
  for (int i = 0; i < tensor.rank; ++i) {
    if (i > 0) text += ',';
    text += std::to_string(tensor.shape[static_cast<size_t>(i)]);
  }
  return text + "]";
}

std::string Printable(std::string_view text) {
  constexpr size_t kMax = 96;
  std::string line;
  for (char c : text.substr(0, kMax)) line += (c >= 0x20 && c < 0x7f) ? c : '?';
  if (text.size() > kMax) line += "...";
  return line;
}

Status ParseSafetensors(const std::byte* bytes, size_t size, const char* label, TensorTable* out) {
  *out = TensorTable{};
  if (size == 0) return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: the file is empty", label);
  const std::string_view file(reinterpret_cast<const char*>(bytes), size);
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < 8 && i < size; ++i) {
    header_bytes |= static_cast<uint64_t>(std::to_integer<uint8_t>(bytes[i])) << (8 * i);
  }
  if (size < 8 || header_bytes > size - 8) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR,
                "%s: not a safetensors file, or a truncated one%s (%zu bytes, header length %llu)",
                label, GuessFormat(file), size, static_cast<unsigned long long>(header_bytes));
  }
  if (header_bytes > kMaxHeaderBytes) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: header of %llu bytes, at most %llu are read",
                label, static_cast<unsigned long long>(header_bytes),
                static_cast<unsigned long long>(kMaxHeaderBytes));
  }
  const std::string_view header = file.substr(8, static_cast<size_t>(header_bytes));
  if (header.empty() || header.front() != '{') {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: not a safetensors file%s (no JSON header)", label,
                GuessFormat(file));
  }
  // The JSON reader takes a NUL for the end of its input and would not see what follows.
  if (header.find('\0') != std::string_view::npos) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: the header has a NUL byte in it", label);
  }
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(header.begin(), header.end(), &handler)) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: the header %s", label, handler.error().c_str());
  }
  std::vector<Entry>& entries = handler.entries;
  DSV4MX_TRY(CheckNames(entries, label));
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  const uint64_t data_bytes = size - 8 - header_bytes;
  DSV4MX_TRY(CheckTiling(entries, data_bytes, label));

  const std::byte* data = bytes + 8 + header_bytes;
  out->tensors.reserve(entries.size());
  for (Entry& entry : entries) {
    TensorView view = ViewOf(entry, data);
    view.name = out->names.emplace_back(std::move(entry.name));
    out->tensors.push_back(view);
  }
  return Status{};
}

}  // namespace dsv4mx::io
