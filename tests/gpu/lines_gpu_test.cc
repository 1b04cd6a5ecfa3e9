// That a line which a warp stores at once arrives at once over NVLink, and is loaded at once (kernels/ptx/system.cuh): what the small
// rounds of groups rest on, and what no memory model promises.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <future>

#include "tests/catch.h"
#include "tests/gpu/cuda_must.h"
#include "tests/gpu/lines.h"

namespace dsv4mx::test {
namespace {

TEST_CASE("lines arrive whole between two devices", "[gpu][gpu-quick][groups][two-gpus]") {
  REQUIRE_GPU();
  int devices = 0;
  CUDA_MUST(cudaGetDeviceCount(&devices));
  if (devices < 2) return Skip("fewer than two CUDA devices");
  // Of the emulator a few, DSV4MX_LINE_ROUNDS for a soak.
  const bool emulated = std::getenv("DSV4MX_EMULATED_DEVICES") != nullptr;
  const char* wanted = std::getenv("DSV4MX_LINE_ROUNDS");
  const int warps = emulated ? 8 : 2112;
  const int rounds = wanted != nullptr ? std::atoi(wanted) : emulated ? 50 : 20000;
  uint64_t* lines[2];
  LineCounts* counts[2];
  for (int side = 0; side < 2; ++side) {
    CUDA_MUST(cudaSetDevice(side));
    CUDA_MUST(cudaDeviceEnablePeerAccess(1 - side, 0));
    CUDA_MUST(cudaMalloc(&lines[side], static_cast<size_t>(LineBytes(warps))));
    CUDA_MUST(cudaMemset(lines[side], 0, static_cast<size_t>(LineBytes(warps))));
    CUDA_MUST(cudaMalloc(&counts[side], sizeof(LineCounts)));
    CUDA_MUST(cudaMemset(counts[side], 0, sizeof(LineCounts)));
    CUDA_MUST(cudaDeviceSynchronize());
  }
  const auto run = [&](int side) {
    CUDA_MUST(cudaSetDevice(side));
    SendLines(side, warps, rounds, lines[side], lines[1 - side], counts[side], nullptr);
    CUDA_MUST(cudaDeviceSynchronize());
  };
  std::future<void> other = std::async(std::launch::async, run, 1);
  run(0);
  other.get();
  for (int side = 0; side < 2; ++side) {
    CUDA_MUST(cudaSetDevice(side));
    LineCounts got;
    CUDA_MUST(cudaMemcpy(&got, counts[side], sizeof got, cudaMemcpyDeviceToHost));
    CUDA_MUST(cudaFree(counts[side]));
    CUDA_MUST(cudaFree(lines[side]));
    CUDA_MUST(cudaDeviceDisablePeerAccess(1 - side));
    CHECK(got.torn == 0);
    CHECK(got.late == 0);
    CHECK(got.rounds == static_cast<uint64_t>(warps) * static_cast<uint64_t>(rounds));
  }
}

}  // namespace
}  // namespace dsv4mx::test
