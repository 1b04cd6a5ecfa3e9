// The blocks of a checkpoint and what a whole model needs: in the promised order, under every writer's names, and with
// figures that are those of the layers themselves.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/catch.h"
#include "tests/runner.h"
#include "tests/safetensors_file.h"

namespace dsv4mx::test {
namespace {

struct DestroyCheckpoint {
  void operator()(dsv4mx_checkpoint* p) const { dsv4mx_checkpoint_destroy(p); }
};
using CheckpointPtr = std::unique_ptr<dsv4mx_checkpoint, DestroyCheckpoint>;
using Items = std::vector<FileTensor>;

CheckpointPtr Open(const std::string& path, const char* prefix = nullptr) {
  dsv4mx_checkpoint* checkpoint = nullptr;
  dsv4mx_checkpoint_args args = DSV4MX_CHECKPOINT_ARGS_INIT;
  args.prefix = prefix;
  Must(dsv4mx_checkpoint_create(path.c_str(), &args, &checkpoint), "checkpoint_create");
  return CheckpointPtr(checkpoint);
}

CheckpointPtr Write(const TempFolder& folder, const Items& items) {
  WriteFile(folder / "m.safetensors", SafetensorsFile(items));
  return Open(folder.path());
}

struct Sizes {
  int64_t experts, hidden, intermediate;
};

// Bytes of an expert's codes and scales.
int64_t ExpertBytes(const Sizes& s) {
  return 3 * s.hidden * s.intermediate * 17 / 32;
}

// Each expert's own tensors, as DeepSeek writes them.
void AddSeparate(Items* items, const std::string& stem, const Sizes& s, int64_t first = 0) {
  for (int64_t e = first; e < first + s.experts; ++e) {
    for (const char* w : {"w1", "w2", "w3"}) {
      const bool down = w[1] == '2';
      const int64_t rows = down ? s.hidden : s.intermediate, k = down ? s.intermediate : s.hidden;
      const std::string name = stem + "experts." + std::to_string(e) + "." + w;
      const auto bytes = [](int64_t n) { return std::string(static_cast<size_t>(n), 'x'); };
      items->push_back({name + ".weight", "I8", {rows, k / 2}, bytes(rows * k / 2)});
      items->push_back({name + ".scale", "F8_E8M0", {rows, k / 32}, bytes(rows * k / 32)});
    }
  }
}

struct Writer {
  const char* name;
  const char* gate_up[2];  // [0] fused or gate, [1] "" or up
  const char* down;
  const char* scales[2];  // replace ".weight" or "_blocks" or what the names above end with
  const char* codes;      // dtype
  int64_t pack;           // values an item
};

// All experts in one tensor, or each in its own, under the names of one writer. `%` stands for the expert and a dot.
void AddNamed(Items* items, const std::string& stem, const Writer& w, const Sizes& s) {
  const bool each = std::strchr(w.gate_up[0], '%') != nullptr;
  for (int64_t e = 0; e < (each ? s.experts : 1); ++e) {
    const auto add = [&](std::string name, int64_t rows, int64_t k) {
      if (each) name.replace(name.find('%'), 1, std::to_string(e) + ".");
      std::vector<int64_t> codes = {rows, k / w.pack}, scales = {rows, k / 32};
      if (w.pack == 16) codes = {rows, k / 32, 16};
      if (!each) codes.insert(codes.begin(), s.experts), scales.insert(scales.begin(), s.experts);
      items->push_back({stem + name, w.codes, codes});
      name.replace(name.rfind(w.scales[0]), std::strlen(w.scales[0]), w.scales[1]);
      items->push_back({stem + name, "U8", scales});
    };
    const bool fused = w.gate_up[1][0] == '\0';
    add(w.gate_up[0], (fused ? 2 : 1) * s.intermediate, s.hidden);
    if (!fused) add(w.gate_up[1], s.intermediate, s.hidden);
    add(w.down, s.hidden, s.intermediate);
  }
}

std::string BlockAt(const dsv4mx_checkpoint* checkpoint, int64_t index) {
  dsv4mx_block block = DSV4MX_BLOCK_INIT;
  Must(dsv4mx_checkpoint_get_block(checkpoint, index, &block), "get_block");
  constexpr const char* kKinds[] = {"layer ", "mtp ", "prefix "};
  return kKinds[block.kind] + std::to_string(block.index) + " " + block.prefix;
}

std::vector<std::string> Blocks(const dsv4mx_checkpoint* checkpoint) {
  std::vector<std::string> all;
  for (int64_t i = 0; i < dsv4mx_checkpoint_get_block_count(checkpoint); ++i) {
    all.push_back(BlockAt(checkpoint, i));
  }
  return all;
}

dsv4mx_model_info QueryModel(const dsv4mx_checkpoint* checkpoint, const dsv4mx_model_args* args) {
  dsv4mx_model_info info = DSV4MX_MODEL_INFO_INIT;
  Must(dsv4mx_checkpoint_query_model(checkpoint, CpuContext(), args, &info), "query_model");
  return info;
}

// What the header promises, computed from layers made one by one.
dsv4mx_model_info Expected(const dsv4mx_checkpoint* checkpoint, const dsv4mx_layer_desc& options,
                           int32_t tp, int32_t ep, int64_t tokens) {
  dsv4mx_model_info want = DSV4MX_MODEL_INFO_INIT;
  for (int64_t i = 0; i < dsv4mx_checkpoint_get_block_count(checkpoint); ++i) {
    dsv4mx_block block = DSV4MX_BLOCK_INIT;
    Must(dsv4mx_checkpoint_get_block(checkpoint, i, &block), "get_block");
    dsv4mx_layer_desc desc = options;
    Must(dsv4mx_checkpoint_query_layer(checkpoint, &block, &desc), "query_layer");
    desc.experts = (desc.experts + ep - 1) / ep;
    desc.top_k = std::min(desc.top_k, desc.experts_global);
    desc.tp_size = tp;
    if (desc.intermediate % (32 * tp) != 0) {  // rank 0 of an uneven cut has the larger part
      desc.intermediate_count = (desc.intermediate / 32 + tp - 1) / tp * 32;
    }
    const LayerPtr layer = MakeLayer(CpuContext(), desc);
    dsv4mx_layer_info info = DSV4MX_LAYER_INFO_INIT;
    Must(dsv4mx_layer_query(layer.get(), &info), "layer_query");
    want.blocks += 1;
    want.prepared_bytes += info.prepared_bytes;
    want.largest_block_bytes = std::max(want.largest_block_bytes, info.prepared_bytes);
    want.peak_extra_bytes = std::max(want.peak_extra_bytes, info.peak_extra_bytes);
    want.workspace_bytes =
        std::max(want.workspace_bytes, static_cast<int64_t>(WorkspaceBytes(layer.get(), tokens)));
  }
  return want;
}

void CheckFigures(const dsv4mx_model_info& got, const dsv4mx_model_info& want) {
  CHECK(got.blocks == want.blocks);
  CHECK(got.prepared_bytes == want.prepared_bytes);
  CHECK(got.largest_block_bytes == want.largest_block_bytes);
  CHECK(got.peak_extra_bytes == want.peak_extra_bytes);
  CHECK(got.workspace_bytes == want.workspace_bytes);
}

TEST_CASE("blocks in order, each of which names itself in other calls", "[model]") {
  TempFolder folder;
  Items items;
  const Sizes s = {2, 64, 32};
  for (const char* stem : {"model.layers.10.mlp.", "model.layers.2.mlp.", "tower.layers.2.mlp.",
                           "mtp.1.ffn.", "model.mtp.layers.0.ffn.", "draft.mlp.", "a.b."}) {
    AddSeparate(&items, stem, s);
  }
  items.push_back({"model.layers.7.mlp.gate.weight", "BF16", {2, 64}});         // no experts
  items.push_back({"model.layers.8.mlp.shared_experts.w1.weight", "I8", {4}});  // none of these
  const CheckpointPtr checkpoint = Write(folder, items);
  CHECK(Blocks(checkpoint.get()) ==
        std::vector<std::string>{"layer 2 model.layers.2.mlp.", "layer 2 tower.layers.2.mlp.",
                                 "layer 10 model.layers.10.mlp.", "mtp 0 model.mtp.layers.0.ffn.",
                                 "mtp 1 mtp.1.ffn.", "prefix 0 a.b.", "prefix 0 draft.mlp."});
  for (int64_t i = 0; i < 7; ++i) {
    CAPTURE(i);
    dsv4mx_block block = DSV4MX_BLOCK_INIT;
    REQUIRE_OK(dsv4mx_checkpoint_get_block(checkpoint.get(), i, &block));
    dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
    REQUIRE_OK(dsv4mx_checkpoint_query_layer(checkpoint.get(), &block, &desc));
    CHECK(desc.hidden == 64);
    desc.top_k = 2;
    const LayerPtr layer = MakeLayer(CpuContext(), desc);
    const WeightsPtr weights = MakeWeights(layer.get());
    REQUIRE_OK(dsv4mx_weights_load(weights.get(), checkpoint.get(), &block, nullptr, nullptr));
  }
  // Without a prefix it is not said which of two is meant; a prefix must be one that has the number.
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  REQUIRE_REFUSED(dsv4mx_checkpoint_query_layer(checkpoint.get(), Block(2), &desc),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "layers.2 stands under 2 prefixes");
  dsv4mx_block block = DSV4MX_BLOCK_INIT;
  block.index = 2;
  for (const char* prefix : {"tower.layers.2.mlp", "tower.layers.2.mlp.experts."}) {
    block.prefix = prefix;
    REQUIRE_OK(dsv4mx_checkpoint_query_layer(checkpoint.get(), &block, &desc));
  }
  for (const char* prefix : {"model.layers.10.mlp.", "mtp.1.ffn.", "tower."}) {
    block.prefix = prefix;
    REQUIRE_REFUSED(dsv4mx_checkpoint_query_layer(checkpoint.get(), &block, &desc),
                    DSV4MX_STATUS_NOT_FOUND, std::string("layers.2 under '") + prefix + "'");
  }
  // Only what a prefix lets see.
  CHECK(Blocks(Open(folder.path(), "model.").get()).size() == 3);
}

TEST_CASE("blocks of every writer, and figures of the layers themselves", "[model]") {
  const Sizes s = {6, 96, 64};
  const Writer writers[] = {
      {"DeepSeek",
       {"experts.%w1.weight", "experts.%w3.weight"},
       "experts.%w2.weight",
       {".weight", ".scale"},
       "I8",
       2},
      {"Hugging Face",
       {"experts.%gate_proj.weight", "experts.%up_proj.weight"},
       "experts.%down_proj.weight",
       {".weight", ".weight_scale"},
       "U8",
       2},
      {"compressed-tensors",
       {"experts.%gate_proj.weight_packed", "experts.%up_proj.weight_packed"},
       "experts.%down_proj.weight_packed",
       {".weight_packed", ".weight_scale"},
       "U8",
       2},
      {"SGLang",
       {"experts.w13_weight", ""},
       "experts.w2_weight",
       {"_weight", "_weight_scale"},
       "U8",
       2},
      {"vLLM",
       {"experts.w13_weight", ""},
       "experts.w2_weight",
       {"_weight", "_weight_scale_inv"},
       "F4",
       1},
      {"GPT-OSS",
       {"experts.gate_up_proj_blocks", ""},
       "experts.down_proj_blocks",
       {"_blocks", "_scales"},
       "U8",
       16},
      {"MLX",
       {"switch_mlp.gate_proj.weight", "switch_mlp.up_proj.weight"},
       "switch_mlp.down_proj.weight",
       {".weight", ".scales"},
       "U32",
       8},
  };
  for (const Writer& w : writers) {
    CAPTURE(w.name);
    TempFolder folder;
    Items items;
    for (const int n : {0, 1, 12}) {
      AddNamed(&items, "model.layers." + std::to_string(n) + ".mlp.", w, s);
    }
    AddNamed(&items, "mtp.0.mlp.", w, {3, 96, 64});  // a draft block with fewer experts
    const CheckpointPtr checkpoint = Write(folder, items);
    REQUIRE(Blocks(checkpoint.get()) ==
            std::vector<std::string>{"layer 0 model.layers.0.mlp.", "layer 1 model.layers.1.mlp.",
                                     "layer 12 model.layers.12.mlp.", "mtp 0 mtp.0.mlp."});
    dsv4mx_layer_desc options = DSV4MX_LAYER_DESC_INIT;
    options.top_k = 4;
    dsv4mx_model_args args = DSV4MX_MODEL_ARGS_INIT;
    args.layer = &options;
    for (const int32_t tp : {1, 2}) {
      for (const int32_t ep : {1, 2, 4}) {
        CAPTURE(tp, ep);
        args.tp_size = tp;
        args.ep_size = ep;
        args.max_tokens = 64;
        const dsv4mx_model_info got = QueryModel(checkpoint.get(), &args);
        CheckFigures(got, Expected(checkpoint.get(), options, tp, ep, 64));
        CHECK(got.source_bytes == (3 * 6 + 3) * ExpertBytes(s));  // all ranks'
      }
    }
  }
}

TEST_CASE("a model of several sizes, uneven cuts and options", "[model]") {
  TempFolder folder;
  Items items;
  AddSeparate(&items, "layers.0.ffn.", {8, 64, 288});
  AddSeparate(&items, "layers.1.ffn.", {8, 64, 288});
  AddSeparate(&items, "mtp.0.ffn.", {4, 128, 96});
  items.push_back({"layers.0.ffn.gate.weight", "BF16", {8, 64}});
  const CheckpointPtr checkpoint = Write(folder, items);
  dsv4mx_layer_desc options = DSV4MX_LAYER_DESC_INIT;
  options.top_k = 3;
  dsv4mx_model_args args = DSV4MX_MODEL_ARGS_INIT;
  args.layer = &options;
  SECTION("defaults") {
    const dsv4mx_model_info got = QueryModel(checkpoint.get(), &args);
    CheckFigures(got, Expected(checkpoint.get(), options, 1, 1, 4096));
    CHECK(got.source_bytes == 16 * ExpertBytes({8, 64, 288}) + 4 * ExpertBytes({4, 128, 96}));
    CHECK(got.total_bytes > 0);
    CHECK(got.free_bytes > 0);
    CHECK(got.blocks_fitting == 3);
  }
  SECTION("uneven tensor parallel: rank 0 has the larger part") {
    for (const int32_t tp : {2, 3}) {
      CAPTURE(tp);
      args.tp_size = tp;
      CheckFigures(QueryModel(checkpoint.get(), &args),
                   Expected(checkpoint.get(), options, tp, 1, 4096));
    }
  }
  SECTION("options that change sizes") {
    options.slot_dtype = DSV4MX_DTYPE_F32;
    options.out_dtype = DSV4MX_DTYPE_F32;
    options.compute = DSV4MX_COMPUTE_W4A8;
    args.max_tokens = 1;
    CheckFigures(QueryModel(checkpoint.get(), &args), Expected(checkpoint.get(), options, 1, 1, 1));
  }
  SECTION("sizes and partition of the options are ignored") {
    const dsv4mx_model_info want = QueryModel(checkpoint.get(), &args);
    const int32_t placement[] = {7};
    options.hidden = 7, options.intermediate = 9, options.experts = 100;
    options.expert_first = 5, options.experts_global = 2, options.placement = placement;
    options.physical_first = 3, options.physical_global = 4;
    options.flags = DSV4MX_LAYER_PHYSICAL_IDS;
    options.tp_rank = 6, options.tp_size = 2, options.intermediate_first = 11;
    options.intermediate_count = 13, options.w13_bias = DSV4MX_DTYPE_BF16;
    options.w2_bias = DSV4MX_DTYPE_F32, options.group_size = 16, options.w13_order = 3;
    CheckFigures(QueryModel(checkpoint.get(), &args), want);
  }
  SECTION("experts per token: given, else of the config, else the most") {
    options.top_k = 0;
    const auto same_as = [&](int32_t top_k) {
      dsv4mx_layer_desc with = options;
      with.top_k = top_k;
      const dsv4mx_model_info want = Expected(checkpoint.get(), with, 1, 1, 4096);
      CheckFigures(QueryModel(checkpoint.get(), &args), want);
      CheckFigures(QueryModel(checkpoint.get(), nullptr), want);
    };
    same_as(16);
    WriteFile(folder / "config.json", R"({"num_experts_per_tok":2})");
    same_as(2);
    WriteFile(folder / "config.json", R"({"num_experts_per_tok":"two"})");
    dsv4mx_model_info info = DSV4MX_MODEL_INFO_INIT;
    REQUIRE_REFUSED(dsv4mx_checkpoint_query_model(checkpoint.get(), CpuContext(), &args, &info),
                    DSV4MX_STATUS_FORMAT_ERROR, "num_experts_per_tok");
    options.top_k = 2;  // then nobody asks it
    CheckFigures(QueryModel(checkpoint.get(), &args),
                 Expected(checkpoint.get(), options, 1, 1, 4096));
  }
}

TEST_CASE("a rank's file is asked for what it holds", "[model]") {
  TempFolder folder;
  Items items;
  AddSeparate(&items, "layers.3.ffn.", {4, 64, 32}, 8);
  items.push_back({"layers.3.ffn.gate.weight", "BF16", {16, 64}});
  const CheckpointPtr checkpoint = Write(folder, items);
  dsv4mx_layer_desc options = DSV4MX_LAYER_DESC_INIT;
  options.top_k = 6;
  dsv4mx_model_args args = DSV4MX_MODEL_ARGS_INIT;
  args.layer = &options;
  const dsv4mx_model_info got = QueryModel(checkpoint.get(), &args);
  CheckFigures(got, Expected(checkpoint.get(), options, 1, 1, 4096));
  CHECK(got.source_bytes == 4 * ExpertBytes({4, 64, 32}));
}

TEST_CASE("what a model query refuses begins with the block", "[model]") {
  TempFolder folder;
  Items items;
  AddSeparate(&items, "model.layers.0.ffn.", {4, 64, 96});
  AddSeparate(&items, "model.layers.1.ffn.", {4, 64, 96});
  CheckpointPtr checkpoint = Write(folder, items);
  dsv4mx_layer_desc options = DSV4MX_LAYER_DESC_INIT;
  options.top_k = 2;
  dsv4mx_model_args args = DSV4MX_MODEL_ARGS_INIT;
  args.layer = &options;
  dsv4mx_model_info info = DSV4MX_MODEL_INFO_INIT;
  const auto query = [&] {
    info = DSV4MX_MODEL_INFO_INIT;
    info.blocks = 77;
    const dsv4mx_status status =
        dsv4mx_checkpoint_query_model(checkpoint.get(), CpuContext(), &args, &info);
    if (status != DSV4MX_STATUS_OK) CHECK(info.blocks == 0);
    return status;
  };
  const auto begins = [&](const char* text) {
    CHECK(std::string(dsv4mx_last_error()).rfind(text, 0) == 0);
  };
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  args.tp_size = -1;
  REQUIRE_REFUSED(query(), kCode, "tp_size is -1");
  args.tp_size = 4;
  REQUIRE_REFUSED(query(), DSV4MX_STATUS_UNSUPPORTED_SHAPE, "tp_size is 4,96 has 3 groups");
  begins("layers.0 under 'model.layers.0.ffn.': ");
  args.tp_size = 3;
  REQUIRE_OK(query());
  args.ep_size = -2;
  REQUIRE_REFUSED(query(), kCode, "ep_size is -2");
  args.ep_size = 9;  // more ranks than experts: some hold none, rank 0 one
  REQUIRE_OK(query());
  args.max_tokens = 131073;
  REQUIRE_REFUSED(query(), kCode, "max_tokens is 131073,131072");
  args.max_tokens = -1;
  REQUIRE_REFUSED(query(), kCode, "max_tokens is -1");
  args.max_tokens = 131072;
  REQUIRE_OK(query());
  options.top_k = 17;
  options.out_dtype = DSV4MX_DTYPE_F16;
  REQUIRE_REFUSED(query(), DSV4MX_STATUS_UNSUPPORTED_DTYPE, "out_dtype");
  begins("layers.0");
  options = DSV4MX_LAYER_DESC_INIT;
  options.top_k = 1;

  // Blocks of other formats, and one that is not whole.
  items.push_back({"model.layers.2.ffn.experts.0.w1.weight", "F8_E4M3", {32, 64}});
  items.push_back({"model.layers.2.ffn.experts.0.w1.scale", "F32", {1, 1}});
  checkpoint = Write(folder, items);
  REQUIRE_REFUSED(query(), DSV4MX_STATUS_UNSUPPORTED_DTYPE, "FP8 experts");
  begins("layers.2 under 'model.layers.2.ffn.': ");
  items.resize(items.size() - 2);
  items.push_back({"mtp.0.ffn.experts.0.w1.weight", "I8", {32, 32}});
  checkpoint = Write(folder, items);
  REQUIRE_REFUSED(query(), DSV4MX_STATUS_NOT_FOUND, "mtp.0.ffn.experts.0.w1.scale,is missing");
  begins("mtp.0 under 'mtp.0.ffn.': ");

  checkpoint = Write(folder, {{"embed.weight", "BF16", {4, 64}}});
  CHECK(dsv4mx_checkpoint_get_block_count(checkpoint.get()) == 0);
  REQUIRE_REFUSED(query(), DSV4MX_STATUS_NOT_FOUND, "no tensor's name has 'experts.'");

  const auto model = [&](const dsv4mx_checkpoint* from, const dsv4mx_context* on,
                         dsv4mx_model_info* to) {
    return dsv4mx_checkpoint_query_model(from, on, &args, to);
  };
  REQUIRE_REFUSED(model(nullptr, CpuContext(), &info), kCode, "checkpoint is NULL");
  REQUIRE_REFUSED(model(checkpoint.get(), nullptr, &info), kCode, "context is NULL");
  REQUIRE_REFUSED(model(checkpoint.get(), CpuContext(), nullptr), kCode, "out is NULL");
  options.struct_size = 3;
  REQUIRE_REFUSED(query(), DSV4MX_STATUS_INVALID_STRUCT, "layer");
}

TEST_CASE("arguments of get_block", "[model]") {
  TempFolder folder;
  Items items;
  AddSeparate(&items, "layers.0.ffn.", {1, 32, 32});
  const CheckpointPtr checkpoint = Write(folder, items);
  dsv4mx_block block = DSV4MX_BLOCK_INIT;
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  CHECK(dsv4mx_checkpoint_get_block_count(nullptr) == 0);
  for (const int64_t index : {int64_t{-1}, int64_t{1}, INT64_MAX}) {
    block = DSV4MX_BLOCK_INIT;
    block.index = 5;
    REQUIRE_REFUSED(dsv4mx_checkpoint_get_block(checkpoint.get(), index, &block), kCode,
                    "index is " + std::to_string(index) + ",1 blocks");
    CHECK(block.index == 0);
    CHECK(block.prefix == nullptr);
  }
  REQUIRE_REFUSED(dsv4mx_checkpoint_get_block(nullptr, 0, &block), kCode, "checkpoint is NULL");
  REQUIRE_REFUSED(dsv4mx_checkpoint_get_block(checkpoint.get(), 0, nullptr), kCode, "out is NULL");
  block.struct_size = 7;
  REQUIRE_REFUSED(dsv4mx_checkpoint_get_block(checkpoint.get(), 0, &block),
                  DSV4MX_STATUS_INVALID_STRUCT, "out");
}

TEST_CASE("an index answers for its blocks before their shards are there", "[model]") {
  TempFolder folder;
  std::string map;
  for (int layer = 0; layer < 43; ++layer) {
    for (int e = 0; e < 2; ++e) {
      for (const char* part : {"w1.weight", "w1.scale", "w2.weight"}) {
        map += (map.empty() ? "" : ",") + std::string("\"layers.") + std::to_string(layer) +
               ".ffn.experts." + std::to_string(e) + "." + part + "\":\"model-" +
               std::to_string(layer) + ".safetensors\"";
      }
    }
  }
  WriteFile(folder / "model.safetensors.index.json", R"({"weight_map":{)" + map + "}}");
  const CheckpointPtr checkpoint = Open(folder.path());
  CHECK(dsv4mx_checkpoint_get_block_count(checkpoint.get()) == 43);
  CHECK(BlockAt(checkpoint.get(), 42) == "layer 42 layers.42.ffn.");
  dsv4mx_model_info info = DSV4MX_MODEL_INFO_INIT;
  REQUIRE_REFUSED(dsv4mx_checkpoint_query_model(checkpoint.get(), CpuContext(), nullptr, &info),
                  DSV4MX_STATUS_IO_ERROR, "model-0.safetensors");
  CHECK(std::string(dsv4mx_last_error()).rfind("layers.0 under ", 0) == 0);
}

}  // namespace
}  // namespace dsv4mx::test
