#include "tests/bench/gpu_timer.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/bench/gpu_kernels.h"
#include "tests/bench/nvml.h"
#include "tests/bench/statistics.h"

namespace dsv4mx::bench {
namespace {

constexpr auto kRest = std::chrono::milliseconds(400);
constexpr int kBursts = 3;              // rests, each followed by a few replays
constexpr int kBurstReplays = 3;        // at least
constexpr double kBurstSeconds = 1e-3;  // or as many as fit in here
constexpr double kBatchSeconds = 5e-3;  // replays between two events of the sustained state
constexpr size_t kReadBytes = size_t{4} << 30;
constexpr int64_t kDense = 8192;

void Check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(call) + ": " + cudaGetErrorName(status) + " (" +
                             std::to_string(static_cast<int>(status)) +
                             "): " + cudaGetErrorString(status));
  }
}
void Check(int status, const char* call) {
  Check(static_cast<cudaError_t>(status), call);
}

class Event {
 public:
  Event() { Check(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void Record(cudaStream_t stream) { Check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  void Wait() { Check(cudaEventSynchronize(event_), "cudaEventSynchronize"); }
  double SecondsSince(const Event& from) const {
    float ms = 0;
    Check(cudaEventElapsedTime(&ms, from.event_, event_), "cudaEventElapsedTime");
    return static_cast<double>(ms) * 1e-3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes) { Check(cudaMalloc(&data_, bytes), "cudaMalloc"); }
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  void* get() const { return data_; }

 private:
  void* data_ = nullptr;
};

// The few functions of cuBLAS that a dense product needs, found at run time.
class Cublas {
 public:
  explicit Cublas(const std::string& file) {
    std::vector<std::string> names = {"libcublas.so.13", "libcublas.so.12"};
    if (!file.empty()) names = {file};
    for (const std::string& name : names) {
      if (library_ == nullptr) library_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    }
    if (library_ == nullptr) {
      why_ = (file.empty() ? "libcublas" : file) + " cannot be loaded";
      return;
    }
    int (*create)(void**) = nullptr;
    create = reinterpret_cast<int (*)(void**)>(dlsym(library_, "cublasCreate_v2"));
    set_stream_ = reinterpret_cast<decltype(set_stream_)>(dlsym(library_, "cublasSetStream_v2"));
    gemm_ = reinterpret_cast<decltype(gemm_)>(dlsym(library_, "cublasGemmEx"));
    destroy_ = reinterpret_cast<decltype(destroy_)>(dlsym(library_, "cublasDestroy_v2"));
    if (create == nullptr || set_stream_ == nullptr || gemm_ == nullptr || destroy_ == nullptr) {
      why_ = "libcublas lacks a function";
    } else if (const int status = create(&handle_); status != 0) {
      handle_ = nullptr;
      why_ = "cublasCreate gave status " + std::to_string(status);
    }
  }
  // The library stays loaded: it cannot be unloaded while the device is in use.
  ~Cublas() {
    if (handle_ != nullptr) destroy_(handle_);
  }
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  const std::string& why() const { return why_; }

  // c = a^T b of n x n bf16 numbers, fp32 sums.
  void Multiply(const void* a, const void* b, void* c, int n, cudaStream_t stream) {
    constexpr int kTranspose = 1, kPlain = 0, kBf16 = 14, kCompute32F = 68, kDefault = -1;
    const float one = 1, zero = 0;
    int status = set_stream_(handle_, stream);
    if (status == 0) {
      status = gemm_(handle_, kTranspose, kPlain, n, n, n, &one, a, kBf16, n, b, kBf16, n, &zero, c,
                     kBf16, n, kCompute32F, kDefault);
    }
    if (status != 0) throw std::runtime_error("cublasGemmEx gave status " + std::to_string(status));
  }

 private:
  void* library_ = nullptr;
  void* handle_ = nullptr;
  std::string why_;
  int (*set_stream_)(void*, cudaStream_t) = nullptr;
  int (*destroy_)(void*) = nullptr;
  int (*gemm_)(void*, int, int, int, int, int, const void*, const void*, int, int, const void*, int,
               int, const void*, void*, int, int, int, int) = nullptr;
};

GpuTime TimeOf(const std::vector<double>& seconds) {
  const Summary s = Summarise(seconds);
  GpuTime t;
  t.us = s.median * 1e6;
  t.us_min = s.least * 1e6;
  t.spread = s.spread;
  t.runs = static_cast<int>(seconds.size());
  return t;
}

}  // namespace

struct GpuTimer::Impl {
  int ordinal = 0, multiprocessors = 0;
  cudaStream_t stream = nullptr;
  uint64_t* clock = nullptr;  // device memory: cycles, nanoseconds
  std::unique_ptr<Nvml> nvml;

  // The clock of the chip as it is at the end of the stream's work.
  void EnqueueClock() { Check(LaunchClock(clock, stream), "clock kernel"); }
  double ReadClock() {
    uint64_t host[2] = {};
    Check(cudaMemcpyAsync(host, clock, sizeof host, cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync");
    Check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    return host[1] == 0 ? 0 : static_cast<double>(host[0]) * 1e3 / static_cast<double>(host[1]);
  }

  GpuTime Burst(const std::function<void()>& replay) {
    std::vector<double> each, clocks;
    int replays = kBurstReplays;
    for (int i = 0; i < kBursts; ++i) {
      std::this_thread::sleep_for(kRest);
      Event begin, end;
      begin.Record(stream);
      for (int r = 0; r < replays; ++r) replay();
      end.Record(stream);
      EnqueueClock();
      clocks.push_back(ReadClock());
      each.push_back(end.SecondsSince(begin) / replays);
      replays = std::max(kBurstReplays, static_cast<int>(kBurstSeconds / each.back()));
    }
    GpuTime t = TimeOf(each);
    t.sm_mhz = Summarise(clocks).median;
    return t;
  }

  // Batches of replays between events, all enqueued at once, so that the chip never waits for the host.
  GpuTime Sustained(const std::function<void()>& replay, double once, double seconds) {
    const int replays = std::max(1, static_cast<int>(kBatchSeconds / once));
    // The sustained clock is lower, so what is planned from a burst lasts longer, never shorter.
    const int batches =
        std::clamp(static_cast<int>(std::ceil(seconds / (once * replays))), 4, 100000);
    std::vector<std::unique_ptr<Event>> events;
    for (int b = 0; b <= batches; ++b) events.push_back(std::make_unique<Event>());
    nvml->Start();
    events[0]->Record(stream);
    for (int b = 1; b <= batches; ++b) {
      for (int r = 0; r < replays; ++r) replay();
      events[static_cast<size_t>(b)]->Record(stream);
    }
    EnqueueClock();
    events.back()->Wait();
    const std::vector<Nvml::Sample> samples = nvml->Stop();
    const double clock_mhz = ReadClock();
    std::vector<double> later;
    for (size_t b = static_cast<size_t>(batches) / 2 + 1; b < events.size(); ++b)
      later.push_back(events[b]->SecondsSince(*events[b - 1]) / replays);
    GpuTime t = TimeOf(later);
    t.sm_mhz = clock_mhz;
    std::vector<double> mhz, watts;
    const double half = samples.empty() ? 0 : samples.back().seconds / 2;
    for (const Nvml::Sample& s : samples) {
      if (s.seconds >= half) mhz.push_back(s.mhz), watts.push_back(s.watts);
    }
    if (!mhz.empty()) t.nvml_mhz = Summarise(mhz).median, t.watts = Summarise(watts).median;
    return t;
  }

  GpuTimes Both(const std::function<void()>& replay, double seconds) {
    replay();  // what is loaded or set up on first use is not measured
    Check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    GpuTimes t;
    t.burst = Burst(replay);
    t.sustained = Sustained(replay, t.burst.us * 1e-6, seconds);
    return t;
  }
};

GpuTimer::GpuTimer(int ordinal) : impl_(std::make_unique<Impl>()) {
  impl_->ordinal = ordinal;
  Check(cudaSetDevice(ordinal), "cudaSetDevice");
  Check(cudaDeviceGetAttribute(&impl_->multiprocessors, cudaDevAttrMultiProcessorCount, ordinal),
        "cudaDeviceGetAttribute");
  Check(cudaStreamCreateWithFlags(&impl_->stream, cudaStreamNonBlocking),
        "cudaStreamCreateWithFlags");
  void* clock = nullptr;
  Check(cudaMalloc(&clock, 2 * sizeof(uint64_t)), "cudaMalloc");
  impl_->clock = static_cast<uint64_t*>(clock);
  char bus[32] = "";
  Check(cudaDeviceGetPCIBusId(bus, sizeof bus, ordinal), "cudaDeviceGetPCIBusId");
  impl_->nvml = std::make_unique<Nvml>(bus);
}

GpuTimer::~GpuTimer() {
  cudaFree(impl_->clock);
  if (impl_->stream != nullptr) cudaStreamDestroy(impl_->stream);
}

GpuTimes GpuTimer::Measure(const std::function<void(dsv4mx_stream)>& enqueue, double seconds) {
  cudaStream_t stream = impl_->stream;
  enqueue(stream);
  Check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  try {
    enqueue(stream);
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  Check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  const cudaError_t made = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  Check(made, "cudaGraphInstantiate");
  const std::unique_ptr<CUgraphExec_st, cudaError_t (*)(cudaGraphExec_t)> owner(
      exec, cudaGraphExecDestroy);
  return impl_->Both([&] { Check(cudaGraphLaunch(exec, stream), "cudaGraphLaunch"); }, seconds);
}

GpuCeilings GpuTimer::MeasureCeilings(double seconds, const std::string& cublas) {
  GpuCeilings out;
  cudaStream_t stream = impl_->stream;
  {
    const DeviceMemory buffer(kReadBytes);
    uint32_t* sink = reinterpret_cast<uint32_t*>(impl_->clock);  // the clock writes it anew
    Check(LaunchFillBits(buffer.get(), kReadBytes, 1, stream), "fill");
    struct Reader {
      const char* name;
      int (*launch)(const void*, size_t, int, uint32_t*, Stream);
    };
    for (const Reader& reader :
         {Reader{"bulk copies", LaunchBulkRead}, Reader{"plain loads", LaunchPlainRead}}) {
      const GpuTimes t = impl_->Both(
          [&] {
            Check(reader.launch(buffer.get(), kReadBytes, impl_->multiprocessors, sink, stream),
                  reader.name);
          },
          seconds);
      const double bytes = static_cast<double>(kReadBytes);
      out.read_burst = std::max(out.read_burst, bytes / (t.burst.us * 1e-6));
      if (const double rate = bytes / (t.sustained.us * 1e-6); rate > out.read_sustained) {
        out.read_sustained = rate;
        out.read_mhz = t.sustained.sm_mhz;
        out.reader = reader.name;
      }
    }
  }
  Cublas blas(cublas);
  out.no_dense = blas.why();
  if (!out.no_dense.empty()) return out;
  try {
    constexpr size_t kCount = static_cast<size_t>(kDense) * kDense;
    const DeviceMemory a(2 * kCount), b(2 * kCount), c(2 * kCount);
    Check(LaunchFillBf16(a.get(), kCount, 2, stream), "fill");
    Check(LaunchFillBf16(b.get(), kCount, 3, stream), "fill");
    const GpuTimes t = impl_->Both(
        [&] { blas.Multiply(a.get(), b.get(), c.get(), static_cast<int>(kDense), stream); },
        seconds);
    const double flop = 2.0 * kDense * kDense * kDense;
    out.dense_burst = flop / (t.burst.us * 1e-6);
    out.dense_sustained = flop / (t.sustained.us * 1e-6);
    out.dense_mhz = t.sustained.sm_mhz;
  } catch (const std::runtime_error& error) {
    out.no_dense = error.what();  // the reads are known all the same
  }
  return out;
}

std::string GpuTimer::Describe() const {
  int driver = 0, runtime = 0;
  Check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  Check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  const auto version = [](int v) {
    return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10);
  };
  std::string text = "driver for CUDA " + version(driver) + ", runtime " + version(runtime);
  if (const double watts = impl_->nvml->PowerLimitWatts(); watts > 0)
    text += ", " + std::to_string(static_cast<int>(watts)) + " W";
  return text;
}

}  // namespace dsv4mx::bench
