// Keys: github.com/ggml-org/llama.cpp, gguf-py/gguf/constants.py; what an architecture computes: its file in src/models.
#include "lib/io/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "lib/base/printable.h"

namespace dsv4mx::io {
namespace {

class Reader {
 public:
  Reader(const GgufKeys& keys, int64_t layer, const char* label, ModelConfig* out)
      : keys_(keys), layer_(layer), label_(label), out_(*out) {}

  Status Read() {
    DSV4MX_TRY(Size("embedding_length", ModelConfig::kHidden, &out_.hidden));
    DSV4MX_TRY(Size("expert_feed_forward_length", ModelConfig::kIntermediate, &out_.intermediate));
    DSV4MX_TRY(Size("expert_count", ModelConfig::kExperts, &out_.experts));
    DSV4MX_TRY(Size("expert_used_count", ModelConfig::kTopK, &out_.top_k));
    DSV4MX_TRY(Float("expert_weights_scale", ModelConfig::kRoutedScalingFactor,
                     &out_.routed_scaling_factor));
    return Activation();
  }

 private:
  // The value of a key of the file's architecture, or of this layer's; false where there is none.
  bool Find(const char* key, double* out) const {
    const auto it = keys_.numbers.find(keys_.architecture + "." + key);
    if (it == keys_.numbers.end() || it->second.empty()) return false;
    const std::vector<double>& values = it->second;
    const bool equal = std::all_of(values.begin(), values.end(),
                                   [&](double value) { return value == values.front(); });
    if (!equal && (layer_ < 0 || layer_ >= static_cast<int64_t>(values.size()))) return false;
    *out = equal ? values.front() : values[static_cast<size_t>(layer_)];
    return true;
  }

  Status Size(const char* key, ModelConfig::Field field, int32_t* out) {
    double value = 0;
    if (!Find(key, &value)) return kOk;
    DSV4MX_RETURN_IF(!(value >= 1 && value <= INT32_MAX) || value != std::floor(value),
                     DSV4MX_STATUS_FORMAT_ERROR, "%s: %s is no size", label_, key);
    *out = static_cast<int32_t>(value);
    out_.filled |= field;
    return kOk;
  }

  Status Float(const char* key, ModelConfig::Field field, float* out) {
    double value = 0;
    if (!Find(key, &value)) return kOk;
    *out = static_cast<float>(value);
    DSV4MX_RETURN_IF(!std::isfinite(*out) || *out < 0, DSV4MX_STATUS_FORMAT_ERROR,
                     "%s: %s is no finite number of at least 0", label_, key);
    out_.filled |= field;
    return kOk;
  }

  // No key names the activation: it belongs to the architecture, and of one that is not known here nothing is said.
  Status Activation() {
    double limit = 0;
    DSV4MX_RETURN_IF(
        keys_.architecture == "step35" && Find("swiglu_clamp_exp", &limit) && limit > 0,
        DSV4MX_STATUS_UNSUPPORTED,
        "%s: architecture step35 clamps behind the SiLU, which is not what this library "
        "computes; it clamps before",
        label_);
    if (keys_.architecture == "deepseek4") {
      out_.activation = DSV4MX_ACTIVATION_SWIGLU;
      out_.filled |= ModelConfig::kActivation;
      return Float("swiglu_clamp_exp", ModelConfig::kClampLimit, &out_.clamp_limit);
    }
    if (keys_.architecture == "gpt-oss") {
      // The model's code has the form and its three numbers.
      out_.activation = DSV4MX_ACTIVATION_SWIGLU_GPTOSS;
      out_.alpha = 1.702f;
      out_.beta = 1.0f;
      out_.clamp_limit = 7.0f;
      out_.filled |= ModelConfig::kActivation | ModelConfig::kClampLimit;
    }
    return kOk;
  }

  const GgufKeys& keys_;
  int64_t layer_;
  const char* label_;
  ModelConfig& out_;
};

}  // namespace

Status ConfigFromGguf(const GgufKeys& keys, int64_t layer, const char* label, ModelConfig* out) {
  *out = ModelConfig{};
  ModelConfig config;
  config.source = "its GGUF keys";
  DSV4MX_TRY(Reader(keys, layer, label, &config).Read());
  *out = config;
  return kOk;
}

}  // namespace dsv4mx::io
