// The states of weights: empty, filling, prepared. What each refuses, cancelling, the caller's own memory, lifetimes.
#include <cstring>

#include "tests/catch.h"
#include "tests/check.h"

namespace dsv4mx::test {
namespace {

const char* const kLayer = "h=64 i=32 e=3 k=2 m=4";

dsv4mx_weights_info Info(const dsv4mx_weights* w) {
  dsv4mx_weights_info i{};
  i.struct_size = sizeof i;
  Must(dsv4mx_weights_query(w, &i), "weights_query");
  return i;
}

// Arguments that are legal but for what a test changes; the buffers live as long as it does.
struct Call {
  Call(const Case& c, const dsv4mx_layer* layer)
      : ids(PackIds(c.p, c.in.ids)),
        x(nullptr, c.in.x.data(), c.in.x.size() * 2, 16),
        out(nullptr, static_cast<size_t>(c.p.tokens * c.p.hidden) * 4, 16),
        weights(PackRouterWeights(c.p, c.in.weights)) {
    const size_t need = WorkspaceBytes(layer, c.p.tokens);
    space.resize(need + 512);
    args.x = x.data();
    args.topk_ids = ids.data();
    args.topk_weights = weights.data();
    args.out = out.data();
    args.tokens = c.p.tokens;
    args.workspace =
        reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(space.data()) + 255) / 256 * 256);
    args.workspace_bytes = need;
  }
  std::vector<uint8_t> ids;
  Guarded x, out;
  std::vector<uint8_t> weights, space;
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
};

TEST_CASE("states: empty, filling, prepared, and what each refuses", "[state]") {
  const Case c = MakeCase(kLayer);
  const LayerPtr layer = MakeLayer(CpuContext(), DescOf(c));
  const WeightsPtr w = MakeWeights(layer.get());
  Call call(c, layer.get());
  dsv4mx_marlin marlin = DSV4MX_MARLIN_INIT;

  CHECK(Info(w.get()).state == DSV4MX_WEIGHTS_EMPTY);
  CHECK(Info(w.get()).tensors_missing == 18);
  REQUIRE_REFUSED(dsv4mx_layer_apply(layer.get(), w.get(), &call.args, nullptr),
                  DSV4MX_STATUS_INVALID_STATE, "prepare");
  REQUIRE_REFUSED(dsv4mx_weights_export_marlin(w.get(), &marlin, nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_STATE, "prepare");
  REQUIRE_REFUSED(dsv4mx_weights_prepare(w.get(), nullptr, nullptr), DSV4MX_STATUS_NOT_FOUND,
                  "expert 0,18");

  SetExpert(w.get(), c.p, 1, *c.experts[1]);
  CHECK(Info(w.get()).state == DSV4MX_WEIGHTS_FILLING);
  CHECK(Info(w.get()).tensors_missing == 12);
  REQUIRE_REFUSED(dsv4mx_layer_apply(layer.get(), w.get(), &call.args, nullptr),
                  DSV4MX_STATUS_INVALID_STATE, "prepare");
  REQUIRE_REFUSED(dsv4mx_weights_prepare(w.get(), nullptr, nullptr), DSV4MX_STATUS_NOT_FOUND,
                  "expert 0,12");

  SetExpert(w.get(), c.p, 0, *c.experts[0]);
  SetExpert(w.get(), c.p, 2, *c.experts[2]);
  REQUIRE_OK(dsv4mx_weights_prepare(w.get(), nullptr, nullptr));
  CHECK(Info(w.get()).state == DSV4MX_WEIGHTS_PREPARED);
  CHECK(Info(w.get()).tensors_missing == 0);

  const NamedTensor t = TensorsOf(c.p, 0, *c.experts[0])[0];
  const dsv4mx_tensor view = t.View();
  REQUIRE_REFUSED(dsv4mx_weights_set(w.get(), "w1.weight", 0, &view, nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_STATE, "prepare");
  REQUIRE_REFUSED(dsv4mx_weights_prepare(w.get(), nullptr, nullptr), DSV4MX_STATUS_INVALID_STATE,
                  "prepared");
  REQUIRE_REFUSED(dsv4mx_weights_import_marlin(w.get(), &marlin, nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_STATE, "prepare");
  REQUIRE_OK(dsv4mx_layer_apply(layer.get(), w.get(), &call.args, nullptr));
}

TEST_CASE("the census is of prepared weights alone", "[state]") {
  const Case c = MakeCase(kLayer);
  const LayerPtr layer = MakeLayer(CpuContext(), DescOf(c));
  dsv4mx_weights_census census = DSV4MX_WEIGHTS_CENSUS_INIT;
  census.span_max = 7;
  REQUIRE_REFUSED(dsv4mx_weights_query_census(MakeWeights(layer.get()).get(), &census),
                  DSV4MX_STATUS_INVALID_STATE, "prepare,census");
  CHECK(census.span_max == 0);
}

TEST_CASE("weights of a layer with another form are refused", "[state]") {
  const Case c = MakeCase(kLayer), other = MakeCase("h=64 i=64 e=3 k=2 m=4");
  const Runner a(c), b(other);
  Call call(c, a.layer());
  REQUIRE_REFUSED(dsv4mx_layer_apply(a.layer(), b.weights(), &call.args, nullptr),
                  DSV4MX_STATUS_INVALID_STATE, "hidden 64,intermediate 64,prepared_id");
  char text[256];
  REQUIRE_REFUSED(dsv4mx_layer_query_plan(a.layer(), b.weights(), 1, text, sizeof text),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "hidden 64,intermediate 64,prepared_id");
}

TEST_CASE("apply: pointers, strides, tokens and workspace are checked before anything is written",
          "[state]") {
  const Case c = MakeCase(kLayer);
  const Runner run(c);
  const struct {
    const char* words;
    dsv4mx_status code;
    void (*change)(dsv4mx_apply_args&);
  } cases[] = {
      {"x,NULL", DSV4MX_STATUS_INVALID_ARGUMENT, [](dsv4mx_apply_args& a) { a.x = nullptr; }},
      {"topk_ids,NULL", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_apply_args& a) { a.topk_ids = nullptr; }},
      {"topk_weights,NULL", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_apply_args& a) { a.topk_weights = nullptr; }},
      {"out,NULL", DSV4MX_STATUS_INVALID_ARGUMENT, [](dsv4mx_apply_args& a) { a.out = nullptr; }},
      {"workspace,NULL", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_apply_args& a) { a.workspace = nullptr; }},
      {"out,x", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_apply_args& a) { a.out = const_cast<void*>(a.x); }},
      {"tokens,-1", DSV4MX_STATUS_INVALID_ARGUMENT, [](dsv4mx_apply_args& a) { a.tokens = -1; }},
      {"tokens,131073,131072", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_apply_args& a) { a.tokens = 131073; }},
      {"x_stride,56,64", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_apply_args& a) { a.x_stride = 56; }},
      {"x_stride,-64", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_apply_args& a) { a.x_stride = -64; }},
      {"out_stride,8,64", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_apply_args& a) { a.out_stride = 8; }},
      {"x_stride,68,8", DSV4MX_STATUS_MISALIGNED, [](dsv4mx_apply_args& a) { a.x_stride = 68; }},
      {"out_stride,65,8", DSV4MX_STATUS_MISALIGNED,
       [](dsv4mx_apply_args& a) { a.out_stride = 65; }},
      {"x,16", DSV4MX_STATUS_MISALIGNED,
       [](dsv4mx_apply_args& a) { a.x = static_cast<const uint8_t*>(a.x) + 8; }},
      {"out,16", DSV4MX_STATUS_MISALIGNED,
       [](dsv4mx_apply_args& a) { a.out = static_cast<uint8_t*>(a.out) + 4; }},
      {"topk_ids,4", DSV4MX_STATUS_MISALIGNED,
       [](dsv4mx_apply_args& a) { a.topk_ids = static_cast<const uint8_t*>(a.topk_ids) + 2; }},
      {"workspace,256", DSV4MX_STATUS_MISALIGNED,
       [](dsv4mx_apply_args& a) { a.workspace = static_cast<uint8_t*>(a.workspace) + 64; }},
      {"topk_ids_stride,1,2", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_apply_args& a) { a.topk_ids_stride = 1; }},
      {"topk_weights_stride,-2", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_apply_args& a) { a.topk_weights_stride = -2; }},
      {"flags,0x2", DSV4MX_STATUS_INVALID_ARGUMENT, [](dsv4mx_apply_args& a) { a.flags = 2; }},
      {"multiprocessors,-1", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_apply_args& a) { a.multiprocessors = -1; }},
      {"x_scale", DSV4MX_STATUS_UNSUPPORTED, [](dsv4mx_apply_args& a) { a.x_scale = a.x; }},
      {"expert_counts,8", DSV4MX_STATUS_MISALIGNED,
       [](dsv4mx_apply_args& a) { a.expert_counts = reinterpret_cast<int64_t*>(0x1004); }},
      {"workspace,0", DSV4MX_STATUS_WORKSPACE_TOO_SMALL,
       [](dsv4mx_apply_args& a) { a.workspace_bytes = 0; }},
  };
  for (const auto& bad : cases) {
    Call call(c, run.layer());
    const std::vector<uint8_t> before = call.out.Read();
    bad.change(call.args);
    INFO(bad.words);
    REQUIRE_REFUSED(dsv4mx_layer_apply(run.layer(), run.weights(), &call.args, nullptr), bad.code,
                    bad.words);
    CHECK(call.out.Read() == before);
  }
}

TEST_CASE("[C5] tokens 0: legal, with or without pointers", "[state]") {
  const Case c = MakeCase(kLayer);
  const Runner run(c);
  dsv4mx_apply_args none = DSV4MX_APPLY_ARGS_INIT;
  REQUIRE_OK(dsv4mx_layer_apply(run.layer(), run.weights(), &none, nullptr));
  Call call(c, run.layer());
  const std::vector<uint8_t> before = call.out.Read();
  call.args.tokens = 0;
  REQUIRE_OK(dsv4mx_layer_apply(run.layer(), run.weights(), &call.args, nullptr));
  CHECK(call.out.Read() == before);
}

struct Progress {
  int calls = 0, cancel_at = -1;
  double last = -1;
  bool ordered = true;
  static int32_t Callback(void* user, dsv4mx_stage stage, int64_t done, int64_t total) {
    auto* p = static_cast<Progress*>(user);
    const double fraction = static_cast<double>(done) / static_cast<double>(total);
    p->ordered = p->ordered && stage == DSV4MX_STAGE_PREPARE;
    p->ordered = p->ordered && fraction >= p->last && fraction >= 0 && fraction <= 1;
    p->last = fraction;
    return p->calls++ == p->cancel_at ? 1 : 0;
  }
};

TEST_CASE("[B14] prepare reports progress from 0 to 1, can be cancelled at any step and repeated",
          "[state]") {
  const Case c = MakeCase("h=64 i=32 e=7 k=2 m=3");
  const Output want = Runner(c).Apply();
  const LayerPtr layer = MakeLayer(CpuContext(), DescOf(c));
  Progress whole;
  for (int at = -1; at < 8; ++at) {
    const WeightsPtr w = MakeWeights(layer.get());
    for (int32_t e = 0; e < 7; ++e) SetExpert(w.get(), c.p, e, *c.experts[static_cast<size_t>(e)]);
    Progress p;
    p.cancel_at = at;
    dsv4mx_control control = DSV4MX_CONTROL_INIT;
    control.progress = Progress::Callback;
    control.progress_user = &p;
    dsv4mx_prepare_args args = DSV4MX_PREPARE_ARGS_INIT;
    args.control = &control;
    if (at < 0) {
      REQUIRE_OK(dsv4mx_weights_prepare(w.get(), &args, nullptr));
      CHECK(p.calls >= 2);
      CHECK(p.last == 1.0);
      whole = p;
    } else if (at < whole.calls) {
      REQUIRE_REFUSED(dsv4mx_weights_prepare(w.get(), &args, nullptr), DSV4MX_STATUS_CANCELLED,
                      "cancel");
      CHECK(Info(w.get()).state == DSV4MX_WEIGHTS_FILLING);
      REQUIRE_OK(dsv4mx_weights_prepare(w.get(), nullptr, nullptr));
    } else {
      REQUIRE_OK(dsv4mx_weights_prepare(w.get(), &args, nullptr));
    }
    CHECK(p.ordered);
    CHECK(CheckSame(want, ApplyGuarded(CpuContext(), layer.get(), w.get(), c.p, c.in)) == "");
  }
}

TEST_CASE("a cancelled prepare may be followed by other tensors", "[state]") {
  const Case c = MakeCase(kLayer), old = MakeCase(std::string(kLayer) + " seed=9");
  const LayerPtr layer = MakeLayer(CpuContext(), DescOf(c));
  const WeightsPtr w = MakeWeights(layer.get());
  for (int32_t e = 0; e < 3; ++e) SetExpert(w.get(), c.p, e, *old.experts[static_cast<size_t>(e)]);
  Progress p;
  p.cancel_at = 2;
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  control.progress = Progress::Callback;
  control.progress_user = &p;
  dsv4mx_prepare_args args = DSV4MX_PREPARE_ARGS_INIT;
  args.control = &control;
  REQUIRE_REFUSED(dsv4mx_weights_prepare(w.get(), &args, nullptr), DSV4MX_STATUS_CANCELLED,
                  "cancel");
  for (int32_t e = 0; e < 3; ++e) SetExpert(w.get(), c.p, e, *c.experts[static_cast<size_t>(e)]);
  REQUIRE_OK(dsv4mx_weights_prepare(w.get(), nullptr, nullptr));
  CHECK(CheckSame(Runner(c).Apply(), ApplyGuarded(CpuContext(), layer.get(), w.get(), c.p, c.in)) ==
        "");
}

TEST_CASE("the caller's weights buffer: exact size, too small, misaligned, nothing outside written",
          "[state]") {
  const Case c = MakeCase("h=96 i=96 e=3 k=2 m=4 order=gate_up bias=1");
  const Runner run(c);
  const Output want = run.Apply();
  const dsv4mx_layer_info info = run.info();
  const size_t bytes = static_cast<size_t>(info.prepared_bytes),
               align = static_cast<size_t>(info.prepared_alignment);
  for (const Edge edge : {Edge::kStart, Edge::kEnd}) {
    const Guarded memory(nullptr, bytes, align, edge);
    dsv4mx_weights_desc desc = DSV4MX_WEIGHTS_DESC_INIT;
    desc.memory = memory.data();
    desc.memory_bytes = bytes;
    dsv4mx_weights* made = nullptr;
    REQUIRE_OK(dsv4mx_weights_create(run.layer(), &desc, &made));
    const WeightsPtr w(made);
    for (int32_t e = 0; e < 3; ++e) SetExpert(w.get(), c.p, e, *c.experts[static_cast<size_t>(e)]);
    REQUIRE_OK(dsv4mx_weights_prepare(w.get(), nullptr, nullptr));
    CHECK(CheckSame(want, ApplyGuarded(run.context(), run.layer(), w.get(), c.p, c.in)) == "");
    CHECK(memory.Damage() == "");
  }
  const Guarded memory(nullptr, bytes + align, align);
  dsv4mx_weights* made = reinterpret_cast<dsv4mx_weights*>(0x10);
  dsv4mx_weights_desc desc = DSV4MX_WEIGHTS_DESC_INIT;
  desc.memory = memory.data();
  desc.memory_bytes = bytes - 1;
  REQUIRE_REFUSED(dsv4mx_weights_create(run.layer(), &desc, &made), DSV4MX_STATUS_BUFFER_TOO_SMALL,
                  std::to_string(bytes) + "," + std::to_string(bytes - 1));
  CHECK(made == nullptr);
  desc.memory_bytes = bytes;
  desc.memory = memory.data() + align / 2;
  REQUIRE_REFUSED(dsv4mx_weights_create(run.layer(), &desc, &made), DSV4MX_STATUS_MISALIGNED,
                  "memory," + std::to_string(align));
  desc.memory = nullptr;
  REQUIRE_REFUSED(dsv4mx_weights_create(run.layer(), &desc, &made), DSV4MX_STATUS_INVALID_ARGUMENT,
                  "memory is NULL,memory_bytes " + std::to_string(bytes));
  CHECK(made == nullptr);
}

TEST_CASE("any order of destruction is legal: children keep their parents alive", "[state]") {
  const Case c = MakeCase(kLayer);
  const Output want = Runner(c).Apply();
  dsv4mx_context* context = nullptr;
  dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
  desc.device = DSV4MX_DEVICE_CPU;
  REQUIRE_OK(dsv4mx_context_create(&desc, &context));
  dsv4mx_layer* layer = MakeLayer(context, DescOf(c)).release();
  dsv4mx_layer* second = MakeLayer(context, DescOf(c)).release();
  dsv4mx_context_destroy(context);
  dsv4mx_weights* w = MakeWeights(layer).release();
  for (int32_t e = 0; e < 3; ++e) SetExpert(w, c.p, e, *c.experts[static_cast<size_t>(e)]);
  REQUIRE_OK(dsv4mx_weights_prepare(w, nullptr, nullptr));
  CHECK(CheckSame(want, ApplyGuarded(CpuContext(), layer, w, c.p, c.in)) == "");
  dsv4mx_layer_destroy(second);
  dsv4mx_layer_destroy(layer);
  CHECK(Info(w).state == DSV4MX_WEIGHTS_PREPARED);
  dsv4mx_weights_destroy(w);
  dsv4mx_context_destroy(nullptr);
  dsv4mx_layer_destroy(nullptr);
  dsv4mx_weights_destroy(nullptr);
  dsv4mx_checkpoint_destroy(nullptr);
}

}  // namespace
}  // namespace dsv4mx::test
