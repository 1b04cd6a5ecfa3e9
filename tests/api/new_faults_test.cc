// Memory that runs out at any operator new of any thread, while files are opened, described, loaded, saved and restored: a
// status, nothing left behind, and the call may be repeated.
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/checkpoint_forms.h"
#include "tests/new_faults.h"
#include "tests/runner.h"
#include "tests/safetensors_file.h"

namespace dsv4mx::test {
namespace {

struct CloseCheckpoint {
  void operator()(dsv4mx_checkpoint* p) const { dsv4mx_checkpoint_destroy(p); }
};
using CheckpointPtr = std::unique_ptr<dsv4mx_checkpoint, CloseCheckpoint>;

// Lets each allocation of `call` fail, alone and with all behind it, until none is left that could. `after` looks at what a
// call left behind: its status is given.
void EachFails(
    const char* name, const std::function<dsv4mx_status()>& call,
    const std::function<void(dsv4mx_status)>& after = [](dsv4mx_status) {}) {
  for (const FailingNew::Kind kind : {FailingNew::kOneOfAny, FailingNew::kOfAny}) {
    constexpr int kMost = 5000;
    int allowed = 0;
    for (bool failed = true; failed; ++allowed) {
      REQUIRE(allowed < kMost);
      dsv4mx_status status;
      {
        const FailingNew failing(allowed, kind);
        status = call();
      }
      failed = FailingNew::Failed();
      INFO(name << " with " << allowed << " allocations, "
                << (kind == FailingNew::kOneOfAny ? "one fails" : "all others fail") << ": "
                << dsv4mx_last_error());
      // A thread that cannot be made is done without.
      const bool known = status == DSV4MX_STATUS_OK || status == DSV4MX_STATUS_OUT_OF_MEMORY;
      REQUIRE(known);
      if (status != DSV4MX_STATUS_OK) {
        REQUIRE(failed);
        REQUIRE(MissingWords(dsv4mx_last_error(), "memory") == "");
      }
      after(status);
    }
    INFO(name);
    CHECK(allowed > 1);
  }
}

// Files of a folder.
size_t Count(const std::string& folder) {
  size_t n = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    n += entry.exists() ? 1 : 0;
  }
  return n;
}

TEST_CASE("[B15] operator new fails once and for good: opening and describing every form",
          "[load][memory]") {
  const Case c = MakeCase("h=96 i=64 e=3 k=2 m=2 threads=3");
  for (const Form form : kForms) {
    TempFolder folder;
    const std::string path = WriteForm(folder.path(), form, c);
    INFO(NameOf(form));
    dsv4mx_checkpoint* opened = nullptr;
    EachFails(
        "checkpoint_create",
        [&] { return dsv4mx_checkpoint_create(path.c_str(), nullptr, &opened); },
        [&](dsv4mx_status status) {
          REQUIRE((opened != nullptr) == (status == DSV4MX_STATUS_OK));
          dsv4mx_checkpoint_destroy(opened);
          opened = nullptr;
        });
    Must(dsv4mx_checkpoint_create(path.c_str(), nullptr, &opened), "checkpoint_create");
    const CheckpointPtr own(opened);
    dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
    EachFails("checkpoint_query_layer",
              [&] { return dsv4mx_checkpoint_query_layer(opened, Block(0), &desc); });
    dsv4mx_model_info model = DSV4MX_MODEL_INFO_INIT;
    const dsv4mx_context* context = ContextOf(c.p);
    dsv4mx_layer_desc options = DSV4MX_LAYER_DESC_INIT;
    options.top_k = 2;
    dsv4mx_model_args args = DSV4MX_MODEL_ARGS_INIT;
    args.layer = &options;
    EachFails("checkpoint_query_model",
              [&] { return dsv4mx_checkpoint_query_model(opened, context, &args, &model); });
    CHECK(model.blocks == 1);
  }
}

TEST_CASE("[B15] operator new fails once and for good: an index, a config, tensors",
          "[load][memory]") {
  const TempFolder folder;
  WriteFile(folder / "a.safetensors",
            SafetensorsFile(
                {{"layers.0.ffn.experts.0.w1.weight", "I8", {32, 16}},
                 {"layers.0.ffn.experts.0.w1.scale", "F8_E8M0", {32, 1}, std::string(32, 'z')},
                 {"layers.0.ffn.experts.0.w3.weight", "I8", {32, 16}},
                 {"layers.0.ffn.experts.0.w3.scale", "F8_E8M0", {32, 1}, std::string(32, 'z')}}));
  WriteFile(folder / "b.safetensors",
            SafetensorsFile(
                {{"layers.0.ffn.experts.0.w2.weight", "I8", {32, 16}},
                 {"layers.0.ffn.experts.0.w2.scale", "F8_E8M0", {32, 1}, std::string(32, 'z')}}));
  WriteFile(
      folder / "model.safetensors.index.json",
      R"({"metadata":{},"weight_map":{"layers.0.ffn.experts.0.w1.weight":"a.safetensors",)"
      R"("layers.0.ffn.experts.0.w1.scale":"a.safetensors","layers.0.ffn.experts.0.w3.weight":"a.safetensors",)"
      R"("layers.0.ffn.experts.0.w3.scale":"a.safetensors","layers.0.ffn.experts.0.w2.weight":"b.safetensors",)"
      R"("layers.0.ffn.experts.0.w2.scale":"b.safetensors"}})");
  WriteFile(folder / "config.json",
            R"({"model_type":"deepseek_v4","hidden_size":32,"moe_intermediate_size":32,)"
            R"("n_routed_experts":1,"num_experts_per_tok":1})");
  const std::string path = folder.path();
  dsv4mx_checkpoint* opened = nullptr;
  EachFails(
      "checkpoint_create", [&] { return dsv4mx_checkpoint_create(path.c_str(), nullptr, &opened); },
      [&](dsv4mx_status) {
        dsv4mx_checkpoint_destroy(opened);
        opened = nullptr;
      });
  // Opened anew each time: shards are read when they are wanted.
  const auto anew = [&](const char* name, const std::function<dsv4mx_status()>& call) {
    const auto reopen = [&](dsv4mx_status) {
      dsv4mx_checkpoint_destroy(opened);
      opened = nullptr;
      Must(dsv4mx_checkpoint_create(path.c_str(), nullptr, &opened), "checkpoint_create");
    };
    reopen(0);
    EachFails(name, call, reopen);
    dsv4mx_checkpoint_destroy(opened);
    opened = nullptr;
  };
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  uint32_t filled = 0;
  anew("checkpoint_query_config",
       [&] { return dsv4mx_checkpoint_query_config(opened, Block(0), 0, &desc, &filled); });
  CHECK(desc.top_k == 1);
  dsv4mx_tensor tensor = DSV4MX_TENSOR_INIT;
  anew("checkpoint_get_tensor", [&] {
    return dsv4mx_checkpoint_get_tensor(opened, "layers.0.ffn.experts.0.w2.scale", &tensor);
  });
  uint8_t bytes[32];
  anew("checkpoint_read", [&] {
    return dsv4mx_checkpoint_read(opened, "layers.0.ffn.experts.0.w2.scale", 0, bytes,
                                  sizeof bytes);
  });
  CHECK(bytes[31] == 'z');
}

TEST_CASE("[B15] operator new fails once and for good: load, save and restore on several threads",
          "[load][snapshot][memory]") {
  const Case c = MakeCase("h=96 i=64 e=3 k=2 m=2 threads=3");
  const dsv4mx_context* context = ContextOf(c.p);
  const LayerPtr layer = MakeLayer(context, DescOf(c));
  const Output want = Runner(c).Apply();
  const auto check = [&](dsv4mx_weights* weights) {
    CHECK(CheckSame(want, ApplyGuarded(context, layer.get(), weights, c.p, c.in)) == "");
  };
  WeightsPtr weights = MakeWeights(layer.get());
  for (const Form form : {Form::kDeepSeek, Form::kSglang, Form::kGguf}) {
    TempFolder folder;
    dsv4mx_checkpoint_args args = DSV4MX_CHECKPOINT_ARGS_INIT;
    args.threads = 3;
    dsv4mx_checkpoint* opened = nullptr;
    Must(dsv4mx_checkpoint_create(WriteForm(folder.path(), form, c).c_str(), &args, &opened),
         "checkpoint_create");
    const CheckpointPtr own(opened);
    INFO(NameOf(form));
    EachFails(
        "weights_load",
        [&] { return dsv4mx_weights_load(weights.get(), opened, Block(0), nullptr, nullptr); },
        [&](dsv4mx_status status) {
          if (status == DSV4MX_STATUS_OK) {
            Must(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr), "prepare");
            check(weights.get());
          }
          weights = MakeWeights(layer.get());
        });
    Must(dsv4mx_weights_load(weights.get(), opened, Block(0), nullptr, nullptr), "load");
  }
  EachFails(
      "weights_prepare", [&] { return dsv4mx_weights_prepare(weights.get(), nullptr, nullptr); },
      [&](dsv4mx_status status) {
        if (status != DSV4MX_STATUS_OK) return;
        check(weights.get());
        dsv4mx_weights* other = nullptr;
        Must(dsv4mx_weights_create(layer.get(), nullptr, &other), "create");
        for (int32_t e = 0; e < c.p.experts; ++e) SetExpert(other, c.p, e, *c.Expert(e));
        weights.reset(other);
      });
  Must(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr), "prepare");

  TempFolder folder;
  const std::string path = folder / "layer.snapshot";
  dsv4mx_snapshot_args args = DSV4MX_SNAPSHOT_ARGS_INIT;
  args.threads = 2;
  EachFails(
      "weights_save",
      [&] { return dsv4mx_weights_save(weights.get(), path.c_str(), &args, nullptr); },
      [&](dsv4mx_status status) {
        REQUIRE(Count(folder.path()) == (status == DSV4MX_STATUS_OK ? 1u : 0u));
        std::filesystem::remove(path);
      });
  Must(dsv4mx_weights_save(weights.get(), path.c_str(), &args, nullptr), "save");
  dsv4mx_snapshot_info info = DSV4MX_SNAPSHOT_INFO_INIT;
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  EachFails("snapshot_query", [&] { return dsv4mx_snapshot_query(path.c_str(), &info, &desc); });
  CHECK(info.experts == 3);
  WeightsPtr restored = MakeWeights(layer.get());
  EachFails(
      "weights_restore",
      [&] { return dsv4mx_weights_restore(restored.get(), path.c_str(), &args, nullptr); },
      [&](dsv4mx_status status) {
        dsv4mx_weights_info state = DSV4MX_WEIGHTS_INFO_INIT;
        Must(dsv4mx_weights_query(restored.get(), &state), "query");
        REQUIRE(state.state ==
                (status == DSV4MX_STATUS_OK ? DSV4MX_WEIGHTS_PREPARED : DSV4MX_WEIGHTS_EMPTY));
        if (status != DSV4MX_STATUS_OK) return;
        check(restored.get());
        restored = MakeWeights(layer.get());
      });
}

}  // namespace
}  // namespace dsv4mx::test
