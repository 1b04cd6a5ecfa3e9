#include "tests/checkpoint_forms.h"

#include <cstring>
#include <utility>
#include <vector>

#include "tests/safetensors_file.h"

namespace dsv4mx::test {
namespace {

using Bytes = std::vector<uint8_t>;

std::string AsText(const Bytes& bytes) {
  return {bytes.begin(), bytes.end()};
}

std::string Floats(const std::vector<float>& values, bool bf16) {
  std::string text;
  for (const float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (bf16) bits >>= 16;
    text.append(reinterpret_cast<const char*>(&bits), bf16 ? 2 : 4);
  }
  return text;
}

Bytes AsBytes(const std::vector<float>& values, bool bf16) {
  const std::string text = Floats(values, bf16);
  return {text.begin(), text.end()};
}

// 2^(b-127) as F32.
std::string Numbers(const Bytes& scales) {
  std::vector<float> values;
  for (const uint8_t b : scales) {
    const uint32_t bits = b == 0 ? 0x00400000u : uint32_t{b} << 23;
    float value;
    std::memcpy(&value, &bits, 4);
    values.push_back(value);
  }
  return Floats(values, false);
}

// Blocks of a scale and 32 values, j and j + 16 in one byte.
std::string Blocks(const Bytes& codes, const Bytes& scales) {
  std::string text;
  text.reserve(scales.size() * 17);
  for (size_t g = 0; g < scales.size(); ++g) {
    const auto value = [&](int k) {
      return codes[g * 16 + static_cast<size_t>(k / 2)] >> (k % 2 * 4) & 15;
    };
    text += static_cast<char>(scales[g]);
    for (int j = 0; j < 16; ++j) text += static_cast<char>(value(j) | value(j + 16) << 4);
  }
  return text;
}

template <class T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
std::string Counted(const std::string& text) {
  return Raw(uint64_t{text.size()}) + text;
}

// One matrix, or gate and up as one, of one expert.
struct Part {
  const char* name;  // kGate, kUp, kDown of the form, or w13
  int64_t rows, k;
  Bytes codes, scales, bias;
};

std::vector<Part> PartsOf(const ExpertData& d, const char* const names[4], bool fused,
                          dsv4mx_w13_order order, bool bias13_bf16, bool bias2_bf16) {
  std::vector<Part> parts;
  const int64_t i = d.rows[kGate], h = d.rows[kDown];
  const auto bias = [&](int m) {
    return AsBytes(d.bias[m], m == kDown ? bias2_bf16 : bias13_bf16);
  };
  if (fused) {
    parts.push_back({names[3], 2 * i, h, FuseRows(d.codes[kGate], d.codes[kUp], h / 2, order),
                     FuseRows(d.scales[kGate], d.scales[kUp], h / 32, order),
                     FuseRows(bias(kGate), bias(kUp), bias13_bf16 ? 2 : 4, order)});
  } else {
    parts.push_back({names[kGate], i, h, d.codes[kGate], d.scales[kGate], bias(kGate)});
    parts.push_back({names[kUp], i, h, d.codes[kUp], d.scales[kUp], bias(kUp)});
  }
  parts.push_back({names[kDown], h, i, d.codes[kDown], d.scales[kDown], bias(kDown)});
  return parts;
}

struct Style {
  const char* stem;
  const char* names[4];  // gate, up, down, both
  const char *codes, *scales, *bias;
  dsv4mx_w13_order order;  // UNSET: apart
  bool each;               // an expert's tensors are its own
};

Style StyleOf(Form form) {
  constexpr auto kApart = DSV4MX_W13_ORDER_UNSET;
  constexpr auto kTwo = DSV4MX_W13_ORDER_GATE_UP;
  constexpr auto kAlternate = DSV4MX_W13_ORDER_INTERLEAVED;
  switch (form) {
    case Form::kDeepSeek:
      return {
          "layers.0.ffn.experts.", {"w1", "w3", "w2", ""}, ".weight", ".scale", "", kApart, true};
    case Form::kCompressedTensors:
      return {"model.layers.0.mlp.experts.",
              {"gate_proj", "up_proj", "down_proj", ""},
              ".weight_packed",
              ".weight_scale",
              ".bias",
              kApart,
              true};
    case Form::kSglang:
    case Form::kNumbers:
      return {"model.layers.0.mlp.experts.",
              {"", "", "w2", "w13"},
              "_weight",
              "_weight_scale",
              "_bias",
              kTwo,
              false};
    case Form::kMlx:
      return {"model.layers.0.mlp.switch_mlp.",
              {"gate_proj", "up_proj", "down_proj", ""},
              ".weight",
              ".scales",
              ".bias",
              kApart,
              false};
    case Form::kGptOss:
      return {"model.layers.0.mlp.experts.",
              {"", "", "down_proj", "gate_up_proj"},
              "_blocks",
              "_scales",
              "_bias",
              kAlternate,
              false};
    case Form::kOpenAi:
      return {"block.0.mlp.",
              {"", "", "mlp2", "mlp1"},
              "_weight.blocks",
              "_weight.scales",
              "_bias",
              kAlternate,
              false};
    case Form::kGguf:
      return {"blk.0.",  {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", ""},
              ".weight", "",
              ".bias",   kApart,
              false};
    default:
      return {"blk.0.", {"", "", "ffn_down_exps", "ffn_gate_up_exps"}, ".weight", "", ".bias", kTwo,
              false};
  }
}

}  // namespace

const char* NameOf(Form form) {
  constexpr const char* kNames[] = {
      "DeepSeek", "compressed-tensors", "SGLang", "MLX", "numbers", "GPT-OSS", "OpenAI",
      "GGUF",     "GGUF fused"};
  return kNames[static_cast<int>(form)];
}

bool HasBiases(Form form) {
  return form != Form::kDeepSeek;
}

std::string GgufFile(const std::string& keys, int64_t key_count,
                     const std::vector<GgufTensor>& tensors) {
  std::string file = "GGUF" + Raw(uint32_t{3}) + Raw(uint64_t{tensors.size()}) +
                     Raw(static_cast<uint64_t>(key_count)) + keys;
  const auto padded = [](size_t n) { return (n + 31) / 32 * 32; };
  uint64_t at = 0;
  for (const GgufTensor& t : tensors) {
    file += Counted(t.name) + Raw(static_cast<uint32_t>(t.shape.size()));
    for (size_t i = t.shape.size(); i-- > 0;) file += Raw(static_cast<uint64_t>(t.shape[i]));
    file += Raw(uint32_t{t.blocks ? 39u : 0u}) + Raw(at);
    at += padded(t.bytes.size());
  }
  file.resize(padded(file.size()));
  for (const GgufTensor& t : tensors) {
    file += t.bytes;
    file.resize(padded(file.size()));
  }
  return file;
}

std::string WriteForm(const std::string& folder, Form form, const Case& c, int64_t* bytes) {
  const Style style = StyleOf(form);
  const bool gguf = form == Form::kGguf || form == Form::kGgufFused;
  const bool fused = style.order != DSV4MX_W13_ORDER_UNSET;
  // GGUF has its biases in F32.
  const bool bf16_13 = c.p.w13_bias == DSV4MX_DTYPE_BF16 && !gguf;
  const bool bf16_2 = c.p.w2_bias == DSV4MX_DTYPE_BF16 && !gguf;
  std::vector<FileTensor> all;
  std::vector<GgufTensor> blocks;
  const int64_t count = c.p.experts;
  for (int32_t e = 0; e < count; ++e) {
    size_t at = 0;  // of tensors that hold all experts
    // A shape with all experts in front, where they share the tensor.
    const auto put = [&](const std::string& name, const char* dtype, std::vector<int64_t> shape,
                         std::string text) {
      if (style.each || e == 0) {
        if (!style.each) shape.insert(shape.begin(), count);
        all.push_back({name, dtype, shape, std::move(text)});
        ++at;
      } else {
        all[at++].bytes += text;
      }
    };
    const std::string stem = style.stem + (style.each ? std::to_string(e) + "." : std::string());
    for (const Part& part :
         PartsOf(*c.Expert(e), style.names, fused, style.order, bf16_13, bf16_2)) {
      const std::string name = stem + part.name;
      const int64_t n = part.rows, k = part.k;
      const bool down = std::string(part.name) == style.names[kDown];
      const bool bias = !part.bias.empty() && HasBiases(form);
      if (gguf) {
        const auto add = [&](const std::string& full, std::vector<int64_t> shape, bool is_blocks,
                             std::string text) {
          if (e == 0) {
            shape.insert(shape.begin(), count);
            blocks.push_back({full, shape, is_blocks, std::move(text)});
          } else {
            blocks[at].bytes += text;
          }
          ++at;
        };
        add(name + style.codes, {n, k}, true, Blocks(part.codes, part.scales));
        if (bias) add(name + style.bias, {n}, false, AsText(part.bias));
        continue;
      }
      const bool split = form == Form::kGptOss || form == Form::kOpenAi;
      if (form == Form::kMlx) {
        put(name + style.codes, "U32", {n, k / 8}, AsText(part.codes));
      } else if (split) {
        put(name + style.codes, "U8", {n, k / 32, 16}, AsText(part.codes));
      } else {
        put(name + style.codes, form == Form::kSglang ? "I8" : "U8", {n, k / 2},
            AsText(part.codes));
      }
      if (form == Form::kNumbers) {
        put(name + style.scales, "F32", {n, k / 32}, Numbers(part.scales));
      } else {
        put(name + style.scales, form == Form::kDeepSeek ? "F8_E8M0" : "U8", {n, k / 32},
            AsText(part.scales));
      }
      if (bias) {
        put(name + style.bias, (down ? bf16_2 : bf16_13) ? "BF16" : "F32", {n}, AsText(part.bias));
      }
    }
  }
  if (bytes != nullptr) {
    *bytes = 0;
    for (const FileTensor& t : all) *bytes += static_cast<int64_t>(t.bytes.size());
    for (const GgufTensor& t : blocks) *bytes += static_cast<int64_t>(t.bytes.size());
  }
  const std::string path = folder + (gguf ? "/m.gguf" : "/m.safetensors");
  const std::string keys =
      Counted("general.architecture") + Raw(uint32_t{8}) + Counted("deepseek4");
  WriteFile(path, gguf ? GgufFile(keys, 1, blocks) : SafetensorsFile(all));
  return path;
}

}  // namespace dsv4mx::test
