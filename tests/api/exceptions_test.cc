// The exception barrier: host memory that runs out at any allocation of any call, and callbacks that throw, end as a
// status.
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/new_faults.h"
#include "tests/runner.h"
#include "tests/safetensors_file.h"

namespace dsv4mx::test {
namespace {

// Calls `call` with 0, 1, 2, ... allocations until it succeeds. Before that it may only run out of memory.
void UntilItSucceeds(const char* name, const std::function<dsv4mx_status()>& call) {
  int allowed = 0;
  for (; allowed < 1000; ++allowed) {
    dsv4mx_status status;
    {
      const FailingNew failing(allowed, FailingNew::kOfThread);
      status = call();
    }
    if (status == DSV4MX_STATUS_OK) break;
    INFO(name << " with " << allowed << " allocations: " << dsv4mx_last_error());
    REQUIRE(status == DSV4MX_STATUS_OUT_OF_MEMORY);
    REQUIRE(MissingWords(dsv4mx_last_error(), "memory") == "");
  }
  INFO(name << ": " << allowed << " allocations");
  CHECK(allowed < 1000);
}

TEST_CASE(
    "[B15] host memory that runs out at any allocation is OUT_OF_MEMORY, and the call may be "
    "repeated",
    "[errors]") {
  const Case c = MakeCase("h=64 i=32 e=3 k=2 m=5 order=gate_up bias=1");
  const Output want = Runner(c).Apply();

  dsv4mx_context_desc context_desc = DSV4MX_CONTEXT_DESC_INIT;
  context_desc.device = DSV4MX_DEVICE_CPU;
  context_desc.threads = 3;
  dsv4mx_context* context = nullptr;
  UntilItSucceeds("context_create", [&] { return dsv4mx_context_create(&context_desc, &context); });
  const ContextPtr own_context(context);
  void* memory = nullptr;
  UntilItSucceeds("context_alloc", [&] { return dsv4mx_context_alloc(context, 100, &memory); });
  dsv4mx_context_free(context, memory);

  dsv4mx_layer_desc desc = DescOf(c);
  const int32_t placement[] = {0, 1, 2};
  desc.placement = placement;
  desc.experts_global = 3;
  dsv4mx_layer* layer = nullptr;
  UntilItSucceeds("layer_create", [&] { return dsv4mx_layer_create(context, &desc, &layer); });
  const LayerPtr own_layer(layer);
  dsv4mx_weights* weights = nullptr;
  UntilItSucceeds("weights_create",
                  [&] { return dsv4mx_weights_create(layer, nullptr, &weights); });
  const WeightsPtr own_weights(weights);
  for (int32_t e = 0; e < 3; ++e) {
    for (const NamedTensor& t : TensorsOf(c.p, e, *c.experts[static_cast<size_t>(e)])) {
      const dsv4mx_tensor view = t.View();
      UntilItSucceeds("weights_set", [&] {
        return dsv4mx_weights_set(weights, t.name.c_str(), t.expert, &view, nullptr, nullptr);
      });
    }
  }
  UntilItSucceeds("weights_prepare",
                  [&] { return dsv4mx_weights_prepare(weights, nullptr, nullptr); });
  CHECK(CheckSame(want, ApplyGuarded(context, layer, weights, c.p, c.in)) == "");

  const int32_t to[] = {0, 2}, from[] = {1, 1};
  dsv4mx_copy_args copy = DSV4MX_COPY_ARGS_INIT;
  copy.to_experts = to;
  copy.from_experts = from;
  copy.count = 2;
  dsv4mx_weights* second = nullptr;
  REQUIRE_OK(dsv4mx_weights_create(layer, nullptr, &second));
  const WeightsPtr own_second(second);
  UntilItSucceeds("weights_copy_experts",
                  [&] { return dsv4mx_weights_copy_experts(second, weights, &copy, nullptr); });
  dsv4mx_slab slab = DSV4MX_SLAB_INIT;
  UntilItSucceeds("weights_get_slab", [&] { return dsv4mx_weights_get_slab(weights, 2, &slab); });
  for (dsv4mx_weights* w : {second, weights}) {
    UntilItSucceeds("weights_set_slab",
                    [&] { return dsv4mx_weights_set_slab(w, 1, &slab, nullptr, nullptr); });
  }
  UntilItSucceeds("weights_prepare",
                  [&] { return dsv4mx_weights_prepare(second, nullptr, nullptr); });
  std::vector<uint16_t> values(32 * 64);
  const dsv4mx_tensor values_view = Tensor(values.data(), DSV4MX_DTYPE_BF16, {32, 64});
  UntilItSucceeds("weights_get", [&] {
    return dsv4mx_weights_get(weights, "experts.1.w1.weight", -1, &values_view, nullptr, nullptr);
  });
  UntilItSucceeds("weights_reset", [&] { return dsv4mx_weights_reset(second); });
  UntilItSucceeds("layer_set_placement",
                  [&] { return dsv4mx_layer_set_placement(layer, placement, nullptr); });

  dsv4mx_marlin marlin = DSV4MX_MARLIN_INIT;
  REQUIRE_OK(dsv4mx_layer_query_marlin(layer, &marlin));
  std::vector<int32_t> w13(
      static_cast<size_t>(3 * marlin.hidden_padded / 16 * 4 * marlin.intermediate_padded));
  marlin.w13 = w13.data();
  UntilItSucceeds("weights_export_marlin",
                  [&] { return dsv4mx_weights_export_marlin(weights, &marlin, nullptr, nullptr); });
  dsv4mx_weights* imported = nullptr;
  REQUIRE_OK(dsv4mx_weights_create(layer, nullptr, &imported));
  const WeightsPtr own_imported(imported);
  UntilItSucceeds("weights_import_marlin", [&] {
    return dsv4mx_weights_import_marlin(imported, &marlin, nullptr, nullptr);
  });

  const TempFolder folder;
  WriteFile(folder / "model.safetensors", SafetensorsFile(DeepSeekExperts(3, 64, 32, 'z')));
  const std::string path = folder.path();
  dsv4mx_checkpoint* checkpoint = nullptr;
  UntilItSucceeds("checkpoint_create",
                  [&] { return dsv4mx_checkpoint_create(path.c_str(), nullptr, &checkpoint); });
  dsv4mx_layer_desc found = DSV4MX_LAYER_DESC_INIT;
  UntilItSucceeds("checkpoint_query_layer",
                  [&] { return dsv4mx_checkpoint_query_layer(checkpoint, Block(0), &found); });
  found.top_k = 2;
  const LayerPtr loaded_layer = MakeLayer(context, found);
  const WeightsPtr loaded = MakeWeights(loaded_layer.get());
  UntilItSucceeds("weights_load", [&] {
    return dsv4mx_weights_load(loaded.get(), checkpoint, Block(0), nullptr, nullptr);
  });
  dsv4mx_checkpoint_destroy(checkpoint);
}

TEST_CASE("[B15] a callback that throws ends as INTERNAL with what it threw", "[errors]") {
  const Case c = MakeCase("h=64 i=32 e=3 k=2 m=5");
  int what = 0;
  dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
  desc.device = DSV4MX_DEVICE_CPU;
  desc.alloc_user = &what;
  desc.alloc = [](void* user, size_t, size_t, dsv4mx_memory, dsv4mx_stream) -> void* {
    if (*static_cast<int*>(user) == 0) throw std::runtime_error("no pages today");
    throw 7;
  };
  desc.free = [](void*, void*, size_t, dsv4mx_memory, dsv4mx_stream) {};
  dsv4mx_context* context = nullptr;
  REQUIRE_OK(dsv4mx_context_create(&desc, &context));
  const ContextPtr own(context);
  const LayerPtr layer = MakeLayer(context, DescOf(c));
  dsv4mx_weights* weights = reinterpret_cast<dsv4mx_weights*>(0x10);
  REQUIRE_REFUSED(dsv4mx_weights_create(layer.get(), nullptr, &weights), DSV4MX_STATUS_INTERNAL,
                  "exception,no pages today");
  CHECK(weights == nullptr);
  what = 1;
  void* memory = &what;
  REQUIRE_REFUSED(dsv4mx_context_alloc(context, 64, &memory), DSV4MX_STATUS_INTERNAL,
                  "exception of unknown type");
  CHECK(memory == nullptr);
}

}  // namespace
}  // namespace dsv4mx::test
