// The experts of a block found by their names, whatever the prefix and the writer, and refused by format
// (A29).
#include "lib/io/expert_tensors.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dsv4mx.h"
#include "tests/catch.h"
#include "tests/safetensors_file.h"

namespace {

using dsv4mx::io::BlockName;
using dsv4mx::io::Checkpoint;
using dsv4mx::io::LayerNames;
using dsv4mx::io::LayerTensors;
using dsv4mx::test::TempFolder;
using Item = dsv4mx::test::FileTensor;

bool Has(const std::string& text, const std::string& part) {
  UNSCOPED_INFO("got: " << text << "\nwanted: " << part);
  return text.find(part) != std::string::npos;
}

constexpr int64_t kH = 64;
constexpr int64_t kI = 32;

// The six tensors of an expert, as released.
void AddExpert(std::vector<Item>* items, const std::string& stem, int expert,
               const std::string& codes = "I8", const std::string& scales = "F8_E8M0") {
  const std::string e = stem + "experts." + std::to_string(expert) + ".";
  const int64_t pack = codes == "F4" ? 1 : 2;
  items->push_back({e + "w1.weight", codes, {kI, kH / pack}});
  items->push_back({e + "w1.scale", scales, {kI, kH / 32}});
  items->push_back({e + "w2.weight", codes, {kH, kI / pack}});
  items->push_back({e + "w2.scale", scales, {kH, kI / 32}});
  items->push_back({e + "w3.weight", codes, {kI, kH / pack}});
  items->push_back({e + "w3.scale", scales, {kI, kH / 32}});
}

struct Found {
  dsv4mx::Status status;
  std::string error;
  LayerNames parts;
  LayerTensors layer;
  std::vector<std::string> names;
};

BlockName Block(int32_t layer) {
  return layer >= 0 ? BlockName{BlockName::kLayer, layer} : BlockName{BlockName::kMtp, -1 - layer};
}

// All experts from 0 to the last of the file.
Found Find(const std::vector<Item>& items, const BlockName& block) {
  TempFolder folder;
  dsv4mx::test::WriteFile(folder / "m.safetensors", dsv4mx::test::SafetensorsFile(items));
  std::unique_ptr<Checkpoint> checkpoint;
  REQUIRE(Checkpoint::Open(folder.path().c_str(), {}, &checkpoint).ok());
  Found found;
  found.status = dsv4mx::io::FindLayer(*checkpoint, block, &found.parts);
  if (found.status.ok()) {
    std::vector<int64_t> ids;
    const int64_t last =
        found.parts.ids.empty() ? -1 : std::min<int64_t>(found.parts.ids.back(), 99);
    for (int64_t id = 0; id <= last; ++id) ids.push_back(id);
    found.status = dsv4mx::io::CollectTensors(*checkpoint, found.parts, ids, &found.layer);
  }
  if (!found.status.ok()) {
    found.error = dsv4mx::LastError();
    CHECK(found.layer.tensors.empty());
    CHECK(found.error.size() < 400);
    CHECK(found.error.find('\n') == std::string::npos);
  }
  for (const auto& tensor : found.layer.tensors) {
    found.names.emplace_back(tensor.place.info.name);
  }
  return found;
}
Found Find(const std::vector<Item>& items, int32_t layer) {
  return Find(items, Block(layer));
}

TEST_CASE("experts: every prefix of a layer or a draft block", "[io]") {
  const std::pair<std::string, BlockName> rows[] = {
      {"layers.0.ffn.", Block(0)},
      {"layers.42.mlp.", Block(42)},
      {"model.layers.3.ffn.", Block(3)},
      {"language_model.model.layers.3.block_sparse_moe.", Block(3)},
      {"model.language_model.layers.7.mlp.", Block(7)},
      {"backbone.layers.12.mixer.", Block(12)},
      {"layers.5.moe.", Block(5)},
      {"tower.layers.9.model.layers.5.mlp.", Block(5)},
      {"mtp.0.ffn.", Block(-1)},
      {"model.mtp.2.mlp.", Block(-3)},
      {"model.mtp.layers.1.mlp.", Block(-2)},
      {"draft.", {BlockName::kPrefix, 0, "draft."}},
      {"draft.", {BlockName::kPrefix, 0, "draft"}},
      {"draft.", {BlockName::kPrefix, 0, "draft.experts."}},
      {"layers.3.ffn.", {BlockName::kPrefix, 0, "layers.3.ffn"}},
      {"", {BlockName::kPrefix, 0, ""}},
  };
  for (const auto& [stem, block] : rows) {
    CAPTURE(stem);
    std::vector<Item> items;
    for (int e = 0; e < 12; ++e) AddExpert(&items, stem, e);
    items.push_back({stem + "shared_experts.w1.weight", "F8_E4M3", {8, 8}});
    items.push_back({stem + "gate.weight", "BF16", {12, kH}});
    const Found found = Find(items, block);
    CAPTURE(found.error);
    REQUIRE(found.status.ok());
    CHECK(found.layer.hidden == kH);
    CHECK(found.layer.intermediate == kI);
    CHECK(found.layer.all == 0);
    CHECK(found.layer.w13_order == DSV4MX_W13_ORDER_UNSET);
    CHECK(found.parts.ids.size() == 12);
    CHECK(found.parts.stem == stem);
    REQUIRE(found.names.size() == 72);
    // Experts in numeric order, gate, up, down, codes before scales.
    CHECK(found.names[12] == stem + "experts.2.w1.weight");
    CHECK(found.names[13] == stem + "experts.2.w1.scale");
    CHECK(found.names[14] == stem + "experts.2.w3.weight");
    CHECK(found.names[16] == stem + "experts.2.w2.weight");
    CHECK(found.names[66] == stem + "experts.11.w1.weight");
  }
}

TEST_CASE("[J11] experts: a block that is not there, the blocks that are", "[io]") {
  std::vector<Item> items;
  for (const char* stem : {"lm.layers.3.moe.", "lm.layers.4.moe.", "lm.layers.42.moe.",
                           "mtp.0.ffn.", "extra.", "a.layers.8.x.", "b.layers.8.x."}) {
    AddExpert(&items, stem, 0);
  }
  Found found = Find(items, 5);
  CHECK(found.status.code == DSV4MX_STATUS_NOT_FOUND);
  CHECK(Has(found.error, "no experts in layers.5; layers with experts: "));
  CHECK(Has(found.error, "layers 3, 4, 42 (lm.layers.N.moe.)"));
  CHECK(Has(found.error, "mtp 0 (mtp.N.ffn.)"));
  CHECK(Has(found.error, "prefix (extra.)"));
  found = Find(items, -2);
  CHECK(found.status.code == DSV4MX_STATUS_NOT_FOUND);
  CHECK(Has(found.error, "no experts in mtp.1"));
  found = Find(items, {BlockName::kPrefix, 0, "extr"});
  CHECK(found.status.code == DSV4MX_STATUS_NOT_FOUND);
  CHECK(Has(found.error, "no experts in 'extr'"));
  found = Find(items, 8);
  CHECK(found.status.code == DSV4MX_STATUS_INVALID_ARGUMENT);
  CHECK(Has(found.error, "layers.8 stands under 2 prefixes, 'a.layers.8.x.' and 'b.layers.8.x.'"));
  CHECK(Find(items, {BlockName::kPrefix, 0, "a.layers.8.x."}).status.ok());
  CHECK(Has(Find({{"a", "U8", {1}}}, 0).error, "no tensor's name has 'experts.' in it"));

  items.clear();
  for (int i = 0; i < 40; ++i) AddExpert(&items, "prefix" + std::to_string(i) + ".", 0);
  CHECK(Has(Find(items, 0).error, " more prefixes"));
}

TEST_CASE("experts: other spellings, the first in the table wins", "[io]") {
  std::vector<Item> items;
  const std::string e = "model.layers.1.mlp.experts.0.";
  items.push_back({e + "gate_proj.weight", "U8", {kI, kH / 2}});
  items.push_back({e + "gate_proj.weight_scale_inv", "F32", {kI, kH / 32}});
  items.push_back({e + "up_proj.weight", "F4", {kI, kH}});
  items.push_back({e + "up_proj.weight_scale", "U8", {kI, kH / 32}});
  items.push_back({e + "down_proj.weight", "I8", {kH, kI / 2}});
  items.push_back({e + "down_proj.scale", "F8_E8M0FNU", {kH, kI / 32}});
  const Found found = Find(items, 1);
  CAPTURE(found.error);
  REQUIRE(found.status.ok());
  CHECK(found.names[2] == e + "up_proj.weight");

  items.push_back({e + "w3.weight", "I8", {kI, kH / 2}});
  items.push_back({e + "w2.weight_scale", "BF16", {kH, kI / 32}});
  // Codes and scales of a matrix come from one writer: neither half of these is taken.
  const Found halves = Find(items, 1);
  REQUIRE(halves.status.ok());
  CHECK(halves.names == found.names);
  items.push_back({e + "w3.weight_scale_inv", "U8", {kI, kH / 32}});
  items.push_back({e + "w3.scale", "U8", {kI, kH / 32}});
  const Found both = Find(items, 1);
  REQUIRE(both.status.ok());
  REQUIRE(both.names.size() == 6);
  CHECK(both.names[1] == e + "gate_proj.weight_scale_inv");
  CHECK(both.names[2] == e + "w3.weight");
  CHECK(both.names[3] == e + "w3.scale");
}

TEST_CASE("experts: fused names of SGLang", "[io]") {
  const std::string stem = "model.layers.2.mlp.experts.";
  std::vector<Item> items = {{stem + "w13_weight", "I8", {5, 2 * kI, kH / 2}},
                             {stem + "w13_weight_scale_inv", "F32", {5, 2 * kI, kH / 32}},
                             {stem + "w2_weight", "I8", {5, kH, kI / 2}},
                             {stem + "w2_weight_scale", "F8_E8M0", {5, kH, kI / 32}}};
  const Found found = Find(items, 2);
  CAPTURE(found.error);
  REQUIRE(found.status.ok());
  CHECK(found.layer.w13_order == DSV4MX_W13_ORDER_GATE_UP);
  CHECK(found.layer.hidden == kH);
  CHECK(found.layer.intermediate == kI);
  CHECK(found.layer.all == 5);
  CHECK(found.parts.ids.empty());
  REQUIRE(found.names.size() == 4);
  CHECK(found.names[0] == stem + "w13_weight");
  CHECK(found.names[3] == stem + "w2_weight_scale");

  std::vector<Item> odd = items;
  odd[0].shape[1] = odd[1].shape[1] = 2 * kI + 1;
  CHECK(Has(Find(odd, 2).error, "w13_weight' has 65 rows, expected an even number"));
  odd = items;
  odd[2].shape[0] = odd[3].shape[0] = 4;
  CHECK(Has(Find(odd, 2).error, "w2_weight' has 4 experts, expected 5 as the others"));
  odd = items;
  odd[3].shape[0] = 4;
  CHECK(Has(Find(odd, 2).error, "equal expert counts"));
  odd = items;
  odd[2].shape[1] = odd[3].shape[1] = 96;
  CHECK(Has(Find(odd, 2).error, "w2_weight' has 96 rows of 32 values, expected 64 rows of 32"));
  odd = items;
  odd.erase(odd.begin() + 3);
  CHECK(Has(Find(odd, 2).error, "w2_weight_scale' is missing"));
  // A bias is told, and one that nothing takes is no silent loss.
  odd = items;
  odd.push_back({stem + "w13_bias", "BF16", {5, 2 * kI}});
  odd.push_back({stem + "w2_weight_bias", "F32", {5, kH}});
  const Found biased = Find(odd, 2);
  REQUIRE(biased.status.ok());
  CHECK(biased.layer.w13_bias == DSV4MX_DTYPE_BF16);
  CHECK(biased.layer.w2_bias == DSV4MX_DTYPE_F32);
  REQUIRE(biased.names.size() == 6);
  CHECK(biased.names[2] == stem + "w13_bias");
  odd[4].shape = {5, kI};
  CHECK(Has(Find(odd, 2).error, "w13_bias' is [5,32], expected a bias of 64 rows"));
  odd[4].dtype = "F16";
  CHECK(Has(Find(odd, 2).error, "w13_bias' is a bias of F16, wanted BF16 or F32"));
  odd = items;
  odd.push_back({stem + "gate_up_proj_bias", "BF16", {5, 2 * kI}});
  CHECK(Has(Find(odd, 2).error, "gate_up_proj_bias' is a bias without codes"));
}

TEST_CASE("[J12] experts: GPT-OSS, compressed-tensors and MLX forms", "[io]") {
  const std::string stem = "model.layers.2.mlp.experts.";
  std::vector<Item> items = {{stem + "gate_up_proj_blocks", "U8", {5, 2 * kI, kH / 32, 16}},
                             {stem + "gate_up_proj_scales", "U8", {5, 2 * kI, kH / 32}},
                             {stem + "gate_up_proj_bias", "BF16", {5, 2 * kI}},
                             {stem + "down_proj_blocks", "U8", {5, kH, kI / 32, 16}},
                             {stem + "down_proj_scales", "U8", {5, kH, kI / 32}},
                             {stem + "down_proj_bias", "BF16", {5, kH}}};
  Found found = Find(items, 2);
  CAPTURE(found.error);
  REQUIRE(found.status.ok());
  CHECK(found.layer.w13_order == DSV4MX_W13_ORDER_INTERLEAVED);
  CHECK(found.layer.hidden == kH);
  CHECK(found.layer.intermediate == kI);
  CHECK(found.layer.all == 5);
  CHECK(found.layer.w13_bias == DSV4MX_DTYPE_BF16);
  CHECK(found.layer.w2_bias == DSV4MX_DTYPE_BF16);
  CHECK(found.layer.tensors[0].rows == 2 * kI);
  CHECK(found.layer.tensors[0].row_bytes == kH / 2);

  items.clear();
  for (const char* m : {"gate_proj", "up_proj", "down_proj"}) {
    const bool down = std::string(m) == "down_proj";
    const int64_t rows = down ? kH : kI, k = down ? kI : kH;
    items.push_back({stem + "0." + m + ".weight_packed", "U8", {rows, k / 2}});
    items.push_back({stem + "0." + m + ".weight_scale", "U8", {rows, k / 32}});
  }
  found = Find(items, 2);
  CAPTURE(found.error);
  REQUIRE(found.status.ok());
  CHECK(found.names[0] == stem + "0.gate_proj.weight_packed");

  for (const char* container : {"switch_mlp.", "experts."}) {
    items.clear();
    for (const char* m : {"gate_proj", "up_proj", "down_proj"}) {
      const bool down = std::string(m) == "down_proj";
      const int64_t rows = down ? kH : kI, k = down ? kI : kH;
      const std::string name = "model.layers.2.mlp." + std::string(container) + m;
      items.push_back({name + ".weight", "U32", {5, rows, k / 8}});
      items.push_back({name + ".scales", "U8", {5, rows, k / 32}});
    }
    found = Find(items, 2);
    CAPTURE(found.error);
    REQUIRE(found.status.ok());
    CHECK(found.layer.all == 5);
    CHECK(found.layer.hidden == kH);
    CHECK(found.layer.tensors[0].row_bytes == kH / 2);
    CHECK(found.layer.w13_order == DSV4MX_W13_ORDER_UNSET);
  }
}

TEST_CASE("experts: what is missing or contradicts itself is named", "[io]") {
  const std::string stem = "layers.5.ffn.";
  std::vector<Item> items;
  for (int e = 0; e < 3; ++e) AddExpert(&items, stem, e);
  Found found;
  for (size_t i = 0; i < items.size(); ++i) {
    std::vector<Item> less = items;
    less.erase(less.begin() + static_cast<std::ptrdiff_t>(i));
    found = Find(less, 5);
    CHECK(found.status.code == DSV4MX_STATUS_NOT_FOUND);
    CHECK(Has(found.error, "tensor '" + items[i].name + "' is missing"));
    std::vector<Item> other = items;
    other[i].shape[0] += 1;
    found = Find(other, 5);
    CHECK(found.status.code == DSV4MX_STATUS_FORMAT_ERROR);
    other = items;
    other[i].shape.push_back(1);
    CHECK(Find(other, 5).status.code == DSV4MX_STATUS_FORMAT_ERROR);
  }
  std::vector<Item> gap = items;
  AddExpert(&gap, stem, 4);
  CHECK(Has(Find(gap, 5).error, "experts.3.w1.weight' is missing"));
  gap = items;
  gap.push_back({stem + "experts.9999999999.w1.weight", "I8", {kI, kH / 2}});
  CHECK(Has(Find(gap, 5).error, "experts.3.w1.weight' is missing"));
  for (const char* name : {"experts.0.w1.bias", "experts.00.w1.weight", "experts.-1.w1.weight",
                           "experts.0.w4.weight", "experts.0.more.w1.weight"}) {
    std::vector<Item> more = items;
    more.push_back({stem + name, "F32", {kI}});
    found = Find(more, 5);
    CHECK(found.status.code == DSV4MX_STATUS_FORMAT_ERROR);
    CHECK(Has(found.error, std::string(name) + "' is no part of an MXFP4 expert"));
  }
}

TEST_CASE("experts: sizes that no expert has", "[io]") {
  const std::string e = "layers.0.ffn.experts.";
  const auto fused = [&](int64_t experts, int64_t rows) {
    return std::vector<Item>{{e + "w13_weight", "I8", {experts, rows, 0}},
                             {e + "w13_weight_scale", "F8_E8M0", {experts, rows, 0}},
                             {e + "w2_weight", "I8", {experts, rows, 0}},
                             {e + "w2_weight_scale", "F8_E8M0", {experts, rows, 0}}};
  };
  Found found = Find(fused(4, 64), 0);
  CHECK(found.status.code == DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(Has(found.error, "w13_weight' is [4,64,0]: no size of an expert"));
  found = Find(fused(int64_t{1} << 31, 64), 0);
  CHECK(found.status.code == DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(Has(found.error, "w13_weight' is [2147483648,64,0]: no number of experts"));
}

TEST_CASE("[A29] experts: foreign expert formats are refused by name", "[io]") {
  const std::string stem = "layers.0.ffn.";
  const std::string e = stem + "experts.0.";
  const std::pair<std::vector<Item>, const char*> rows[] = {
      // A -Base release: FP8 blocks of 128x128, float32 scales.
      {{{e + "w1.weight", "F8_E4M3", {256, 256}},
        {e + "w1.scale", "F32", {2, 2}},
        {e + "w2.weight", "F8_E4M3", {256, 256}},
        {e + "w2.scale", "F32", {2, 2}},
        {e + "w3.weight", "F8_E4M3", {256, 256}},
        {e + "w3.scale", "F32", {2, 2}}},
       "FP8 experts"},
      {{{e + "w1.weight", "F8_E4M3", {256, 256}}}, "FP8 experts"},
      {{{e + "w1.weight", "U8", {32, 32}}, {e + "w1.weight_scale_2", "F32", {1}}}, "NVFP4"},
      {{{e + "w1.weight", "U8", {32, 32}},
        {e + "w1.scale", "F8_E4M3", {32, 4}},
        {e + "w2.weight", "U8", {64, 16}},
        {e + "w2.scale", "F8_E4M3", {64, 2}},
        {e + "w3.weight", "U8", {32, 32}},
        {e + "w3.scale", "F8_E4M3", {32, 4}}},
       "NVFP4 (E4M3 scales)"},
      {{{e + "w1.weight", "U8", {32, 32}},
        {e + "w1.scale", "U8", {32, 4}},
        {e + "w2.weight", "U8", {64, 16}},
        {e + "w2.scale", "U8", {64, 2}},
        {e + "w3.weight", "U8", {32, 32}},
        {e + "w3.scale", "U8", {32, 4}}},
       "groups of 16 values"},
      {{{e + "w1.weight_packed", "I32", {32, 8}}, {e + "w1.weight_scale", "BF16", {32, 2}}},
       "an INT4 repack"},
      {{{e + "w1.qweight", "I32", {32, 8}}}, "an INT4 repack"},
      {{{e + "w1.weight", "I32", {32, 8}}}, "an INT4 repack"},
      {{{e + "gate_proj.weight", "BF16", {32, 64}}}, "not quantised"},
      {{{e + "w1.weight_packed", "U8", {32, 32}}, {e + "w1.weight_global_scale", "F32", {1}}},
       "NVFP4"},
      {{{e + "w1.weight_packed", "I32", {32, 8}}, {e + "w1.weight_shape", "I64", {2}}},
       "an INT4 repack"},
      {{{stem + "experts.gate_up_proj", "BF16", {2, 64, 64}}}, "not quantised"},
      {{{e + "w1.weight", "F8_E5M2", {32, 64}}}, "FP8 experts"},
      {{{e + "w1.weight", "C64", {32, 64}}}, "an unknown format"},
      {{{e + "w1.weight", "U8", {32, 32}}, {e + "w1.scale", "I64", {32, 2}}}, "an unknown format"},
      {{{stem + "switch_mlp.gate_proj.weight", "U32", {2, 32, 8}},
        {stem + "switch_mlp.gate_proj.scales", "BF16", {2, 32, 2}},
        {stem + "switch_mlp.gate_proj.biases", "BF16", {2, 32, 2}}},
       "an affine quantisation of MLX"},
      {{{stem + "switch_mlp.gate_proj.weight", "U32", {2, 32, 8}},
        {stem + "switch_mlp.gate_proj.scales", "BF16", {2, 32, 2}}},
       "an affine quantisation of MLX"},
      {{{stem + "switch_mlp.gate_proj.weight", "U32", {2, 32, 16}},
        {stem + "switch_mlp.gate_proj.scales", "U8", {2, 32, 2}}},
       "eight bits (MXFP8)"},
  };
  for (const auto& [items, want] : rows) {
    const Found found = Find(items, 0);
    CHECK(found.status.code == DSV4MX_STATUS_UNSUPPORTED_DTYPE);
    CHECK(Has(found.error, want));
    CHECK(Has(found.error, "expected E2M1 codes with one E8M0 scale per 32 values"));
  }
}

}  // namespace
