// A thread that ends inside a callback, by pthread_exit, by cancellation or as an interpreter ends its threads, unwinds
// through the library: nothing aborts, nothing stays locked, and what it worked on can be used or destroyed.
#include <pthread.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/runner.h"
#include "tests/safetensors_file.h"

namespace dsv4mx::test {
namespace {

enum class End { kExit, kCancel, kAsynchronousCancel };

// Hooks whose `at`-th call ends the thread.
struct Hooks {
  int at = -1;
  End how = End::kExit;
  int live = 0;  // blocks of memory

  void Called() {
    if (at < 0 || at-- > 0) return;
    if (how == End::kExit) pthread_exit(&live);
    if (how == End::kAsynchronousCancel) {
      pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, nullptr);
    }
    pthread_cancel(pthread_self());
    pthread_testcancel();
  }
};

void LogHook(void* user, dsv4mx_log_level, const char*) {
  static_cast<Hooks*>(user)->Called();
}
void* AllocHook(void* user, size_t bytes, size_t alignment, dsv4mx_memory, dsv4mx_stream) {
  static_cast<Hooks*>(user)->Called();
  void* p = nullptr;
  if (posix_memalign(&p, alignment, bytes) != 0) return nullptr;
  ++static_cast<Hooks*>(user)->live;
  return p;
}
void FreeHook(void* user, void* p, size_t, dsv4mx_memory, dsv4mx_stream) {
  std::free(p);
  --static_cast<Hooks*>(user)->live;
  static_cast<Hooks*>(user)->Called();
}
int32_t ProgressHook(void* user, dsv4mx_stage, int64_t, int64_t) {
  static_cast<Hooks*>(user)->Called();
  return 0;
}

// Runs `call` on a thread of its own. True if the thread was ended in it.
bool EndsIn(const std::function<void()>& call) {
  struct Run {
    const std::function<void()>& call;
    bool returned = false;
  } run{call};
  pthread_t thread;
  REQUIRE(pthread_create(
              &thread, nullptr,
              [](void* p) -> void* {
                auto* r = static_cast<Run*>(p);
                r->call();
                r->returned = true;
                return nullptr;
              },
              &run) == 0);
  void* result = nullptr;
  REQUIRE(pthread_join(thread, &result) == 0);
  CHECK((result == nullptr) == run.returned);
  return !run.returned;
}

TEST_CASE("[J2] a thread that ends in a callback passes through every call that has one",
          "[unwinding]") {
  const Case c = MakeCase("h=64 i=32 e=3 k=2 m=5 threads=2");
  const Output want = Runner(c).Apply();
  const TempFolder folder;
  std::vector<FileTensor> tensors;
  for (int32_t e = 0; e < 3; ++e) {
    for (const NamedTensor& t : TensorsOf(c.p, e, *c.experts[static_cast<size_t>(e)])) {
      tensors.push_back({"layers.0.ffn.experts." + std::to_string(e) + "." + t.name,
                         t.dtype == DSV4MX_DTYPE_I8 ? "I8" : "F8_E8M0", t.shape,
                         std::string(t.bytes.begin(), t.bytes.end())});
    }
  }
  WriteFile(folder / "model.safetensors", SafetensorsFile(tensors));
  const std::string path = folder.path();
  dsv4mx_checkpoint* checkpoint = nullptr;
  REQUIRE_OK(dsv4mx_checkpoint_create(path.c_str(), nullptr, &checkpoint));

  for (const End how : {End::kExit, End::kCancel, End::kAsynchronousCancel}) {
    INFO("way " << static_cast<int>(how));
    Hooks hooks;
    hooks.how = how;
    dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
    desc.device = DSV4MX_DEVICE_CPU;
    desc.threads = 2;
    desc.log = LogHook;
    desc.log_level = DSV4MX_LOG_DEBUG;
    desc.alloc = AllocHook;
    desc.free = FreeHook;
    desc.log_user = desc.alloc_user = &hooks;
    dsv4mx_control control = DSV4MX_CONTROL_INIT;
    control.progress = ProgressHook;
    control.progress_user = &hooks;
    dsv4mx_prepare_args prepare_args = DSV4MX_PREPARE_ARGS_INIT;
    dsv4mx_load_args load_args = DSV4MX_LOAD_ARGS_INIT;
    dsv4mx_set_args set_args = DSV4MX_SET_ARGS_INIT;
    dsv4mx_marlin_args marlin_args = DSV4MX_MARLIN_ARGS_INIT;
    dsv4mx_checkpoint_args open_args = DSV4MX_CHECKPOINT_ARGS_INIT;
    prepare_args.control = load_args.control = set_args.control = marlin_args.control =
        open_args.control = &control;
    const dsv4mx_block block = DSV4MX_BLOCK_INIT;

    // `call` at its first, second, ... callback, until it has no more of them; then it has succeeded. Returns how many.
    // What a call that did not return has made all the same is destroyed.
    const auto at_each = [&](
                             const char* name, const std::function<void()>& call,
                             const std::function<void()>& destroy = [] {}) {
      INFO(name);
      for (int at = 0; at < 100; ++at) {
        hooks.at = at;
        const bool ended = EndsIn(call);
        hooks.at = -1;
        if (!ended) return at;
        destroy();
      }
      FAIL("no end of callbacks");
      return 0;
    };

    dsv4mx_context* context = nullptr;
    CHECK(at_each("context_create", [&] { REQUIRE_OK(dsv4mx_context_create(&desc, &context)); }) >=
          1);
    void* memory = nullptr;
    CHECK(at_each("context_alloc",
                  [&] { REQUIRE_OK(dsv4mx_context_alloc(context, 1000, &memory)); }) == 1);
    CHECK(hooks.live == 1);
    hooks.at = 0;
    CHECK(EndsIn([&] { dsv4mx_context_free(context, memory); }));
    CHECK(hooks.live == 0);

    const dsv4mx_layer_desc layer_desc = DescOf(c);
    dsv4mx_layer* layer = nullptr;
    CHECK(at_each(
              "layer_create",
              [&] { REQUIRE_OK(dsv4mx_layer_create(context, &layer_desc, &layer)); },
              [&] {
                dsv4mx_layer_destroy(layer);
                layer = nullptr;
              }) == 1);
    dsv4mx_weights *weights = nullptr, *loaded = nullptr;
    CHECK(at_each(
              "weights_create",
              [&] { REQUIRE_OK(dsv4mx_weights_create(layer, nullptr, &weights)); },
              [&] {
                dsv4mx_weights_destroy(weights);
                weights = nullptr;
              }) == 2);
    CHECK(hooks.live == 1);
    REQUIRE_OK(dsv4mx_weights_create(layer, nullptr, &loaded));
    for (int32_t e = 0; e < 3; ++e) {
      for (const NamedTensor& t : TensorsOf(c.p, e, *c.experts[static_cast<size_t>(e)])) {
        const dsv4mx_tensor view = t.View();
        CHECK(at_each("weights_set", [&] {
                REQUIRE_OK(
                    dsv4mx_weights_set(weights, t.name.c_str(), e, &view, &set_args, nullptr));
              }) >= 2);
      }
    }
    CHECK(at_each("weights_prepare", [&] {
            REQUIRE_OK(dsv4mx_weights_prepare(weights, &prepare_args, nullptr));
          }) >= 4);
    CHECK(CheckSame(want, ApplyGuarded(context, layer, weights, c.p, c.in)) == "");
    CHECK(at_each("weights_load", [&] {
            REQUIRE_OK(dsv4mx_weights_load(loaded, checkpoint, &block, &load_args, nullptr));
          }) >= 4);
    REQUIRE_OK(dsv4mx_weights_prepare(loaded, nullptr, nullptr));
    CHECK(CheckSame(want, ApplyGuarded(context, layer, loaded, c.p, c.in)) == "");

    dsv4mx_marlin marlin = DSV4MX_MARLIN_INIT;
    REQUIRE_OK(dsv4mx_layer_query_marlin(layer, &marlin));
    const int64_t hidden = marlin.hidden_padded, intermediate = marlin.intermediate_padded;
    std::vector<int32_t> w13(static_cast<size_t>(3 * hidden / 16 * 4 * intermediate)),
        w2(static_cast<size_t>(3 * intermediate / 16 * 2 * hidden));
    std::vector<uint8_t> w13_scale(static_cast<size_t>(3 * hidden / 32 * 2 * intermediate)),
        w2_scale(static_cast<size_t>(3 * intermediate / 32 * hidden));
    marlin.w13 = w13.data();
    marlin.w2 = w2.data();
    marlin.w13_scale = w13_scale.data();
    marlin.w2_scale = w2_scale.data();
    CHECK(at_each("weights_export_marlin", [&] {
            REQUIRE_OK(dsv4mx_weights_export_marlin(weights, &marlin, &marlin_args, nullptr));
          }) >= 3);
    dsv4mx_weights* imported = nullptr;
    REQUIRE_OK(dsv4mx_weights_create(layer, nullptr, &imported));
    CHECK(at_each("weights_import_marlin", [&] {
            REQUIRE_OK(dsv4mx_weights_import_marlin(imported, &marlin, &marlin_args, nullptr));
          }) >= 3);
    REQUIRE_OK(dsv4mx_weights_prepare(imported, nullptr, nullptr));
    CHECK(CheckSame(want, ApplyGuarded(context, layer, imported, c.p, c.in)) == "");
    dsv4mx_checkpoint* opened = nullptr;
    CHECK(at_each("checkpoint_create", [&] {
            REQUIRE_OK(dsv4mx_checkpoint_create(path.c_str(), &open_args, &opened));
          }) >= 1);
    dsv4mx_checkpoint_destroy(opened);

    // The last reference on the context goes with the weights.
    dsv4mx_layer_destroy(layer);
    dsv4mx_context_destroy(context);
    for (dsv4mx_weights* w : {weights, loaded, imported}) {
      hooks.at = 0;
      CHECK(EndsIn([&] { dsv4mx_weights_destroy(w); }));
    }
    CHECK(hooks.live == 0);
  }
  dsv4mx_checkpoint_destroy(checkpoint);
}

TEST_CASE("[J2] a cancellation that waits takes effect outside the library, not in its own waits",
          "[unwinding]") {
  const TempFolder folder;
  WriteFile(folder / "model.safetensors", SafetensorsFile({{"x", "F32", {1}}}));
  const std::string path = folder.path();
  for (const int type : {PTHREAD_CANCEL_DEFERRED, PTHREAD_CANCEL_ASYNCHRONOUS}) {
    int steps = 0;
    CHECK(EndsIn([&] {
      pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, nullptr);
      pthread_cancel(pthread_self());
      pthread_setcanceltype(type, nullptr);
      // The library must neither act on the request nor allow it.
      dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
      desc.device = DSV4MX_DEVICE_CPU;
      desc.threads = 3;
      dsv4mx_context* context = nullptr;
      if (dsv4mx_context_create(&desc, &context) == DSV4MX_STATUS_OK) ++steps;
      dsv4mx_context_destroy(context);
      ++steps;
      pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, nullptr);  // asynchronous: ends here
      dsv4mx_checkpoint* checkpoint = nullptr;
      if (dsv4mx_checkpoint_create(path.c_str(), nullptr, &checkpoint) == DSV4MX_STATUS_OK) ++steps;
      dsv4mx_checkpoint_destroy(checkpoint);
      if (dsv4mx_context_create(&desc, &context) == DSV4MX_STATUS_OK) ++steps;
      dsv4mx_context_destroy(context);  // joins threads
      ++steps;
      pthread_testcancel();
    }));
    CHECK(steps == (type == PTHREAD_CANCEL_DEFERRED ? 5 : 2));
  }
}

}  // namespace
}  // namespace dsv4mx::test
