// The GGUF reader: tensors of a valid file exactly, everything else refused with one line; and the experts found in it.
#include "lib/io/gguf.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "dsv4mx.h"
#include "lib/io/expert_tensors.h"
#include "lib/io/gguf_config.h"
#include "tests/catch.h"
#include "tests/safetensors_file.h"

namespace {

using dsv4mx::DType;
using dsv4mx::io::TensorTable;
using dsv4mx::test::TempFolder;

template <class T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
std::string Text(const std::string& text) {
  return Raw(uint64_t{text.size()}) + text;
}

struct Tensor {
  std::string name;
  std::vector<uint64_t> sizes;  // innermost first
  uint32_t type;
  uint64_t offset;
};

std::string Keys() {
  return Text("general.architecture") + Raw(uint32_t{8}) + Text("gpt-oss") + Text("a.number") +
         Raw(uint32_t{6}) + Raw(1.5f) + Text("tokens") + Raw(uint32_t{9}) + Raw(uint32_t{8}) +
         Raw(uint64_t{2}) + Text("x") + Text("yz") + Text("general.alignment") + Raw(uint32_t{4}) +
         Raw(uint32_t{64}) + Text("flags") + Raw(uint32_t{9}) + Raw(uint32_t{7}) +
         Raw(uint64_t{3}) + std::string(3, '\1');
}
constexpr uint64_t kKeys = 5;

std::string File(const std::vector<Tensor>& tensors, size_t data_bytes,
                 const std::string& keys = Keys(), uint64_t key_count = kKeys,
                 uint32_t version = 3) {
  std::string file = "GGUF" + Raw(version) + Raw(uint64_t{tensors.size()}) + Raw(key_count) + keys;
  for (const Tensor& t : tensors) {
    file += Text(t.name) + Raw(static_cast<uint32_t>(t.sizes.size()));
    for (const uint64_t n : t.sizes) file += Raw(n);
    file += Raw(t.type) + Raw(t.offset);
  }
  while (file.size() % 64 != 0) file += '\0';
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

dsv4mx::Status Parse(const std::string& file, TensorTable* table,
                     dsv4mx::io::GgufKeys* keys = nullptr) {
  const auto read = [&](uint64_t offset, size_t bytes, void* to) {
    REQUIRE(offset + bytes <= file.size());
    std::memcpy(to, file.data() + offset, bytes);
    return dsv4mx::kOk;
  };
  return dsv4mx::io::ParseGguf(read, file.size(), "m.gguf", table, keys);
}

const std::vector<Tensor> kTensors = {
    {"b", {64, 2}, 39, 128}, {"a", {5}, 0, 0}, {"q", {32}, 12, 64}};

TEST_CASE("gguf: a valid file is read exactly", "[io]") {
  for (const uint32_t version : {2u, 3u}) {
    const std::string file = File(kTensors, 196, Keys(), kKeys, version);
    TensorTable table;
    const dsv4mx::Status status = Parse(file, &table);
    INFO(dsv4mx::LastError());
    REQUIRE(status.ok());
    REQUIRE(table.size() == 3);
    CHECK(table[0].name == "a");
    CHECK(table[0].dtype == DType::kF32);
    CHECK(table[0].bytes == 20);
    CHECK(table[0].offset == file.size() - 196);
    CHECK(table[1].dtype == DType::kMxfp4Blocks);
    CHECK(table[1].HasShape({2, 64}));
    CHECK(table[1].bytes == 2 * 2 * 17);
    CHECK(table[1].offset == file.size() - 196 + 128);
    CHECK(table[2].dtype == DType::kOther);
    CHECK(table[2].bytes == 64);  // up to the next tensor
  }
}

TEST_CASE("gguf: damaged and hostile files are refused with one line", "[io]") {
  const auto with_key = [](const std::string& key, uint32_t type, const std::string& value) {
    return File(kTensors, 196, Text(key) + Raw(type) + value, 1);
  };
  const std::string big = Raw(UINT64_MAX);
  const std::pair<std::string, const char*> rows[] = {
      {"GGUF", "is truncated"},
      {File(kTensors, 196, Keys(), kKeys, 1), "GGUF version 1, wanted 2 or 3"},
      {File(kTensors, 196, Keys(), kKeys, 0x03000000), "wanted 2 or 3"},
      {File(kTensors, 196, Keys(), UINT64_MAX), ""},
      {File({{"a", {5}, 0, 0}}, 19), "ends at byte 20 of the data, the file has 19"},
      {File({{"a", {5}, 0, 0}, {"a", {5}, 0, 64}}, 100), "tensor 'a' appears twice"},
      {File({{"a", {50}, 0, 0}, {"b", {5}, 0, 64}}, 300), "overlaps another"},
      {File({{"a", {5}, 0, 4}}, 300), "is not aligned"},
      {File({{"a", {33}, 39, 0}}, 300), "of GGML type 39 has sizes that cannot be"},
      {File({{"a", {}, 39, 0}}, 300), "sizes that cannot be"},
      {File({{"a", {UINT64_MAX}, 0, 0}}, 300), "sizes that cannot be"},
      {File({{"a", {uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0}}, 300), "sizes that cannot be"},
      {File({{"a", {uint64_t{1} << 62}, 0, 0}}, 300), "sizes that cannot be"},
      {File({{"a", {5}, 0, UINT64_MAX - 63}}, 300), ""},
      {File({{"a", {1, 1, 1, 1, 1}, 0, 0}}, 300), "has 5 dimensions"},
      {File({{std::string("a\0b", 3), {1}, 0, 0}}, 300), "NUL in it"},
      {File({{std::string(1025, 'a'), {1}, 0, 0}}, 300), "a GGUF name of 1025 bytes"},
      {with_key("x", 13, ""), "a GGUF value of type 13"},
      {with_key("x", 9, Raw(uint32_t{9}) + Raw(uint64_t{1})), "a GGUF value of type 9"},
      {with_key("x", 9, Raw(uint32_t{99}) + Raw(uint64_t{1})), "a GGUF value of type 99"},
      {with_key("x", 9, Raw(uint32_t{4}) + big), "is truncated"},
      {with_key("x", 9, Raw(uint32_t{8}) + big), "is truncated"},
      {with_key("x", 8, big), "is truncated"},
      {with_key("general.alignment", 4, Raw(uint32_t{48})), "general.alignment is 48"},
      {with_key("general.alignment", 4, Raw(uint32_t{0})), "general.alignment is 0"},
  };
  for (const auto& [file, want] : rows) {
    TensorTable table;
    CAPTURE(want);
    CHECK(Parse(file, &table).code == DSV4MX_STATUS_FORMAT_ERROR);
    CAPTURE(dsv4mx::LastError());
    CHECK(std::string(dsv4mx::LastError()).find(want) != std::string::npos);
    CHECK(table.size() == 0);
  }
  const std::string valid = File(kTensors, 196);
  for (size_t n = 4; n < valid.size(); ++n) {
    TensorTable table;
    CHECK_FALSE(Parse(valid.substr(0, n), &table).ok());
  }
}

TEST_CASE("gguf: mutated files never point outside", "[io][fuzz]") {
  std::mt19937 random(20261128);
  const std::string valid = File(kTensors, 196);
  int accepted = 0;
  for (int run = 0; run < 20000; ++run) {
    std::string file = valid;
    for (unsigned edit = 0; edit <= random() % 3; ++edit) {
      const size_t at = random() % file.size();
      file[at] = random() % 2 == 0 ? static_cast<char>(random())
                                   : static_cast<char>(file[at] ^ (1 << (random() % 8)));
    }
    TensorTable table;
    if (!Parse(file, &table).ok()) continue;
    ++accepted;
    for (size_t i = 0; i < table.size(); ++i) {
      const auto tensor = table[i];
      REQUIRE(tensor.offset <= file.size());
      REQUIRE(tensor.bytes <= file.size() - tensor.offset);
    }
  }
  CHECK(accepted > 1000);
}

TEST_CASE("gguf: keys that tell of experts, of every number type", "[io]") {
  const auto key = [](const std::string& name, uint32_t type, const std::string& value) {
    return Text(name) + Raw(type) + value;
  };
  const std::string keys =
      key("general.architecture", 8, Text("a")) + key("a.expert_count", 4, Raw(uint32_t{256})) +
      key("a.expert_used_count", 10, Raw(uint64_t{6})) +
      key("a.embedding_length", 3, Raw(int16_t{-4096})) +
      key("a.expert_weights_scale", 12, Raw(1.5)) +
      key("a.swiglu_clamp_exp", 9, Raw(uint32_t{6}) + Raw(uint64_t{2}) + Raw(10.0f) + Raw(7.5f)) +
      key("a.expert_feed_forward_length", 9, Raw(uint32_t{8}) + Raw(uint64_t{1}) + Text("x")) +
      key("a.expert_count", 0, Raw(uint8_t{3})) + key("a.block_count", 4, Raw(uint32_t{2}));
  TensorTable table;
  dsv4mx::io::GgufKeys found;
  REQUIRE(Parse(File(kTensors, 196, keys, 9), &table, &found).ok());
  CHECK(found.architecture == "a");
  CHECK(found.numbers.size() == 5);
  CHECK(found.numbers["a.expert_count"] == std::vector<double>{256});  // the first
  CHECK(found.numbers["a.expert_used_count"] == std::vector<double>{6});
  CHECK(found.numbers["a.embedding_length"] == std::vector<double>{-4096});
  CHECK(found.numbers["a.expert_weights_scale"] == std::vector<double>{1.5});
  CHECK(found.numbers["a.swiglu_clamp_exp"] == std::vector<double>{10, 7.5});
  // More values than any model has layers are passed over.
  const std::string many =
      key("a.swiglu_clamp_exp", 9, Raw(uint32_t{0}) + Raw(uint64_t{4097})) + std::string(4097, 'x');
  REQUIRE(Parse(File(kTensors, 196, many, 1), &table, &found).ok());
  CHECK(found.numbers.empty());
  CHECK_FALSE(Parse(File(kTensors, 196, many.substr(0, 100), 1), &table, &found).ok());
}

TEST_CASE("gguf: what keys say of a layer", "[io]") {
  using Config = dsv4mx::io::ModelConfig;
  dsv4mx::io::GgufKeys keys;
  Config config;
  const auto read = [&](int64_t layer) {
    return dsv4mx::io::ConfigFromGguf(keys, layer, "m.gguf", &config).code;
  };
  keys.architecture = "deepseek4";
  keys.numbers = {{"deepseek4.embedding_length", {4096}},
                  {"deepseek4.expert_count", {256}},
                  {"deepseek4.expert_used_count", {6}},
                  {"deepseek4.expert_feed_forward_length", {2048, 1024}},
                  {"deepseek4.expert_weights_scale", {1.5}},
                  {"deepseek4.swiglu_clamp_exp", {10, 10}},
                  {"other.expert_count", {3}}};
  REQUIRE(read(1) == DSV4MX_STATUS_OK);
  CHECK(config.filled ==
        (Config::kHidden | Config::kIntermediate | Config::kExperts | Config::kTopK |
         Config::kActivation | Config::kClampLimit | Config::kRoutedScalingFactor));
  CHECK(config.hidden == 4096);
  CHECK(config.intermediate == 1024);
  CHECK(config.experts == 256);
  CHECK(config.top_k == 6);
  CHECK(config.activation == DSV4MX_ACTIVATION_SWIGLU);
  CHECK(config.clamp_limit == 10);
  CHECK(config.routed_scaling_factor == 1.5f);
  for (const int64_t layer : {int64_t{-1}, int64_t{2}}) {  // a layer that the values do not tell of
    REQUIRE(read(layer) == DSV4MX_STATUS_OK);
    CHECK((config.filled & Config::kIntermediate) == 0);
    CHECK(config.clamp_limit == 10);  // the same for all
  }
  keys.architecture = "gpt-oss";
  REQUIRE(read(0) == DSV4MX_STATUS_OK);
  CHECK(config.filled == (Config::kActivation | Config::kClampLimit));
  CHECK(config.activation == DSV4MX_ACTIVATION_SWIGLU_GPTOSS);
  CHECK(config.alpha == 1.702f);
  CHECK(config.clamp_limit == 7);
  keys.architecture = "unheard-of";
  keys.numbers = {{"unheard-of.expert_used_count", {2}}, {"unheard-of.swiglu_clamp_exp", {10}}};
  REQUIRE(read(0) == DSV4MX_STATUS_OK);
  CHECK(config.filled == Config::kTopK);  // a clamp of what is not known
  keys.architecture = "step35";
  keys.numbers = {{"step35.swiglu_clamp_exp", {7}}};
  CHECK(read(0) == DSV4MX_STATUS_UNSUPPORTED);
  keys.architecture = "deepseek4";
  for (const double bad : {0.0, -1.0, 2.5, 1e10, std::nan("")}) {
    keys.numbers = {{"deepseek4.expert_count", {bad}}};
    CHECK(read(0) == DSV4MX_STATUS_FORMAT_ERROR);
    CHECK(config.filled == 0);
  }
  keys.numbers = {{"deepseek4.swiglu_clamp_exp", {-1}}};
  CHECK(read(0) == DSV4MX_STATUS_FORMAT_ERROR);
}

TEST_CASE("gguf: blocks become bytes of codes", "[io]") {
  uint8_t block[2 * 17], codes[32];
  uint8_t value[64];  // of each k
  std::mt19937 random(7);
  for (int b = 0; b < 2; ++b) {
    block[17 * b] = static_cast<uint8_t>(100 + b);
    for (int j = 0; j < 16; ++j) {
      const auto byte = static_cast<uint8_t>(random());
      block[17 * b + 1 + j] = byte;
      value[32 * b + j] = byte & 15;
      value[32 * b + j + 16] = byte >> 4;
    }
  }
  dsv4mx::io::CodesOfMxfp4Blocks(block, 2, codes);
  for (int k = 0; k < 64; ++k) {
    CHECK((k % 2 == 1 ? codes[k / 2] >> 4 : codes[k / 2] & 15) == value[k]);
  }
}

TEST_CASE("gguf: experts, in split files too, and of other quantisations", "[io]") {
  const auto tensors = [](uint32_t type, int first, int last) {
    const std::vector<Tensor> all = {{"blk.1.ffn_gate_exps.weight", {64, 32, 3}, type, 0},
                                     {"blk.1.ffn_up_exps.weight", {64, 32, 3}, type, 0},
                                     {"blk.1.ffn_down_exps.weight", {32, 64, 3}, type, 0},
                                     {"blk.1.ffn_down_exps.bias", {64, 3}, 0, 0},
                                     {"blk.1.ffn_gate_inp.weight", {64, 3}, 0, 0}};
    std::vector<Tensor> some(all.begin() + first, all.begin() + last);
    for (size_t i = 0; i < some.size(); ++i) some[i].offset = i * 4096;
    return some;
  };
  TempFolder folder;
  dsv4mx::test::WriteFile(folder / "m-00001-of-00002.gguf", File(tensors(39, 0, 2), 2 * 4096));
  dsv4mx::test::WriteFile(folder / "m-00002-of-00002.gguf", File(tensors(39, 2, 5), 3 * 4096));
  std::unique_ptr<dsv4mx::io::Checkpoint> checkpoint;
  const auto open = [&](const std::string& path) {
    const dsv4mx::Status status = dsv4mx::io::Checkpoint::Open(path.c_str(), {}, &checkpoint);
    INFO(dsv4mx::LastError());
    REQUIRE(status.ok());
  };
  dsv4mx::io::LayerNames names;
  dsv4mx::io::LayerTensors found;
  open(folder.path());
  REQUIRE(dsv4mx::io::FindLayer(*checkpoint, {dsv4mx::io::BlockName::kLayer, 1}, &names).ok());
  CHECK(names.stem == "blk.1.");
  const dsv4mx::Status status = dsv4mx::io::CollectTensors(*checkpoint, names, {}, &found);
  INFO(dsv4mx::LastError());
  REQUIRE(status.ok());
  CHECK(found.hidden == 64);
  CHECK(found.intermediate == 32);
  CHECK(found.all == 3);
  CHECK(found.w2_bias == DSV4MX_DTYPE_F32);
  REQUIRE(found.tensors.size() == 4);
  CHECK(found.tensors[0].blocks);
  CHECK(found.tensors[0].row_bytes == 34);
  CHECK(found.tensors[3].row_bytes == 4);

  open(folder / "m-00001-of-00002.gguf");
  REQUIRE(dsv4mx::io::FindLayer(*checkpoint, {dsv4mx::io::BlockName::kLayer, 1}, &names).ok());
  CHECK(dsv4mx::io::CollectTensors(*checkpoint, names, {}, &found).code == DSV4MX_STATUS_NOT_FOUND);
  CHECK(std::string(dsv4mx::LastError())
            .find("'blk.1.ffn_down_exps.weight' is missing; this file "
                  "is shard 1 of 2") != std::string::npos);
  dsv4mx::test::WriteFile(folder / "q.gguf", File(tensors(12, 0, 3), 3 * 4096));
  open(folder / "q.gguf");
  REQUIRE(dsv4mx::io::FindLayer(*checkpoint, {dsv4mx::io::BlockName::kLayer, 1}, &names).ok());
  CHECK(dsv4mx::io::CollectTensors(*checkpoint, names, {}, &found).code ==
        DSV4MX_STATUS_UNSUPPORTED_DTYPE);
  CHECK(std::string(dsv4mx::LastError()).find("another quantisation than MXFP4") !=
        std::string::npos);
  std::vector<Tensor> flat = tensors(39, 0, 3);
  flat[0].sizes = {64, 32};
  dsv4mx::test::WriteFile(folder / "f.gguf", File(flat, 3 * 4096));
  open(folder / "f.gguf");
  REQUIRE(dsv4mx::io::FindLayer(*checkpoint, {dsv4mx::io::BlockName::kLayer, 1}, &names).ok());
  CHECK(dsv4mx::io::CollectTensors(*checkpoint, names, {}, &found).code ==
        DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(std::string(dsv4mx::LastError()).find("is [32,64], expected experts, rows and K") !=
        std::string::npos);
}

}  // namespace
