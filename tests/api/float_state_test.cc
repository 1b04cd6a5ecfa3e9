// The floating-point state of the caller's thread (rounding, flush to zero, traps, sticky flags) leaves no trace in what
// the library does, and the library leaves none in it; callbacks run under the caller's.
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/numbers.h"
#include "tests/runner.h"
#include "tests/safetensors_file.h"

namespace dsv4mx::test {
namespace {

#if defined(__x86_64__)

struct FloatState {
  uint32_t mxcsr;
  uint16_t x87_control, x87_status;
  bool operator==(const FloatState& o) const {
    return mxcsr == o.mxcsr && x87_control == o.x87_control && x87_status == o.x87_status;
  }
};
FloatState GetState() {
  FloatState s;
  asm volatile("stmxcsr %0\n\tfnstcw %1\n\tfnstsw %2"
               : "=m"(s.mxcsr), "=m"(s.x87_control), "=m"(s.x87_status)
               :
               : "memory");
  return s;
}
// The status is taken over as well: flags that are set behind traps are what a host may bring along.
void SetState(const FloatState& s) {
  uint8_t all[28];
  asm volatile("fnstenv %0" : "=m"(all) : : "memory");
  std::memcpy(all, &s.x87_control, 2);
  std::memcpy(all + 4, &s.x87_status, 2);
  asm volatile("fldenv %0\n\tldmxcsr %1" : : "m"(all), "m"(s.mxcsr) : "memory");
}

constexpr uint32_t kMxcsr = 0x1F80;
constexpr uint16_t kX87 = 0x037F;
const struct {
  const char* name;
  FloatState state;
} kStates[] = {
    {"flush to zero", {kMxcsr | 0x8000, kX87, 0}},
    {"denormals are zero", {kMxcsr | 0x0040, kX87, 0}},
    {"both, flags set", {kMxcsr | 0x803F | 0x0040, kX87, 0x21}},
    {"round down", {kMxcsr | 0x2000, kX87 | 0x0400, 0}},
    {"round up", {kMxcsr | 0x4000, kX87 | 0x0800, 0}},
    {"round to zero", {kMxcsr | 0x6000, kX87 | 0x0C00, 0}},
    {"single precision of x87", {kMxcsr, 0x007F, 0}},
    {"all traps", {0, 0x0340, 0}},
    {"all traps, rounding up, flushing", {0xC000, 0x0B40, 0}},
    {"traps of x87 that wait", {0x1F80, 0x0340, 0x80A1}},
};

#elif defined(__aarch64__)

struct FloatState {
  uint64_t control, status;
  bool operator==(const FloatState& o) const { return control == o.control && status == o.status; }
};
FloatState GetState() {
  FloatState s;
  asm volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(s.control), "=r"(s.status) : : "memory");
  return s;
}
void SetState(const FloatState& s) {
  asm volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(s.control), "r"(s.status) : "memory");
}
const struct {
  const char* name;
  FloatState state;
} kStates[] = {
    {"flush to zero, flags set", {1u << 24, 0x1F}},
    {"round up", {1u << 22, 0}},
    {"round down", {2u << 22, 0}},
    {"round to zero", {3u << 22, 0}},
    {"default NaN", {1u << 25, 0}},
};

#endif

// Calls `body` under `state` and says what the state was afterwards. `body` computes nothing of its own.
template <class Body>
FloatState Under(const FloatState& state, const Body& body) {
  const FloatState usual = GetState();
  SetState(state);
  body();
  const FloatState after = GetState();
  SetState(usual);
  return after;
}

// What a layer gives that was made and used call by call; each call runs under `before` or, from `second` on, `after`.
struct Everything {
  std::vector<dsv4mx_status> statuses;
  std::vector<uint8_t> bytes;
  std::vector<std::string> texts;
  bool operator==(const Everything& o) const {
    return statuses == o.statuses && bytes == o.bytes && texts == o.texts;
  }
};

class Host {
 public:
  Host(const FloatState& making, const FloatState& using_it) : making_(making), using_(using_it) {}

  template <class Call>
  void operator()(const char* name, const Call& call) {
    dsv4mx_status status = -1;
    const FloatState& state = made_ ? using_ : making_;
    const FloatState after = Under(state, [&] { status = call(); });
    seen_.statuses.push_back(status);
    seen_.texts.push_back(status == DSV4MX_STATUS_OK ? name : dsv4mx_last_error());
    if (!(after == state)) changed_ += std::string(name) + " ";
  }
  void Made() { made_ = true; }
  template <class T>
  void Keep(const std::vector<T>& v) {
    const auto* p = reinterpret_cast<const uint8_t*>(v.data());
    seen_.bytes.insert(seen_.bytes.end(), p, p + v.size() * sizeof(T));
  }
  Everything& seen() { return seen_; }
  const std::string& changed() const { return changed_; }

 private:
  FloatState making_, using_;
  bool made_ = false;
  Everything seen_;
  std::string changed_;
};

// A case in which flushing, rounding and traps all show: scales down to 2^-127, x subnormal to large, an inexact sum.
Case MakeHardCase(const std::string& isa, const std::string& oracle) {
  Case c = MakeCase(
      "h=96 i=64 e=3 k=2 m=7 out=f32 clamp=10 order=gate_up bias=1 scales=119..127 isa=" + isa +
      " oracle=" + oracle);
  c.p.threads = 3;
  for (auto& e : c.experts) {
    for (int m = 0; m < 3; ++m) {
      for (size_t i = 0; i < e->scales[m].size(); i += 5) e->scales[m][i] = 0;
    }
  }
  for (size_t i = 0; i < 96; ++i) {
    c.in.x[i] = static_cast<uint16_t>(i + 1);                   // subnormal
    c.in.x[96 + i] = ToBf16(i % 3 == 0 ? 0x1p-126 : 0x1p-120);  // sums that are subnormal
    if (i % 2 == 0) c.in.x[2 * 96 + i] = ToBf16(i % 4 == 0 ? 0x1p100 : -0x1p100);
  }
  for (size_t i = 0; i < c.in.weights.size(); i += 3) c.in.weights[i] = 0x1p-130f;
  return c;
}

struct File {
  TempFolder folder;
  std::string path;
  File() {
    WriteFile(folder / "model.safetensors", SafetensorsFile(DeepSeekExperts(3, 64, 32, 'z')));
    WriteFile(folder / "odd.safetensors",
              WithHeader(R"({"__metadata__":{"a":1.5e-310},"b":[0.1,1e400]})", ""));
    path = folder.path();
  }
};

// Every entry point that computes or parses.
Everything RunAll(const Case& c, const File& file, Host* host) {
  Host& call = *host;
  dsv4mx_context_desc context_desc = DSV4MX_CONTEXT_DESC_INIT;
  context_desc.device = DSV4MX_DEVICE_CPU;
  context_desc.cpu_isa = c.p.isa;
  context_desc.threads = c.p.threads;
  dsv4mx_context* context = nullptr;
  call("context_create", [&] { return dsv4mx_context_create(&context_desc, &context); });
  call.Made();
  dsv4mx_layer_desc desc = DescOf(c);
  desc.activation_alpha = 0;
  dsv4mx_layer* layer = nullptr;
  call("layer_create", [&] { return dsv4mx_layer_create(context, &desc, &layer); });
  dsv4mx_workspace_info need = DSV4MX_WORKSPACE_INFO_INIT;
  call("query_workspace", [&] { return dsv4mx_layer_query_workspace(layer, 7, nullptr, &need); });
  dsv4mx_weights* weights = nullptr;
  call("weights_create", [&] { return dsv4mx_weights_create(layer, nullptr, &weights); });
  for (int32_t e = 0; e < 3; ++e) {
    for (const NamedTensor& t : TensorsOf(c.p, e, *c.experts[static_cast<size_t>(e)])) {
      dsv4mx_tensor view = t.View();
      std::vector<float> numbers;  // scales as numbers: 2^-127 is subnormal
      if (view.dtype == DSV4MX_DTYPE_E8M0) {
        for (const uint8_t b : t.bytes) {
          const uint32_t bits = b == 0 ? 0x00400000u : static_cast<uint32_t>(b) << 23;
          numbers.push_back(std::bit_cast<float>(bits));
        }
        view.data = numbers.data();
        view.dtype = DSV4MX_DTYPE_F32;
      }
      call("weights_set", [&] {
        return dsv4mx_weights_set(weights, t.name.c_str(), t.expert, &view, nullptr, nullptr);
      });
    }
  }
  const std::vector<uint16_t> halves(64 * 3, 0x0003);  // 3 * 2^-24: its value is in the text
  const dsv4mx_tensor bad = Tensor(halves.data(), DSV4MX_DTYPE_F16, {64, 3});
  dsv4mx_weights* other = nullptr;
  call("weights_create", [&] { return dsv4mx_weights_create(layer, nullptr, &other); });
  call("set of a bad scale",
       [&] { return dsv4mx_weights_set(other, "w1.scale", 0, &bad, nullptr, nullptr); });
  dsv4mx_weights_destroy(other);
  call("weights_prepare", [&] { return dsv4mx_weights_prepare(weights, nullptr, nullptr); });
  const size_t bytes = need.bytes;
  std::vector<uint8_t> workspace(bytes + 256);
  void* aligned = workspace.data();
  size_t room = workspace.size();
  std::align(256, bytes, aligned, room);
  struct alignas(64) Row {
    uint16_t x[96];
  };
  std::vector<Row> x(7);
  std::memcpy(x.data(), c.in.x.data(), 7 * sizeof(Row));
  const std::vector<uint8_t> ids = PackIds(c.p, c.in.ids),
                             router = PackRouterWeights(c.p, c.in.weights);
  struct alignas(64) Out {
    float y[96];
  };
  std::vector<Out> out(7);
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  args.x = x.data();
  args.topk_ids = ids.data();
  args.topk_weights = router.data();
  args.out = out.data();
  args.tokens = 7;
  args.workspace = aligned;
  args.workspace_bytes = bytes;
  call("apply", [&] { return dsv4mx_layer_apply(layer, weights, &args, nullptr); });
  call.Keep(out);
  dsv4mx_apply_args none = args;
  none.tokens = 0;
  call("apply of no tokens", [&] { return dsv4mx_layer_apply(layer, weights, &none, nullptr); });
  none.x_stride = 3;
  call("apply refused", [&] { return dsv4mx_layer_apply(layer, weights, &none, nullptr); });
  char plan[1024];
  call("query_plan", [&] { return dsv4mx_layer_query_plan(layer, weights, 7, plan, sizeof plan); });
  call.seen().texts.push_back(plan);
  dsv4mx_marlin marlin = DSV4MX_MARLIN_INIT;
  call("query_marlin", [&] { return dsv4mx_layer_query_marlin(layer, &marlin); });
  std::vector<uint16_t> bias(static_cast<size_t>(3 * 2 * marlin.intermediate_padded));
  std::vector<uint8_t> scales(
      static_cast<size_t>(3 * marlin.hidden_padded / 32 * 2 * marlin.intermediate_padded));
  marlin.w13_bias = bias.data();
  marlin.w13_scale = scales.data();
  call("export_marlin",
       [&] { return dsv4mx_weights_export_marlin(weights, &marlin, nullptr, nullptr); });
  call.Keep(bias);
  call.Keep(scales);
  dsv4mx_weights* imported = nullptr;
  call("weights_create", [&] { return dsv4mx_weights_create(layer, nullptr, &imported); });
  call("import_marlin",
       [&] { return dsv4mx_weights_import_marlin(imported, &marlin, nullptr, nullptr); });
  call("weights_destroy", [&] { return dsv4mx_weights_destroy(imported), DSV4MX_STATUS_OK; });

  dsv4mx_checkpoint* checkpoint = nullptr;
  const std::string odd = file.path + "/odd.safetensors";
  call("checkpoint_create of odd numbers",
       [&] { return dsv4mx_checkpoint_create(odd.c_str(), nullptr, &checkpoint); });
  dsv4mx_checkpoint_destroy(checkpoint);
  const std::string good = file.path + "/model.safetensors";
  call("checkpoint_create",
       [&] { return dsv4mx_checkpoint_create(good.c_str(), nullptr, &checkpoint); });
  const dsv4mx_block block = DSV4MX_BLOCK_INIT;
  dsv4mx_layer_desc found = DSV4MX_LAYER_DESC_INIT;
  call("query_layer", [&] { return dsv4mx_checkpoint_query_layer(checkpoint, &block, &found); });
  found.top_k = 2;
  dsv4mx_layer* loaded_layer = nullptr;
  call("layer_create", [&] { return dsv4mx_layer_create(context, &found, &loaded_layer); });
  dsv4mx_weights* loaded = nullptr;
  call("weights_create", [&] { return dsv4mx_weights_create(loaded_layer, nullptr, &loaded); });
  call("weights_load",
       [&] { return dsv4mx_weights_load(loaded, checkpoint, &block, nullptr, nullptr); });
  call("checkpoint_destroy",
       [&] { return dsv4mx_checkpoint_destroy(checkpoint), DSV4MX_STATUS_OK; });
  dsv4mx_weights_destroy(loaded);
  dsv4mx_layer_destroy(loaded_layer);
  dsv4mx_weights_destroy(weights);
  dsv4mx_layer_destroy(layer);
  call("context_destroy", [&] { return dsv4mx_context_destroy(context), DSV4MX_STATUS_OK; });
  return call.seen();
}

TEST_CASE("[J1] bits, texts and the caller's state are as if the other had none", "[float]") {
  const File file;
  const FloatState usual = GetState();
  for (const std::string isa : {"portable", "avx2", "avx512", "avx512bf16"}) {
    try {
      ContextOf(Parse("isa=" + isa));
    } catch (const Refused&) {
      continue;
    }
    for (const std::string oracle : {"none", "truth", "spec"}) {
      const Case c = MakeHardCase(isa, oracle);
      Host plain(usual, usual);
      const Everything want = RunAll(c, file, &plain);
      REQUIRE(plain.changed() == "");
      for (const auto& s : kStates) {
        INFO("isa " << isa << ", oracle " << oracle << ", " << s.name);
        Host before(s.state, usual), after(usual, s.state), both(s.state, s.state);
        for (Host* host : {&before, &after, &both}) {
          CHECK(RunAll(c, file, host) == want);
          CHECK(host->changed() == "");
        }
      }
    }
  }
}

TEST_CASE("[J1] callbacks run under the caller's state, and what they change in it stays",
          "[float]") {
  struct Hooks {
    FloatState expected, set;
    bool armed;
    int wrong;
  };
  const FloatState first = kStates[0].state, second = kStates[1].state;
  const auto look = [](void* user) {
    auto& h = *static_cast<Hooks*>(user);
    if (!h.armed) return;
    const FloatState now = GetState();
    if (!(now == h.expected)) ++h.wrong;
    SetState(h.set);
    h.expected = h.set;
  };
  static void (*const kLook)(void*) = look;
  Hooks hooks{first, second, false, 0};
  dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
  desc.device = DSV4MX_DEVICE_CPU;
  desc.log_level = DSV4MX_LOG_INFO;
  desc.log_user = desc.alloc_user = &hooks;
  desc.log = [](void* user, dsv4mx_log_level, const char*) { kLook(user); };
  desc.alloc = [](void* user, size_t bytes, size_t alignment, dsv4mx_memory, dsv4mx_stream) {
    kLook(user);
    void* p = nullptr;
    return posix_memalign(&p, alignment, bytes) == 0 ? p : nullptr;
  };
  desc.free = [](void* user, void* p, size_t, dsv4mx_memory, dsv4mx_stream) {
    kLook(user);
    std::free(p);
  };
  const auto check = [&](const char* name, const std::function<void()>& call) {
    hooks.armed = true;
    hooks.wrong = 0;
    hooks.expected = first;
    const FloatState after = Under(first, call);
    hooks.armed = false;
    INFO(name);
    CHECK(hooks.wrong == 0);
    CHECK(after == second);  // called at least once, and kept
  };
  dsv4mx_context* context = nullptr;
  check("log", [&] { REQUIRE_OK(dsv4mx_context_create(&desc, &context)); });
  const Case c = MakeCase("h=64 i=32 e=3 k=2 m=5");
  const dsv4mx_layer_desc layer_desc = DescOf(c);
  dsv4mx_layer* layer = nullptr;
  REQUIRE_OK(dsv4mx_layer_create(context, &layer_desc, &layer));
  dsv4mx_weights* weights = nullptr;
  check("alloc", [&] { REQUIRE_OK(dsv4mx_weights_create(layer, nullptr, &weights)); });
  for (int32_t e = 0; e < 3; ++e) SetExpert(weights, c.p, e, *c.experts[static_cast<size_t>(e)]);
  dsv4mx_prepare_args args = DSV4MX_PREPARE_ARGS_INIT;
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  control.progress_user = &hooks;
  control.progress = [](void* user, dsv4mx_stage, int64_t, int64_t) -> int32_t {
    return kLook(user), 0;
  };
  args.control = &control;
  check("progress", [&] { REQUIRE_OK(dsv4mx_weights_prepare(weights, &args, nullptr)); });
  check("free", [&] { dsv4mx_weights_destroy(weights); });
  dsv4mx_layer_destroy(layer);
  dsv4mx_context_destroy(context);
}

}  // namespace
}  // namespace dsv4mx::test
