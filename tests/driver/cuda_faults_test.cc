// Every CUDA call of the backend's host side fails once, over a runtime that is host code: whatever fails is told by a
// status, nothing is left behind, and each entry point leaves the thread's context, capture mode and last error alone.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "dsv4mx.h"
#include "tests/catch.h"
#include "tests/driver/fake_runtime.h"
#include "tests/safetensors_file.h"

namespace dsv4mx::test {
namespace {

constexpr int32_t kHidden = 160, kIntermediate = 96, kExperts = 3, kTopK = 2, kTokens = 5;
constexpr int32_t kPlacement[] = {2, 3, 1};

// A thread with a context of its own current, a capture mode and, where wanted, an unread error.
struct Host {
  int context = 0;
  explicit Host(cudaError_t unread = cudaSuccess) {
    fake = FakeRuntime{};
    fake.current = fake.host = &context;
    fake.mode = cudaStreamCaptureModeThreadLocal;
    fake.last_error = unread;
  }
};

// The layer's experts in one file, gate and up alternately.
const std::string& CheckpointPath() {
  static const TempFolder folder;
  static const std::string path = [] {
    const std::string at = folder / "m.safetensors", stem = "layers.0.mlp.experts.";
    const int64_t h = kHidden, i = kIntermediate;
    const auto scales = [](int64_t n) { return std::string(static_cast<size_t>(n), '\x7f'); };
    WriteFile(at,
              SafetensorsFile(
                  {{stem + "gate_up_proj_blocks", "U8", {4, 2 * i, h / 32, 16}},
                   {stem + "gate_up_proj_scales", "U8", {4, 2 * i, h / 32}, scales(8 * i * h / 32)},
                   {stem + "gate_up_proj_bias", "F32", {4, 2 * i}},
                   {stem + "down_proj_blocks", "U8", {4, h, i / 32, 16}},
                   {stem + "down_proj_scales", "U8", {4, h, i / 32}, scales(4 * h * i / 32)},
                   {stem + "down_proj_bias", "BF16", {4, h}}}));
    return at;
  }();
  return path;
}

// The whole life of a layer. Goes on after a failure as far as there is something to go on with.
class Life {
 public:
  explicit Life(Host* host) : host_(host) { Run(); }
  dsv4mx_status first_failure() const { return first_; }
  const std::string& text() const { return text_; }

 private:
  bool Call(dsv4mx_status status, const char* name) {
    After(name);
    if (status == DSV4MX_STATUS_OK) return true;
    if (first_ == DSV4MX_STATUS_OK) {
      first_ = status;
      text_ = std::string(name) + ": " + dsv4mx_last_error();
    }
    return false;
  }
  template <class T>
  void Destroy(void (*destroy)(T*), T* object) {
    fake.destroying = true;
    destroy(object);
    fake.destroying = false;
    After("destroy");
  }
  // Freeing tells nobody but the log.
  void Free(const dsv4mx_context* context, void* memory) {
    fake.destroying = true;
    dsv4mx_context_free(context, memory);
    fake.destroying = false;
    After("free");
  }
  void After(const char* name) {
    INFO(name << " after " << fake.failed);
    // What fails itself cannot be undone.
    if (fake.failed != "cuCtxSetCurrent") CHECK(fake.current == &host_->context);
    if (fake.failed != "cudaThreadExchangeStreamCaptureMode") {
      CHECK(fake.mode == cudaStreamCaptureModeThreadLocal);
    }
    if (unread_ == cudaSuccess || fake.failed.empty()) CHECK(fake.last_error == unread_);
  }

  void Run() {
    dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
    cd.device = DSV4MX_DEVICE_CUDA;
    dsv4mx_context* context = nullptr;
    if (Call(dsv4mx_context_create(&cd, &context), "context_create")) RunLayer(context);
    Destroy(dsv4mx_context_destroy, context);
  }

  void RunLayer(const dsv4mx_context* context) {
    dsv4mx_layer_desc ld = DSV4MX_LAYER_DESC_INIT;
    ld.hidden = kHidden;
    ld.intermediate = kIntermediate;
    ld.experts = kExperts;
    ld.experts_global = 4;
    ld.placement = kPlacement;
    ld.flags = DSV4MX_LAYER_CHECKED_IDS;
    ld.top_k = kTopK;
    ld.w13_order = DSV4MX_W13_ORDER_GATE_UP;
    ld.w13_bias = DSV4MX_DTYPE_F32;
    ld.w2_bias = DSV4MX_DTYPE_BF16;
    dsv4mx_layer* layer = nullptr;
    if (Call(dsv4mx_layer_create(context, &ld, &layer), "layer_create")) {
      dsv4mx_weights* weights = nullptr;
      if (Call(dsv4mx_weights_create(layer, nullptr, &weights), "weights_create")) {
        if (Fill(context, weights)) {
          Export(context, layer, weights);
          Snapshot(layer, weights);
          Apply(context, layer, weights);
          Experts(context, layer, weights);
          // The same weights with activations of 8 bits, on the path that quantises h in a launch of its own.
          dsv4mx_layer_experimental bf16 = DSV4MX_LAYER_EXPERIMENTAL_INIT;
          bf16.number_path = DSV4MX_NUMBER_PATH_BF16;
          ld.compute = DSV4MX_COMPUTE_W4A8;
          ld.experimental = &bf16;
          dsv4mx_layer* quantised = nullptr;
          if (Call(dsv4mx_layer_create(context, &ld, &quantised), "layer_create")) {
            Apply(context, quantised, weights);
          }
          Destroy(dsv4mx_layer_destroy, quantised);
        }
      }
      Destroy(dsv4mx_weights_destroy, weights);
    }
    Destroy(dsv4mx_layer_destroy, layer);
  }

  // From host and from device memory.
  bool Fill(const dsv4mx_context* context, dsv4mx_weights* weights) {
    constexpr int64_t kI = kIntermediate, kH = kHidden, kE = kExperts;
    const struct {
      const char* name;
      dsv4mx_dtype dtype;
      int64_t shape[3];
    } tensors[] = {{"w13_weight", DSV4MX_DTYPE_U8, {kE, 2 * kI, kH / 2}},
                   {"w13_weight_scale", DSV4MX_DTYPE_BF16, {kE, 2 * kI, kH / 32}},
                   {"w13_bias", DSV4MX_DTYPE_F32, {kE, 2 * kI, 0}},
                   {"w2_weight", DSV4MX_DTYPE_U8, {kE, kH, kI / 2}},
                   {"w2_weight_scale", DSV4MX_DTYPE_E8M0, {kE, kH, kI / 32}},
                   {"w2_bias", DSV4MX_DTYPE_BF16, {kE, kH, 0}}};
    bool good = true;
    // Half of the calls wait for the device as one does who listens to the caller.
    dsv4mx_control control = DSV4MX_CONTROL_INIT;
    control.timeout_ns = INT64_MAX;
    dsv4mx_set_args set = DSV4MX_SET_ARGS_INIT;
    set.control = &control;
    for (const bool device : {false, true}) {
      for (const auto& t : tensors) {
        dsv4mx_tensor tensor = {};
        tensor.struct_size = sizeof tensor;
        tensor.dtype = t.dtype;
        tensor.memory = device ? DSV4MX_MEMORY_DEVICE : DSV4MX_MEMORY_HOST;
        int64_t values = 1;
        for (const int64_t size : t.shape) {
          if (size == 0) continue;
          tensor.shape[tensor.rank++] = size;
          values *= size;
        }
        const int64_t element = t.dtype == DSV4MX_DTYPE_F32    ? 4
                                : t.dtype == DSV4MX_DTYPE_BF16 ? 2
                                                               : 1;
        // 1.0 as a scale of either type.
        std::vector<uint8_t> bytes(static_cast<size_t>(values * element));
        const bool scale = std::string(t.name).find("scale") != std::string::npos;
        for (size_t i = 0; i < bytes.size() && scale; ++i) {
          bytes[i] = element == 1 ? 127 : i % 2 == 0 ? 0x80 : 0x3F;
        }
        void* memory = nullptr;
        if (device) {
          if (!Call(dsv4mx_context_alloc(context, bytes.size(), &memory), "alloc") ||
              !Call(dsv4mx_context_copy(context, memory, bytes.data(), bytes.size(), nullptr),
                    "copy")) {
            good = false;
          }
        }
        tensor.data = device ? memory : bytes.data();
        if (!device || memory != nullptr) {
          good = Call(dsv4mx_weights_set(weights, t.name, -1, &tensor, device ? &set : nullptr,
                                         nullptr),
                      "set") &&
                 good;
        }
        Free(context, memory);
      }
    }
    good = Load(weights) && good;
    dsv4mx_marlin none = DSV4MX_MARLIN_INIT;
    std::vector<uint8_t> bias(kE * 2 * 128 * 4);
    none.w13_bias = bias.data();
    none.bias_dtype = DSV4MX_DTYPE_F32;
    good = Call(dsv4mx_weights_import_marlin(weights, &none, nullptr, nullptr), "import") && good;
    // A failed call may be repeated.
    dsv4mx_prepare_args prepare = DSV4MX_PREPARE_ARGS_INIT;
    prepare.control = &control;
    if (!Call(dsv4mx_weights_prepare(weights, &prepare, nullptr), "prepare")) {
      return good && Call(dsv4mx_weights_prepare(weights, nullptr, nullptr), "prepare again");
    }
    return good;
  }

  // With staging of its own size, so that the blocks that were there are given back.
  bool Load(dsv4mx_weights* weights) {
    dsv4mx_checkpoint* checkpoint = nullptr;
    dsv4mx_checkpoint_args open = DSV4MX_CHECKPOINT_ARGS_INIT;
    open.threads = 2;
    if (!Call(dsv4mx_checkpoint_create(CheckpointPath().c_str(), &open, &checkpoint), "open")) {
      return false;
    }
    dsv4mx_block block = DSV4MX_BLOCK_INIT;
    dsv4mx_load_args args = DSV4MX_LOAD_ARGS_INIT;
    bool good = true;
    for (const int64_t staging : {int64_t{0}, int64_t{8 * 65536 + 4096}}) {
      args.staging_bytes = staging;
      good = Call(dsv4mx_weights_load(weights, checkpoint, &block, &args, nullptr), "load") && good;
    }
    Destroy(dsv4mx_checkpoint_destroy, checkpoint);
    return good;
  }

  void Export(const dsv4mx_context* context, const dsv4mx_layer* layer, dsv4mx_weights* weights) {
    dsv4mx_marlin m = DSV4MX_MARLIN_INIT;
    if (!Call(dsv4mx_layer_query_marlin(layer, &m), "query_marlin")) return;
    const size_t h = static_cast<size_t>(m.hidden_padded),
                 i = static_cast<size_t>(m.intermediate_padded), e = kExperts;
    void** const pointers[] = {&m.w13, &m.w13_scale, &m.w13_bias, &m.w2, &m.w2_scale, &m.w2_bias};
    const size_t sizes[] = {e * i * h,     e * 2 * i * h / 32, e * 2 * i * 2,
                            e * i * h / 2, e * i * h / 32,     e * h * 2};
    for (const bool device : {false, true}) {
      std::vector<std::vector<uint8_t>> host(6);
      bool good = true;
      for (int t = 0; t < 6; ++t) {
        *pointers[t] = nullptr;
        if (device) {
          good = Call(dsv4mx_context_alloc(context, sizes[t], pointers[t]), "alloc") && good;
        } else {
          host[static_cast<size_t>(t)].resize(sizes[t]);
          *pointers[t] = host[static_cast<size_t>(t)].data();
        }
      }
      m.memory = device ? DSV4MX_MEMORY_DEVICE : DSV4MX_MEMORY_HOST;
      const size_t live = fake.live.size();
      if (good) Call(dsv4mx_weights_export_marlin(weights, &m, nullptr, nullptr), "export");
      CHECK(fake.live.size() == live);  // an export leaves nothing behind
      // And into other weights; a scale byte of 0 is legal.
      dsv4mx_weights* other = nullptr;
      if (good && Call(dsv4mx_weights_create(layer, nullptr, &other), "weights_create")) {
        Call(dsv4mx_weights_import_marlin(other, &m, nullptr, nullptr), "import");
      }
      Destroy(dsv4mx_weights_destroy, other);
      for (int t = 0; t < 6 && device; ++t) {
        Free(context, *pointers[t]);
      }
    }
  }

  // To a file and back; what comes back makes the same file.
  void Snapshot(const dsv4mx_layer* layer, const dsv4mx_weights* weights) {
    const TempFolder folder;
    const std::string path = folder / "first", again = folder / "again";
    const size_t live = fake.live.size();
    dsv4mx_snapshot_args args = DSV4MX_SNAPSHOT_ARGS_INIT;
    args.threads = 1;  // calls come in one order
    const bool saved = Call(dsv4mx_weights_save(weights, path.c_str(), &args, nullptr), "save");
    CHECK(std::filesystem::exists(path) == saved);
    CHECK(fake.live.size() == live);
    dsv4mx_weights* other = nullptr;
    if (saved && Call(dsv4mx_weights_create(layer, nullptr, &other), "weights_create")) {
      if (Call(dsv4mx_weights_restore(other, path.c_str(), &args, nullptr), "restore")) {
        if (Call(dsv4mx_weights_save(other, again.c_str(), nullptr, nullptr), "save")) {
          CHECK(ReadAll(path) == ReadAll(again));
        }
      } else {
        dsv4mx_weights_info info = DSV4MX_WEIGHTS_INFO_INIT;
        REQUIRE(dsv4mx_weights_query(other, &info) == DSV4MX_STATUS_OK);
        CHECK(info.state == DSV4MX_WEIGHTS_EMPTY);
        // They may be restored again.
        Call(dsv4mx_weights_restore(other, path.c_str(), nullptr, nullptr), "restore");
      }
    }
    Destroy(dsv4mx_weights_destroy, other);
  }
  static std::string ReadAll(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream bytes;
    bytes << file.rdbuf();
    return bytes.str();
  }

  // Operations on experts; they leave nothing behind but what the layer keeps to be placed anew.
  void Experts(const dsv4mx_context* context, dsv4mx_layer* layer, dsv4mx_weights* weights) {
    dsv4mx_weights* other = nullptr;
    if (Call(dsv4mx_weights_create(layer, nullptr, &other), "weights_create")) {
      const int32_t to[] = {0, 2}, from[] = {1, 0};
      dsv4mx_copy_args copy = DSV4MX_COPY_ARGS_INIT;
      copy.to_experts = to;
      copy.from_experts = from;
      copy.count = 2;
      Call(dsv4mx_weights_copy_experts(other, weights, &copy, nullptr), "copy_experts");
      dsv4mx_slab slab = DSV4MX_SLAB_INIT;
      if (Call(dsv4mx_weights_get_slab(weights, 1, &slab), "get_slab")) {
        std::vector<uint8_t> bytes(slab.bytes);
        Call(dsv4mx_context_copy(context, bytes.data(), slab.data, slab.bytes, nullptr), "copy");
        dsv4mx_slab host = slab;
        host.data = bytes.data();
        host.memory = DSV4MX_MEMORY_HOST;
        const size_t live = fake.live.size();
        for (const dsv4mx_slab* s : {&slab, &host}) {
          Call(dsv4mx_weights_set_slab(weights, 2, s, nullptr, nullptr), "set_slab");
        }
        CHECK(fake.live.size() == live);  // of prepared weights nothing is left
        for (const dsv4mx_slab* s : {&slab, &host}) {
          Call(dsv4mx_weights_set_slab(other, 1, s, nullptr, nullptr), "set_slab");
        }
      }
      Call(dsv4mx_weights_reset(other), "reset");
    }
    Destroy(dsv4mx_weights_destroy, other);
    for (const bool device : {false, true}) {
      const size_t bytes = kIntermediate * kHidden * 4;
      std::vector<uint8_t> host(bytes);
      void* memory = host.data();
      if (device && !Call(dsv4mx_context_alloc(context, bytes, &memory), "alloc")) continue;
      const size_t live = fake.live.size();
      dsv4mx_tensor t = {};
      t.struct_size = sizeof t;
      t.data = memory;
      t.memory = device ? DSV4MX_MEMORY_DEVICE : DSV4MX_MEMORY_HOST;
      t.dtype = DSV4MX_DTYPE_BF16;
      t.rank = 2;
      t.shape[0] = kIntermediate, t.shape[1] = kHidden;
      Call(dsv4mx_weights_get(weights, "w3.weight", 0, &t, nullptr, nullptr), "get");
      t.stride[0] = 1, t.stride[1] = kIntermediate;
      Call(dsv4mx_weights_get(weights, "w1.weight", 0, &t, nullptr, nullptr), "get");
      t.dtype = DSV4MX_DTYPE_F32;
      t.rank = 1;
      t.stride[0] = 0, t.shape[0] = kHidden;
      Call(dsv4mx_weights_get(weights, "down_proj.bias", 0, &t, nullptr, nullptr), "get");
      CHECK(fake.live.size() == live);
      if (device) Free(context, memory);
    }
    const int32_t placement[] = {1, 3, 1};
    Call(dsv4mx_layer_set_placement(layer, placement, nullptr), "set_placement");
    Call(dsv4mx_layer_set_placement(layer, kPlacement, nullptr), "set_placement");
  }

  void Apply(const dsv4mx_context* context, const dsv4mx_layer* layer,
             const dsv4mx_weights* weights) {
    dsv4mx_workspace_info info = DSV4MX_WORKSPACE_INFO_INIT;
    void* workspace = nullptr;
    if (!Call(dsv4mx_layer_query_workspace(layer, kTokens, nullptr, &info), "query_workspace") ||
        !Call(dsv4mx_context_alloc(context, info.bytes, &workspace), "alloc")) {
      return;
    }
    alignas(16) static uint16_t x[kTokens * kHidden], out[kTokens * kHidden];
    const int32_t ids[kTokens * kTopK] = {};
    const float router[kTokens * kTopK] = {};
    dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
    args.x = x;
    args.topk_ids = ids;
    args.topk_weights = router;
    args.out = out;
    args.tokens = kTokens;
    args.workspace = workspace;
    args.workspace_bytes = info.bytes;
    Call(dsv4mx_layer_apply(layer, weights, &args, nullptr), "apply");
    Call(dsv4mx_context_synchronize(context, nullptr), "synchronize");
    Free(context, workspace);
  }

  Host* host_;
  cudaError_t unread_ = fake.last_error;
  dsv4mx_status first_ = DSV4MX_STATUS_OK;
  std::string text_;
};

// Failures that a caller need not hear of: there is another way, or nothing can be done.
bool MayPass() {
  static const std::set<std::string> calls = {
      "cudaDriverGetVersion",   "cudaThreadExchangeStreamCaptureMode",
      "cudaDeviceGetAttribute",  // clock and width of the memory
      "cudaEventSynchronize",   "cudaEventDestroy",
      "cudaStreamDestroy",      "cudaFree",
      "cudaFreeHost",           "cudaEventRecord"};
  return !fake.told || calls.count(fake.failed) != 0;
}

}  // namespace

TEST_CASE("cuda faults: none, and a life leaves nothing behind", "[faults]") {
  for (const cudaError_t unread : {cudaSuccess, cudaErrorInvalidValue}) {
    Host host(unread);
    const Life life(&host);
    INFO(life.text());
    CHECK(life.first_failure() == DSV4MX_STATUS_OK);
    CHECK(fake.live.empty());
    CHECK(fake.misuse == "");
    CHECK(fake.last_error == unread);
    CHECK(fake.launches > 20);
  }
}

TEST_CASE("cuda faults: each call fails once", "[faults]") {
  const std::pair<cudaError_t, std::set<dsv4mx_status>> errors[] = {
      {cudaErrorUnknown, {DSV4MX_STATUS_CUDA_ERROR}},
      {cudaErrorMemoryAllocation, {DSV4MX_STATUS_OUT_OF_MEMORY}},
      {cudaErrorIllegalAddress, {DSV4MX_STATUS_CUDA_ERROR, DSV4MX_STATUS_CUDA_STICKY}}};
  std::set<std::string> seen, told;
  const auto fail = [&](int call, cudaError_t error, const std::set<dsv4mx_status>& wanted) {
    Host host;
    fake.fail_at = call;
    fake.error = error;
    const Life life(&host);
    if (fake.failed.empty()) return std::string();
    INFO("call " << call << ", " << fake.failed << ", error " << error << ": " << life.text());
    CHECK(fake.live.empty());
    CHECK(fake.misuse == "");
    if (!MayPass()) CHECK(wanted.count(life.first_failure()) == 1);
    return fake.failed + " in " + life.text().substr(0, life.text().find(':'));
  };
  // Every call with one error; with the others one call of each kind in each entry point, since what is left behind depends
  // on the place and the status on the error.
  std::vector<int> first_of_kind;
  for (int call = 0;; ++call) {
    const std::string kind = fail(call, errors[0].first, errors[0].second);
    if (kind.empty()) {
      REQUIRE(call > 100);
      break;
    }
    seen.insert(fake.failed);
    if (told.insert(kind).second) first_of_kind.push_back(call);
  }
  REQUIRE(first_of_kind.size() > 50);
  for (const auto& [error, wanted] : {errors[1], errors[2]}) {
    for (const int call : first_of_kind) CHECK(!fail(call, error, wanted).empty());
  }
  // So that a call which nobody makes any more does not hide here.
  for (const char* call : {"LaunchReadIds",
                           "LaunchGather",
                           "LaunchGemm1",
                           "LaunchQuantise",
                           "LaunchGemm2",
                           "LaunchCombine",
                           "LaunchFewGemm1",
                           "LaunchFewGemm2",
                           "LaunchPackCodes",
                           "LaunchUnpackRows",
                           "LaunchPackScales",
                           "LaunchPackBias",
                           "LaunchPrepareExperts",
                           "LaunchMarlinExportCodes",
                           "LaunchMarlinImportScales",
                           "LaunchMarlinCheckScales",
                           "LoadKernels",
                           "cudaMalloc",
                           "cudaHostAlloc",
                           "cudaEventCreateWithFlags",
                           "cudaMemcpyAsync",
                           "cudaMemsetAsync",
                           "cudaStreamSynchronize",
                           "cudaStreamQuery",
                           "cudaStreamIsCapturing",
                           "cudaPointerGetAttributes",
                           "cuCtxGetCurrent",
                           "cuCtxSetCurrent"}) {
    INFO(call);
    CHECK(seen.count(call) == 1);
  }
}

TEST_CASE("cuda faults: a context that breaks, at every call", "[faults]") {
  // With sanitizers, where a life takes ten times as long, at fewer; there each call fails once all the same.
#if defined(__SANITIZE_ADDRESS__)
  constexpr int kStep = 13;
#else
  constexpr int kStep = 3;
#endif
  for (int call = 0;; call += kStep) {
    Host host;
    fake.fail_at = call;
    fake.error = cudaErrorIllegalAddress;
    fake.forever = true;
    // The driver goes on telling what is current.
    const Life life(&host);
    if (fake.failed.empty()) break;
    INFO("call " << call << ", " << fake.failed << ": " << life.text());
    CHECK(fake.live.empty());
    CHECK(fake.misuse == "");
    if (!MayPass()) CHECK(life.first_failure() != DSV4MX_STATUS_OK);
  }
}

}  // namespace dsv4mx::test
