#include "lib/io/safetensors_index.h"

#include <algorithm>
#include <utility>

#include "dsv4mx.h"
#include "lib/io/json_refuser.h"
#include "lib/io/safetensors.h"

namespace dsv4mx::io {
namespace {

bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
}

// Keeps the weight map; skips every other member of the top object, whatever is in it.
class IndexHandler final : public JsonRefuser {
 public:
  std::vector<IndexEntry> entries;
  bool has_map() const { return has_map_; }

  bool start_object(size_t n) override {
    if (at_ == At::kSkip) return Nest();
    if (at_ == At::kStart) return Go(At::kTop);
    if (at_ == At::kMap) return Go(At::kTensor);
    return JsonRefuser::start_object(n);
  }
  bool end_object() override {
    if (at_ == At::kSkip) return Unnest();
    return Go(at_ == At::kTensor ? At::kTop : At::kDone);
  }
  bool start_array(size_t n) override {
    return at_ == At::kSkip ? Nest() : JsonRefuser::start_array(n);
  }
  bool end_array() override { return Unnest(); }

  bool key(string_t& key) override {
    if (at_ == At::kSkip) return true;
    if (at_ == At::kTensor) {
      entries.push_back({key, {}});
      return Go(At::kShard);
    }
    if (key != "weight_map") return Go(At::kSkip);
    if (has_map_) return Refuse("has weight_map twice");
    has_map_ = true;
    return Go(At::kMap);
  }

  bool string(string_t& text) override {
    if (at_ == At::kSkip) return Scalar();
    if (at_ != At::kShard) return JsonRefuser::string(text);
    if (!IsPlainFileName(text)) {
      return Refuse("names the shard '" + Printable(text) + "', expected a plain file name");
    }
    entries.back().shard = text;
    return Go(At::kTensor);
  }

  bool null() override { return at_ == At::kSkip ? Scalar() : JsonRefuser::null(); }
  bool boolean(bool v) override { return at_ == At::kSkip ? Scalar() : JsonRefuser::boolean(v); }
  bool number_integer(number_integer_t v) override {
    return at_ == At::kSkip ? Scalar() : JsonRefuser::number_integer(v);
  }
  bool number_unsigned(number_unsigned_t v) override {
    return at_ == At::kSkip ? Scalar() : JsonRefuser::number_unsigned(v);
  }
  bool number_float(number_float_t v, const string_t& text) override {
    return at_ == At::kSkip ? Scalar() : JsonRefuser::number_float(v, text);
  }

 protected:
  std::string Wanted() const override {
    switch (at_) {
      case At::kStart:
        return "an object";
      case At::kMap:
        return "the weight_map object";
      case At::kShard:
        return "the shard of tensor '" + Printable(entries.back().tensor) + "'";
      default:
        return "a key";
    }
  }

 private:
  enum class At { kStart, kTop, kMap, kTensor, kShard, kSkip, kDone };

  bool Go(At at) {
    at_ = at;
    return true;
  }
  bool Nest() {
    ++depth_;
    return true;
  }
  bool Unnest() {
    --depth_;
    return Scalar();
  }
  // One value of a skipped member is over; at depth 0 it was the member itself.
  bool Scalar() { return depth_ == 0 ? Go(At::kTop) : true; }

  At at_ = At::kStart;
  size_t depth_ = 0;
  bool has_map_ = false;
};

}  // namespace

Status ParseSafetensorsIndex(std::string_view text, const char* label,
                             std::vector<IndexEntry>* out) {
  out->clear();
  // The JSON reader takes a NUL for the end of its input and would not see what follows.
  if (text.find('\0') != std::string_view::npos) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: the index has a NUL byte in it", label);
  }
  IndexHandler handler;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &handler)) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: the index %s", label, handler.error().c_str());
  }
  if (!handler.has_map()) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: the index has no weight_map", label);
  }
  std::vector<IndexEntry>& entries = handler.entries;
  std::sort(entries.begin(), entries.end(),
            [](const IndexEntry& a, const IndexEntry& b) { return a.tensor < b.tensor; });
  const auto twice = std::adjacent_find(
      entries.begin(), entries.end(),
      [](const IndexEntry& a, const IndexEntry& b) { return a.tensor == b.tensor; });
  if (twice != entries.end()) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: the index names tensor '%s' twice", label,
                Printable(twice->tensor).c_str());
  }
  *out = std::move(entries);
  return Status{};
}

}  // namespace dsv4mx::io
