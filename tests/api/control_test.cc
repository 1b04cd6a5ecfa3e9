// dsv4mx_control: progress, a cancel flag of another thread, a deadline; for every call that takes one.
#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"

namespace dsv4mx::test {
namespace {

struct Watcher {
  int calls = 0, cancel_at = -1;
  bool ordered = true;
  int64_t last = -1, total = 0;
  std::vector<dsv4mx_stage> stages;
  static int32_t Look(void* user, dsv4mx_stage stage, int64_t done, int64_t total) {
    auto* w = static_cast<Watcher*>(user);
    if (w->stages.empty() || w->stages.back() != stage) w->stages.push_back(stage), w->last = -1;
    w->ordered = w->ordered && done >= w->last && done <= total;
    w->last = done;
    w->total = total;
    return w->calls++ == w->cancel_at ? 1 : 0;
  }
};

// Every long call on weights that are ready for it.
struct LongCall {
  const char* name;
  dsv4mx_stage stage;
  std::function<dsv4mx_status(dsv4mx_weights*, const dsv4mx_control*)> run;
};

TEST_CASE("[B14] progress, cancel flag and deadline of every long call", "[control]") {
  const Case c = MakeCase("h=64 i=64 e=5 k=2 m=3 order=gate_up");
  const Runner run(c);
  const Output want = run.Apply();
  dsv4mx_marlin m = DSV4MX_MARLIN_INIT;
  REQUIRE_OK(dsv4mx_layer_query_marlin(run.layer(), &m));
  const auto h = static_cast<size_t>(m.hidden_padded),
             i = static_cast<size_t>(m.intermediate_padded);
  std::vector<uint8_t> w13(5 * i * h), w13_scale(5 * 2 * i * h / 32), w2(5 * i * h / 2),
      w2_scale(5 * i * h / 32);
  m.w13 = w13.data(), m.w13_scale = w13_scale.data(), m.w2 = w2.data();
  m.w2_scale = w2_scale.data();
  REQUIRE_OK(dsv4mx_weights_export_marlin(run.weights(), &m, nullptr, nullptr));
  std::vector<uint8_t> all;
  for (int32_t e = 0; e < 5; ++e) {
    const std::vector<uint8_t> one = TensorsOf(c.p, e, *c.experts[static_cast<size_t>(e)])[0].bytes;
    all.insert(all.end(), one.begin(), one.end());
  }
  const dsv4mx_tensor codes = Tensor(all.data(), DSV4MX_DTYPE_U8, {5, 128, 32});
  const LongCall calls[] = {
      {"set", DSV4MX_STAGE_LOAD,
       [&](dsv4mx_weights* w, const dsv4mx_control* control) {
         dsv4mx_set_args args = DSV4MX_SET_ARGS_INIT;
         args.control = control;
         return dsv4mx_weights_set(w, "w13_weight", -1, &codes, &args, nullptr);
       }},
      {"prepare", DSV4MX_STAGE_PREPARE,
       [](dsv4mx_weights* w, const dsv4mx_control* control) {
         dsv4mx_prepare_args args = DSV4MX_PREPARE_ARGS_INIT;
         args.control = control;
         return dsv4mx_weights_prepare(w, &args, nullptr);
       }},
      {"import", DSV4MX_STAGE_CONVERT,
       [&](dsv4mx_weights* w, const dsv4mx_control* control) {
         dsv4mx_marlin_args args = DSV4MX_MARLIN_ARGS_INIT;
         args.control = control;
         return dsv4mx_weights_import_marlin(w, &m, &args, nullptr);
       }},
      {"export", DSV4MX_STAGE_CONVERT, [&](dsv4mx_weights*, const dsv4mx_control* control) {
         dsv4mx_marlin_args args = DSV4MX_MARLIN_ARGS_INIT;
         args.control = control;
         return dsv4mx_weights_export_marlin(run.weights(), &m, &args, nullptr);
       }}};
  for (const LongCall& call : calls) {
    INFO(call.name);
    const auto filled = [&] {
      WeightsPtr w = MakeWeights(run.layer());
      for (int32_t e = 0; e < 5; ++e)
        SetExpert(w.get(), c.p, e, *c.experts[static_cast<size_t>(e)]);
      return w;
    };
    const auto works = [&](dsv4mx_weights* w) {
      if (std::string(call.name) == "export") return;
      REQUIRE_OK(call.run(w, nullptr));
      if (std::string(call.name) != "prepare") {
        REQUIRE_OK(dsv4mx_weights_prepare(w, nullptr, nullptr));
      }
      CHECK(CheckSame(want, ApplyGuarded(CpuContext(), run.layer(), w, c.p, c.in)) == "");
    };
    dsv4mx_control control = DSV4MX_CONTROL_INIT;
    Watcher whole;
    control.progress = Watcher::Look;
    control.progress_user = &whole;
    REQUIRE_OK(call.run(filled().get(), &control));
    CHECK(whole.stages == std::vector<dsv4mx_stage>{call.stage});
    CHECK(whole.ordered);
    CHECK(whole.last == whole.total);
    CHECK(whole.calls >= 5);
    for (int at = 0; at < whole.calls; ++at) {
      const WeightsPtr w = filled();
      Watcher stop;
      stop.cancel_at = at;
      control.progress_user = &stop;
      REQUIRE_REFUSED(call.run(w.get(), &control), DSV4MX_STATUS_CANCELLED,
                      std::string(call.name) + ",progress callback");
      works(w.get());
    }
    const WeightsPtr w = filled();
    int32_t flag = 1;
    control = DSV4MX_CONTROL_INIT;
    control.cancel = &flag;
    REQUIRE_REFUSED(call.run(w.get(), &control), DSV4MX_STATUS_CANCELLED, "flag,after 0 of");
    flag = 0;
    control.timeout_ns = 1;
    REQUIRE_REFUSED(call.run(w.get(), &control), DSV4MX_STATUS_DEADLINE_EXCEEDED, "timeout");
    control.timeout_ns = -1;
    REQUIRE_REFUSED(call.run(w.get(), &control), DSV4MX_STATUS_INVALID_ARGUMENT, "timeout_ns,-1");
    control.timeout_ns = INT64_MAX;
    works(w.get());
  }
}

TEST_CASE("[B14] another thread cancels a call under way", "[control]") {
  const Case c = MakeCase("h=64 i=64 e=3 k=2 m=3");
  const LayerPtr layer = MakeLayer(CpuContext(), DescOf(c));
  const WeightsPtr w = MakeWeights(layer.get());
  for (int32_t e = 0; e < 3; ++e) SetExpert(w.get(), c.p, e, *c.experts[static_cast<size_t>(e)]);
  struct Shared {
    std::atomic<int> calls{0};
    int32_t flag = 0;
  } shared;
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  control.cancel = &shared.flag;
  control.progress_user = &shared;
  // The call is held until the other thread has raised the flag.
  control.progress = [](void* user, dsv4mx_stage, int64_t, int64_t) -> int32_t {
    auto* s = static_cast<Shared*>(user);
    ++s->calls;
    while (__atomic_load_n(&s->flag, __ATOMIC_ACQUIRE) == 0) std::this_thread::yield();
    return 0;
  };
  std::thread other([&shared] {
    while (shared.calls.load() == 0) std::this_thread::yield();
    __atomic_store_n(&shared.flag, 1, __ATOMIC_RELEASE);
  });
  dsv4mx_prepare_args args = DSV4MX_PREPARE_ARGS_INIT;
  args.control = &control;
  const dsv4mx_status status = dsv4mx_weights_prepare(w.get(), &args, nullptr);
  const std::string text = dsv4mx_last_error();
  other.join();
  CHECK(status == DSV4MX_STATUS_CANCELLED);
  CHECK(MissingWords(text, "prepare,flag,1 of 3") == "");
  REQUIRE_OK(dsv4mx_weights_prepare(w.get(), nullptr, nullptr));
}

TEST_CASE("flags and reserved fields of args structs are refused", "[control]") {
  const Case c = MakeCase("h=64 i=32 e=3 k=2 m=0");
  const Runner run(c);
  dsv4mx_prepare_args prepare = DSV4MX_PREPARE_ARGS_INIT;
  prepare.flags = 1;
  REQUIRE_REFUSED(dsv4mx_weights_prepare(run.weights(), &prepare, nullptr),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "flags,0x1");
  dsv4mx_workspace_args workspace = DSV4MX_WORKSPACE_ARGS_INIT;
  workspace.reserved = 2;
  dsv4mx_workspace_info info = DSV4MX_WORKSPACE_INFO_INIT;
  REQUIRE_REFUSED(dsv4mx_layer_query_workspace(run.layer(), 1, &workspace, &info),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "reserved 2");
}

}  // namespace
}  // namespace dsv4mx::test
