// Kernels that do not have the device for themselves: a few multiprocessors only, by a green context, and beside kernels
// that hold most of the others. A launch has a block for every multiprocessor of the device, so most of its blocks wait for
// others to end: whoever waited for a block that is not resident would hang. Tiles are dealt out as always, so the bits are
// the same.
#include <cuda.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "tests/catch.h"
#include "tests/gpu/cuda_must.h"
#include "tests/gpu/driver_function.h"
#include "tests/gpu/few_multiprocessors.h"
#include "tests/gpu/gpu_data.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/gpu/streams.h"

namespace dsv4mx::test {
namespace {

const char* const kPaths[] = {"path=planes", "path=bf16", "path=bf16 scales=120..140"};
const char* const kSizes[] = {"h=160 i=96 e=8 k=4 m=1", "h=160 i=96 e=8 k=4 m=37 dist=zipf",
                              "h=96 i=64 e=8 k=4 m=3000 dist=one", "h=4096 i=288 e=16 k=6 m=64",
                              "h=2880 i=576 e=16 k=4 m=1000 dist=half"};

// Kernels that hang cannot be stopped, and freeing memory would wait for them: the process ends here.
void WaitOrExit(cudaStream_t stream, const std::string& what) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    const cudaError_t state = cudaStreamQuery(stream);
    if (state != cudaErrorNotReady) return CudaMust(state, "cudaStreamQuery");
    if (std::chrono::steady_clock::now() - start > std::chrono::seconds(30)) {
      std::printf("FAILED: kernels have not ended after 30 s: %s\n", what.c_str());
      std::fflush(stdout);
      std::_Exit(1);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

TEST_CASE("[B4] on a few multiprocessors of the device: no hang, the same bits",
          "[gpu][gpu-quick][limited]") {
  REQUIRE_GPU();
  for (const unsigned count : {8u, 16u}) {
    std::unique_ptr<FewMultiprocessors> few;
    const std::string reason = FewMultiprocessors::Make(count, &few);
    if (!reason.empty()) return Skip(reason);
    int all = 0;
    CUDA_MUST(cudaDeviceGetAttribute(&all, cudaDevAttrMultiProcessorCount, 0));
    REQUIRE(few->multiprocessors() >= count);
    REQUIRE(2 * few->multiprocessors() < static_cast<unsigned>(all));
    for (const char* path : kPaths) {
      for (const char* sizes : kSizes) {
        const Case c = GpuCase(std::string(sizes) + " " + path);
        const GpuLayer layer(c);
        GpuCall want(layer, c.in);
        const GpuCall got(layer, c.in);
        CHECK(RunAndJudge(&want) == "");
        INFO(ProblemText(c.p) << " on " << few->multiprocessors() << " multiprocessors");
        for (int i = 0; i < 3; ++i) got.Enqueue(few->stream());
        WaitOrExit(few->stream(), ProblemText(c.p));
        CHECK(SameRows(want, got) == "");
        CHECK(got.Damage() == "");
      }
    }
  }
}

TEST_CASE("[B4][F6] a thread whose current context is a green one may call and keeps it",
          "[gpu][gpu-quick][limited]") {
  REQUIRE_GPU();
  std::unique_ptr<FewMultiprocessors> few;
  const std::string reason = FewMultiprocessors::Make(16, &few);
  if (!reason.empty()) return Skip(reason);
  const auto set = FindDriverFunction<decltype(&cuCtxSetCurrent)>("cuCtxSetCurrent", 12000);
  const auto get = FindDriverFunction<decltype(&cuCtxGetCurrent)>("cuCtxGetCurrent", 12000);
  REQUIRE((set != nullptr && get != nullptr));
  const Case c = GpuCase("h=160 i=96 e=8 k=3 m=50");
  const GpuLayer layer(c);
  GpuCall want(layer, c.in), got(layer, c.in);
  CHECK(RunAndJudge(&want) == "");
  CUresult made_current = CUDA_ERROR_UNKNOWN;
  dsv4mx_status applied = DSV4MX_STATUS_INTERNAL, waited = DSV4MX_STATUS_INTERNAL;
  std::string text;
  CUcontext after_apply = nullptr, after_wait = nullptr;
  std::thread([&] {
    made_current = set(few->context());
    applied = dsv4mx_layer_apply(layer.layer(), layer.weights(), &got.args(), few->stream());
    if (applied != DSV4MX_STATUS_OK) text = dsv4mx_last_error();
    (void)get(&after_apply);
    waited = dsv4mx_context_synchronize(layer.context(), few->stream());
    (void)get(&after_wait);
    (void)set(nullptr);
  }).join();
  INFO(text);
  CHECK(made_current == CUDA_SUCCESS);
  CHECK(std::string(dsv4mx_status_name(applied)) == "OK");
  CHECK(std::string(dsv4mx_status_name(waited)) == "OK");
  CHECK(after_apply == few->context());
  CHECK(after_wait == few->context());
  WaitOrExit(few->stream(), ProblemText(c.p));
  CHECK(SameRows(want, got) == "");
}

// Two blocks of 1024 threads fill a multiprocessor. With one fewer than fill the device, other kernels have half of one
// multiprocessor, until the busy ones end.
TEST_CASE("[B4] beside kernels that hold nearly every multiprocessor: no hang, the same bits",
          "[gpu][gpu-quick][limited]") {
  REQUIRE_GPU();
  int all = 0;
  CUDA_MUST(cudaDeviceGetAttribute(&all, cudaDevAttrMultiProcessorCount, 0));
  const Stream busy, stream;
  for (const char* path : kPaths) {
    for (const char* sizes : kSizes) {
      const Case c = GpuCase(std::string(sizes) + " " + path);
      const GpuLayer layer(c);
      GpuCall want(layer, c.in);
      const GpuCall got(layer, c.in);
      want.Run();
      INFO(ProblemText(c.p));
      KeepBusy(busy.get(), 2 * all - 1, 5'000'000);
      for (int i = 0; i < 3; ++i) got.Enqueue(stream.get());
      WaitOrExit(stream.get(), ProblemText(c.p));
      busy.Wait();
      CHECK(SameRows(want, got) == "");
      CHECK(got.Damage() == "");
    }
  }
}

}  // namespace
}  // namespace dsv4mx::test
