#include "tests/bench/load_device.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "tests/runner.h"
#if DSV4MX_HAVE_CUDA
#include <cuda_runtime_api.h>
#endif

namespace dsv4mx::bench {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

void Ledger::Hook(dsv4mx_context_desc* desc) {
  desc->alloc = Alloc;
  desc->free = Free;
  desc->alloc_user = this;
}

void* Ledger::Alloc(void* user, size_t bytes, size_t alignment, dsv4mx_memory memory,
                    dsv4mx_stream) {
  auto* l = static_cast<Ledger*>(user);
  const auto begin = Clock::now();
  void* p = nullptr;
  if (memory == DSV4MX_MEMORY_HOST) {
    p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  }
#if DSV4MX_HAVE_CUDA
  if (memory == DSV4MX_MEMORY_DEVICE && cudaMalloc(&p, bytes) != cudaSuccess) p = nullptr;
  if (memory == DSV4MX_MEMORY_PINNED && cudaHostAlloc(&p, bytes, 0) != cudaSuccess) p = nullptr;
#endif
  if (p == nullptr) return nullptr;
  l->live_[p] = bytes;
  l->now_ += bytes;
  l->peak_ = std::max(l->peak_, l->now_);
  l->seconds_ += Seconds(begin);
  return p;
}

void Ledger::Free(void* user, void* p, size_t bytes, dsv4mx_memory memory, dsv4mx_stream) {
  auto* l = static_cast<Ledger*>(user);
  const auto begin = Clock::now();
  l->now_ -= bytes;
  l->live_.erase(p);
  if (memory == DSV4MX_MEMORY_HOST) std::free(p);
#if DSV4MX_HAVE_CUDA
  if (memory == DSV4MX_MEMORY_DEVICE) (void)cudaFree(p);
  if (memory == DSV4MX_MEMORY_PINNED) (void)cudaFreeHost(p);
#endif
  l->seconds_ += Seconds(begin);
}

#if DSV4MX_HAVE_CUDA
namespace {

void Cuda(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error));
}

size_t FreeBytes() {
  size_t free = 0, total = 0;
  Cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}

// Device memory that goes with its owner.
struct DeviceMemory {
  explicit DeviceMemory(int64_t bytes) {
    Cuda(cudaMalloc(reinterpret_cast<void**>(&data), static_cast<size_t>(bytes)), "cudaMalloc");
    Cuda(cudaMemset(data, 0x35, static_cast<size_t>(bytes)), "cudaMemset");
  }
  ~DeviceMemory() { (void)cudaFree(data); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  uint8_t* data = nullptr;
};

}  // namespace

DeviceWatch::DeviceWatch() : before_(FreeBytes()), least_(before_) {
  int device = 0;
  Cuda(cudaGetDevice(&device), "cudaGetDevice");
  thread_ = std::thread([this, device] {
    (void)cudaSetDevice(device);
    while (!stop_) {
      size_t free = 0, total = 0;
      if (cudaMemGetInfo(&free, &total) == cudaSuccess) least_ = std::min(least_.load(), free);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
}

DeviceWatch::~DeviceWatch() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

int64_t DeviceWatch::Most() {
  stop_ = true;
  thread_.join();
  return static_cast<int64_t>(before_ - least_);
}

double PinnedCopy(int64_t bytes) {
  constexpr int64_t kBlock = 32 << 20;
  void *host[2], *device[2];
  for (int i = 0; i < 2; ++i) {
    Cuda(cudaHostAlloc(&host[i], kBlock, 0), "cudaHostAlloc");
    std::memset(host[i], i, kBlock);
    Cuda(cudaMalloc(&device[i], kBlock), "cudaMalloc");
  }
  const auto copy = [&](int64_t all) {
    for (int64_t at = 0, i = 0; at < all; at += kBlock, i ^= 1) {
      Cuda(cudaMemcpyAsync(device[i], host[i], static_cast<size_t>(std::min(kBlock, all - at)),
                           cudaMemcpyHostToDevice, cudaStreamPerThread),
           "cudaMemcpyAsync");
    }
    Cuda(cudaStreamSynchronize(cudaStreamPerThread), "cudaStreamSynchronize");
  };
  copy(4 * kBlock);
  const auto begin = Clock::now();
  copy(bytes);
  const double seconds = Seconds(begin);
  for (int i = 0; i < 2; ++i) {
    (void)cudaFreeHost(host[i]);
    (void)cudaFree(device[i]);
  }
  return seconds;
}

RepackRate Repack(const test::Problem& p, dsv4mx_weights* weights) {
  const int64_t e = p.experts, h = p.hidden, i = p.intermediate;
  const DeviceMemory w13(e * i * h), w2(e * h * i / 2);
  dsv4mx_tensor of_w13 = test::Tensor(w13.data, DSV4MX_DTYPE_U8, {e, 2 * i, h / 2});
  dsv4mx_tensor of_w2 = test::Tensor(w2.data, DSV4MX_DTYPE_U8, {e, h, i / 2});
  of_w13.memory = of_w2.memory = DSV4MX_MEMORY_DEVICE;
  const auto stream = reinterpret_cast<dsv4mx_stream>(cudaStreamPerThread);
  cudaEvent_t begin = nullptr, end = nullptr;
  Cuda(cudaEventCreate(&begin), "cudaEventCreate");
  Cuda(cudaEventCreate(&end), "cudaEventCreate");
  RepackRate best{e * i * h / 2 * 3, 1e9, 1e9};
  for (int round = 0; round < 5; ++round) {
    const auto start = Clock::now();
    Cuda(cudaEventRecord(begin, cudaStreamPerThread), "cudaEventRecord");
    test::Must(dsv4mx_weights_set(weights, "experts.w13_weight", -1, &of_w13, nullptr, stream),
               "set");
    test::Must(dsv4mx_weights_set(weights, "experts.w2_weight", -1, &of_w2, nullptr, stream),
               "set");
    Cuda(cudaEventRecord(end, cudaStreamPerThread), "cudaEventRecord");
    Cuda(cudaStreamSynchronize(cudaStreamPerThread), "cudaStreamSynchronize");
    best.call_s = std::min(best.call_s, Seconds(start));
    float ms = 0;
    Cuda(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    best.device_s = std::min(best.device_s, 1e-3 * ms);
  }
  (void)cudaEventDestroy(begin);
  (void)cudaEventDestroy(end);
  return best;
}
#endif

}  // namespace dsv4mx::bench
