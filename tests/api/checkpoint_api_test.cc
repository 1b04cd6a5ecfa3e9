// Checkpoints through the public functions: what is loaded is what set would have been given, under
// every naming, for a part of the experts too; and what is refused.
#include <chrono>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/runner.h"
#include "tests/safetensors_file.h"

namespace dsv4mx::test {
namespace {

struct DestroyCheckpoint {
  void operator()(dsv4mx_checkpoint* p) const { dsv4mx_checkpoint_destroy(p); }
};
using CheckpointPtr = std::unique_ptr<dsv4mx_checkpoint, DestroyCheckpoint>;

CheckpointPtr Open(const std::string& path) {
  dsv4mx_checkpoint* checkpoint = nullptr;
  Must(dsv4mx_checkpoint_create(path.c_str(), nullptr, &checkpoint), "checkpoint_create");
  return CheckpointPtr(checkpoint);
}

std::string AsText(const std::vector<uint8_t>& bytes) {
  return {bytes.begin(), bytes.end()};
}

// One tensor under one name.
dsv4mx_status SetOne(dsv4mx_weights* weights, const char* name, const void* data,
                     dsv4mx_dtype dtype, std::initializer_list<int64_t> shape) {
  const dsv4mx_tensor tensor = Tensor(data, dtype, shape);
  return dsv4mx_weights_set(weights, name, -1, &tensor, nullptr, nullptr);
}

// All experts of the case under the released names.
std::vector<FileTensor> SeparateFile(const Case& c, const std::string& stem) {
  std::vector<FileTensor> all;
  for (int32_t e = 0; e < c.p.experts; ++e) {
    for (const NamedTensor& t : TensorsOf(c.p, e, *c.Expert(e))) {
      all.push_back({stem + "experts." + std::to_string(e) + "." + t.name,
                     t.dtype == DSV4MX_DTYPE_I8 ? "I8" : "F8_E8M0", t.shape, AsText(t.bytes)});
    }
  }
  return all;
}

// The same as SGLang holds them: [E, ...] with w13 = [w1; w3].
std::vector<FileTensor> FusedFile(const Case& c, const std::string& stem) {
  Problem p = c.p;
  p.order = DSV4MX_W13_ORDER_GATE_UP;
  std::vector<FileTensor> all;
  for (int32_t e = 0; e < p.experts; ++e) {
    const std::vector<NamedTensor> tensors = TensorsOf(p, e, *c.Expert(e));
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (e == 0) {
        std::vector<int64_t> shape = tensors[i].shape;
        shape.insert(shape.begin(), p.experts);
        all.push_back({stem + "experts." + tensors[i].name,
                       tensors[i].dtype == DSV4MX_DTYPE_I8 ? "I8" : "F8_E8M0", shape, ""});
      }
      all[i].bytes += AsText(tensors[i].bytes);
    }
  }
  return all;
}

const char* const kText = "h=96 i=64 e=11 k=3 m=7 clamp=1";

// Loads layer `layer` of the file into a layer of `desc` and applies the case's tokens.
Output LoadAndApply(const Case& c, dsv4mx_layer_desc desc, const std::string& path, int32_t layer) {
  const CheckpointPtr checkpoint = Open(path);
  const LayerPtr made = MakeLayer(ContextOf(c.p), desc);
  const WeightsPtr weights = MakeWeights(made.get());
  Must(dsv4mx_weights_load(weights.get(), checkpoint.get(), Block(layer), nullptr, nullptr),
       "load");
  Must(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr), "prepare");
  return ApplyGuarded(ContextOf(c.p), made.get(), weights.get(), c.p, c.in);
}

TEST_CASE("a checkpoint loads as if its tensors had been set", "[checkpoint]") {
  const Case c = MakeCase(kText);
  const Output want = Runner(c).Apply();
  TempFolder folder;
  const std::string path = folder / "m.safetensors";
  const std::pair<std::string, int32_t> layers[] = {{"layers.4.ffn.", 4},
                                                    {"model.layers.4.mlp.", 4},
                                                    {"mtp.0.ffn.", -1},
                                                    {"model.mtp.2.mlp.", -3}};
  for (const auto& [stem, layer] : layers) {
    for (const bool fused : {false, true}) {
      CAPTURE(stem, fused);
      WriteFile(path, SafetensorsFile(fused ? FusedFile(c, stem) : SeparateFile(c, stem)));
      dsv4mx_layer_desc desc = DescOf(c);
      desc.hidden = desc.intermediate = desc.experts = 0;
      desc.w13_order = DSV4MX_W13_ORDER_UP_GATE;  // overwritten by what the names mean
      REQUIRE_OK(dsv4mx_checkpoint_query_layer(Open(path).get(), Block(layer), &desc));
      CHECK(desc.hidden == 96);
      CHECK(desc.intermediate == 64);
      CHECK(desc.experts == 11);
      CHECK(desc.experts_global == 11);
      CHECK(desc.group_size == 32);
      CHECK(desc.w13_order == (fused ? DSV4MX_W13_ORDER_GATE_UP : DSV4MX_W13_ORDER_UNSET));
      CHECK(desc.top_k == 3);
      CHECK(CheckSame(want, LoadAndApply(c, desc, path, layer)) == "");
    }
  }
}

TEST_CASE("a layer of some experts loads those alone", "[checkpoint]") {
  const Case c = MakeCase(kText);
  TempFolder folder;
  const std::string path = folder / "m.safetensors";
  Case mapped = c;
  mapped.placement = {9, 2, 5};
  for (const bool fused : {false, true}) {
    CAPTURE(fused);
    WriteFile(path, SafetensorsFile(fused ? FusedFile(c, "layers.0.ffn.")
                                          : SeparateFile(c, "layers.0.ffn.")));
    dsv4mx_layer_desc desc = DescOf(c);
    REQUIRE_OK(dsv4mx_checkpoint_query_layer(Open(path).get(), Block(0), &desc));
    desc.experts = 3;
    desc.placement = mapped.placement.data();
    const Output part = LoadAndApply(c, desc, path, 0);
    // The whole layer with every foreign id masked gives the same.
    Inputs masked = c.in;
    for (int64_t& id : masked.ids) {
      if (id != 9 && id != 2 && id != 5) id = -1;
    }
    CHECK(CheckSame(Runner(c).Apply(masked), part) == "");
    CHECK(part.damage == "");

    desc.placement = nullptr;
    desc.expert_first = 8;
    const Output tail = LoadAndApply(c, desc, path, 0);
    for (size_t i = 0; i < masked.ids.size(); ++i)
      masked.ids[i] = c.in.ids[i] >= 8 ? c.in.ids[i] : -1;
    CHECK(CheckSame(Runner(c).Apply(masked), tail) == "");
  }
}

// The experts from `first` to `last` - 1 of the file, under numbers from `number` on.
std::vector<FileTensor> PartFile(const Case& c, const std::string& stem, int32_t first,
                                 int32_t last, int32_t number) {
  std::vector<FileTensor> part;
  for (int32_t e = first; e < last; ++e) {
    for (const NamedTensor& t : TensorsOf(c.p, e, *c.Expert(e))) {
      part.push_back({stem + "experts." + std::to_string(e - first + number) + "." + t.name,
                      t.dtype == DSV4MX_DTYPE_I8 ? "I8" : "F8_E8M0", t.shape, AsText(t.bytes)});
    }
  }
  return part;
}

// The output of experts first..last-1 alone.
Output OfExperts(const Case& c, int64_t first, int64_t last) {
  Inputs masked = c.in;
  for (int64_t& id : masked.ids) id = id >= first && id < last ? id : -1;
  return Runner(c).Apply(masked);
}

TEST_CASE("[J7] a rank's file with the numbers of the whole layer", "[checkpoint]") {
  const Case c = MakeCase(kText);
  TempFolder folder;
  const std::string path = folder / "model1-mp2.safetensors";
  std::vector<FileTensor> part = PartFile(c, "layers.0.ffn.", 4, 9, 4);
  part.push_back({"layers.0.ffn.gate.weight", "BF16", {11, 96}});
  WriteFile(path, SafetensorsFile(part));
  dsv4mx_layer_desc desc = DescOf(c);
  REQUIRE_OK(dsv4mx_checkpoint_query_layer(Open(path).get(), Block(0), &desc));
  CHECK(desc.experts == 5);
  CHECK(desc.expert_first == 4);
  CHECK(desc.experts_global == 11);  // as many as the router chooses from
  CHECK(CheckSame(OfExperts(c, 4, 9), LoadAndApply(c, desc, path, 0)) == "");
  // A part of the part: the others are not asked for.
  desc.experts = 2;
  desc.expert_first = 6;
  CHECK(CheckSame(OfExperts(c, 6, 8), LoadAndApply(c, desc, path, 0)) == "");

  const auto load = [&](int32_t first, int32_t experts, int32_t global) {
    dsv4mx_layer_desc d = desc;
    d.expert_first = first;
    d.experts = experts;
    d.experts_global = global;
    const LayerPtr layer = MakeLayer(ContextOf(c.p), d);
    return dsv4mx_weights_load(MakeWeights(layer.get()).get(), Open(path).get(), Block(0), nullptr,
                               nullptr);
  };
  REQUIRE_REFUSED(load(0, 5, 11), DSV4MX_STATUS_NOT_FOUND,
                  "expert 0 (local 0),experts 4..8,holds 0..4 of 11,whole layer");
  REQUIRE_REFUSED(load(7, 4, 11), DSV4MX_STATUS_NOT_FOUND, "expert 9 (local 2),holds 7..10 of 11");
  REQUIRE_REFUSED(load(4, 2, 8), DSV4MX_STATUS_INVALID_TENSOR,
                  "experts 4..8,experts_global is 8,at least 9");
}

TEST_CASE("[J7] a rank's file renumbered from 0", "[checkpoint]") {
  const Case c = MakeCase(kText);
  TempFolder folder;
  const std::string path = folder / "m.safetensors";
  for (const bool fused : {false, true}) {
    CAPTURE(fused);
    Case half = c;
    half.p.experts = 5;
    WriteFile(path, SafetensorsFile(fused ? FusedFile(half, "layers.0.ffn.")
                                          : PartFile(c, "layers.0.ffn.", 0, 5, 0)));
    dsv4mx_layer_desc desc = DescOf(c);
    desc.experts = 5;
    desc.expert_first = 5;
    desc.experts_global = 11;
    desc.w13_order = DSV4MX_W13_ORDER_UNSET;  // what a file's names mean needs no word
    const LayerPtr layer = MakeLayer(ContextOf(c.p), desc);
    const WeightsPtr weights = MakeWeights(layer.get());
    REQUIRE_REFUSED(
        dsv4mx_weights_load(weights.get(), Open(path).get(), Block(0), nullptr, nullptr),
        DSV4MX_STATUS_NOT_FOUND,
        "expert 5 (local 0),experts 0..4,holds 5..9 of 11,renumbered from 0,local numbers");
    desc.expert_first = 0;
    CHECK(CheckSame(OfExperts(c, 0, 5), LoadAndApply(c, desc, path, 0)) == "");
  }
}

TEST_CASE("a load into prepared weights is INVALID_STATE, whatever the file holds",
          "[checkpoint]") {
  const Case c = MakeCase(kText);
  TempFolder folder;
  WriteFile(folder / "m.safetensors", SafetensorsFile(PartFile(c, "layers.0.ffn.", 0, 1, 0)));
  dsv4mx_layer_desc desc = DescOf(c);
  const LayerPtr layer = MakeLayer(ContextOf(c.p), desc);
  const WeightsPtr weights = MakeWeights(layer.get());
  for (int32_t e = 0; e < 11; ++e) SetExpert(weights.get(), c.p, e, *c.Expert(e));
  REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr));
  const CheckpointPtr checkpoint = Open(folder / "m.safetensors");
  for (const int32_t block : {0, 7}) {
    REQUIRE_REFUSED(
        dsv4mx_weights_load(weights.get(), checkpoint.get(), Block(block), nullptr, nullptr),
        DSV4MX_STATUS_INVALID_STATE, "a checkpoint was loaded after prepare");
  }
}

TEST_CASE("[J3] a shard that shrinks or is missing matters when it is wanted", "[checkpoint]") {
  const Case c = MakeCase(kText);
  const Output want = Runner(c).Apply();
  TempFolder folder;
  const auto write = [&](const char* shard, int32_t first, int32_t last) {
    WriteFile(folder / shard, SafetensorsFile(PartFile(c, "layers.3.ffn.", first, last, first)));
  };
  write("s1.safetensors", 0, 6);
  write("s2.safetensors", 6, 11);
  std::string map;
  for (const FileTensor& t : SeparateFile(c, "layers.3.ffn.")) {
    const int expert = std::stoi(t.name.substr(t.name.find("experts.") + 8));
    map += "\"" + t.name + "\":\"" + (expert < 6 ? "s1" : "s2") + ".safetensors\",";
  }
  map += "\"layers.4.ffn.experts.0.w1.weight\":\"s3.safetensors\"";
  WriteFile(folder / "model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
  dsv4mx_layer_desc desc = DescOf(c);
  CHECK(CheckSame(want, LoadAndApply(c, desc, folder.path(), 3)) == "");

  const LayerPtr layer = MakeLayer(ContextOf(c.p), desc);
  const WeightsPtr weights = MakeWeights(layer.get());
  const CheckpointPtr checkpoint = Open(folder.path());
  REQUIRE_REFUSED(dsv4mx_weights_load(weights.get(), checkpoint.get(), Block(4), nullptr, nullptr),
                  DSV4MX_STATUS_NOT_FOUND, "experts 0");
  dsv4mx_layer_desc other = DescOf(c);
  REQUIRE_REFUSED(dsv4mx_checkpoint_query_layer(checkpoint.get(), Block(4), &other),
                  DSV4MX_STATUS_IO_ERROR, "s3.safetensors: cannot open");
  // Opened while whole, then cut: the bytes that are gone are an error that names the file.
  REQUIRE_OK(dsv4mx_checkpoint_query_layer(checkpoint.get(), Block(3), &other));
  std::filesystem::resize_file(folder / "s2.safetensors",
                               std::filesystem::file_size(folder / "s2.safetensors") / 2);
  REQUIRE_REFUSED(dsv4mx_weights_load(weights.get(), checkpoint.get(), Block(3), nullptr, nullptr),
                  DSV4MX_STATUS_IO_ERROR, "s2.safetensors,became shorter");
  write("s2.safetensors", 6, 11);
  REQUIRE_OK(dsv4mx_weights_load(weights.get(), checkpoint.get(), Block(3), nullptr, nullptr));
  REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr));
  CHECK(CheckSame(want, ApplyGuarded(ContextOf(c.p), layer.get(), weights.get(), c.p, c.in)) == "");

  // One shard by its own name.
  std::filesystem::rename(folder / "s1.safetensors", folder / "model-00001-of-00002.safetensors");
  const CheckpointPtr one = Open(folder / "model-00001-of-00002.safetensors");
  REQUIRE_REFUSED(dsv4mx_checkpoint_query_layer(one.get(), Block(4), &other),
                  DSV4MX_STATUS_NOT_FOUND, "layers 3,this file is shard 1 of 2");
}

TEST_CASE("names whose writer orders gate and up need no order, and contradict another",
          "[checkpoint]") {
  const std::vector<uint8_t> zeros(2 * 64 * 96 / 2);
  const auto set = [&](dsv4mx_w13_order order) {
    dsv4mx_layer_desc desc = DescOf(MakeCase("h=96 i=64 e=1 k=1"));
    desc.w13_order = order;
    const LayerPtr layer = MakeLayer(CpuContext(), desc);
    return SetOne(MakeWeights(layer.get()).get(), "mlp.experts.gate_up_proj_blocks", zeros.data(),
                  DSV4MX_DTYPE_U8, {1, 128, 3, 16});
  };
  REQUIRE_OK(set(DSV4MX_W13_ORDER_UNSET));
  REQUIRE_OK(set(DSV4MX_W13_ORDER_INTERLEAVED));
  REQUIRE_REFUSED(set(DSV4MX_W13_ORDER_GATE_UP), DSV4MX_STATUS_INVALID_ARGUMENT,
                  "gate_up_proj_blocks,GPT-OSS name,w13_order is 3,layer's is 1,UNSET");
}

TEST_CASE("every slice of a tensor-parallel layer, from every form of file", "[checkpoint]") {
  const Case c = MakeCase("h=96 i=320 e=5 k=3 m=7 clamp=1");
  TempFolder folder;
  const std::string path = folder / "m.safetensors";
  for (const bool fused : {false, true}) {
    CAPTURE(fused);
    WriteFile(path, SafetensorsFile(fused ? FusedFile(c, "layers.0.ffn.")
                                          : SeparateFile(c, "layers.0.ffn.")));
    dsv4mx_layer_desc desc = DescOf(c);
    desc.out_dtype = DSV4MX_DTYPE_F32;
    Case wide = c;
    wide.p.out = DSV4MX_DTYPE_F32;
    REQUIRE_OK(dsv4mx_checkpoint_query_layer(Open(path).get(), Block(0), &desc));
    const Output whole = LoadAndApply(wide, desc, path, 0);
    struct Cut {
      int32_t size;
      std::vector<int32_t> counts;  // empty: even
    };
    for (const Cut& cut :
         {Cut{1, {}}, Cut{2, {}}, Cut{5, {}}, Cut{10, {}}, Cut{3, {128, 32, 160}}}) {
      CAPTURE(cut.size);
      std::vector<double> sum(whole.y.size());
      int32_t first = 0;
      for (int32_t rank = 0; rank < cut.size; ++rank) {
        dsv4mx_layer_desc part = desc;
        part.tp_rank = rank;
        part.tp_size = cut.size;
        if (!cut.counts.empty()) {
          part.intermediate_first = first;
          part.intermediate_count = cut.counts[static_cast<size_t>(rank)];
          first += part.intermediate_count;
        }
        const Output y = LoadAndApply(wide, part, path, 0);
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += y.y[i];
      }
      double error = 0, norm = 0;
      for (size_t i = 0; i < sum.size(); ++i) {
        error += (sum[i] - whole.y[i]) * (sum[i] - whole.y[i]);
        norm += static_cast<double>(whole.y[i]) * whole.y[i];
      }
      CHECK(error <= 1e-12 * norm);  // fp32 sums in another order
    }
  }
}

TEST_CASE("a bounded read of a tensor", "[checkpoint]") {
  TempFolder folder;
  WriteFile(folder / "m.safetensors", SafetensorsFile({{"a", "U8", {10}}, {"b", "U8", {5}}}));
  const CheckpointPtr checkpoint = Open(folder.path());
  uint8_t to[10] = {};
  REQUIRE_OK(dsv4mx_checkpoint_read(checkpoint.get(), "b", 1, to, 4));
  CHECK(to[0] == 11);
  CHECK(to[3] == 14);
  CHECK(to[4] == 0);
  REQUIRE_OK(dsv4mx_checkpoint_read(checkpoint.get(), "b", 5, nullptr, 0));
  for (const int64_t offset : {int64_t{2}, int64_t{-1}, int64_t{6}, INT64_MAX}) {
    REQUIRE_REFUSED(dsv4mx_checkpoint_read(checkpoint.get(), "b", offset, to, 4),
                    DSV4MX_STATUS_INVALID_ARGUMENT, "4 bytes,outside of 'b',has 5");
  }
  REQUIRE_REFUSED(dsv4mx_checkpoint_read(checkpoint.get(), "c", 0, to, 1), DSV4MX_STATUS_NOT_FOUND,
                  "no tensor 'c'");
  REQUIRE_REFUSED(dsv4mx_checkpoint_read(checkpoint.get(), "a", 0, nullptr, 1),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "to");
  std::filesystem::resize_file(folder / "m.safetensors",
                               std::filesystem::file_size(folder / "m.safetensors") - 3);
  REQUIRE_OK(dsv4mx_checkpoint_read(checkpoint.get(), "b", 0, to, 2));
  REQUIRE_REFUSED(dsv4mx_checkpoint_read(checkpoint.get(), "b", 1, to, 4), DSV4MX_STATUS_IO_ERROR,
                  "m.safetensors,became shorter");
}

TEST_CASE("staging of a load is bounded, progress counts bytes and files", "[checkpoint]") {
  const Case c = MakeCase(kText);
  TempFolder folder;
  const std::string path = folder / "m.safetensors";
  WriteFile(path, SafetensorsFile(SeparateFile(c, "layers.0.ffn.")));
  const CheckpointPtr checkpoint = Open(path);
  const LayerPtr layer = MakeLayer(ContextOf(c.p), DescOf(c));
  const WeightsPtr weights = MakeWeights(layer.get());
  dsv4mx_load_args args = DSV4MX_LOAD_ARGS_INIT;
  const int64_t least = 64 * 128 / 2 + 320;  // 64 rows of codes and scales, padded
  args.staging_bytes = least - 1;
  REQUIRE_REFUSED(dsv4mx_weights_load(weights.get(), checkpoint.get(), Block(0), &args, nullptr),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "staging_bytes is 4415,at least 4416");
  args.staging_bytes = least;
  struct Seen {
    dsv4mx_stage stage = 0;
    int64_t last = -1, total = 0, calls = 0;
  } seen;
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  control.progress_user = &seen;
  control.progress = [](void* user, dsv4mx_stage stage, int64_t done, int64_t total) -> int32_t {
    auto& s = *static_cast<Seen*>(user);
    CHECK(done >= s.last);
    s = {stage, done, total, s.calls + 1};
    return 0;
  };
  args.control = &control;
  REQUIRE_OK(dsv4mx_weights_load(weights.get(), checkpoint.get(), Block(0), &args, nullptr));
  CHECK(seen.stage == DSV4MX_STAGE_LOAD);
  CHECK(seen.total == 11 * 3 * 64 * 96 * 17 / 32);
  CHECK(seen.last == seen.total);
  CHECK(seen.calls >= 2);  // and more often where it takes longer (load_test.cc)

  seen = {};
  dsv4mx_checkpoint_args open = DSV4MX_CHECKPOINT_ARGS_INIT;
  open.control = &control;
  open.prefix = "layers.1.";
  dsv4mx_checkpoint* none = nullptr;
  REQUIRE_OK(dsv4mx_checkpoint_create(path.c_str(), &open, &none));
  const CheckpointPtr filtered(none);
  CHECK(dsv4mx_checkpoint_get_count(none) == 0);
  CHECK(seen.stage == DSV4MX_STAGE_OPEN);
  CHECK(seen.last == 1);
  CHECK(seen.total == 1);
}

TEST_CASE("blocks by prefix", "[checkpoint]") {
  const Case c = MakeCase(kText);
  TempFolder folder;
  WriteFile(folder / "m.safetensors", SafetensorsFile(SeparateFile(c, "a.draft.mlp.")));
  const CheckpointPtr checkpoint = Open(folder.path());
  dsv4mx_block block = DSV4MX_BLOCK_INIT;
  block.kind = DSV4MX_BLOCK_PREFIX;
  block.prefix = "a.draft.mlp.";
  dsv4mx_layer_desc desc = DescOf(c);
  REQUIRE_OK(dsv4mx_checkpoint_query_layer(checkpoint.get(), &block, &desc));
  CHECK(desc.experts == 11);
  const LayerPtr layer = MakeLayer(ContextOf(c.p), desc);
  REQUIRE_OK(dsv4mx_weights_load(MakeWeights(layer.get()).get(), checkpoint.get(), &block, nullptr,
                                 nullptr));
}

TEST_CASE("config.json fills what no tensor tells, and says what", "[checkpoint]") {
  const Case c = MakeCase(kText);
  TempFolder folder;
  std::vector<FileTensor> tensors = SeparateFile(c, "layers.0.ffn.");
  for (FileTensor& t : PartFile(c, "mtp.0.ffn.", 0, 3, 0)) tensors.push_back(std::move(t));
  WriteFile(folder / "m.safetensors", SafetensorsFile(tensors));
  const CheckpointPtr checkpoint = Open(folder.path());
  const auto config = [&](const std::string& more) {
    WriteFile(folder / "config.json",
              R"({"hidden_size":96,"moe_intermediate_size":64,"hidden_act":"silu")" + more + "}");
  };
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  uint32_t filled = 77;
  const auto query = [&](int32_t block, uint32_t wanted = 0) {
    desc = DSV4MX_LAYER_DESC_INIT;
    desc.clamp_limit = 3;
    return dsv4mx_checkpoint_query_config(checkpoint.get(), Block(block), wanted, &desc, &filled);
  };
  REQUIRE_REFUSED(query(0), DSV4MX_STATUS_NOT_FOUND, "no config.json beside the tensors");
  CHECK(filled == 0);
  config(R"(,"n_routed_experts":16,"num_experts_per_tok":3,"swiglu_limit":0,
            "routed_scaling_factor":2.5)");
  REQUIRE_OK(query(0));
  CHECK(filled == (DSV4MX_CONFIG_FIELD_TENSORS | DSV4MX_CONFIG_FIELD_TOP_K |
                   DSV4MX_CONFIG_FIELD_ACTIVATION | DSV4MX_CONFIG_FIELD_CLAMP_LIMIT));
  CHECK(desc.hidden == 96);
  CHECK(desc.experts == 11);
  CHECK(desc.experts_global == 16);
  CHECK(desc.top_k == 3);
  CHECK(desc.clamp_limit == 0);
  CHECK(desc.routed_scaling_factor == 0);
  REQUIRE_OK(query(0, DSV4MX_CONFIG_FIELD_ROUTED_SCALING_FACTOR));
  CHECK(filled == DSV4MX_CONFIG_FIELD_ROUTED_SCALING_FACTOR);
  CHECK(desc.routed_scaling_factor == 2.5f);
  CHECK(desc.hidden == 0);
  CHECK(desc.clamp_limit == 3);
  // A draft block with other experts: its ids per token are not the model's.
  REQUIRE_OK(query(-1));
  CHECK((filled & DSV4MX_CONFIG_FIELD_TOP_K) == 0);
  CHECK(desc.experts == 3);
  CHECK(desc.experts_global == 3);
  CHECK(desc.top_k == 0);
  config("");
  REQUIRE_OK(query(0));
  CHECK(filled == (DSV4MX_CONFIG_FIELD_TENSORS | DSV4MX_CONFIG_FIELD_ACTIVATION));
  CHECK(desc.clamp_limit == 3);  // left alone

  REQUIRE_REFUSED(query(0, 32), DSV4MX_STATUS_INVALID_ARGUMENT, "wanted is 0x20,0x1f");
  config(R"(,"n_routed_experts":10)");
  REQUIRE_REFUSED(query(0), DSV4MX_STATUS_FORMAT_ERROR, "config.json says experts 10,have 11");
  WriteFile(folder / "config.json", R"({"hidden_size":64})");
  REQUIRE_REFUSED(query(0), DSV4MX_STATUS_FORMAT_ERROR, "config.json says hidden 64,have 96");
  REQUIRE_REFUSED(dsv4mx_checkpoint_query_config(checkpoint.get(), Block(0), 0, &desc, nullptr),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "filled");
}

TEST_CASE("arguments of checkpoints out of range", "[checkpoint]") {
  const Case c = MakeCase(kText);
  TempFolder folder;
  WriteFile(folder / "m.safetensors", SafetensorsFile(SeparateFile(c, "layers.0.ffn.")));
  const CheckpointPtr checkpoint = Open(folder.path());
  dsv4mx_layer_desc desc = DescOf(c);
  const auto query = [&](dsv4mx_block_kind kind, int32_t index, const char* prefix) {
    dsv4mx_block block = DSV4MX_BLOCK_INIT;
    block.kind = kind;
    block.index = index;
    block.prefix = prefix;
    return dsv4mx_checkpoint_query_layer(checkpoint.get(), &block, &desc);
  };
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  REQUIRE_REFUSED(query(3, 0, nullptr), kCode, "kind of block is 3,0 (LAYER)");
  REQUIRE_REFUSED(query(0, -1, nullptr), kCode, "index of block is -1,0 or more");
  REQUIRE_REFUSED(query(2, 1, "a"), kCode, "index of block is 1,0 with PREFIX");
  REQUIRE_REFUSED(query(2, 0, nullptr), kCode, "prefix of block is NULL,one with PREFIX");
  REQUIRE_REFUSED(query(0, 0, "a"), DSV4MX_STATUS_NOT_FOUND, "layers.0 under 'a'");
  dsv4mx_checkpoint* none = nullptr;
  dsv4mx_checkpoint_args open = DSV4MX_CHECKPOINT_ARGS_INIT;
  open.threads = 65;
  REQUIRE_REFUSED(dsv4mx_checkpoint_create(folder.path().c_str(), &open, &none), kCode,
                  "threads is 65,0..64");
  open.threads = 0;
  open.read_policy = 1;
  REQUIRE_REFUSED(dsv4mx_checkpoint_create(folder.path().c_str(), &open, &none), kCode,
                  "read_policy is 1,0 (DEFAULT)");
  const LayerPtr layer = MakeLayer(ContextOf(c.p), DescOf(c));
  dsv4mx_load_args load = DSV4MX_LOAD_ARGS_INIT;
  load.staging_bytes = -1;
  REQUIRE_REFUSED(dsv4mx_weights_load(MakeWeights(layer.get()).get(), checkpoint.get(), Block(0),
                                      &load, nullptr),
                  kCode, "staging_bytes is -1,or more");
}

TEST_CASE("[J5] copies of an expert come from one place of the file", "[checkpoint]") {
  const Case c = MakeCase(kText);
  TempFolder folder;
  const std::string path = folder / "m.safetensors";
  for (const bool fused : {false, true}) {
    WriteFile(path, SafetensorsFile(fused ? FusedFile(c, "layers.0.ffn.")
                                          : SeparateFile(c, "layers.0.ffn.")));
    dsv4mx_layer_desc desc = DescOf(c);
    const int32_t placement[] = {9, 2, 9, 5, 2};
    desc.experts = 5;
    desc.experts_global = 11;
    desc.placement = placement;
    desc.w13_order = DSV4MX_W13_ORDER_UNSET;
    Inputs masked = c.in;
    for (int64_t& id : masked.ids) id = id == 9 || id == 2 || id == 5 ? id : -1;
    CHECK(CheckSame(Runner(c).Apply(masked), LoadAndApply(c, desc, path, 0)) == "");
  }
}

TEST_CASE("shapes that name more experts than there can be are refused at once", "[checkpoint]") {
  TempFolder folder;
  const std::string path = folder / "m.safetensors";
  const std::string stem = "layers.0.ffn.experts.";
  const int64_t experts = 2147483647, rows = 2;  // a file that is nearly all hole
  std::string header = "{";
  int64_t at = 0;
  const auto add = [&](const char* name, const char* dtype, int64_t n, int64_t k) {
    const int64_t end = at + experts * n * k;
    header += (header.size() > 1 ? ",\"" : "\"") + stem + name + "\":{\"dtype\":\"" + dtype +
              "\",\"shape\":[" + std::to_string(experts) + "," + std::to_string(n) + "," +
              std::to_string(k) + "],\"data_offsets\":[" + std::to_string(at) + "," +
              std::to_string(end) + "]}";
    at = end;
  };
  add("w13_weight", "I8", rows, 16);
  add("w13_weight_scale", "F8_E8M0", rows, 1);
  add("w2_weight", "I8", 32, 16);
  add("w2_weight_scale", "F8_E8M0", 32, 1);
  header += "}";
  WriteFile(path, WithHeader(header, ""));
  std::filesystem::resize_file(path, 8 + header.size() + static_cast<uint64_t>(at));
  dsv4mx_layer_desc desc = DescOf(MakeCase(kText));
  const auto begin = std::chrono::steady_clock::now();
  REQUIRE_REFUSED(dsv4mx_checkpoint_query_layer(Open(path).get(), Block(0), &desc),
                  DSV4MX_STATUS_FORMAT_ERROR, "no number of experts");
  const LayerPtr layer = MakeLayer(CpuContext(), DescOf(MakeCase(kText)));
  REQUIRE_REFUSED(dsv4mx_weights_load(MakeWeights(layer.get()).get(), Open(path).get(), Block(0),
                                      nullptr, nullptr),
                  DSV4MX_STATUS_FORMAT_ERROR, "no number of experts");
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(2));
}

TEST_CASE("tensors of a checkpoint by name and by index", "[checkpoint]") {
  TempFolder folder;
  WriteFile(
      folder / "m.safetensors",
      SafetensorsFile({{"b", "BF16", {2, 3}}, {"a", "I8", {5}}, {"deep", "U8", {1, 1, 1, 1, 2}}}));
  const CheckpointPtr checkpoint = Open(folder.path());
  REQUIRE(dsv4mx_checkpoint_get_count(checkpoint.get()) == 3);
  CHECK(std::string(dsv4mx_checkpoint_get_name(checkpoint.get(), 0)) == "a");
  CHECK(std::string(dsv4mx_checkpoint_get_name(checkpoint.get(), 2)) == "deep");
  CHECK(dsv4mx_checkpoint_get_name(checkpoint.get(), 3) == nullptr);
  CHECK(dsv4mx_checkpoint_get_name(checkpoint.get(), -1) == nullptr);
  CHECK(dsv4mx_checkpoint_get_count(nullptr) == 0);
  CHECK(dsv4mx_checkpoint_get_name(nullptr, 0) == nullptr);
  dsv4mx_checkpoint_destroy(nullptr);

  dsv4mx_tensor tensor{};
  tensor.struct_size = sizeof tensor;
  REQUIRE_OK(dsv4mx_checkpoint_get_tensor(checkpoint.get(), "b", &tensor));
  CHECK(tensor.dtype == DSV4MX_DTYPE_BF16);
  CHECK(tensor.rank == 2);
  CHECK(tensor.shape[1] == 3);
  CHECK(static_cast<const uint8_t*>(tensor.data)[11] == 11);
  CHECK(reinterpret_cast<uintptr_t>(tensor.data) % 2 == 1);
  REQUIRE_REFUSED(dsv4mx_checkpoint_get_tensor(checkpoint.get(), "c", &tensor),
                  DSV4MX_STATUS_NOT_FOUND, "no tensor 'c'");
  REQUIRE_REFUSED(dsv4mx_checkpoint_get_tensor(checkpoint.get(), "deep", &tensor),
                  DSV4MX_STATUS_UNSUPPORTED_SHAPE, "deep,rank 5,at most 4");
  tensor.struct_size = 3;
  REQUIRE_REFUSED(dsv4mx_checkpoint_get_tensor(checkpoint.get(), "b", &tensor),
                  DSV4MX_STATUS_INVALID_STRUCT, "3");
}

int32_t StopAtSecond(void* calls, dsv4mx_stage stage, int64_t done, int64_t total) {
  CHECK(stage == DSV4MX_STAGE_LOAD);
  CHECK(done >= 0);
  CHECK(done <= total);
  return ++*static_cast<int*>(calls) == 2;
}

int32_t Count(void* calls, dsv4mx_stage, int64_t, int64_t) {
  ++*static_cast<int*>(calls);
  return 0;
}

TEST_CASE("what a load refuses, and that it can be repeated", "[checkpoint]") {
  const Case c = MakeCase(kText);
  TempFolder folder;
  const std::string path = folder / "m.safetensors";
  std::vector<FileTensor> tensors = SeparateFile(c, "layers.0.ffn.");
  WriteFile(path, SafetensorsFile(tensors));
  const CheckpointPtr checkpoint = Open(path);
  const LayerPtr layer = MakeLayer(ContextOf(c.p), DescOf(c));
  const WeightsPtr weights = MakeWeights(layer.get());
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  dsv4mx_load_args args = DSV4MX_LOAD_ARGS_INIT;
  int calls = 0;
  control.progress = StopAtSecond;
  control.progress_user = &calls;
  args.control = &control;
  REQUIRE_REFUSED(dsv4mx_weights_load(weights.get(), checkpoint.get(), Block(0), &args, nullptr),
                  DSV4MX_STATUS_CANCELLED, "cancelled,bytes read");
  REQUIRE_REFUSED(dsv4mx_weights_load(weights.get(), checkpoint.get(), Block(1), nullptr, nullptr),
                  DSV4MX_STATUS_NOT_FOUND, "layers.1,layers 0");
  REQUIRE_REFUSED(dsv4mx_weights_load(nullptr, checkpoint.get(), Block(0), nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "weights");
  REQUIRE_REFUSED(dsv4mx_weights_load(weights.get(), nullptr, Block(0), nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "checkpoint");
  calls = 0;
  control.progress = Count;
  REQUIRE_OK(dsv4mx_weights_load(weights.get(), checkpoint.get(), Block(0), &args, nullptr));
  CHECK(calls >= 2);
  REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr));
  const Output y = ApplyGuarded(ContextOf(c.p), layer.get(), weights.get(), c.p, c.in);
  CHECK(CheckSame(Runner(c).Apply(), y) == "");
  REQUIRE_REFUSED(dsv4mx_weights_load(weights.get(), checkpoint.get(), Block(0), nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_STATE, "prepared");

  // A layer of other sizes, and a scale byte that is NaN, named with its place.
  const LayerPtr other = MakeLayer(ContextOf(c.p), DescOf(MakeCase("h=64 i=64 e=11 k=3")));
  REQUIRE_REFUSED(dsv4mx_weights_load(MakeWeights(other.get()).get(), checkpoint.get(), Block(0),
                                      nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_TENSOR, "hidden 96,64");
  for (FileTensor& tensor : tensors) {
    if (tensor.name == "layers.0.ffn.experts.7.w3.scale") tensor.bytes[3 * 5 + 2] = '\xff';
  }
  WriteFile(folder / "nan.safetensors", SafetensorsFile(tensors));
  REQUIRE_REFUSED(
      dsv4mx_weights_load(MakeWeights(layer.get()).get(), Open(folder / "nan.safetensors").get(),
                          Block(0), nullptr, nullptr),
      DSV4MX_STATUS_INVALID_SCALE, "255,expert 7,row 5,group 2");

  dsv4mx_checkpoint* none = checkpoint.get();
  REQUIRE_REFUSED(dsv4mx_checkpoint_create((folder / "none").c_str(), nullptr, &none),
                  DSV4MX_STATUS_IO_ERROR, "none,No such file");
  CHECK(none == nullptr);
  REQUIRE_REFUSED(dsv4mx_checkpoint_create(nullptr, nullptr, &none), DSV4MX_STATUS_INVALID_ARGUMENT,
                  "path");
  REQUIRE_REFUSED(dsv4mx_checkpoint_create("x", nullptr, nullptr), DSV4MX_STATUS_INVALID_ARGUMENT,
                  "out");
}

TEST_CASE("[F1] blocks, checkpoint arguments and staging are checked", "[checkpoint]") {
  TempFolder folder;
  const std::string path = folder / "m.safetensors";
  WriteFile(path, SafetensorsFile({{"x", "F32", {1}}}));
  const CheckpointPtr checkpoint = Open(path);
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  const auto refused = [&](int32_t kind, int32_t index, const char* prefix, const char* words) {
    dsv4mx_block block = DSV4MX_BLOCK_INIT;
    block.kind = kind, block.index = index, block.prefix = prefix;
    REQUIRE_REFUSED(dsv4mx_checkpoint_query_layer(checkpoint.get(), &block, &desc),
                    DSV4MX_STATUS_INVALID_ARGUMENT, words);
  };
  refused(9, 0, nullptr, "kind of block,9");
  refused(DSV4MX_BLOCK_LAYER, -1, nullptr, "index of block,-1");
  refused(DSV4MX_BLOCK_PREFIX, 1, "layers.0.", "index of block,1,0 with PREFIX");
  refused(DSV4MX_BLOCK_PREFIX, 0, nullptr, "prefix of block,NULL");

  dsv4mx_checkpoint* none = checkpoint.get();
  dsv4mx_checkpoint_args args = DSV4MX_CHECKPOINT_ARGS_INIT;
  args.threads = 65;
  REQUIRE_REFUSED(dsv4mx_checkpoint_create(path.c_str(), &args, &none),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "threads,65,64");
  CHECK(none == nullptr);
  args.threads = 0, args.read_policy = 3;
  REQUIRE_REFUSED(dsv4mx_checkpoint_create(path.c_str(), &args, &none),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "read_policy,3");

  const LayerPtr layer = MakeLayer(CpuContext(), DescOf(MakeCase("h=64 i=32 e=3 k=2")));
  dsv4mx_load_args load = DSV4MX_LOAD_ARGS_INIT;
  load.staging_bytes = -1;
  REQUIRE_REFUSED(dsv4mx_weights_load(MakeWeights(layer.get()).get(), checkpoint.get(), Block(0),
                                      &load, nullptr),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "staging_bytes,-1");
}

}  // namespace
}  // namespace dsv4mx::test
