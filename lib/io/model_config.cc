// Keys: the configurations of DeepSeek-V4 and V4.1, GPT-OSS, Kimi K3 and their relatives as their
// releases have them.
#include "lib/io/model_config.h"

#include <sys/stat.h>

#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "lib/base/printable.h"
#include "lib/io/file.h"
#include "lib/io/json_refuser.h"

namespace dsv4mx::io {
namespace {

constexpr size_t kMaxConfigBytes = size_t{4} << 20;  // a large one has 20 kB
// Models with several towers keep the language model's keys one level down.
constexpr const char* kTextConfigs[] = {"text_config", "language_config", "llm_config"};

struct Value {
  enum Kind { kNull, kNumber, kString, kOther } kind = kOther;
  double number = 0;
  std::string text;
};
using Values = std::map<std::string, Value>;

// Keeps plain values of the top object and of the objects of kTextConfigs in it; what is deeper, and
// what stands in arrays, is passed over.
class ConfigHandler final : public JsonRefuser {
 public:
  const Values& top() const { return top_; }
  const Values& text() const { return text_; }

  bool null() override { return depth_ == 0 ? JsonRefuser::null() : Put({Value::kNull, 0, {}}); }
  bool boolean(bool value) override {
    return depth_ == 0 ? JsonRefuser::boolean(value) : Put({Value::kOther, 0, {}});
  }
  bool number_integer(number_integer_t v) override { return Number(static_cast<double>(v)); }
  bool number_unsigned(number_unsigned_t v) override { return Number(static_cast<double>(v)); }
  bool number_float(number_float_t v, const string_t&) override { return Number(v); }
  bool string(string_t& text) override {
    if (depth_ == 0) return JsonRefuser::string(text);
    return Put({Value::kString, 0, text.size() <= 256 ? text : text.substr(0, 256)});
  }
  bool start_object(size_t) override { return Open(true); }
  bool end_object() override { return Close(); }
  bool start_array(size_t size) override {
    return depth_ == 0 ? JsonRefuser::start_array(size) : Open(false);
  }
  bool end_array() override { return Close(); }
  bool key(string_t& key) override {
    if (depth_ <= 2) key_ = key.size() <= 256 ? key : "";
    return true;
  }

 protected:
  std::string Wanted() const override { return "an object"; }

 private:
  bool Number(double v) {
    return depth_ == 0 ? JsonRefuser::number_unsigned(0) : Put({Value::kNumber, v, {}});
  }
  Values* Here() {
    if (depth_ == 1) return &top_;
    return depth_ == 2 && in_text_ ? &text_ : nullptr;
  }
  bool Put(Value value) {
    // The first of two equal keys is kept: another reader may have kept the other.
    Values* values = Here();
    if (values == nullptr) return true;
    if (values->size() >= 4096) return Refuse("has more than 4096 keys");
    if (!values->emplace(key_, std::move(value)).second) {
      return Refuse("has the key '" + Printable(key_) + "' twice");
    }
    return true;
  }
  bool Open(bool object) {
    if (depth_ == 1) {
      in_text_ = false;
      for (const char* name : kTextConfigs) in_text_ = in_text_ || (object && key_ == name);
    }
    if (depth_ > 0 && !Put({Value::kOther, 0, {}})) return false;
    ++depth_;
    return true;
  }
  bool Close() {
    --depth_;
    return true;
  }

  size_t depth_ = 0;
  bool in_text_ = false;
  std::string key_;
  Values top_, text_;
};

class Reader {
 public:
  Reader(const ConfigHandler& values, const char* label, ModelConfig* out)
      : values_(values), label_(label), out_(*out) {}

  Status Read() {
    DSV4MX_TRY(
        Size({"routed_expert_hidden_size", "hidden_size"}, ModelConfig::kHidden, &out_.hidden));
    DSV4MX_TRY(Size({"n_routed_experts", "num_local_experts", "num_experts"}, ModelConfig::kExperts,
                    &out_.experts));
    // Where all layers have experts of one size, that size has no name of its own.
    const bool plain = Find("num_local_experts") != nullptr;
    DSV4MX_TRY(
        Size({"moe_intermediate_size", plain ? "intermediate_size" : "moe_intermediate_size"},
             ModelConfig::kIntermediate, &out_.intermediate));
    DSV4MX_TRY(Size({"num_experts_per_tok", "num_experts_per_token", "experts_per_token"},
                    ModelConfig::kTopK, &out_.top_k));
    DSV4MX_TRY(Float("routed_scaling_factor", ModelConfig::kRoutedScalingFactor,
                     &out_.routed_scaling_factor));
    return Activation();
  }

 private:
  // The value of a key that is there and not null: under text_config, else on top.
  const Value* Find(const std::string& key) const {
    for (const Values* values : {&values_.text(), &values_.top()}) {
      const auto it = values->find(key);
      if (it != values->end() && it->second.kind != Value::kNull) return &it->second;
    }
    return nullptr;
  }

  Status Size(std::initializer_list<const char*> keys, ModelConfig::Field field, int32_t* out) {
    for (const char* key : keys) {
      const Value* value = Find(key);
      if (value == nullptr) continue;
      DSV4MX_RETURN_IF(value->kind != Value::kNumber || !(value->number >= 1) ||
                           value->number > std::numeric_limits<int32_t>::max() ||
                           value->number != std::floor(value->number),
                       DSV4MX_STATUS_FORMAT_ERROR, "%s: %s is no positive whole number", label_,
                       key);
      *out = static_cast<int32_t>(value->number);
      out_.filled |= field;
      return kOk;
    }
    return kOk;
  }

  Status Float(const char* key, uint32_t field, float* out) {
    const Value* value = Find(key);
    if (value == nullptr) return kOk;
    *out = static_cast<float>(value->number);
    DSV4MX_RETURN_IF(value->kind != Value::kNumber || !std::isfinite(*out),
                     DSV4MX_STATUS_FORMAT_ERROR, "%s: %s is no finite number", label_, key);
    out_.filled |= field;
    return kOk;
  }

  Status Activation() {
    DSV4MX_TRY(Float("swiglu_limit", ModelConfig::kClampLimit, &out_.clamp_limit));
    DSV4MX_RETURN_IF((out_.filled & ModelConfig::kClampLimit) != 0 && out_.clamp_limit < 0,
                     DSV4MX_STATUS_FORMAT_ERROR, "%s: swiglu_limit is below 0", label_);
    DSV4MX_RETURN_IF(
        Find("swiglu_limits") != nullptr, DSV4MX_STATUS_UNSUPPORTED,
        "%s: swiglu_limits, a limit per layer behind the SiLU, is not what this library "
        "computes; it clamps before",
        label_);
    const Value* type = Find("model_type");
    if (type != nullptr && type->text == "gpt_oss") {
      // Its hidden_act says silu; the model's code has the form and the two numbers.
      out_.activation = DSV4MX_ACTIVATION_SWIGLU_GPTOSS;
      out_.alpha = 1.702f;
      out_.beta = 1.0f;
      DSV4MX_TRY(Float("swiglu_alpha", 0, &out_.alpha));
      out_.filled |= ModelConfig::kActivation;
      return kOk;
    }
    const Value* act = Find("hidden_act");
    if (act == nullptr) return kOk;
    if (act->text == "situ") {
      uint32_t both = 0;
      DSV4MX_TRY(Float("activation_situ_beta", 0, &out_.situ_beta));
      DSV4MX_TRY(Float("activation_situ_linear_beta", 0, &out_.situ_linear_beta));
      both = out_.situ_beta > 0 && out_.situ_linear_beta > 0 ? 1 : 0;
      DSV4MX_RETURN_IF(both == 0, DSV4MX_STATUS_FORMAT_ERROR,
                       "%s: hidden_act is situ, wanted activation_situ_beta and "
                       "activation_situ_linear_beta above 0",
                       label_);
      out_.activation = DSV4MX_ACTIVATION_SITU;
    } else {
      DSV4MX_RETURN_IF(act->text != "silu" && act->text != "swish" && act->text != "swiglu",
                       DSV4MX_STATUS_UNSUPPORTED,
                       "%s: hidden_act is '%s', wanted silu or situ, or model_type gpt_oss", label_,
                       Printable(act->text).c_str());
      out_.activation = DSV4MX_ACTIVATION_SWIGLU;
    }
    out_.filled |= ModelConfig::kActivation;
    return kOk;
  }

  const ConfigHandler& values_;
  const char* label_;
  ModelConfig& out_;
};

}  // namespace

Status ParseModelConfig(std::string_view text, const char* label, ModelConfig* out) {
  *out = ModelConfig{};
  // The JSON reader takes a NUL for the end of its input and would not see what follows.
  DSV4MX_RETURN_IF(text.find('\0') != std::string_view::npos, DSV4MX_STATUS_FORMAT_ERROR,
                   "%s: the config has a NUL byte in it", label);
  ConfigHandler handler;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &handler)) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: the config %s", label, handler.error().c_str());
  }
  ModelConfig config;
  DSV4MX_TRY(Reader(handler, label, &config).Read());
  *out = config;
  return kOk;
}

Status ReadModelConfig(const std::string& checkpoint_path, ModelConfig* out) {
  *out = ModelConfig{};
  struct stat info {};
  const bool is_folder = stat(checkpoint_path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
  const size_t slash = checkpoint_path.find_last_of('/');
  const std::string folder = is_folder                    ? checkpoint_path + "/"
                             : slash == std::string::npos ? ""
                                                          : checkpoint_path.substr(0, slash + 1);
  const std::string path = folder + "config.json";
  DSV4MX_RETURN_IF(stat(path.c_str(), &info) != 0, DSV4MX_STATUS_NOT_FOUND,
                   "%s: there is no config.json beside the tensors", PrintablePath(path).c_str());
  std::string text;
  DSV4MX_TRY(ReadWhole(path, kMaxConfigBytes, "config", &text));
  return ParseModelConfig(text, PrintablePath(path).c_str(), out);
}

}  // namespace dsv4mx::io
