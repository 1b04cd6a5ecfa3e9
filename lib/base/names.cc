#include "lib/base/names.h"

namespace dsv4mx {
namespace {

struct Row {
  std::string_view suffix;
  TensorTarget target;
  TensorKind kind;
};

using enum TensorTarget;
using enum TensorKind;

// Order is precedence, and the order of the table in dsv4mx.h. A new spelling is one more row.
constexpr Row kTable[] = {
    // SGLang, vLLM: fused, all experts
    {"w13_weight", kW13, kCodes},
    {"w13_weight_scale", kW13, kScales},
    {"w13_weight_scale_inv", kW13, kScales},
    {"w13_bias", kW13, kBias},
    {"w13_weight_bias", kW13, kBias},
    {"w2_weight", kDown, kCodes},
    {"w2_weight_scale", kDown, kScales},
    {"w2_weight_scale_inv", kDown, kScales},
    {"w2_bias", kDown, kBias},
    {"w2_weight_bias", kDown, kBias},
    // DeepSeek's own names, then the names of the Hugging Face model code
    {"w1.weight", kGate, kCodes},
    {"gate_proj.weight", kGate, kCodes},
    {"w3.weight", kUp, kCodes},
    {"up_proj.weight", kUp, kCodes},
    {"w2.weight", kDown, kCodes},
    {"down_proj.weight", kDown, kCodes},
    {"w1.scale", kGate, kScales},
    {"w1.weight_scale", kGate, kScales},
    {"w1.weight_scale_inv", kGate, kScales},
    {"gate_proj.scale", kGate, kScales},
    {"gate_proj.weight_scale", kGate, kScales},
    {"gate_proj.weight_scale_inv", kGate, kScales},
    {"w3.scale", kUp, kScales},
    {"w3.weight_scale", kUp, kScales},
    {"w3.weight_scale_inv", kUp, kScales},
    {"up_proj.scale", kUp, kScales},
    {"up_proj.weight_scale", kUp, kScales},
    {"up_proj.weight_scale_inv", kUp, kScales},
    {"w2.scale", kDown, kScales},
    {"w2.weight_scale", kDown, kScales},
    {"w2.weight_scale_inv", kDown, kScales},
    {"down_proj.scale", kDown, kScales},
    {"down_proj.weight_scale", kDown, kScales},
    {"down_proj.weight_scale_inv", kDown, kScales},
};

// M of an "experts" component followed by a component of digits. Ids too large for any layer stay
// large.
bool ExpertId(std::string_view prefix, int64_t* id) {
  for (size_t at = 0; (at = prefix.find("experts.", at)) != std::string_view::npos; ++at) {
    if (at != 0 && prefix[at - 1] != '.') continue;  // "shared_experts."
    size_t i = at + 8;
    int64_t value = 0;
    const size_t first = i;
    for (; i < prefix.size() && prefix[i] >= '0' && prefix[i] <= '9'; ++i) {
      if (value < (int64_t{1} << 40)) value = value * 10 + (prefix[i] - '0');
    }
    if (i == first || i >= prefix.size() || prefix[i] != '.') continue;
    *id = value;
    return true;
  }
  return false;
}

// A shared expert's tensors have the same last words, but are FP8 and none of this layer's.
bool OfSharedExpert(std::string_view name) {
  return name.starts_with("shared_expert") || name.find(".shared_expert") != std::string_view::npos;
}

}  // namespace

bool FindTensorName(std::string_view name, TensorName* out) {
  if (OfSharedExpert(name)) return false;
  int rank = 0;
  for (const Row& row : kTable) {
    if (name.ends_with(row.suffix)) {
      const std::string_view prefix = name.substr(0, name.size() - row.suffix.size());
      if (prefix.empty() || prefix.back() == '.') {
        out->target = row.target;
        out->kind = row.kind;
        out->rank = rank;
        out->suffix = row.suffix;
        out->expert_id = -1;
        out->has_expert = ExpertId(prefix, &out->expert_id);
        return true;
      }
    }
    ++rank;
  }
  return false;
}

Status ParseTensorName(std::string_view name, TensorName* out) {
  if (FindTensorName(name, out)) return kOk;
  const int length = static_cast<int>(name.size() < 200 ? name.size() : 200);
  if (OfSharedExpert(name)) {
    return Fail(DSV4MX_STATUS_NOT_FOUND,
                "tensor name '%.*s' is of a shared expert, wanted a routed expert's", length,
                name.data());
  }
  return Fail(DSV4MX_STATUS_NOT_FOUND,
              "tensor name '%.*s' is not known, wanted one that ends in w13_weight, "
              "w2_weight_scale, w1.weight, "
              "w2.scale or the like",
              length, name.data());
}

const char* CanonicalName(TensorTarget target, TensorKind kind) {
  constexpr const char* kNames[4][3] = {{"w13_weight", "w13_weight_scale", "w13_bias"},
                                        {"w1.weight", "w1.scale", "w13_bias"},
                                        {"w3.weight", "w3.scale", "w13_bias"},
                                        {"w2.weight", "w2.scale", "w2_bias"}};
  return kNames[static_cast<int>(target)][static_cast<int>(kind)];
}

}  // namespace dsv4mx
