#include "lib/base/names.h"

namespace dsv4mx {
namespace {

using enum TensorTarget;
using enum TensorKind;

constexpr NameFamily kFused = {"SGLang and vLLM", DSV4MX_W13_ORDER_GATE_UP, false};
constexpr NameFamily kGptOss = {"GPT-OSS", DSV4MX_W13_ORDER_INTERLEAVED, true};
constexpr NameFamily kOpenAi = {"OpenAI", DSV4MX_W13_ORDER_INTERLEAVED, true, true};
constexpr NameFamily kDeepSeek = {"DeepSeek", DSV4MX_W13_ORDER_UNSET, false};
constexpr NameFamily kHuggingFace = {"Hugging Face", DSV4MX_W13_ORDER_UNSET, false};
constexpr NameFamily kLlamaCppFused = {"llama.cpp", DSV4MX_W13_ORDER_GATE_UP, true, true, true};
constexpr NameFamily kLlamaCpp = {"llama.cpp", DSV4MX_W13_ORDER_UNSET, false, true, true};

struct Row {
  const NameFamily* family;
  std::string_view suffix;
  TensorTarget target;
  TensorKind kind;
};

// Order is precedence, and the order of the table in dsv4mx.h. A new spelling is one more row.
// weight_packed is how compressed-tensors calls codes, scales is MLX's word.
constexpr Row kTable[] = {
    // all experts in one tensor
    {&kFused, "w13_weight", kW13, kCodes},
    {&kFused, "w13_weight_scale", kW13, kScales},
    {&kFused, "w13_weight_scale_inv", kW13, kScales},
    {&kFused, "w13_bias", kW13, kBias},
    {&kFused, "w13_weight_bias", kW13, kBias},
    {&kFused, "w2_weight", kDown, kCodes},
    {&kFused, "w2_weight_scale", kDown, kScales},
    {&kFused, "w2_weight_scale_inv", kDown, kScales},
    {&kFused, "w2_bias", kDown, kBias},
    {&kFused, "w2_weight_bias", kDown, kBias},
    {&kGptOss, "gate_up_proj_blocks", kW13, kCodes},
    {&kGptOss, "gate_up_proj_scales", kW13, kScales},
    {&kGptOss, "gate_up_proj_bias", kW13, kBias},
    {&kGptOss, "down_proj_blocks", kDown, kCodes},
    {&kGptOss, "down_proj_scales", kDown, kScales},
    {&kGptOss, "down_proj_bias", kDown, kBias},
    {&kOpenAi, "mlp1_weight.blocks", kW13, kCodes},
    {&kOpenAi, "mlp1_weight.scales", kW13, kScales},
    {&kOpenAi, "mlp1_bias", kW13, kBias},
    {&kOpenAi, "mlp2_weight.blocks", kDown, kCodes},
    {&kOpenAi, "mlp2_weight.scales", kDown, kScales},
    {&kOpenAi, "mlp2_bias", kDown, kBias},
    // one expert in a tensor, or all
    {&kDeepSeek, "w1.weight", kGate, kCodes},
    {&kDeepSeek, "w1.weight_packed", kGate, kCodes},
    {&kDeepSeek, "w3.weight", kUp, kCodes},
    {&kDeepSeek, "w3.weight_packed", kUp, kCodes},
    {&kDeepSeek, "w2.weight", kDown, kCodes},
    {&kDeepSeek, "w2.weight_packed", kDown, kCodes},
    {&kDeepSeek, "w1.scale", kGate, kScales},
    {&kDeepSeek, "w1.weight_scale", kGate, kScales},
    {&kDeepSeek, "w1.weight_scale_inv", kGate, kScales},
    {&kDeepSeek, "w3.scale", kUp, kScales},
    {&kDeepSeek, "w3.weight_scale", kUp, kScales},
    {&kDeepSeek, "w3.weight_scale_inv", kUp, kScales},
    {&kDeepSeek, "w2.scale", kDown, kScales},
    {&kDeepSeek, "w2.weight_scale", kDown, kScales},
    {&kDeepSeek, "w2.weight_scale_inv", kDown, kScales},
    {&kHuggingFace, "gate_proj.weight", kGate, kCodes},
    {&kHuggingFace, "gate_proj.weight_packed", kGate, kCodes},
    {&kHuggingFace, "up_proj.weight", kUp, kCodes},
    {&kHuggingFace, "up_proj.weight_packed", kUp, kCodes},
    {&kHuggingFace, "down_proj.weight", kDown, kCodes},
    {&kHuggingFace, "down_proj.weight_packed", kDown, kCodes},
    {&kHuggingFace, "gate_proj.scale", kGate, kScales},
    {&kHuggingFace, "gate_proj.weight_scale", kGate, kScales},
    {&kHuggingFace, "gate_proj.weight_scale_inv", kGate, kScales},
    {&kHuggingFace, "gate_proj.scales", kGate, kScales},
    {&kHuggingFace, "gate_proj.bias", kGate, kBias},
    {&kHuggingFace, "up_proj.scale", kUp, kScales},
    {&kHuggingFace, "up_proj.weight_scale", kUp, kScales},
    {&kHuggingFace, "up_proj.weight_scale_inv", kUp, kScales},
    {&kHuggingFace, "up_proj.scales", kUp, kScales},
    {&kHuggingFace, "up_proj.bias", kUp, kBias},
    {&kHuggingFace, "down_proj.scale", kDown, kScales},
    {&kHuggingFace, "down_proj.weight_scale", kDown, kScales},
    {&kHuggingFace, "down_proj.weight_scale_inv", kDown, kScales},
    {&kHuggingFace, "down_proj.scales", kDown, kScales},
    {&kHuggingFace, "down_proj.bias", kDown, kBias},
    // GGUF files
    {&kLlamaCppFused, "ffn_gate_up_exps.weight", kW13, kCodes},
    {&kLlamaCppFused, "ffn_gate_up_exps.bias", kW13, kBias},
    {&kLlamaCpp, "ffn_gate_exps.weight", kGate, kCodes},
    {&kLlamaCpp, "ffn_up_exps.weight", kUp, kCodes},
    {&kLlamaCpp, "ffn_down_exps.weight", kDown, kCodes},
    {&kLlamaCpp, "ffn_gate_exps.bias", kGate, kBias},
    {&kLlamaCpp, "ffn_up_exps.bias", kUp, kBias},
    {&kLlamaCpp, "ffn_down_exps.bias", kDown, kBias},
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

// The components under which experts stand.
constexpr std::string_view kContainers[] = {"experts.", "switch_mlp."};

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
        *out = TensorName{};
        out->target = row.target;
        out->kind = row.kind;
        out->rank = rank;
        out->family = row.family;
        out->suffix = row.suffix;
        out->has_expert = ExpertId(prefix, &out->expert_id);
        return true;
      }
    }
    ++rank;
  }
  return false;
}

Status ParseTensorName(std::string_view name, TensorName* out) {
  const bool found = FindTensorName(name, out);
  if (found && !out->family->blocks) return kOk;
  const int length = static_cast<int>(name.size() < 200 ? name.size() : 200);
  DSV4MX_RETURN_IF(found, DSV4MX_STATUS_NOT_FOUND,
                   "tensor name '%.*s' is of a GGUF file, whose blocks dsv4mx_weights_load reads",
                   length, name.data());
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

bool FindExpertsStem(std::string_view name, std::string_view* stem, std::string_view* rest) {
  if (OfSharedExpert(name)) return false;
  for (const std::string_view container : kContainers) {
    for (size_t at = 0; (at = name.find(container, at)) != std::string_view::npos; ++at) {
      if (at != 0 && name[at - 1] != '.') continue;
      *stem = name.substr(0, at);
      *rest = name.substr(at + container.size());
      return true;
    }
  }
  // OpenAI's own names of GPT-OSS.
  for (const std::string_view bare : {"mlp1_weight", "mlp1_bias", "mlp2_weight", "mlp2_bias"}) {
    const size_t at = name.rfind(bare);
    if (at == std::string_view::npos || (at != 0 && name[at - 1] != '.')) continue;
    *stem = name.substr(0, at);
    *rest = name.substr(at);
    return rest->size() == bare.size() || (*rest)[bare.size()] == '.';
  }
  const size_t gguf = name.rfind("ffn_");
  if (gguf == std::string_view::npos || (gguf != 0 && name[gguf - 1] != '.')) return false;
  *stem = name.substr(0, gguf);
  *rest = name.substr(gguf);
  return rest->find("_exps.") != std::string_view::npos;
}

bool TensorNameRow(int rank, TensorName* out) {
  constexpr int kRows = static_cast<int>(sizeof(kTable) / sizeof(kTable[0]));
  return rank >= 0 && rank < kRows && FindTensorName(kTable[rank].suffix, out);
}

const char* CanonicalName(TensorTarget target, TensorKind kind) {
  constexpr const char* kNames[4][3] = {{"w13_weight", "w13_weight_scale", "w13_bias"},
                                        {"w1.weight", "w1.scale", "gate_proj.bias"},
                                        {"w3.weight", "w3.scale", "up_proj.bias"},
                                        {"w2.weight", "w2.scale", "w2_bias"}};
  return kNames[static_cast<int>(target)][static_cast<int>(kind)];
}

}  // namespace dsv4mx
