// What preparation takes in device memory, against what the layer's query said: the prepared experts byte for byte, and what
// set, prepare, import and export use beyond them while they run.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "tests/catch.h"
#include "tests/gpu/cuda_must.h"
#include "tests/gpu/gpu_data.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/gpu/marlin_tensors.h"

namespace dsv4mx::test {
namespace {

// cudaMalloc hands out whole blocks of 2 MiB, and free memory is counted in them: one block for each of the few
// allocations that preparation makes (staging, records), and for page tables.
constexpr int64_t kGranularity = int64_t{12} << 20;

int64_t FreeMemory() {
  size_t available = 0, total = 0;
  CUDA_MUST(cudaMemGetInfo(&available, &total));
  return static_cast<int64_t>(available);
}

// Looks at the device's free memory all the time while it lives. Somebody else on the device would be seen too.
class MemoryWatch {
 public:
  MemoryWatch() : before_(FreeMemory()), lowest_(before_) {
    thread_ = std::thread([this] {
      while (!done_) {
        Look();
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    });
  }
  ~MemoryWatch() {
    done_ = true;
    thread_.join();
  }
  MemoryWatch(const MemoryWatch&) = delete;
  MemoryWatch& operator=(const MemoryWatch&) = delete;
  void Look() {
    size_t available = 0, total = 0;
    if (cudaMemGetInfo(&available, &total) != cudaSuccess) return;
    int64_t lowest = lowest_;
    while (static_cast<int64_t>(available) < lowest &&
           !lowest_.compare_exchange_weak(lowest, static_cast<int64_t>(available))) {
    }
  }
  int64_t MostUsed() {
    Look();
    return before_ - lowest_;
  }

 private:
  const int64_t before_;
  std::atomic<int64_t> lowest_;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

dsv4mx_layer_info InfoOf(const dsv4mx_layer* layer) {
  dsv4mx_layer_info info{};
  info.struct_size = sizeof info;
  Must(dsv4mx_layer_query(layer, &info), "layer_query");
  return info;
}

WeightsPtr WeightsIn(const dsv4mx_layer* layer, const DeviceBuffer& memory) {
  dsv4mx_weights_desc desc = DSV4MX_WEIGHTS_DESC_INIT;
  desc.memory = memory.data();
  desc.memory_bytes = memory.bytes();
  dsv4mx_weights* made = nullptr;
  Must(dsv4mx_weights_create(layer, &desc, &made), "weights_create");
  return WeightsPtr(made);
}

TEST_CASE(
    "[D1] prepared bytes are exact: one byte less is refused, every byte is written, none behind",
    "[gpu][gpu-quick][memory]") {
  REQUIRE_GPU();
  for (const char* text :
       {"h=32 i=32 e=9 k=1 m=1", "h=96 i=288 e=3 k=1 m=1 bias=f32", "h=2880 i=96 e=2 k=1 m=1",
        "h=5120 i=384 e=2 k=1 m=1 bias2=bf16", "h=160 i=1152 e=2 k=1 m=1 bias13=f32"}) {
    const Case c = GpuCase(text);
    INFO(ProblemText(c.p));
    const GpuLayer layer(c);
    const dsv4mx_layer_info info = InfoOf(layer.layer());
    const auto bytes = static_cast<size_t>(info.prepared_bytes);
    std::vector<uint8_t> first;
    for (const int poison : {0x00, 0xFF}) {
      const DeviceBuffer memory(bytes, static_cast<size_t>(info.prepared_alignment));
      CUDA_MUST(cudaMemset(memory.data(), poison, bytes));
      dsv4mx_weights_desc desc = DSV4MX_WEIGHTS_DESC_INIT;
      desc.memory = memory.data();
      desc.memory_bytes = bytes - 1;
      dsv4mx_weights* made = nullptr;
      REQUIRE_REFUSED(dsv4mx_weights_create(layer.layer(), &desc, &made),
                      DSV4MX_STATUS_BUFFER_TOO_SMALL, "memory," + std::to_string(bytes));
      CHECK(made == nullptr);
      const WeightsPtr weights = WeightsIn(layer.layer(), memory);
      layer.raw()->SetAll(weights.get(), c.p);
      REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr));
      dsv4mx_weights_info state{};
      state.struct_size = sizeof state;
      REQUIRE_OK(dsv4mx_weights_query(weights.get(), &state));
      CHECK(state.bytes == info.prepared_bytes);
      CHECK(memory.Damage() == "");
      const std::vector<uint8_t> prepared = memory.Download();
      if (first.empty()) first = prepared;
      const auto at = std::mismatch(prepared.begin(), prepared.end(), first.begin()).first;
      if (at != prepared.end()) FAIL("byte " << at - prepared.begin() << " was not written");
    }
  }
}

TEST_CASE("[D3] set, prepare, import and export take no more device memory than the query says",
          "[gpu][gpu-quick][memory]") {
  REQUIRE_GPU();
  // Everything that is made once in a process is there after this.
  CHECK(RunAndJudge("h=64 i=32 e=1 k=1 m=1") == "");
  for (const char* text : {"h=4096 i=2048 e=12 k=1 m=1", "h=2880 i=2880 e=6 k=1 m=1 bias=bf16",
                           "h=160 i=96 e=512 k=1 m=1"}) {
    const Case c = GpuCase(text);
    const GpuLayer layer(c);
    const dsv4mx_layer_info info = InfoOf(layer.layer());
    const int64_t allowed = info.peak_extra_bytes + kGranularity;
    INFO(ProblemText(c.p) << ": prepared " << info.prepared_bytes << ", peak extra "
                          << info.peak_extra_bytes << ", allowed " << allowed);
    // Another copy of the experts would be seen.
    if (c.p.hidden > 1000) REQUIRE(allowed < info.prepared_bytes);
    const DeviceBuffer memory(static_cast<size_t>(info.prepared_bytes),
                              static_cast<size_t>(info.prepared_alignment));
    MarlinTensors device(layer, DSV4MX_MEMORY_DEVICE), host(layer, DSV4MX_MEMORY_HOST);
    // One expert's tensors for all of them.
    std::vector<NamedTensor> tensors = TensorsOf(c.p, 0, layer.raw()->Read(0));
    const auto prepare = [&](dsv4mx_weights* weights, MemoryWatch* watch) {
      dsv4mx_prepare_args args = DSV4MX_PREPARE_ARGS_INIT;
      dsv4mx_control control = DSV4MX_CONTROL_INIT;
      control.progress_user = watch;
      control.progress = [](void* user, dsv4mx_stage, int64_t, int64_t) -> int32_t {
        static_cast<MemoryWatch*>(user)->Look();
        return 0;
      };
      args.control = &control;
      Must(dsv4mx_weights_prepare(weights, &args, nullptr), "prepare");
      Must(dsv4mx_context_synchronize(layer.context(), nullptr), "synchronize");
    };
    {
      MemoryWatch watch;
      const WeightsPtr weights = WeightsIn(layer.layer(), memory);
      for (int32_t e = 0; e < c.p.LocalExperts(); ++e) {
        for (const NamedTensor& t : tensors) {
          const dsv4mx_tensor view = t.View();
          Must(dsv4mx_weights_set(weights.get(), t.name.c_str(), e, &view, nullptr, nullptr),
               t.name.c_str());
          watch.Look();
        }
      }
      prepare(weights.get(), &watch);
      INFO("set from host memory, prepare: " << watch.MostUsed());
      CHECK(watch.MostUsed() <= allowed);
      REQUIRE_OK(dsv4mx_weights_export_marlin(weights.get(), &host.desc(), nullptr, nullptr));
      REQUIRE_OK(dsv4mx_weights_export_marlin(weights.get(), &device.desc(), nullptr, nullptr));
      REQUIRE_OK(dsv4mx_context_synchronize(layer.context(), nullptr));
      INFO("export to host and device memory: " << watch.MostUsed());
      CHECK(watch.MostUsed() <= allowed);
      CHECK(host.Read() == device.Read());
    }
    for (const MarlinTensors* from : {&host, &device}) {
      MemoryWatch watch;
      const WeightsPtr weights = WeightsIn(layer.layer(), memory);
      REQUIRE_OK(dsv4mx_weights_import_marlin(weights.get(), &from->desc(), nullptr, nullptr));
      watch.Look();
      prepare(weights.get(), &watch);
      INFO((from == &host ? "import from host" : "import from device")
           << " memory, prepare: " << watch.MostUsed());
      CHECK(watch.MostUsed() <= allowed);
    }
    CHECK(host.Damage() + device.Damage() + memory.Damage() == "");
  }
}

}  // namespace
}  // namespace dsv4mx::test
