// DSV4MX_LAYER_CHECKED_IDS: ids of no expert are counted and reported, never computed with.
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"

namespace dsv4mx::test {
namespace {

int64_t InvalidIds(const dsv4mx_layer* layer) {
  dsv4mx_fault_info info = DSV4MX_FAULT_INFO_INIT;
  Must(dsv4mx_layer_query_faults(layer, &info), "query_faults");
  CHECK(info.status == (info.invalid_ids == 0 ? DSV4MX_STATUS_OK : DSV4MX_STATUS_INVALID_ID));
  return info.invalid_ids;
}

Case CheckedCase(const char* text, dsv4mx_device device) {
  Case c = MakeCase(text);
  c.p.device = device;
  c.p.flags = DSV4MX_LAYER_CHECKED_IDS;
  return c;
}

DEVICE_TEST_CASE("[F] checked ids: good ones, foreign ones and -1 are no fault", "[api]") {
  Case c = CheckedCase("h=64 i=32 e=8 k=3 m=40 dist=half ep=2 rank=1", device);
  const Runner run(c);
  Case plain = c;
  plain.p.flags = 0;
  CHECK(CheckSame(Runner(plain).Apply(), run.Apply()) == "");
  CHECK(InvalidIds(run.layer()) == 0);
  REQUIRE_OK(dsv4mx_context_synchronize(run.context(), nullptr));
}

DEVICE_TEST_CASE("[F] checked ids: int64 ids read as int32 are met, counted and told once",
                 "[api]") {
  Case c = CheckedCase("h=64 i=32 e=8 k=3 m=40 ids=i64", device);
  const Runner run(c);
  Inputs bad = c.in;
  bad.ids[7] = 8;  // one beyond the last expert
  bad.ids[50] = -2;
  bad.ids[119] = int64_t{3} << 32 | 1;
  dsv4mx_workspace_info need = DSV4MX_WORKSPACE_INFO_INIT;
  REQUIRE_OK(dsv4mx_layer_query_workspace(run.layer(), 40, nullptr, &need));
  const std::vector<uint8_t> ids = PackIds(c.p, bad.ids),
                             weights = PackRouterWeights(c.p, c.in.weights);
  Guarded x(run.context(), bad.x.data(), bad.x.size() * 2, 16),
      id_buffer(run.context(), ids.data(), ids.size(), 8),
      weight_buffer(run.context(), weights.data(), weights.size(), 4),
      out(run.context(), 40 * 64 * 2, 16), workspace(run.context(), need.bytes, 256);
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  args.x = x.data(), args.topk_ids = id_buffer.data(), args.topk_weights = weight_buffer.data();
  args.out = out.data(), args.tokens = 40;
  args.workspace = workspace.data(), args.workspace_bytes = need.bytes;
  if (device == DSV4MX_DEVICE_CPU) {
    const std::vector<uint8_t> before = out.Read();
    REQUIRE_REFUSED(dsv4mx_layer_apply(run.layer(), run.weights(), &args, nullptr),
                    DSV4MX_STATUS_INVALID_ID, "id 1 of token 2 is 8,-1..7,in all: 3,I64");
    CHECK(out.Read() == before);  // nothing was computed
  } else {
    REQUIRE_OK(dsv4mx_layer_apply(run.layer(), run.weights(), &args, nullptr));
  }
  REQUIRE_REFUSED(dsv4mx_context_synchronize(run.context(), nullptr), DSV4MX_STATUS_INVALID_ID,
                  "3,int64");
  CHECK(InvalidIds(run.layer()) == 3);
  REQUIRE_OK(dsv4mx_context_synchronize(run.context(), nullptr));  // told once
  // On CUDA such ids were skipped like -1.
  if (device == DSV4MX_DEVICE_CUDA) {
    Inputs masked = bad;
    for (const size_t i : {7, 50, 119}) masked.ids[i] = -1;
    CHECK(out.Read() == run.Apply(masked).raw);
  }
  // Without the flag they are skipped and nobody hears of it.
  Case plain = c;
  plain.p.flags = 0;
  const Runner quiet(plain);
  CHECK(quiet.Apply(bad).damage == "");
  CHECK(InvalidIds(quiet.layer()) == 0);
}

DEVICE_TEST_CASE("[J5] physical ids: each copy is itself", "[api]") {
  // Two logical experts, four places: the engine decides which copy a token takes.
  Case c = MakeCase("h=64 i=32 e=4 k=2 m=12");
  c.p.device = device;
  c.experts[2] = c.experts[0];  // place 2 holds a copy of expert 0
  c.experts[3] = c.experts[1];
  const Runner plain(c);
  dsv4mx_layer_desc d = DescOf(c);
  const int32_t placement[] = {0, 1, 0, 1};
  d.placement = placement;
  d.experts_global = 2;
  d.flags = DSV4MX_LAYER_PHYSICAL_IDS;
  d.physical_first = 10;
  d.physical_global = 20;
  const LayerPtr layer = MakeLayer(plain.context(), d);
  const WeightsPtr w = MakeWeights(layer.get());
  for (int32_t e = 0; e < 2; ++e) {  // as a checkpoint counts: both copies are set at once
    for (const NamedTensor& t : TensorsOf(c.p, -1, *c.experts[static_cast<size_t>(e)])) {
      const dsv4mx_tensor view = t.View();
      const std::string name = "experts." + std::to_string(e) + "." + t.name;
      REQUIRE_OK(dsv4mx_weights_set(w.get(), name.c_str(), -1, &view, nullptr, nullptr));
    }
  }
  REQUIRE_OK(dsv4mx_weights_prepare(w.get(), nullptr, nullptr));
  Inputs moved = c.in;
  for (int64_t& id : moved.ids) id = id < 0 ? id : id + 10;
  CHECK(CheckSame(plain.Apply(), ApplyGuarded(plain.context(), layer.get(), w.get(), c.p, moved)) ==
        "");
}

}  // namespace
}  // namespace dsv4mx::test
