// Checkpoints through the public functions: what is loaded is what set would have been given, under
// every naming, for a part of the experts too; and what is refused.
#include <cstring>
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

int32_t StopAtThird(void* calls, dsv4mx_stage stage, int64_t done, int64_t total) {
  CHECK(stage == DSV4MX_STAGE_LOAD);
  CHECK(done >= 0);
  CHECK(done <= total);
  return ++*static_cast<int*>(calls) == 3;
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
  control.progress = StopAtThird;
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
  CHECK(calls >= 66);
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

}  // namespace
}  // namespace dsv4mx::test
