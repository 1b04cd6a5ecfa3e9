// The first apply of a process against later ones: kernels are loaded when the context is made, so that nothing is left to
// do at first use but what caches miss. It is measured in a process of its own, where every kernel of a number path is met
// for the first time.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "tests/catch.h"
#include "tests/gpu/gpu_data.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/gpu/own_process.h"
#include "tests/gpu/streams.h"

namespace dsv4mx::test {
namespace {

class Event {
 public:
  Event() { CUDA_MUST(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void Record(const Stream& stream) const { CUDA_MUST(cudaEventRecord(event_, stream.get())); }
  double MicrosecondsSince(const Event& start) const {
    float milliseconds = 0;
    CUDA_MUST(cudaEventElapsedTime(&milliseconds, start.event_, event_));
    return 1000.0 * static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

struct Cost {
  double host, device;  // microseconds: of the call, and between events around it
};

Cost Measure(const GpuCall& call, const Stream& stream, const Event& start, const Event& end) {
  // About a millisecond, in which the call is enqueued: the device's time then has no gaps that the host makes.
  KeepBusy(stream.get(), 1, 2'000'000);
  start.Record(stream);
  const auto begin = std::chrono::steady_clock::now();
  call.Enqueue(stream.get());
  const std::chrono::duration<double, std::micro> host = std::chrono::steady_clock::now() - begin;
  end.Record(stream);
  stream.Wait();
  return {host.count(), end.MicrosecondsSince(start)};
}

double Median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<long>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

}  // namespace

TEST_CASE("[E2] gpu first apply: in a fresh process it costs what later ones do",
          "[gpu][gpu-quick][first]") {
  REQUIRE_GPU();
  // The host's time is at the mercy of whatever else it does; kernels that are loaded late are late every time.
  std::string result;
  for (int attempt = 0; attempt < 3; ++attempt) {
    result = RunInOwnProcess("[.first-apply]");
    if (result.empty()) break;
    std::printf("first apply, attempt %d: %s\n", attempt, result.c_str());
  }
  CHECK(result == "");
}

TEST_CASE("first apply: measures it in this process", "[.first-apply]") {
  REQUIRE_GPU();
  constexpr int kLater = 200;
  const Stream stream;
  const Event start, end;
  // Each meets kernels that ran in none before; weights do not fit the L2 cache, so all calls find them cold.
  for (const char* text :
       {"h=4096 i=2048 e=32 k=6 m=64 path=planes", "h=4096 i=2048 e=32 k=6 m=1024 path=bf16",
        "h=4096 i=2048 e=32 k=6 m=64 scales=120..140"}) {
    const GpuLayer layer{GpuCase(text)};
    const GpuCall call(layer, layer.c().in);
    KeepBusy(stream.get(), 132, 50'000'000);  // clocks go up
    stream.Wait();
    const Cost first = Measure(call, stream, start, end);
    std::vector<double> host, device;
    for (int i = 0; i < kLater; ++i) {
      const Cost later = Measure(call, stream, start, end);
      host.push_back(later.host);
      device.push_back(later.device);
    }
    const Cost usual{Median(host), Median(device)};
    char line[200];
    std::snprintf(
        line, sizeof line,
        "%s: host %.1f us at first, %.1f us later; device %.1f us at first, %.1f us later", text,
        first.host, usual.host, first.device, usual.device);
    std::printf("%s\n", line);
    INFO(line);
    // A call of a few microseconds meets cold caches of the host and the driver's first use of a stream.
    CHECK(first.host <= std::max(2 * usual.host, usual.host + 200));
    CHECK(first.device <= 2 * usual.device);
    CHECK(call.Damage() == "");
    CHECK(JudgeRows(call, TokensToJudge(call)) == "");
  }
}

}  // namespace dsv4mx::test
