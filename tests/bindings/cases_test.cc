// Runs bindings/cases.json through the public C API, on the CPU and on the first CUDA device if there is one: what every
// other binding runs too. What a case means is said in the file itself. Prints "N passed, N failed, N skipped".
//
//   cases_test bindings/cases.json
#define DSV4MX_EXPERIMENTAL 1
#include <dsv4mx.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/sha256.h"

namespace {

using Json = nlohmann::json;
using Bytes = std::vector<uint8_t>;

// A call that did not succeed; thrown by this program alone.
struct Failed {
  std::string call, status, text;
};

void Must(const char* call, dsv4mx_status status) {
  if (status != DSV4MX_STATUS_OK)
    throw Failed{call, dsv4mx_status_name(status), dsv4mx_last_error()};
}

// ---- numbers: see "about" in cases.json ----

uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

struct Stream {
  uint64_t base;
  Stream(uint64_t seed, uint64_t stream) : base(Mix(seed << 8 | stream)) {}
  uint64_t Word(uint64_t i) const { return Mix(base + (i + 1) * 0x9E3779B97F4A7C15u); }
  uint8_t Byte(uint64_t j) const { return static_cast<uint8_t>(Word(j / 8) >> (8 * (j % 8))); }
};

uint16_t Bf16(uint64_t w, unsigned exponent) {
  return static_cast<uint16_t>((w & 1) << 15 | (exponent + (w >> 1 & 3)) << 7 | (w >> 3 & 127));
}

float Value(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

template <typename T>
void Append(Bytes* to, T value) {
  const auto* p = reinterpret_cast<const uint8_t*>(&value);
  to->insert(to->end(), p, p + sizeof value);
}

struct Data {
  int64_t experts, hidden, intermediate, top_k, tokens;
  std::string order;
  bool high_first;
  std::map<std::string, Bytes> codes, scales;  // "gate", "up", "down"
  std::map<std::string, std::vector<uint16_t>> bias;
  std::vector<uint16_t> x, router, out;
  std::vector<int64_t> ids;

  Data(const Json& layer, const Json& data, int64_t n) : tokens(n) {
    experts = layer["experts"], hidden = layer["hidden"], top_k = layer["top_k"];
    intermediate = layer.value("intermediate_count", 0);
    if (intermediate == 0)
      intermediate = layer["intermediate"].get<int64_t>() / std::max(1, layer.value("tp_size", 1));
    order = layer.value("w13_order", "UNSET");
    high_first = layer.value("nibble_order", "") == "HIGH_FIRST";
    const uint64_t seed = data["seed"];
    const char* parts[] = {"gate", "up", "down"};
    for (uint64_t p = 0; p < 3; ++p) {
      const int64_t rows = p == 2 ? hidden : intermediate, k = p == 2 ? intermediate : hidden;
      const Stream code(seed, 1 + p), scale(seed, 4 + p), bias_stream(seed, 7 + p);
      Bytes& c = codes[parts[p]];
      for (int64_t j = 0; j < experts * rows * k / 2; ++j)
        c.push_back(code.Byte(static_cast<uint64_t>(j)));
      Bytes& s = scales[parts[p]];
      const unsigned low = data["scale_low"], count = data["scale_count"];
      for (int64_t j = 0; j < experts * rows * k / 32; ++j)
        s.push_back(static_cast<uint8_t>(low + scale.Byte(static_cast<uint64_t>(j)) % count));
      for (int64_t j = 0; j < experts * rows; ++j)
        bias[parts[p]].push_back(Bf16(bias_stream.Word(static_cast<uint64_t>(j)), 122));
    }
    const Json pokes = data.value("poke", Json::array());
    for (const Json& poke : pokes) {
      const std::string part = poke[0];
      const size_t cut = part.find('_');
      auto& kind = part.substr(cut) == "_codes" ? codes : scales;
      kind[part.substr(0, cut)].at(poke[1]) = poke[2];
    }
    const Stream xs(seed, 10), id(seed, 11), weight(seed, 12), begin(seed, 13);
    const bool one_hot = data["x"] == "one_hot";
    const int64_t low = data["ids_low"], high = data["ids_high"];
    for (int64_t t = 0; t < tokens; ++t) {
      const auto hot =
          static_cast<int64_t>(xs.Word(static_cast<uint64_t>(t)) % static_cast<uint64_t>(hidden));
      for (int64_t c = 0; c < hidden; ++c) {
        const auto i = static_cast<uint64_t>(t * hidden + c);
        x.push_back(one_hot ? (c == hot ? 0x3F80 : 0) : Bf16(xs.Word(i), 124));
        out.push_back(Bf16(begin.Word(i), 124));
      }
      for (int64_t k = 0; k < top_k; ++k) {
        const auto i = static_cast<uint64_t>(t * top_k + k);
        const uint64_t w = id.Word(i);
        int64_t value = low + static_cast<int64_t>(w % static_cast<uint64_t>(high - low));
        if (data.value("ids_wide", false) && w >> 60 == 0) value += int64_t{1} << 32;
        ids.push_back(value);
        router.push_back(static_cast<uint16_t>(0x3F00 | (weight.Word(i) & 127)));
      }
    }
  }

  // Gate and up rows of `row` bytes each, fused in the layer's order.
  Bytes Fuse(const Bytes& gate, const Bytes& up, size_t row) const {
    Bytes fused;
    const auto rows = static_cast<size_t>(intermediate);
    const auto take = [&](const Bytes& from, size_t begin, size_t n) {
      const auto at = from.begin() + static_cast<ptrdiff_t>(begin * row);
      fused.insert(fused.end(), at, at + static_cast<ptrdiff_t>(n * row));
    };
    for (size_t e = 0; e < static_cast<size_t>(experts); ++e) {
      if (order == "INTERLEAVED") {
        for (size_t r = 0; r < rows; ++r) take(gate, e * rows + r, 1), take(up, e * rows + r, 1);
      } else {
        const bool up_first = order == "UP_GATE";
        take(up_first ? up : gate, e * rows, rows);
        take(up_first ? gate : up, e * rows, rows);
      }
    }
    return fused;
  }

  // The bytes of a weights_set step.
  Bytes Source(const Json& step) const {
    const std::string name = step["source"], dtype = step["dtype"];
    const size_t cut = name.find('_');
    const std::string matrix = name.substr(0, cut), kind = cut == name.npos ? "" : name.substr(cut);
    const auto widened = [&](const std::string& part) {
      Bytes to;
      if (kind.empty()) {
        for (uint8_t b : codes.at(part))
          to.push_back(high_first ? static_cast<uint8_t>(b >> 4 | b << 4) : b);
      } else if (kind == "_scale") {
        for (uint8_t b : scales.at(part)) {
          if (dtype == "F32")
            Append(&to, static_cast<uint32_t>(b) << 23);
          else if (dtype == "BF16")
            Append(&to, static_cast<uint16_t>(b << 7));
          else
            to.push_back(b);
        }
      } else {
        for (uint16_t b : bias.at(part)) {
          if (dtype == "F32")
            Append(&to, static_cast<uint32_t>(b) << 16);
          else
            Append(&to, b);
        }
      }
      return to;
    };
    Bytes all;
    if (matrix == "w13") {
      const Bytes gate = widened("gate"), up = widened("up");
      all = Fuse(gate, up, gate.size() / static_cast<size_t>(experts * intermediate));
    } else {
      all = widened(matrix == "w1" ? "gate" : matrix == "w3" ? "up" : "down");
    }
    if (!step.contains("slot")) return all;
    const size_t one = all.size() / static_cast<size_t>(experts);
    const auto at = all.begin() + static_cast<ptrdiff_t>(one * step["slot"].get<size_t>());
    return Bytes(at, at + static_cast<ptrdiff_t>(one));
  }
};

// ---- names of values ----

int32_t Named(const std::string& field, const Json& value) {
  if (value.is_number()) return value;
  static const std::map<std::string, std::map<std::string, int32_t>> kNames = {
      {"w13_order", {{"UNSET", 0}, {"GATE_UP", 1}, {"UP_GATE", 2}, {"INTERLEAVED", 3}}},
      {"nibble_order", {{"LOW_FIRST", 0}, {"HIGH_FIRST", 1}}},
      {"activation", {{"SWIGLU", 0}, {"SWIGLU_GPTOSS", 1}, {"GATED", 2}, {"SITU", 3}}},
      {"router_weight_position", {{"AFTER_W2", 0}, {"BEFORE_W2", 1}, {"ON_INPUT", 2}}},
      {"compute", {{"W4A16", 0}, {"W4A8", 1}}},
      {"device", {{"AUTO", 0}, {"CPU", 1}, {"CUDA", 2}}},
      {"flag",
       {{"BATCH_INVARIANT", DSV4MX_LAYER_BATCH_INVARIANT},
        {"CHECKED_IDS", DSV4MX_LAYER_CHECKED_IDS},
        {"PHYSICAL_IDS", DSV4MX_LAYER_PHYSICAL_IDS}}},
      {"dtype",
       {{"BF16", DSV4MX_DTYPE_BF16},
        {"F32", DSV4MX_DTYPE_F32},
        {"F16", DSV4MX_DTYPE_F16},
        {"I8", DSV4MX_DTYPE_I8},
        {"U8", DSV4MX_DTYPE_U8},
        {"E2M1", DSV4MX_DTYPE_E2M1},
        {"E8M0", DSV4MX_DTYPE_E8M0},
        {"I32", DSV4MX_DTYPE_I32},
        {"I64", DSV4MX_DTYPE_I64},
        {"U32", DSV4MX_DTYPE_U32}}},
  };
  const auto names = kNames.find(field);
  return (names == kNames.end() ? kNames.at("dtype") : names->second).at(value.get<std::string>());
}

float Number(const Json& value) {
  if (value.is_number()) return value;
  return value == "nan" ? std::nanf("") : HUGE_VALF;
}

// ---- running ----

struct Result {
  Bytes rows;  // of the tokens computed, without gaps
  std::vector<double> values;
  std::vector<int64_t> counts;
  bool applied = false;
};

class Runner {
 public:
  explicit Runner(dsv4mx_device device) {
    dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
    desc.device = device;
    Must("context_create", dsv4mx_context_create(&desc, &context_));
  }
  ~Runner() { dsv4mx_context_destroy(context_); }
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  Result Run(const Json& c) {
    Result result;
    const Cleanup cleanup{this};
    int64_t tokens = 0;
    for (const Json& step : c["steps"]) tokens = std::max<int64_t>(tokens, step.value("tokens", 0));
    std::unique_ptr<Data> data;
    if (c.contains("data"))
      data = std::make_unique<Data>(c["layer"], c["data"], std::min<int64_t>(tokens, 1024));
    for (const Json& step : c["steps"]) {
      const std::string call = step["do"];
      if (call == "context_create")
        CreateContext(step["fields"]);
      else if (call == "checkpoint_create")
        CreateCheckpoint(step);
      else if (call == "layer_create")
        CreateLayer(c["layer"]);
      else if (call == "weights_create")
        Must("weights_create", dsv4mx_weights_create(layer_, nullptr, &weights_));
      else if (call == "weights_set")
        Set(step, *data);
      else if (call == "weights_prepare")
        Must("weights_prepare", dsv4mx_weights_prepare(weights_, nullptr, nullptr));
      else if (call == "weights_reset")
        Must("weights_reset", dsv4mx_weights_reset(weights_));
      else if (call == "layer_set_placement")
        Must("layer_set_placement",
             dsv4mx_layer_set_placement(
                 layer_, step["placement"].get<std::vector<int32_t>>().data(), nullptr));
      else if (call == "layer_apply")
        Apply(c["layer"], step, *data, &result);
      else
        throw std::runtime_error("unknown step " + call);
    }
    return result;
  }

 private:
  struct Cleanup {
    Runner* runner;
    ~Cleanup() {
      for (void* p : runner->memory_) dsv4mx_context_free(runner->context_, p);
      runner->memory_.clear();
      dsv4mx_weights_destroy(runner->weights_);
      dsv4mx_layer_destroy(runner->layer_);
      runner->weights_ = nullptr, runner->layer_ = nullptr;
    }
  };

  uint8_t* Allocate(size_t bytes) {
    void* p = nullptr;
    Must("context_alloc", dsv4mx_context_alloc(context_, std::max<size_t>(bytes, 1), &p));
    memory_.push_back(p);
    return static_cast<uint8_t*>(p);
  }
  void Copy(void* to, const void* from, size_t bytes) {
    if (bytes == 0) return;
    Must("context_copy", dsv4mx_context_copy(context_, to, from, bytes, nullptr));
    Must("context_synchronize", dsv4mx_context_synchronize(context_, nullptr));
  }
  uint8_t* Upload(const Bytes& bytes) {
    uint8_t* p = Allocate(bytes.size());
    Copy(p, bytes.data(), bytes.size());
    return p;
  }

  static void CreateContext(const Json& fields) {
    dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
    for (const auto& [name, value] : fields.items()) {
      if (name == "device")
        d.device = Named(name, value);
      else if (name == "threads")
        d.threads = value;
      else if (name == "struct_size")
        d.struct_size = value;
      else
        throw std::runtime_error("unknown field " + name);
    }
    dsv4mx_context* context;
    Must("context_create", dsv4mx_context_create(&d, &context));
    dsv4mx_context_destroy(context);
  }

  static void CreateCheckpoint(const Json& step) {
    char folder[] = "/tmp/dsv4mx-cases-XXXXXX";
    if (mkdtemp(folder) == nullptr) throw std::runtime_error("mkdtemp failed");
    const std::string path = std::string(folder) + "/model.safetensors";
    if (step.contains("bytes")) {
      std::ofstream file(path, std::ios::binary);
      const std::string hex = step["bytes"];
      for (size_t i = 0; i < hex.size(); i += 2)
        file.put(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
    }
    dsv4mx_checkpoint* checkpoint = nullptr;
    const dsv4mx_status status = dsv4mx_checkpoint_create(path.c_str(), nullptr, &checkpoint);
    unlink(path.c_str());
    rmdir(folder);
    dsv4mx_checkpoint_destroy(checkpoint);
    Must("checkpoint_create", status);
  }

  void CreateLayer(const Json& fields) {
    dsv4mx_layer_desc d = DSV4MX_LAYER_DESC_INIT;
    std::vector<int32_t> placement;
    const std::map<std::string, int32_t*> numbers = {
        {"hidden", &d.hidden},
        {"intermediate", &d.intermediate},
        {"experts", &d.experts},
        {"top_k", &d.top_k},
        {"expert_first", &d.expert_first},
        {"experts_global", &d.experts_global},
        {"physical_first", &d.physical_first},
        {"physical_global", &d.physical_global},
        {"tp_rank", &d.tp_rank},
        {"tp_size", &d.tp_size},
        {"intermediate_first", &d.intermediate_first},
        {"intermediate_count", &d.intermediate_count},
        {"group_size", &d.group_size},
        {"w13_order", &d.w13_order},
        {"nibble_order", &d.nibble_order},
        {"activation", &d.activation},
        {"w13_bias", &d.w13_bias},
        {"w2_bias", &d.w2_bias},
        {"router_weight_position", &d.router_weight_position},
        {"x_dtype", &d.x_dtype},
        {"out_dtype", &d.out_dtype},
        {"ids_dtype", &d.ids_dtype},
        {"router_weight_dtype", &d.router_weight_dtype},
        {"slot_dtype", &d.slot_dtype},
        {"compute", &d.compute}};
    const std::map<std::string, float*> floats = {
        {"clamp_limit", &d.clamp_limit},
        {"activation_alpha", &d.activation_alpha},
        {"activation_beta", &d.activation_beta},
        {"situ_beta", &d.situ_beta},
        {"situ_linear_beta", &d.situ_linear_beta},
        {"routed_scaling_factor", &d.routed_scaling_factor}};
    for (const auto& [name, value] : fields.items()) {
      if (numbers.count(name) != 0)
        *numbers.at(name) = Named(name, value);
      else if (floats.count(name) != 0)
        *floats.at(name) = Number(value);
      else if (name == "struct_size")
        d.struct_size = value;
      else if (name == "reserved")
        d.reserved = value;
      else if (name == "flags")
        for (const Json& flag : value) d.flags |= static_cast<uint32_t>(Named("flag", flag));
      else if (name == "placement")
        placement = value.get<std::vector<int32_t>>(), d.placement = placement.data();
      else
        throw std::runtime_error("unknown field " + name);
    }
    Must("layer_create", dsv4mx_layer_create(context_, &d, &layer_));
  }

  void Set(const Json& step, const Data& data) {
    const Bytes bytes = data.Source(step);
    dsv4mx_tensor t = DSV4MX_TENSOR_INIT;
    t.dtype = Named("dtype", step["dtype"]);
    for (const Json& size : step["shape"]) t.shape[t.rank++] = size;
    t.data = bytes.data();
    if (step.value("memory", "HOST") == "DEVICE") {
      t.memory = DSV4MX_MEMORY_DEVICE;
      t.data = Upload(bytes);
    }
    const std::string name = step["name"];
    Must("weights_set", dsv4mx_weights_set(weights_, name.c_str(), step.value("expert", -1), &t,
                                           nullptr, nullptr));
  }

  void Apply(const Json& layer, const Json& step, const Data& data, Result* result) {
    const int64_t tokens = step.value("tokens", 0), rows = data.tokens, hidden = data.hidden;
    const bool f32 = layer.value("out_dtype", "") == "F32";
    const size_t item = f32 ? 4 : 2;
    const int64_t x_stride = std::max<int64_t>(step.value("x_stride", 0), hidden);
    const int64_t id_stride = std::max<int64_t>(step.value("topk_ids_stride", 0), data.top_k);
    const int64_t weight_stride =
        std::max<int64_t>(step.value("topk_weights_stride", 0), data.top_k);
    const int64_t out_stride = std::max<int64_t>(step.value("out_stride", 0), hidden);
    Bytes x, ids, weights, begin;
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t c = 0; c < x_stride; ++c)
        Append(&x, c < hidden ? data.x[static_cast<size_t>(t * hidden + c)] : uint16_t{0xFFFF});
      for (int64_t k = 0; k < id_stride; ++k) {
        const int64_t id = k < data.top_k ? data.ids[static_cast<size_t>(t * data.top_k + k)] : 0;
        if (layer.value("ids_dtype", "") == "I64")
          Append(&ids, id);
        else
          Append(&ids, static_cast<int32_t>(id));
      }
      for (int64_t k = 0; k < weight_stride; ++k) {
        const uint16_t w =
            k < data.top_k ? data.router[static_cast<size_t>(t * data.top_k + k)] : 0;
        if (layer.value("router_weight_dtype", "") == "BF16")
          Append(&weights, w);
        else
          Append(&weights, static_cast<uint32_t>(w) << 16);
      }
      for (int64_t c = 0; c < out_stride; ++c) {
        const bool number = c < hidden && step.value("accumulate", false);
        const uint16_t b = number ? data.out[static_cast<size_t>(t * hidden + c)] : 0x5A5A;
        if (!f32)
          Append(&begin, b);
        else
          Append(&begin, number ? static_cast<uint32_t>(b) << 16 : 0x5A5A5A5Au);
      }
    }

    dsv4mx_workspace_info need = DSV4MX_WORKSPACE_INFO_INIT;
    if (tokens >= 0 && tokens <= 131072)
      Must("layer_query_workspace", dsv4mx_layer_query_workspace(layer_, tokens, nullptr, &need));
    const std::string space = step.value("workspace", "bytes");
    const size_t bytes = space == "bytes" ? need.bytes : need.minimum_bytes;

    dsv4mx_apply_args a = DSV4MX_APPLY_ARGS_INIT;
    const std::map<std::string, const void**> pointers = {{"x", &a.x},
                                                          {"topk_ids", &a.topk_ids},
                                                          {"topk_weights", &a.topk_weights},
                                                          {"x_scale", &a.x_scale}};
    a.x = Upload(x);
    a.topk_ids = Upload(ids);
    a.topk_weights = Upload(weights);
    uint8_t* out = Upload(begin);
    a.out = out;
    a.tokens = tokens;
    a.workspace = Allocate(bytes);
    a.workspace_bytes = bytes - (space == "short" ? 1 : 0);
    a.x_stride = step.value("x_stride", 0);
    a.topk_ids_stride = step.value("topk_ids_stride", 0);
    a.topk_weights_stride = step.value("topk_weights_stride", 0);
    a.out_stride = step.value("out_stride", 0);
    a.multiprocessors = step.value("multiprocessors", 0);
    a.struct_size = step.value("struct_size", sizeof a);
    a.flags = step.value("flags", 0u) |
              (step.value("accumulate", false) ? 1u * DSV4MX_APPLY_ACCUMULATE : 0u);
    if (step.contains("tokens_device")) {
      Bytes limit;
      Append(&limit, step["tokens_device"].get<int32_t>());
      a.tokens_device = reinterpret_cast<int32_t*>(Upload(limit));
    }
    std::vector<int64_t> counts(static_cast<size_t>(data.experts));
    if (step.value("counts", false))
      a.expert_counts = reinterpret_cast<int64_t*>(Upload(Bytes(counts.size() * 8)));
    const Json nulls = step.value("null", Json::array());
    for (const Json& name : nulls) *pointers.at(name) = nullptr;
    const Json offsets = step.value("offset", Json::object());
    for (const auto& [name, offset] : offsets.items()) {
      const void** p = pointers.at(name);
      *p = reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(*p) + offset.get<uintptr_t>());
    }
    Must("layer_apply", dsv4mx_layer_apply(layer_, weights_, &a, nullptr));
    Must("context_synchronize", dsv4mx_context_synchronize(context_, nullptr));

    Bytes end(begin.size());
    Copy(end.data(), out, end.size());
    int64_t computed = rows;
    if (step.contains("tokens_device"))
      computed = std::min(std::max<int64_t>(step["tokens_device"].get<int64_t>(), 0), rows);
    for (int64_t t = 0; t < rows; ++t) {
      const auto row = static_cast<size_t>(t * out_stride) * item,
                 gap = row + static_cast<size_t>(hidden) * item;
      const size_t next = row + static_cast<size_t>(out_stride) * item,
                   kept = t < computed ? gap : row;
      if (std::memcmp(&end[kept], &begin[kept], next - kept) != 0)
        throw std::runtime_error("apply wrote outside its rows");
      if (t >= computed) continue;
      result->rows.insert(result->rows.end(), &end[row], &end[row] + (gap - row));
      for (size_t at = row; at < gap; at += item) {
        uint32_t bits = 0;
        std::memcpy(&bits, &end[at], item);
        result->values.push_back(Value(f32 ? bits : bits << 16));
      }
    }
    if (a.expert_counts != nullptr) {
      Copy(counts.data(), a.expert_counts, counts.size() * 8);
      result->counts = counts;
    }
    result->applied = true;
  }

  dsv4mx_context* context_ = nullptr;
  dsv4mx_layer* layer_ = nullptr;
  dsv4mx_weights* weights_ = nullptr;
  std::vector<void*> memory_;
};

// ---- judging ----

void Expect(bool good, const std::string& text, std::string* faults) {
  if (!good) *faults += (faults->empty() ? "" : "; ") + text;
}

std::string Judge(const Json& c, const Result& result, const std::map<std::string, Bytes>& others) {
  const Json& e = c["expect"];
  std::string faults;
  const size_t hidden = c["layer"]["hidden"];
  const Json probes = e.value("probes", Json::array());
  for (const Json& probe : probes) {
    const double got = result.values.at(probe[0].get<size_t>() * hidden + probe[1].get<size_t>());
    Expect(std::abs(got - probe[2].get<double>()) <= e["tolerance"].get<double>(),
           "out" + probe.dump() + " is " + std::to_string(got), &faults);
  }
  if (e.contains("sum")) {
    double sum = 0, abs_sum = 0;
    for (double v : result.values) sum += v, abs_sum += std::abs(v);
    const double tolerance = e["sum_tolerance"];
    Expect(std::abs(sum - e["sum"].get<double>()) <= tolerance, "sum is " + std::to_string(sum),
           &faults);
    Expect(std::abs(abs_sum - e["abs_sum"].get<double>()) <= tolerance,
           "abs_sum is " + std::to_string(abs_sum), &faults);
  }
  if (e.contains("sha256")) {
    const std::string hash = dsv4mx::test::Sha256(result.rows.data(), result.rows.size());
    Expect(hash == e["sha256"], "sha256 is " + hash, &faults);
  }
  if (e.contains("same_bits_as")) {
    const Bytes& other = others.at(e["same_bits_as"]);
    Expect(other.size() >= result.rows.size() &&
               std::memcmp(other.data(), result.rows.data(), result.rows.size()) == 0,
           "differs from " + e["same_bits_as"].dump(), &faults);
  }
  if (e.contains("counts"))
    Expect(e["counts"] == Json(result.counts), "counts are " + Json(result.counts).dump(), &faults);
  return faults;
}

// "" if the case is as it should be.
std::string RunCase(Runner* runner, bool cuda, const Json& c,
                    std::map<std::string, Bytes>* others) {
  const Json& e = c["expect"];
  const std::string wanted = e.value("status", "OK");
  try {
    const Result result = runner->Run(c);
    if (wanted != "OK") return "succeeded, wanted " + wanted;
    if (!result.applied) return "";
    (*others)[c["name"]] = result.rows;
    return Judge(c, result, *others);
  } catch (const Failed& f) {
    const std::string call = e.value(cuda && e.contains("cuda_do") ? "cuda_do" : "do", "");
    return f.status == wanted && f.call == call ? "" : f.call + ": " + f.status + ": " + f.text;
  } catch (const std::exception& x) {
    return x.what();
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: cases_test CASES.json\n"), 2;
  std::ifstream file(argv[1]);
  const Json cases = Json::parse(file).at("cases");
  int passed = 0, failed = 0, skipped = 0;
  for (const dsv4mx_device device : {DSV4MX_DEVICE_CPU, DSV4MX_DEVICE_CUDA}) {
    const bool cuda = device == DSV4MX_DEVICE_CUDA;
    std::unique_ptr<Runner> runner;
    try {
      runner = std::make_unique<Runner>(device);
    } catch (const Failed& f) {
      if (!cuda) throw;
      std::printf("skipped: needs a CUDA device: %zu cases ran on the CPU alone (%s)\n",
                  cases.size(), f.text.c_str());
      ++skipped;
      continue;
    }
    std::map<std::string, Bytes> others;
    for (const Json& c : cases) {
      const std::string fault = RunCase(runner.get(), cuda, c, &others);
      ++(fault.empty() ? passed : failed);
      if (!fault.empty())
        std::printf("FAILED: %s: %s: %s\n", cuda ? "cuda" : "cpu",
                    c["name"].get<std::string>().c_str(), fault.c_str());
    }
  }
  std::printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
  return failed == 0 && passed > 0 ? 0 : 1;
}
