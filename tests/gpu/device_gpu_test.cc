// What the CUDA backend leaves as it found it, call by call: the thread's current device and context, contexts of devices it
// does not use, the runtime's last error, and a capture that another thread has going.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "tests/catch.h"
#include "tests/gpu/cuda_must.h"
#include "tests/gpu/driver_function.h"
#include "tests/gpu/few_multiprocessors.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/runner.h"
#include "tests/safetensors_file.h"

namespace dsv4mx::test {
namespace {

template <class F>
F DriverFunction(const char* name) {
  const F function = FindDriverFunction<F>(name, 12000);
  REQUIRE(function != nullptr);
  return function;
}

ContextPtr MakeGpuContext() {
  dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
  d.device = DSV4MX_DEVICE_CUDA;
  dsv4mx_context* c = nullptr;
  REQUIRE_OK(dsv4mx_context_create(&d, &c));
  return ContextPtr(c);
}

dsv4mx_layer_desc SmallLayer(const int32_t* placement) {
  dsv4mx_layer_desc d = DSV4MX_LAYER_DESC_INIT;
  d.hidden = 64;
  d.intermediate = 32;
  d.experts = 1;
  d.experts_global = 2;
  d.top_k = 1;
  d.placement = placement;
  return d;
}

// A call, what it returned, and the thread's current context behind it.
struct Touch {
  const char* call;
  dsv4mx_status status;
  CUcontext current;
};

// Every function that touches a device, or might. Made by the test; Take() notes instead of checking, so that it may run on
// any thread.
class Tour {
 public:
  Tour() : get_(DriverFunction<decltype(&cuCtxGetCurrent)>("cuCtxGetCurrent")) {
    // Of a layer as SmallLayer describes it.
    WriteFile(path(), SafetensorsFile(DeepSeekExperts(2, 64, 32, '\x7f')));
  }
  std::vector<Touch> Take() const;

 private:
  std::string path() const { return folder_ / "model.safetensors"; }
  decltype(&cuCtxGetCurrent) get_;
  TempFolder folder_;
};

std::vector<Touch> Tour::Take() const {
  std::vector<Touch> all;
  const auto note = [&](const char* call, dsv4mx_status status) {
    CUcontext current = nullptr;
    (void)get_(&current);
    all.push_back({call, status, current});
  };
  dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
  cd.device = DSV4MX_DEVICE_CUDA;
  dsv4mx_context* context = nullptr;
  note("context_create", dsv4mx_context_create(&cd, &context));
  dsv4mx_context_info context_info{};
  context_info.struct_size = sizeof context_info;
  note("context_query", dsv4mx_context_query(context, &context_info));
  const int32_t placement[] = {1};
  const dsv4mx_layer_desc ld = SmallLayer(placement);
  dsv4mx_layer* layer = nullptr;
  note("layer_create", dsv4mx_layer_create(context, &ld, &layer));
  dsv4mx_layer_info layer_info{};
  layer_info.struct_size = sizeof layer_info;
  note("layer_query", dsv4mx_layer_query(layer, &layer_info));
  dsv4mx_workspace_info workspace_info = DSV4MX_WORKSPACE_INFO_INIT;
  note("layer_query_workspace", dsv4mx_layer_query_workspace(layer, 4, nullptr, &workspace_info));
  const size_t workspace_bytes = workspace_info.bytes;
  char plan[1024];
  note("layer_query_plan", dsv4mx_layer_query_plan(layer, nullptr, 4, plan, sizeof plan));

  // Set by hand.
  const std::vector<uint8_t> zeros(4096, 0);
  dsv4mx_weights* weights = nullptr;
  note("weights_create", dsv4mx_weights_create(layer, nullptr, &weights));
  for (const char* name : {"w1", "w3", "w2"}) {
    const bool down = std::string(name) == "w2";
    const int64_t rows = down ? 64 : 32, k = down ? 32 : 64;
    const dsv4mx_tensor codes = Tensor(zeros.data(), DSV4MX_DTYPE_U8, {rows, k / 2}),
                        scales = Tensor(zeros.data(), DSV4MX_DTYPE_E8M0, {rows, k / 32});
    note("weights_set", dsv4mx_weights_set(weights, (name + std::string(".weight")).c_str(), 0,
                                           &codes, nullptr, nullptr));
    note("weights_set", dsv4mx_weights_set(weights, (name + std::string(".scale")).c_str(), 0,
                                           &scales, nullptr, nullptr));
  }
  note("weights_prepare", dsv4mx_weights_prepare(weights, nullptr, nullptr));
  dsv4mx_weights_info weights_info{};
  weights_info.struct_size = sizeof weights_info;
  note("weights_query", dsv4mx_weights_query(weights, &weights_info));

  // Memory, and an apply in it: zeros are ids of the foreign expert 0.
  void *memory = nullptr, *workspace = nullptr;
  note("context_alloc", dsv4mx_context_alloc(context, 4096, &memory));
  note("context_alloc", dsv4mx_context_alloc(context, workspace_bytes, &workspace));
  note("context_copy", dsv4mx_context_copy(context, memory, zeros.data(), 4096, nullptr));
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  auto* bytes = static_cast<uint8_t*>(memory);
  args.x = bytes, args.topk_ids = bytes + 1024, args.topk_weights = bytes + 1280;
  args.out = bytes + 2048;
  args.tokens = 4;
  args.workspace = workspace;
  args.workspace_bytes = workspace_bytes;
  note("layer_apply", dsv4mx_layer_apply(layer, weights, &args, nullptr));
  note("context_synchronize", dsv4mx_context_synchronize(context, nullptr));
  dsv4mx_context_free(context, memory);
  dsv4mx_context_free(context, workspace);
  note("context_free", DSV4MX_STATUS_OK);

  // Out and in again in Marlin form, by the host and by the device.
  dsv4mx_marlin marlin = DSV4MX_MARLIN_INIT;
  note("layer_query_marlin", dsv4mx_layer_query_marlin(layer, &marlin));
  const auto h = static_cast<size_t>(marlin.hidden_padded),
             i = static_cast<size_t>(marlin.intermediate_padded);
  for (const dsv4mx_memory kind : {DSV4MX_MEMORY_HOST, DSV4MX_MEMORY_DEVICE}) {
    std::vector<uint8_t> host(2 * h * i);  // more than all four tensors take
    void* device = nullptr;
    note("context_alloc", dsv4mx_context_alloc(context, host.size(), &device));
    uint8_t* at = kind == DSV4MX_MEMORY_HOST ? host.data() : static_cast<uint8_t*>(device);
    marlin.memory = kind;
    marlin.w13 = at;
    marlin.w2 = at + h * i;
    marlin.w13_scale = at + h * i * 3 / 2;
    marlin.w2_scale = at + h * i * 3 / 2 + h * i / 16;
    note("weights_export_marlin", dsv4mx_weights_export_marlin(weights, &marlin, nullptr, nullptr));
    dsv4mx_weights* imported = nullptr;
    note("weights_create", dsv4mx_weights_create(layer, nullptr, &imported));
    note("weights_import_marlin",
         dsv4mx_weights_import_marlin(imported, &marlin, nullptr, nullptr));
    note("weights_prepare", dsv4mx_weights_prepare(imported, nullptr, nullptr));
    dsv4mx_weights_destroy(imported);
    note("weights_destroy", DSV4MX_STATUS_OK);
    dsv4mx_context_free(context, device);
    note("context_free", DSV4MX_STATUS_OK);
  }

  // From a checkpoint.
  dsv4mx_checkpoint* checkpoint = nullptr;
  note("checkpoint_create", dsv4mx_checkpoint_create(path().c_str(), nullptr, &checkpoint));
  dsv4mx_weights* loaded = nullptr;
  note("weights_create", dsv4mx_weights_create(layer, nullptr, &loaded));
  note("weights_load", dsv4mx_weights_load(loaded, checkpoint, Block(0), nullptr, nullptr));
  note("weights_prepare", dsv4mx_weights_prepare(loaded, nullptr, nullptr));
  dsv4mx_checkpoint_destroy(checkpoint);
  note("checkpoint_destroy", DSV4MX_STATUS_OK);

  // Refusals, with the device touched or not.
  dsv4mx_weights* another = nullptr;
  dsv4mx_weights_desc wd = DSV4MX_WEIGHTS_DESC_INIT;
  wd.memory = bytes;
  wd.memory_bytes = 1;
  note("weights_create, refused",
       dsv4mx_weights_create(layer, &wd, &another) == DSV4MX_STATUS_BUFFER_TOO_SMALL
           ? DSV4MX_STATUS_OK
           : DSV4MX_STATUS_INTERNAL);
  note("context_alloc, refused",
       dsv4mx_context_alloc(context, size_t{1} << 50, &memory) == DSV4MX_STATUS_OUT_OF_MEMORY
           ? DSV4MX_STATUS_OK
           : DSV4MX_STATUS_INTERNAL);

  dsv4mx_weights_destroy(loaded);
  note("weights_destroy", DSV4MX_STATUS_OK);
  dsv4mx_weights_destroy(weights);
  note("weights_destroy", DSV4MX_STATUS_OK);
  dsv4mx_layer_destroy(layer);
  note("layer_destroy", DSV4MX_STATUS_OK);
  dsv4mx_context_destroy(context);
  note("context_destroy", DSV4MX_STATUS_OK);
  return all;
}

void CheckTouches(const std::vector<Touch>& touches, CUcontext current) {
  CHECK(touches.size() > 40);
  for (const Touch& t : touches) {
    INFO(t.call);
    CHECK(std::string(dsv4mx_status_name(t.status)) == "OK");
    CHECK(t.current == current);
  }
}

}  // namespace

TEST_CASE("[F6] gpu device: a thread without a CUDA context has none after any call", "[gpu]") {
  REQUIRE_GPU();
  const auto get = DriverFunction<decltype(&cuCtxGetCurrent)>("cuCtxGetCurrent");
  const Tour tour;
  CUcontext before = nullptr;
  std::vector<Touch> touches;
  std::thread([&] {
    (void)get(&before);
    touches = tour.Take();
  }).join();
  CHECK(before == nullptr);
  CheckTouches(touches, nullptr);
}

TEST_CASE("[F6] gpu device: a context that is not the library's stays current through every call",
          "[gpu]") {
  REQUIRE_GPU();
  const auto get = DriverFunction<decltype(&cuCtxGetCurrent)>("cuCtxGetCurrent");
  const auto set = DriverFunction<decltype(&cuCtxSetCurrent)>("cuCtxSetCurrent");
  std::unique_ptr<FewMultiprocessors> few;
  const std::string reason = FewMultiprocessors::Make(16, &few);
  if (!reason.empty()) return Skip(reason);
  const Tour tour;
  CUcontext before = nullptr;
  std::vector<Touch> touches;
  std::thread([&] {
    (void)set(few->context());
    (void)get(&before);
    touches = tour.Take();
    (void)set(nullptr);
  }).join();
  CHECK(before == few->context());
  CheckTouches(touches, few->context());
}

TEST_CASE("[F6] gpu device: another current device stays current, and idle devices stay idle",
          "[gpu][two-gpus]") {
  REQUIRE_GPU();
  int count = 0;
  REQUIRE(cudaGetDeviceCount(&count) == cudaSuccess);
  if (count < 2) return Skip("needs two CUDA devices");
  using GetState = CUresult (*)(CUdevice, unsigned*, int*);
  const auto state = DriverFunction<GetState>("cuDevicePrimaryCtxGetState");
  const auto get = DriverFunction<decltype(&cuCtxGetCurrent)>("cuCtxGetCurrent");
  const Tour tour;
  std::vector<int> before(static_cast<size_t>(count)), after(before);
  std::vector<Touch> touches;
  CUcontext context = nullptr;
  int current = -1;
  unsigned flags;
  std::thread([&] {
    (void)cudaSetDevice(count - 1);
    (void)cudaFree(nullptr);  // its context exists and is current
    (void)get(&context);
    for (int i = 0; i < count; ++i) (void)state(i, &flags, &before[static_cast<size_t>(i)]);
    touches = tour.Take();
    (void)cudaGetDevice(&current);
    for (int i = 0; i < count; ++i) (void)state(i, &flags, &after[static_cast<size_t>(i)]);
  }).join();
  CHECK(context != nullptr);
  CheckTouches(touches, context);
  CHECK(current == count - 1);
  before[0] = after[0];  // the library's own
  CHECK(before == after);
}

// The case on that device, in a thread of its own: what the test's helpers keep per thread belongs to one device.
struct OnDevice {
  std::string wrong;
  std::vector<uint8_t> rows;  // of an apply while the device is current, and while device 0 is
  std::vector<uint8_t> rows_from_elsewhere;
};
OnDevice RunOnDevice(int ordinal, const Case& c, const std::vector<int64_t>& tokens) {
  OnDevice result;
  std::thread([&] {
    try {
      CUDA_MUST(cudaSetDevice(ordinal));
      dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
      d.device = DSV4MX_DEVICE_CUDA;
      d.device_ordinal = ordinal;
      dsv4mx_context* made = nullptr;
      Must(dsv4mx_context_create(&d, &made), "context_create");
      const ContextPtr context(made);
      const GpuLayer layer(c, nullptr, context.get());
      GpuCall call(layer, c.in);
      result.wrong = RunAndJudge(&call);
      result.rows = call.RowBytes(tokens);
      call.Poison();
      CUDA_MUST(cudaSetDevice(0));
      call.Run();  // on the default stream of the layer's device
      int current = -1;
      CUDA_MUST(cudaGetDevice(&current));
      if (current != 0) result.wrong += " another device is current";
      CUDA_MUST(cudaSetDevice(ordinal));
      result.rows_from_elsewhere = call.RowBytes(tokens);
      result.wrong += call.Damage();
    } catch (const std::exception& e) {
      result.wrong = e.what();
    }
  }).join();
  return result;
}

TEST_CASE("[F6] gpu device: layers on two devices, by turns and whatever device is current",
          "[gpu][two-gpus]") {
  REQUIRE_GPU();
  int count = 0;
  REQUIRE(cudaGetDeviceCount(&count) == cudaSuccess);
  if (count < 2) return Skip("needs two CUDA devices");
  char names[2][128] = {};
  for (int i = 0; i < 2; ++i) {
    cudaDeviceProp properties;
    REQUIRE(cudaGetDeviceProperties(&properties, i) == cudaSuccess);
    std::snprintf(names[i], sizeof names[i], "%.127s", properties.name);
  }
  for (const char* text : {"h=160 i=96 e=8 k=3 m=50", "h=96 i=64 e=6 k=2 m=700 path=bf16 bias=1",
                           "h=160 i=96 e=12 ep=3 rank=1 k=4 m=33 scales=120..140"}) {
    const Case c = GpuCase(text);
    std::vector<int64_t> tokens(static_cast<size_t>(c.p.tokens));
    std::iota(tokens.begin(), tokens.end(), 0);
    const OnDevice first = RunOnDevice(0, c, tokens), second = RunOnDevice(1, c, tokens);
    INFO(ProblemText(c.p));
    CHECK(first.wrong == "");
    CHECK(second.wrong == "");
    CHECK(first.rows == first.rows_from_elsewhere);
    CHECK(second.rows == second.rows_from_elsewhere);
    // Devices of one kind have one plan, and so the same bits.
    if (std::string(names[0]) == names[1]) CHECK(first.rows == second.rows);
  }
}

TEST_CASE("gpu device: the last error is left alone, and nothing of ours stays in it", "[gpu]") {
  REQUIRE_GPU();
  const ContextPtr context = MakeGpuContext();
  (void)cudaGetLastError();
  void* memory = nullptr;
  CHECK(dsv4mx_context_alloc(context.get(), size_t{1} << 50, &memory) ==
        DSV4MX_STATUS_OUT_OF_MEMORY);
  CHECK(cudaPeekAtLastError() == cudaSuccess);
  const Tour tour;
  CHECK(cudaMalloc(&memory, size_t{1} << 50) == cudaErrorMemoryAllocation);  // the host's own
  for (const Touch& t : tour.Take()) {
    INFO(t.call);
    CHECK(t.status == DSV4MX_STATUS_OK);
  }
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
}

TEST_CASE("gpu device: calls on one thread do not spoil a capture on another", "[gpu]") {
  REQUIRE_GPU();
  const ContextPtr context = MakeGpuContext();
  cudaStream_t stream = nullptr;
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  const Tour tour;
  std::vector<Touch> touches;
  std::thread([&] { touches = tour.Take(); }).join();
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  CheckTouches(touches, nullptr);
  if (graph != nullptr) (void)cudaGraphDestroy(graph);
  (void)cudaStreamDestroy(stream);
}

}  // namespace dsv4mx::test
