// What the CUDA backend leaves as it found it: the thread's current device, contexts of devices it does not use, the
// runtime's last error, and a capture that another thread has going.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <thread>
#include <vector>

#include "tests/catch.h"
#include "tests/runner.h"

namespace dsv4mx::test {
namespace {

template <class F>
F DriverFunction(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  REQUIRE(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found) ==
          cudaSuccess);
  REQUIRE(function != nullptr);
  return reinterpret_cast<F>(function);
}

ContextPtr MakeGpuContext() {
  dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
  d.device = DSV4MX_DEVICE_CUDA;
  dsv4mx_context* c = nullptr;
  REQUIRE_OK(dsv4mx_context_create(&d, &c));
  return ContextPtr(c);
}

dsv4mx_layer_desc SmallLayer(const int32_t* map) {
  dsv4mx_layer_desc d = DSV4MX_LAYER_DESC_INIT;
  d.hidden = 64;
  d.intermediate = 32;
  d.experts = 1;
  d.experts_global = 2;
  d.top_k = 1;
  d.expert_map = map;
  return d;
}

// Every kind of call that touches the device, but apply; returns statuses, so that it may run on any thread.
std::vector<dsv4mx_status> TouchEverything() {
  std::vector<dsv4mx_status> all;
  dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
  cd.device = DSV4MX_DEVICE_CUDA;
  dsv4mx_context* context = nullptr;
  all.push_back(dsv4mx_context_create(&cd, &context));
  const ContextPtr own_context(context);
  const int32_t map[] = {-1, 0};
  const dsv4mx_layer_desc ld = SmallLayer(map);
  dsv4mx_layer* layer = nullptr;
  all.push_back(dsv4mx_layer_create(context, &ld, &layer));
  const LayerPtr own_layer(layer);
  dsv4mx_weights* weights = nullptr;
  all.push_back(dsv4mx_weights_create(layer, nullptr, &weights));
  const WeightsPtr own_weights(weights);
  const std::vector<uint8_t> zeros(4096, 0);
  for (const char* name : {"w1", "w3", "w2"}) {
    const bool down = std::string(name) == "w2";
    const int64_t rows = down ? 64 : 32, k = down ? 32 : 64;
    const dsv4mx_tensor codes = Tensor(zeros.data(), DSV4MX_DTYPE_U8, {rows, k / 2}),
                        scales = Tensor(zeros.data(), DSV4MX_DTYPE_E8M0, {rows, k / 32});
    all.push_back(
        dsv4mx_weights_set(weights, (name + std::string(".weight")).c_str(), 0, &codes, nullptr));
    all.push_back(
        dsv4mx_weights_set(weights, (name + std::string(".scale")).c_str(), 0, &scales, nullptr));
  }
  all.push_back(dsv4mx_weights_prepare(weights, nullptr, nullptr));
  void* memory = nullptr;
  all.push_back(dsv4mx_context_alloc(context, 4096, &memory));
  all.push_back(dsv4mx_context_copy(context, memory, zeros.data(), 4096, nullptr));
  all.push_back(dsv4mx_context_synchronize(context, nullptr));
  all.push_back(dsv4mx_context_free(context, memory));
  return all;
}

}  // namespace

TEST_CASE("gpu device: a thread without a CUDA context has none afterwards", "[gpu]") {
  REQUIRE_GPU();
  const auto get = DriverFunction<decltype(&cuCtxGetCurrent)>("cuCtxGetCurrent");
  CUcontext before = nullptr, after = nullptr;
  std::vector<dsv4mx_status> statuses;
  std::thread([&] {
    (void)get(&before);
    statuses = TouchEverything();
    (void)get(&after);
  }).join();
  for (const dsv4mx_status s : statuses) CHECK(s == DSV4MX_STATUS_OK);
  CHECK(before == nullptr);
  CHECK(after == nullptr);
}

TEST_CASE("gpu device: another current device stays current, and idle devices stay idle", "[gpu]") {
  REQUIRE_GPU();
  int count = 0;
  REQUIRE(cudaGetDeviceCount(&count) == cudaSuccess);
  if (count < 2) return Skip("needs two CUDA devices");
  using GetState = CUresult (*)(CUdevice, unsigned*, int*);
  const auto state = DriverFunction<GetState>("cuDevicePrimaryCtxGetState");
  std::vector<int> before(static_cast<size_t>(count)), after(before);
  std::vector<dsv4mx_status> statuses;
  int current = -1;
  unsigned flags;
  std::thread([&] {
    (void)cudaSetDevice(count - 1);
    for (int i = 0; i < count; ++i) (void)state(i, &flags, &before[static_cast<size_t>(i)]);
    statuses = TouchEverything();
    (void)cudaGetDevice(&current);
    for (int i = 0; i < count; ++i) (void)state(i, &flags, &after[static_cast<size_t>(i)]);
  }).join();
  for (const dsv4mx_status s : statuses) CHECK(s == DSV4MX_STATUS_OK);
  CHECK(current == count - 1);
  before[0] = after[0];  // the library's own
  CHECK(before == after);
}

TEST_CASE("gpu device: the last error is left alone, and nothing of ours stays in it", "[gpu]") {
  REQUIRE_GPU();
  const ContextPtr context = MakeGpuContext();
  (void)cudaGetLastError();
  void* memory = nullptr;
  CHECK(dsv4mx_context_alloc(context.get(), size_t{1} << 50, &memory) ==
        DSV4MX_STATUS_OUT_OF_MEMORY);
  CHECK(cudaPeekAtLastError() == cudaSuccess);
  CHECK(cudaMalloc(&memory, size_t{1} << 50) == cudaErrorMemoryAllocation);  // the host's own
  for (const dsv4mx_status s : TouchEverything()) CHECK(s == DSV4MX_STATUS_OK);
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
}

TEST_CASE("gpu device: calls on one thread do not spoil a capture on another", "[gpu]") {
  REQUIRE_GPU();
  const ContextPtr context = MakeGpuContext();
  cudaStream_t stream = nullptr;
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  std::vector<dsv4mx_status> statuses;
  std::thread([&] { statuses = TouchEverything(); }).join();
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  for (const dsv4mx_status s : statuses) CHECK(s == DSV4MX_STATUS_OK);
  if (graph != nullptr) (void)cudaGraphDestroy(graph);
  (void)cudaStreamDestroy(stream);
}

}  // namespace dsv4mx::test
