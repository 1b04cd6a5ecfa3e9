#include "tests/bench/group_timer.h"

#include <algorithm>
#include <barrier>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>

namespace dsv4mx::bench {

void CudaMust(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(call) + ": " + cudaGetErrorName(error) + ": " +
                           cudaGetErrorString(error));
}
#define MUST(call) CudaMust(call, #call)

void OnEachRank(const std::vector<int>& devices, const std::function<void(int rank)>& body) {
  std::vector<std::exception_ptr> thrown(devices.size());
  std::vector<std::thread> threads;
  for (size_t r = 0; r < devices.size(); ++r) {
    threads.emplace_back([&, r] {
      try {
        MUST(cudaSetDevice(devices[r]));
        body(static_cast<int>(r));
      } catch (...) {
        thrown[r] = std::current_exception();
      }
    });
  }
  for (auto& t : threads) t.join();
  for (const auto& e : thrown) {
    if (e != nullptr) std::rethrow_exception(e);
  }
}

namespace {

// What one thread captures and replays: one rank, or all ranks of a shared device.
struct Player {
  cudaStream_t stream = nullptr;
  cudaGraphExec_t graph = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;

  void Capture(int rounds, const std::function<void(int round, cudaStream_t)>& enqueue) {
    const int lead = std::min(8, rounds);
    MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    MUST(cudaEventCreate(&begin));
    MUST(cudaEventCreate(&end));
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    // The first rounds bring the ranks together, who do not start at the same moment.
    for (int i = 0; i < lead; ++i) enqueue(i % rounds, stream);
    MUST(cudaEventRecordWithFlags(begin, stream, cudaEventRecordExternal));
    for (int i = 0; i < rounds; ++i) enqueue(i, stream);
    MUST(cudaEventRecordWithFlags(end, stream, cudaEventRecordExternal));
    cudaGraph_t captured = nullptr;
    MUST(cudaStreamEndCapture(stream, &captured));
    MUST(cudaGraphInstantiate(&graph, captured, 0));
    MUST(cudaGraphDestroy(captured));
  }
  double Play() {
    MUST(cudaGraphLaunch(graph, stream));
    MUST(cudaStreamSynchronize(stream));
    float ms = 0;
    MUST(cudaEventElapsedTime(&ms, begin, end));
    return 1e3 * static_cast<double>(ms);
  }
  ~Player() {
    if (graph != nullptr) cudaGraphExecDestroy(graph);
    if (begin != nullptr) cudaEventDestroy(begin);
    if (end != nullptr) cudaEventDestroy(end);
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
};

}  // namespace

GroupTimes TimeGroup(const std::vector<int>& devices, int rounds, int replays,
                     const EnqueueRound& enqueue) {
  constexpr int kWarm = 3;
  const int ranks = static_cast<int>(devices.size());
  const bool shared = ranks > 1 && std::all_of(devices.begin(), devices.end(),
                                               [&](int d) { return d == devices[0]; });
  std::vector<std::vector<double>> us(devices.size());
  if (shared) {
    // Their calls wait for each other on the host, so that each needs a thread while they enqueue.
    MUST(cudaSetDevice(devices[0]));
    Player player;
    player.Capture(rounds, [&](int round, cudaStream_t stream) {
      OnEachRank(devices, [&](int r) { enqueue(r, round, stream); });
    });
    for (int i = 0; i < kWarm + replays; ++i) {
      const double time = player.Play();
      if (i >= kWarm) us[0].push_back(time / rounds);
    }
    for (size_t r = 1; r < us.size(); ++r) us[r] = us[0];
  } else {
    std::barrier<> together(ranks);
    OnEachRank(devices, [&](int r) {
      Player player;
      player.Capture(rounds, [&](int round, cudaStream_t stream) { enqueue(r, round, stream); });
      for (int i = 0; i < kWarm + replays; ++i) {
        together.arrive_and_wait();
        const double time = player.Play();
        if (i >= kWarm) us[static_cast<size_t>(r)].push_back(time / rounds);
      }
      together.arrive_and_wait();  // nobody frees while others still run
    });
  }
  std::vector<double> slowest(static_cast<size_t>(replays));
  for (size_t i = 0; i < slowest.size(); ++i) {
    for (const auto& one : us) slowest[i] = std::max(slowest[i], one[i]);
  }
  return {Summarise(slowest), rounds, replays};
}

}  // namespace dsv4mx::bench
