// Checkpoints on disk: one file, shards with an index, folders; and the experts found in them by
// name and refused by format (A29).
#include <sys/resource.h>
#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dsv4mx.h"
#include "lib/io/abi_tensor.h"
#include "lib/io/checkpoint_reader.h"
#include "lib/io/deepseek.h"
#include "tests/catch.h"
#include "tests/safetensors_file.h"

namespace {

using dsv4mx::io::Checkpoint;
using dsv4mx::io::DType;
using dsv4mx::io::LayerTensors;
using dsv4mx::test::TempFolder;
using Item = dsv4mx::test::FileTensor;

std::string ErrorOf(const std::string& path, dsv4mx_status want) {
  std::unique_ptr<Checkpoint> checkpoint;
  const dsv4mx::Status status = Checkpoint::Open(path.c_str(), &checkpoint);
  CHECK(status.code == want);
  CHECK(checkpoint == nullptr);
  const std::string error = status.ok() ? "" : dsv4mx::LastError();
  CHECK(error.find('\n') == std::string::npos);
  return error;
}

bool Has(const std::string& text, const std::string& part) {
  UNSCOPED_INFO("got: " << text << "\nwanted: " << part);
  return text.find(part) != std::string::npos;
}

TEST_CASE("checkpoint: one file, by its name and by its folder", "[io]") {
  TempFolder folder;
  dsv4mx::test::WriteFile(folder / "model.safetensors",
                          dsv4mx::test::SafetensorsFile({{"z", "U8", {3}}, {"a", "BF16", {2, 2}}}));
  for (const std::string& path : {folder / "model.safetensors", folder.path()}) {
    std::unique_ptr<Checkpoint> checkpoint;
    REQUIRE(Checkpoint::Open(path.c_str(), &checkpoint).ok());
    REQUIRE(checkpoint->size() == 2);
    CHECK((*checkpoint)[0].name == "a");  // name order, not file order
    CHECK((*checkpoint)[1].name == "z");
    REQUIRE(checkpoint->Find("a") != nullptr);
    CHECK(std::to_integer<int>(checkpoint->Find("a")->data[0]) == 3);
    CHECK(checkpoint->Find("aa") == nullptr);
    CHECK(checkpoint->Find("") == nullptr);
  }
}

TEST_CASE("checkpoint: shards with an index", "[io]") {
  TempFolder folder;
  dsv4mx::test::WriteFile(folder / "s1.safetensors",
                          dsv4mx::test::SafetensorsFile({{"a", "U8", {3}}, {"stale", "U8", {1}}}));
  dsv4mx::test::WriteFile(
      folder / "s2.safetensors",
      dsv4mx::test::SafetensorsFile({{"b", "U8", {2}}, {"c", "U8", {1}}, {"a", "U8", {9}}}));
  const std::string index = folder / "model.safetensors.index.json";
  dsv4mx::test::WriteFile(index, R"({"weight_map":{"c":"s2.safetensors","a":"s1.safetensors",)"
                                 R"("b":"s2.safetensors"}})");
  for (const std::string& path : {index, folder.path()}) {
    std::unique_ptr<Checkpoint> checkpoint;
    REQUIRE(Checkpoint::Open(path.c_str(), &checkpoint).ok());
    REQUIRE(checkpoint->size() == 3);
    CHECK(checkpoint->Find("a")->bytes == 3);  // the index decides between two files
    CHECK(checkpoint->Find("b")->bytes == 2);
    CHECK(checkpoint->Find("stale") == nullptr);
  }
  dsv4mx::test::WriteFile(index, R"({"weight_map":{"a":"s1.safetensors","b":"s3.safetensors"}})");
  CHECK(Has(ErrorOf(index, DSV4MX_STATUS_IO_ERROR), "s3.safetensors: cannot open: No such file"));
  dsv4mx::test::WriteFile(index, R"({"weight_map":{"a":"s1.safetensors","b":"s1.safetensors"}})");
  CHECK(Has(ErrorOf(index, DSV4MX_STATUS_FORMAT_ERROR),
            "tensor 'b' is not in its shard 's1.safetensors'"));
  dsv4mx::test::WriteFile(index, "{}");
  CHECK(Has(ErrorOf(index, DSV4MX_STATUS_FORMAT_ERROR), "has no weight_map"));
  dsv4mx::test::WriteFile(index, "");
  CHECK(Has(ErrorOf(index, DSV4MX_STATUS_FORMAT_ERROR), "is not valid JSON"));
  dsv4mx::test::WriteFile(index, R"({"weight_map":{"a":"s4.safetensors"}})");
  dsv4mx::test::WriteFile(folder / "s4.safetensors", "");
  CHECK(Has(ErrorOf(index, DSV4MX_STATUS_FORMAT_ERROR), "s4.safetensors: the file is empty"));
}

TEST_CASE("checkpoint: headers and indices larger than any real one are not read", "[io]") {
  TempFolder folder;  // of files that are all hole
  const std::string index = folder / "model.safetensors.index.json";
  dsv4mx::test::WriteFile(index, "{");
  std::filesystem::resize_file(index, (uintmax_t{256} << 20) + 1);
  CHECK(Has(ErrorOf(index, DSV4MX_STATUS_FORMAT_ERROR),
            "index of 268435457 bytes, at most 268435456 are read"));
  const std::string file = folder / "model.safetensors";
  dsv4mx::test::WriteFile(file, std::string("\x01\xe1\xf5\x05\0\0\0\0{", 9));
  std::filesystem::resize_file(file, 100'000'009);
  CHECK(Has(ErrorOf(file, DSV4MX_STATUS_FORMAT_ERROR),
            "header of 100000001 bytes, at most 100000000 are read"));
}

TEST_CASE("checkpoint: what is no checkpoint is refused with its reason", "[io]") {
  TempFolder folder;
  CHECK(Has(ErrorOf(folder / "none.safetensors", DSV4MX_STATUS_IO_ERROR),
            "cannot open: No such file or directory"));
  CHECK(Has(ErrorOf(folder.path(), DSV4MX_STATUS_IO_ERROR), "no .safetensors file in this folder"));
  CHECK(Has(ErrorOf("", DSV4MX_STATUS_IO_ERROR), "cannot open"));
  rlimit files{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &files) == 0);
  const rlimit none{0, files.rlim_max};
  REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
  const std::string unlisted = ErrorOf(folder.path(), DSV4MX_STATUS_IO_ERROR);
  REQUIRE(setrlimit(RLIMIT_NOFILE, &files) == 0);
  CHECK(Has(unlisted, "cannot list the folder: Too many open files"));
  REQUIRE(mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK(Has(ErrorOf(folder / "pipe", DSV4MX_STATUS_IO_ERROR), "not a regular file"));
  dsv4mx::test::WriteFile(folder / "pytorch_model.bin",
                          std::string("PK\x03\x04", 4) + std::string(60, 'x'));
  CHECK(Has(ErrorOf(folder / "pytorch_model.bin", DSV4MX_STATUS_FORMAT_ERROR), "PyTorch pickle"));
  dsv4mx::test::WriteFile(folder / "a.safetensors",
                          dsv4mx::test::SafetensorsFile({{"a", "U8", {3}}}));
  dsv4mx::test::WriteFile(folder / "b.safetensors",
                          dsv4mx::test::SafetensorsFile({{"b", "U8", {3}}}));
  CHECK(Has(ErrorOf(folder.path(), DSV4MX_STATUS_IO_ERROR), "2 .safetensors files and 0 indices"));
}

TEST_CASE("checkpoint: a tensor in the words of the header", "[io]") {
  dsv4mx::io::TensorView view;
  view.name = "t";
  view.dtype = DType::kF8E8M0;
  view.rank = 2;
  view.shape = {5, 7};
  dsv4mx_tensor tensor{};
  REQUIRE(dsv4mx::io::ToAbiTensor(view, &tensor).ok());
  CHECK(tensor.struct_size == sizeof(tensor));
  CHECK(tensor.dtype == DSV4MX_DTYPE_E8M0);
  CHECK(tensor.rank == 2);
  CHECK(tensor.shape[0] == 5);
  CHECK(tensor.shape[1] == 7);
  CHECK(tensor.stride[0] == 0);
  view.rank = 0;
  REQUIRE(dsv4mx::io::ToAbiTensor(view, &tensor).ok());
  CHECK(tensor.rank == 1);
  CHECK(tensor.shape[0] == 1);
  view.rank = 5;
  CHECK(dsv4mx::io::ToAbiTensor(view, &tensor).code == DSV4MX_STATUS_UNSUPPORTED_SHAPE);
  CHECK(Has(dsv4mx::LastError(), "rank 5"));

  const std::pair<DType, dsv4mx_dtype> dtypes[] = {
      {DType::kBF16, DSV4MX_DTYPE_BF16},   {DType::kF32, DSV4MX_DTYPE_F32},
      {DType::kF16, DSV4MX_DTYPE_F16},     {DType::kI8, DSV4MX_DTYPE_I8},
      {DType::kU8, DSV4MX_DTYPE_U8},       {DType::kF4, DSV4MX_DTYPE_E2M1},
      {DType::kF8E4M3, DSV4MX_DTYPE_E4M3}, {DType::kF8E5M2, DSV4MX_DTYPE_E5M2},
      {DType::kI32, DSV4MX_DTYPE_I32},     {DType::kI64, DSV4MX_DTYPE_I64},
      {DType::kF64, DSV4MX_DTYPE_F64},     {DType::kBool, DSV4MX_DTYPE_OTHER}};
  for (const auto& [dtype, want] : dtypes) CHECK(dsv4mx::io::AbiDType(dtype) == want);
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
  LayerTensors layer;
  std::vector<std::string> names;
};

Found Find(const std::vector<Item>& items, int32_t layer) {
  TempFolder folder;
  dsv4mx::test::WriteFile(folder / "m.safetensors", dsv4mx::test::SafetensorsFile(items));
  std::unique_ptr<Checkpoint> checkpoint;
  REQUIRE(Checkpoint::Open(folder.path().c_str(), &checkpoint).ok());
  Found found;
  found.status = dsv4mx::io::FindLayer(*checkpoint, layer, &found.layer);
  if (!found.status.ok()) {
    found.error = dsv4mx::LastError();
    CHECK(found.layer.tensors.empty());
    CHECK(found.error.find('\n') == std::string::npos);
  }
  for (const auto* tensor : found.layer.tensors) found.names.emplace_back(tensor->name);
  return found;
}

TEST_CASE("deepseek: every accepted naming of a layer", "[io]") {
  for (const char* model : {"", "model."}) {
    for (const char* block : {"ffn.", "mlp."}) {
      for (const int32_t layer : {0, 3, 42, -1, -3}) {
        const std::string stem =
            model +
            (layer >= 0 ? "layers." + std::to_string(layer) : "mtp." + std::to_string(-1 - layer)) +
            "." + block;
        CAPTURE(stem);
        std::vector<Item> items;
        for (int e = 0; e < 12; ++e) AddExpert(&items, stem, e);
        items.push_back({stem + "shared_experts.w1.weight", "F8_E4M3", {8, 8}});
        items.push_back({stem + "gate.weight", "BF16", {12, kH}});
        const Found found = Find(items, layer);
        CAPTURE(found.error);
        REQUIRE(found.status.ok());
        CHECK(found.layer.hidden == kH);
        CHECK(found.layer.intermediate == kI);
        CHECK(found.layer.experts == 12);
        CHECK_FALSE(found.layer.fused);
        CHECK(found.layer.prefix == stem);
        REQUIRE(found.names.size() == 72);
        // Experts in numeric order, gate, up, down, codes before scales.
        CHECK(found.names[12] == stem + "experts.2.w1.weight");
        CHECK(found.names[13] == stem + "experts.2.w1.scale");
        CHECK(found.names[14] == stem + "experts.2.w3.weight");
        CHECK(found.names[16] == stem + "experts.2.w2.weight");
        CHECK(found.names[66] == stem + "experts.11.w1.weight");
      }
    }
  }
}

TEST_CASE("deepseek: other spellings, the first in the table wins", "[io]") {
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
  const Found both = Find(items, 1);
  REQUIRE(both.status.ok());
  REQUIRE(both.names.size() == 6);
  CHECK(both.names[2] == e + "w3.weight");
  CHECK(both.names[5] == e + "w2.weight_scale");
}

TEST_CASE("deepseek: fused names of SGLang", "[io]") {
  const std::string stem = "model.layers.2.mlp.experts.";
  std::vector<Item> items = {{stem + "w13_weight", "I8", {5, 2 * kI, kH / 2}},
                             {stem + "w13_weight_scale_inv", "F32", {5, 2 * kI, kH / 32}},
                             {stem + "w2_weight", "I8", {5, kH, kI / 2}},
                             {stem + "w2_weight_scale", "F8_E8M0", {5, kH, kI / 32}}};
  const Found found = Find(items, 2);
  CAPTURE(found.error);
  REQUIRE(found.status.ok());
  CHECK(found.layer.fused);
  CHECK(found.layer.hidden == kH);
  CHECK(found.layer.intermediate == kI);
  CHECK(found.layer.experts == 5);
  REQUIRE(found.names.size() == 4);
  CHECK(found.names[0] == stem + "w13_weight");
  CHECK(found.names[3] == stem + "w2_weight_scale");

  std::vector<Item> odd = items;
  odd[0].shape[1] = odd[1].shape[1] = 2 * kI + 1;
  CHECK(Has(Find(odd, 2).error, "w13_weight' has 65 rows of 64 values, expected 64 rows of 64"));
  odd = items;
  odd[2].shape[0] = odd[3].shape[0] = 4;
  CHECK(Has(Find(odd, 2).error, "equal expert counts"));
  odd = items;
  odd.erase(odd.begin() + 3);
  CHECK(Has(Find(odd, 2).error, "w2_weight_scale' is missing"));
}

TEST_CASE("deepseek: what is missing or contradicts itself is named", "[io]") {
  const std::string stem = "layers.5.ffn.";
  std::vector<Item> items;
  for (int e = 0; e < 3; ++e) AddExpert(&items, stem, e);
  Found found = Find(items, 4);
  CHECK(found.status.code == DSV4MX_STATUS_NOT_FOUND);
  CHECK(Has(found.error, "layers.4.{ffn,mlp}.experts.*; layers with experts: layers 5"));
  found = Find(items, -2);
  CHECK(found.status.code == DSV4MX_STATUS_NOT_FOUND);
  CHECK(Has(found.error, "mtp.1."));
  CHECK(Has(Find({{"a", "U8", {1}}}, 0).error, "none at all"));

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
                           "experts.w1.weight", "experts.0.w13_weight"}) {
    std::vector<Item> more = items;
    more.push_back({stem + name, "F32", {kI}});
    found = Find(more, 5);
    CHECK(found.status.code == DSV4MX_STATUS_FORMAT_ERROR);
    CHECK(Has(found.error, std::string(name) + "' is no part of an MXFP4 expert"));
  }
}

TEST_CASE("deepseek: sizes that no expert has", "[io]") {
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

TEST_CASE("[A29] deepseek: foreign expert formats are refused by name", "[io]") {
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
      {{{stem + "experts.gate_up_proj_blocks", "U8", {2, 64, 2, 16}}}, "GPT-OSS"},
  };
  for (const auto& [items, want] : rows) {
    const Found found = Find(items, 0);
    CHECK(found.status.code == DSV4MX_STATUS_UNSUPPORTED_DTYPE);
    CHECK(Has(found.error, want));
    CHECK(Has(found.error, "expected I8 codes with one E8M0 scale per 32 values"));
  }
}

}  // namespace
