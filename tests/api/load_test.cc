// Loading when something goes wrong or takes long: reads that fail or give little, files that shrink, memory that is not there,
// callers that want to hear of it or to stop it. Whatever happens, the load can be repeated.
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/checkpoint_forms.h"
#include "tests/file_faults.h"
#include "tests/runner.h"
#include "tests/safetensors_file.h"

namespace dsv4mx::test {
namespace {

using Clock = std::chrono::steady_clock;

struct CloseCheckpoint {
  void operator()(dsv4mx_checkpoint* p) const { dsv4mx_checkpoint_destroy(p); }
};
using CheckpointPtr = std::unique_ptr<dsv4mx_checkpoint, CloseCheckpoint>;

CheckpointPtr Open(const std::string& path, int32_t threads = 0) {
  dsv4mx_checkpoint* checkpoint = nullptr;
  dsv4mx_checkpoint_args args = DSV4MX_CHECKPOINT_ARGS_INIT;
  args.threads = threads;
  Must(dsv4mx_checkpoint_create(path.c_str(), &args, &checkpoint), "checkpoint_create");
  return CheckpointPtr(checkpoint);
}

// A layer whose file is open, and what it computes when all goes well.
struct Loading {
  explicit Loading(const std::string& problem, Form form = Form::kDeepSeek)
      : c(MakeCase(problem)),
        path(WriteForm(folder.path(), form, c, &bytes)),
        checkpoint(Open(path)),
        layer(MakeLayer(ContextOf(c.p), DescOf(c))),
        weights(MakeWeights(layer.get())),
        want(Runner(c).Apply()) {}
  dsv4mx_status Load(const dsv4mx_control* control = nullptr) {
    dsv4mx_load_args args = DSV4MX_LOAD_ARGS_INIT;
    args.control = control;
    return dsv4mx_weights_load(weights.get(), checkpoint.get(), Block(0), &args, nullptr);
  }
  dsv4mx_weights_info Info() const {
    dsv4mx_weights_info info = DSV4MX_WEIGHTS_INFO_INIT;
    Must(dsv4mx_weights_query(weights.get(), &info), "weights_query");
    return info;
  }
  // Loads, prepares and computes.
  std::string LoadsWell() {
    Must(Load(), "load");
    Must(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr), "prepare");
    return CheckSame(want, ApplyGuarded(ContextOf(c.p), layer.get(), weights.get(), c.p, c.in));
  }

  Case c;
  TempFolder folder;
  int64_t bytes = 0;
  std::string path;
  CheckpointPtr checkpoint;
  LayerPtr layer;
  WeightsPtr weights;
  Output want;
};

TEST_CASE("every read of a load fails once: a status with the file's name, and the load repeated",
          "[load][checkpoint]") {
  for (const Form form : {Form::kDeepSeek, Form::kGptOss, Form::kGguf}) {
    INFO(NameOf(form));
    const bool bias = form != Form::kDeepSeek;
    Loading l(std::string("h=96 i=160 e=2 k=2 m=3 threads=3") + (bias ? " bias=1" : ""), form);
    const int64_t before = ReadsSoFar().calls;
    REQUIRE_OK(l.Load());
    const int64_t reads = ReadsSoFar().calls - before;
    REQUIRE(reads > 10);
    for (int64_t read = 0; read < reads; ++read) {
      FileFaults faults;
      faults.reads_left = static_cast<int>(read);
      faults.pread_error = read % 2 == 0 ? EIO : ENOMEM;
      dsv4mx_status status;
      {
        const WithFaults with(faults);
        status = l.Load();
      }
      INFO("read " << read << " of " << reads);
      CHECK(status == (read % 2 == 0 ? DSV4MX_STATUS_IO_ERROR : DSV4MX_STATUS_OUT_OF_MEMORY));
      CHECK(MissingWords(dsv4mx_last_error(), form == Form::kGguf
                                                  ? "m.gguf: cannot read"
                                                  : "m.safetensors: cannot read") == "");
      CHECK(l.Info().state == DSV4MX_WEIGHTS_FILLING);
      CHECK(l.Info().tensors_missing >= 1);
    }
    CHECK(l.LoadsWell() == "");
  }
}

TEST_CASE("short and interrupted reads are continued", "[load][checkpoint]") {
  for (const Form form : kForms) {
    Loading l("h=96 i=160 e=2 k=2 m=3 threads=2", form);
    FileFaults faults;
    faults.pread_most = 37;
    faults.interrupts = 50;
    const WithFaults with(faults);
    INFO(NameOf(form));
    CHECK(l.LoadsWell() == "");
  }
}

TEST_CASE("[J3] a file that shrinks while it is loaded", "[load][checkpoint]") {
  Loading l("h=1024 i=1024 e=1 k=1 m=2 threads=2");
  struct Cut {
    std::string path;
    int left;
  } cut = {l.path, 2};
  FileFaults faults;
  faults.pread_delay_us = 30000;  // so that it is asked in between
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  control.progress_user = &cut;
  control.progress = [](void* user, dsv4mx_stage, int64_t, int64_t) -> int32_t {
    auto* at = static_cast<Cut*>(user);
    if (--at->left == 0) std::filesystem::resize_file(at->path, 3000);
    return 0;
  };
  {
    const WithFaults slow(faults);
    REQUIRE_REFUSED(l.Load(&control), DSV4MX_STATUS_IO_ERROR, "m.safetensors,became shorter");
  }
  CHECK(l.Info().tensors_missing >= 1);
  WriteForm(l.folder.path(), Form::kDeepSeek, l.c);
  CHECK(l.LoadsWell() == "");
}

TEST_CASE("of several bad scales the first by row is named, whatever thread meets it",
          "[load][checkpoint]") {
  Case c = MakeCase("h=96 i=2048 e=1 k=1 m=1 threads=4");
  c.experts = {std::make_shared<ExpertData>(MakeExpert(c.p, 0))};
  for (const int row : {1900, 700, 333, 1200}) {
    c.experts[0]->scales[kUp][static_cast<size_t>(row * 3 + 1)] = 255;
  }
  for (const Form form : {Form::kDeepSeek, Form::kSglang, Form::kGptOss, Form::kGguf}) {
    TempFolder folder;
    const CheckpointPtr checkpoint = Open(WriteForm(folder.path(), form, c));
    dsv4mx_layer_desc desc = DescOf(c);
    const LayerPtr layer = MakeLayer(ContextOf(c.p), desc);
    INFO(NameOf(form));
    for (int run = 0; run < 20; ++run) {
      REQUIRE_REFUSED(dsv4mx_weights_load(MakeWeights(layer.get()).get(), checkpoint.get(),
                                          Block(0), nullptr, nullptr),
                      DSV4MX_STATUS_INVALID_SCALE, "255,expert 0,up (w3),row 333,group 1");
    }
  }
}

struct Watch {
  Clock::time_point last = Clock::now();
  Clock::duration longest{};
  int64_t done = 0, total = 0, calls = 0;
  bool ordered = true;
  std::thread::id thread = std::this_thread::get_id();
  static int32_t Look(void* user, dsv4mx_stage stage, int64_t done, int64_t total) {
    auto* w = static_cast<Watch*>(user);
    const auto now = Clock::now();
    w->longest = std::max(w->longest, now - w->last);
    w->last = now;
    w->ordered = w->ordered && stage == DSV4MX_STAGE_LOAD && done >= w->done && done <= total &&
                 std::this_thread::get_id() == w->thread;
    w->done = done;
    w->total = total;
    ++w->calls;
    return 0;
  }
};

// One tensor that takes longer than a second: every read takes 30 ms.
TEST_CASE("[B14] a slow disk: progress inside a tensor, a flag, a deadline", "[load][checkpoint]") {
  Loading l("h=1024 i=2048 e=1 k=1 m=2 threads=2");
  FileFaults slow;
  slow.pread_delay_us = 30000;
  const WithFaults with(slow);
  Watch watch;
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  control.progress = Watch::Look;
  control.progress_user = &watch;
  REQUIRE_OK(l.Load(&control));
  CHECK(watch.ordered);
  CHECK(watch.calls > 9);  // there are six tensors
  CHECK(watch.done == l.bytes);
  CHECK(watch.total == l.bytes);
  CHECK(watch.longest < std::chrono::milliseconds(900));

  int32_t flag = 0;
  control = DSV4MX_CONTROL_INIT;
  control.cancel = &flag;
  const auto begin = Clock::now();
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    __atomic_store_n(&flag, 1, __ATOMIC_RELEASE);
  });
  const dsv4mx_status cancelled = l.Load(&control);
  other.join();
  CHECK(cancelled == DSV4MX_STATUS_CANCELLED);
  CHECK(MissingWords(dsv4mx_last_error(), "load,cancelled by its flag,bytes read") == "");
  CHECK(Clock::now() - begin < std::chrono::milliseconds(900));
  CHECK(l.Info().tensors_missing >= 1);

  control = DSV4MX_CONTROL_INIT;
  control.timeout_ns = 100000000;
  REQUIRE_REFUSED(l.Load(&control), DSV4MX_STATUS_DEADLINE_EXCEEDED, "load,timeout,bytes read");
  CHECK(l.LoadsWell() == "");
}

TEST_CASE("a callback that throws in the middle of a tensor", "[load][checkpoint]") {
  Loading l("h=1024 i=1024 e=1 k=1 m=2 threads=2");
  FileFaults slow;
  slow.pread_delay_us = 30000;
  const WithFaults with(slow);
  int calls = 0;
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  control.progress_user = &calls;
  control.progress = [](void* user, dsv4mx_stage, int64_t done, int64_t) -> int32_t {
    if (done % 1000 != 0 && ++*static_cast<int*>(user) == 2) throw 5;
    return 0;
  };
  CHECK(l.Load(&control) == DSV4MX_STATUS_INTERNAL);
  CHECK(l.LoadsWell() == "");
}

TEST_CASE("what several copies of an expert want is read once", "[load][checkpoint]") {
  for (const Form form : kForms) {
    INFO(NameOf(form));
    Loading l("h=96 i=320 e=2 k=2 m=3", form);
    int64_t before = ReadsSoFar().bytes;
    REQUIRE_OK(l.Load());
    const int64_t once = ReadsSoFar().bytes - before;
    const int32_t placement[] = {1, 0, 1, 1};
    dsv4mx_layer_desc desc = DescOf(l.c);
    desc.experts = 4;
    desc.experts_global = 2;
    desc.placement = placement;
    l.layer = MakeLayer(ContextOf(l.c.p), desc);
    const WeightsPtr copies = MakeWeights(l.layer.get());
    before = ReadsSoFar().bytes;
    REQUIRE_OK(dsv4mx_weights_load(copies.get(), l.checkpoint.get(), Block(0), nullptr, nullptr));
    CHECK(ReadsSoFar().bytes - before == once);
    REQUIRE_OK(dsv4mx_weights_prepare(copies.get(), nullptr, nullptr));
    REQUIRE_OK(dsv4mx_weights_prepare(l.weights.get(), nullptr, nullptr));
    for (int32_t local = 0; local < 4; ++local) {
      dsv4mx_slab got = DSV4MX_SLAB_INIT, want = DSV4MX_SLAB_INIT;
      REQUIRE_OK(dsv4mx_weights_get_slab(copies.get(), local, &got));
      REQUIRE_OK(dsv4mx_weights_get_slab(l.weights.get(), placement[local], &want));
      CHECK(std::memcmp(got.data, want.data, static_cast<size_t>(want.bytes)) == 0);
    }
  }
}

TEST_CASE("where the time of a load went is told to who listens for it", "[load][checkpoint]") {
  Loading l("h=96 i=320 e=3 k=2 m=5");
  std::vector<std::string> said;
  dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
  cd.device = DSV4MX_DEVICE_CPU;
  cd.threads = 2;
  cd.log = [](void* user, dsv4mx_log_level level, const char* text) {
    if (level == DSV4MX_LOG_DEBUG) static_cast<std::vector<std::string>*>(user)->push_back(text);
  };
  cd.log_user = &said;
  for (const dsv4mx_log_level level : {DSV4MX_LOG_INFO, DSV4MX_LOG_DEBUG}) {
    cd.log_level = level;
    dsv4mx_context* made = nullptr;
    REQUIRE_OK(dsv4mx_context_create(&cd, &made));
    const ContextPtr context(made);
    l.layer = MakeLayer(context.get(), DescOf(l.c));
    l.weights = MakeWeights(l.layer.get());
    said.clear();
    REQUIRE_OK(l.Load());
    if (level == DSV4MX_LOG_INFO) CHECK(said.empty());
    if (level == DSV4MX_LOG_DEBUG) REQUIRE(said.size() == 1);
    l.weights = nullptr;
    l.layer = nullptr;
  }
  CHECK(MissingWords(said[0], "loaded " + std::to_string(l.bytes) + " bytes,by 2 readers") == "");
}

TEST_CASE("threads of a checkpoint: any number gives the same", "[load][checkpoint]") {
  for (const int32_t threads : {1, 2, 3, 64}) {
    Loading l("h=96 i=320 e=3 k=2 m=5 threads=3");
    l.checkpoint = Open(l.path, threads);
    CHECK(l.LoadsWell() == "");
  }
}

// Counts what the library takes by the hook, and can fail.
struct Hook {
  std::map<void*, size_t> live;
  size_t now = 0, peak = 0;
  int fail_in = -1;  // allocations from now on
  static void* Alloc(void* user, size_t bytes, size_t alignment, dsv4mx_memory, dsv4mx_stream) {
    auto* h = static_cast<Hook*>(user);
    if (h->fail_in >= 0 && h->fail_in-- == 0) return nullptr;
    void* p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    h->live[p] = bytes;
    h->now += bytes;
    h->peak = std::max(h->peak, h->now);
    return p;
  }
  static void Free(void* user, void* p, size_t bytes, dsv4mx_memory, dsv4mx_stream) {
    auto* h = static_cast<Hook*>(user);
    CHECK(h->live[p] == bytes);
    h->now -= bytes;
    h->live.erase(p);
    std::free(p);
  }
};

TEST_CASE("[D1][D3] load and prepare take what the query says, to one per cent, and never more",
          "[load][memory]") {
  for (const int32_t threads : {1, 2, 5}) {
    for (const char* text :
         {"h=96 i=160 e=2 k=2 m=3", "h=2880 i=96 e=2 k=2 m=3 bias=1", "h=64 i=2048 e=1 k=1 m=1"}) {
      for (const Form form : {Form::kSglang, Form::kGptOss, Form::kGguf}) {
        INFO(text << " threads " << threads << " " << NameOf(form));
        const Case c = MakeCase(text);
        TempFolder folder;
        const CheckpointPtr checkpoint = Open(WriteForm(folder.path(), form, c));
        Hook hook;
        dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
        cd.device = DSV4MX_DEVICE_CPU;
        cd.threads = threads;
        cd.alloc = Hook::Alloc;
        cd.free = Hook::Free;
        cd.alloc_user = &hook;
        dsv4mx_context* made = nullptr;
        REQUIRE_OK(dsv4mx_context_create(&cd, &made));
        const ContextPtr context(made);
        const LayerPtr layer = MakeLayer(context.get(), DescOf(c));
        dsv4mx_layer_info info = DSV4MX_LAYER_INFO_INIT;
        REQUIRE_OK(dsv4mx_layer_query(layer.get(), &info));
        const WeightsPtr weights = MakeWeights(layer.get());
        const auto load = [&](int64_t staging) {
          dsv4mx_load_args args = DSV4MX_LOAD_ARGS_INIT;
          args.staging_bytes = staging;
          return dsv4mx_weights_load(weights.get(), checkpoint.get(), Block(0), &args, nullptr);
        };
        const auto prepared = static_cast<size_t>(info.prepared_bytes);
        const auto extra = static_cast<size_t>(info.peak_extra_bytes);
        // The least that is enough is enough, and is kept.
        const dsv4mx_status refused = load(1);
        CHECK(refused == DSV4MX_STATUS_INVALID_ARGUMENT);
        const std::string said = dsv4mx_last_error();
        const int64_t least = std::stoll(said.substr(said.find("at least ") + 9));
        hook.peak = hook.now;
        REQUIRE_OK(load(least));
        CHECK(hook.peak - prepared <= static_cast<size_t>(least));
        CHECK(hook.now == prepared);
        // Each allocation fails once.
        int failures = 0;
        for (;; ++failures) {
          hook.fail_in = failures;
          const dsv4mx_status status = load(0);
          const bool failed = hook.fail_in < 0;
          hook.fail_in = -1;
          CHECK(hook.now == prepared);
          if (!failed) {
            REQUIRE_OK(status);
            break;
          }
          CHECK(status == DSV4MX_STATUS_OUT_OF_MEMORY);
        }
        CHECK(failures >= 1);
        hook.peak = hook.now;
        REQUIRE_OK(load(0));
        REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr));
        const size_t taken = hook.peak - prepared;
        CHECK(taken <= extra);
        CHECK(static_cast<double>(taken) >= 0.99 * static_cast<double>(extra));
        CHECK(hook.now == prepared);
      }
    }
  }
}

TEST_CASE("a GGUF file without a config.json tells of itself", "[load][checkpoint]") {
  Loading l("h=96 i=160 e=3 k=2 m=3", Form::kGguf);
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  uint32_t filled = 0;
  REQUIRE_OK(dsv4mx_checkpoint_query_config(l.checkpoint.get(), Block(0), 0, &desc, &filled));
  CHECK(filled == (DSV4MX_CONFIG_FIELD_TENSORS | DSV4MX_CONFIG_FIELD_ACTIVATION));
  CHECK(desc.hidden == 96);
  WriteFile(l.folder / "config.json", R"({"hidden_size":64})");  // it goes first
  REQUIRE_REFUSED(dsv4mx_checkpoint_query_config(l.checkpoint.get(), Block(0), 0, &desc, &filled),
                  DSV4MX_STATUS_FORMAT_ERROR, "config.json says hidden 64,have 96");
  std::filesystem::remove(l.folder / "config.json");
  const auto raw = [](auto v) { return std::string(reinterpret_cast<const char*>(&v), sizeof v); };
  const auto text = [&](const std::string& s) { return raw(uint64_t{s.size()}) + s; };
  const std::string keys = text("general.architecture") + raw(uint32_t{8}) + text("gpt-oss") +
                           text("gpt-oss.embedding_length") + raw(uint32_t{4}) + raw(uint32_t{64});
  const std::string codes(static_cast<size_t>(2 * 32 * 2 * 17), '\x11');
  WriteFile(l.folder / "m.gguf",
            GgufFile(keys, 2,
                     {{"blk.0.ffn_gate_up_exps.weight", {2, 64, 64}, true, codes + codes},
                      {"blk.0.ffn_down_exps.weight", {2, 64, 32}, true, codes}}));
  const CheckpointPtr other = Open(l.folder / "m.gguf");
  REQUIRE_OK(dsv4mx_checkpoint_query_config(other.get(), Block(0), 0, &desc, &filled));
  CHECK(desc.activation == DSV4MX_ACTIVATION_SWIGLU_GPTOSS);
  CHECK(desc.clamp_limit == 7);
  CHECK(desc.w13_order == DSV4MX_W13_ORDER_GATE_UP);
  CHECK(desc.intermediate == 32);
}

TEST_CASE("[J12] OpenAI's own names: what is missing or not quantised is named", "[checkpoint]") {
  TempFolder folder;
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  std::vector<FileTensor> tensors = {{"block.2.mlp.mlp1_weight.blocks", "U8", {2, 64, 2, 16}},
                                     {"block.2.mlp.mlp1_weight.scales", "U8", {2, 64, 2}},
                                     {"block.2.mlp.mlp1_bias", "BF16", {2, 64}},
                                     {"block.2.mlp.mlp2_weight.blocks", "U8", {2, 64, 1, 16}},
                                     {"block.2.mlp.gate.weight", "BF16", {2, 64}},
                                     {"block.2.mlp.norm.scale", "BF16", {64}}};
  const auto query = [&] {
    WriteFile(folder / "m.safetensors", SafetensorsFile(tensors));
    return dsv4mx_checkpoint_query_layer(Open(folder / "m.safetensors").get(), Block(2), &desc);
  };
  REQUIRE_REFUSED(query(), DSV4MX_STATUS_NOT_FOUND, "'block.2.mlp.mlp2_weight.scales' is missing");
  tensors.push_back({"block.2.mlp.mlp2_weight.scales", "U8", {2, 64, 1}});
  REQUIRE_OK(query());
  CHECK(desc.w13_order == DSV4MX_W13_ORDER_INTERLEAVED);
  CHECK(desc.intermediate == 32);
  CHECK(desc.w13_bias == DSV4MX_DTYPE_BF16);
  tensors = {{"block.2.mlp.mlp1_weight", "BF16", {2, 64, 64}},
             {"block.2.mlp.mlp2_weight", "BF16", {2, 64, 32}}};
  REQUIRE_REFUSED(query(), DSV4MX_STATUS_UNSUPPORTED_DTYPE, "mlp1_weight,BF16,not quantised");
}

}  // namespace
}  // namespace dsv4mx::test
