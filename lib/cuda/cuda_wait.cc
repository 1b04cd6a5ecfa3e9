#include "lib/cuda/cuda_wait.h"

#include <chrono>
#include <thread>

#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {
namespace {

// Spins for a moment, then naps: most waits are for the copy of a few megabytes, some for a whole training step.
template <class Query>
Status Poll(const Query& query, const char* call, const Control& control) {
  constexpr int kSpins = 1000;
  constexpr auto kNap = std::chrono::microseconds(50);
  for (int i = 0;; ++i) {
    const cudaError_t error = query();
    if (error == cudaSuccess) return kOk;
    if (error != cudaErrorNotReady) return FailCuda(error, call);
    if (i < kSpins) continue;
    DSV4MX_TRY(control.Wait());
    std::this_thread::sleep_for(kNap);
  }
}

}  // namespace

Status WaitForEvent(cudaEvent_t event, const Control& control) {
  if (!control.Listens()) return Check(cudaEventSynchronize(event), "cudaEventSynchronize");
  return Poll([&] { return cudaEventQuery(event); }, "cudaEventQuery", control);
}

Status WaitForStream(cudaStream_t stream, const Control& control) {
  if (!control.Listens()) return Check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  return Poll([&] { return cudaStreamQuery(stream); }, "cudaStreamQuery", control);
}

}  // namespace dsv4mx::cuda
