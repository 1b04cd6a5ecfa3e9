#include "lib/io/safetensors_index.h"

#include <algorithm>
#include <map>
#include <utility>

#include "lib/base/printable.h"
#include "lib/io/json_refuser.h"
#include "lib/io/safetensors.h"

namespace dsv4mx::io {
namespace {

bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
}

// The largest MXFP4 model known has half a million tensors.
constexpr size_t kMaxTensors = size_t{1} << 21;
// More files than any checkpoint has: the largest known one has a few hundred.
constexpr size_t kMaxShards = 65536;

}  // namespace

// Keeps the weight map; skips every other member of the top object, whatever is in it.
class IndexHandler final : public JsonRefuser {
 public:
  explicit IndexHandler(WeightMap* map) : out_(*map) {}
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
      if (out_.rows_.size() == kMaxTensors) {
        return Refuse("names more than " + std::to_string(kMaxTensors) + " tensors");
      }
      // A NUL inside would make two names equal for a C caller.
      if (key.find('\0') != std::string::npos) return Refuse("has a tensor name with a NUL in it");
      WeightMap::Row row;
      row.name = static_cast<uint32_t>(out_.names_.size());
      row.length = static_cast<uint32_t>(key.size());
      out_.rows_.push_back(row);
      out_.names_.append(key).push_back('\0');
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
    const auto [it, is_new] = seen_.emplace(text, static_cast<uint32_t>(out_.shards_.size()));
    if (is_new) {
      if (out_.shards_.size() == kMaxShards) {
        return Refuse("names more than " + std::to_string(kMaxShards) + " shards");
      }
      out_.shards_.push_back(text);
    }
    out_.rows_.back().shard = it->second;
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
        return "the shard of tensor '" + Printable(out_.name(out_.size() - 1)) + "'";
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

  WeightMap& out_;
  std::map<std::string, uint32_t> seen_;  // shards by name
  At at_ = At::kStart;
  size_t depth_ = 0;
  bool has_map_ = false;
};

Status ParseSafetensorsIndex(std::string_view text, const char* label, WeightMap* out) {
  *out = WeightMap{};
  constexpr auto kCode = DSV4MX_STATUS_FORMAT_ERROR;
  // The JSON reader takes a NUL for the end of its input and would not see what follows.
  DSV4MX_RETURN_IF(text.find('\0') != std::string_view::npos, kCode,
                   "%s: the index has a NUL byte in it", label);
  WeightMap map;
  IndexHandler handler(&map);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &handler)) {
    return Fail(kCode, "%s: the index %s", label, handler.error().c_str());
  }
  DSV4MX_RETURN_IF(!handler.has_map(), kCode, "%s: the index has no weight_map", label);
  const auto name = [&](const WeightMap::Row& row) {
    return std::string_view(map.names_.data() + row.name, row.length);
  };
  std::sort(map.rows_.begin(), map.rows_.end(),
            [&](const auto& a, const auto& b) { return name(a) < name(b); });
  const auto twice =
      std::adjacent_find(map.rows_.begin(), map.rows_.end(),
                         [&](const auto& a, const auto& b) { return name(a) == name(b); });
  DSV4MX_RETURN_IF(twice != map.rows_.end(), kCode, "%s: the index names tensor '%s' twice", label,
                   Printable(name(*twice)).c_str());
  *out = std::move(map);
  return kOk;
}

}  // namespace dsv4mx::io
