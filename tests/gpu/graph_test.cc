// What an engine does with the layer: capture into CUDA graphs and replay with other routing, several graphs, streams and
// threads at once, nothing allocated, the caller's device left alone.
#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/catch.h"
#include "tests/gpu/cuda_must.h"
#include "tests/gpu/gpu_data.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/gpu/streams.h"
#include "tests/random.h"

namespace dsv4mx::test {
namespace {

const char* const kPaths[] = {"path=auto", "path=planes", "path=bf16", "path=bf16 scales=120..140"};
const Dist kDists[] = {Dist::kUniform, Dist::kZipf, Dist::kOne, Dist::kSix,
                       Dist::kNone,    Dist::kHalf, Dist::kDup};

// Routing number `i` of a problem, of another kind each time.
Inputs OtherRouting(Problem p, uint64_t i) {
  p.seed += i;
  p.dist = kDists[i % std::size(kDists)];
  return MakeRouting(p);
}

std::string Replay(const std::string& text, int replays) {
  const Case c = GpuCase(text);
  const GpuLayer layer(c);
  const int32_t bound = static_cast<int32_t>(c.p.tokens);
  GpuCallOptions options;
  options.tokens_device = bound;
  GpuCall replayed(layer, c.in, options), eager(layer, c.in, options);
  const Graph graph([&](CUstream_st* stream) { replayed.Enqueue(stream); });
  if (graph.nodes() == 0) return "nothing was captured";
  const Stream stream;
  Rng rng(c.p.seed, 3);
  for (int i = 0; i < replays; ++i) {
    // Counts of all sizes, and some outside the bound, which are clamped.
    const int32_t count = i % 10 == 0   ? bound
                          : i % 10 == 1 ? static_cast<int32_t>(rng.Below(9))
                          : i % 50 == 2 ? -3
                          : i % 50 == 3 ? bound + 7
                                        : static_cast<int32_t>(rng.Below(bound + 1));
    const Inputs in = OtherRouting(c.p, static_cast<uint64_t>(i));
    for (GpuCall* call : {&replayed, &eager}) {
      call->SetInputs(in);
      call->SetCount(count);
      call->Poison();
    }
    graph.Launch(stream);
    stream.Wait();
    eager.Run();
    std::string wrong = SameRows(replayed, eager);
    if (wrong.empty() && i % 10 < 3) wrong = replayed.Damage();
    if (wrong.empty() && i % 100 == 0) wrong = JudgeRows(replayed, TokensToJudge(replayed));
    if (!wrong.empty())
      return "replay " + std::to_string(i) + ", " + std::to_string(count) + " tokens: " + wrong +
             " [" + ProblemText(c.p) + "]";
  }
  return "";
}

TEST_CASE("[B2] 1000 replays of a graph: other ids, router weights and device counts",
          "[gpu][gpu-quick][graph]") {
  REQUIRE_GPU();
  for (const char* path : kPaths)
    CHECK(Replay(std::string("h=160 i=96 e=16 k=4 m=64 ") + path, 1000) == "");
}

TEST_CASE("[B2] replays of a graph captured at many tokens", "[gpu][graph]") {
  REQUIRE_GPU();
  for (const char* path : kPaths) {
    CHECK(Replay(std::string("h=160 i=96 e=16 k=4 m=600 ") + path, 200) == "");
    CHECK(Replay(std::string("h=4096 i=288 e=16 k=6 m=256 ") + path, 100) == "");
    CHECK(Replay(std::string("h=96 i=64 e=24 ep=3 rank=1 k=5 m=300 ids=i64 ") + path, 100) == "");
  }
}

// Graphs with their inputs and what each must give.
struct Captured {
  Captured(const GpuLayer& layer, const Inputs& in)
      : call(layer, in), want(layer, in), graph([&](CUstream_st* s) { call.Enqueue(s); }) {
    want.Run();
  }
  GpuCall call, want;
  Graph graph;
};

TEST_CASE("[B3] graphs interleaved on one stream and run on several at once",
          "[gpu][gpu-quick][graph]") {
  REQUIRE_GPU();
  const Case small = GpuCase("h=160 i=96 e=16 k=4 m=64 path=planes"),
             many = GpuCase("h=160 i=96 e=16 k=4 m=700 dist=zipf seed=4"),
             other = GpuCase("h=2880 i=160 e=4 k=3 m=33 path=bf16");
  const GpuLayer layer(small), second(other);
  Captured a(layer, small.in), b(layer, many.in), c(second, other.in);
  Captured* const graphs[] = {&a, &b, &c};
  const auto check = [&] {
    CUDA_MUST(cudaDeviceSynchronize());
    for (Captured* g : graphs) {
      REQUIRE(SameRows(g->call, g->want) == "");
      REQUIRE(g->call.Damage() == "");
      g->call.Poison();
    }
  };
  for (Captured* g : graphs) CHECK(JudgeRows(g->want, TokensToJudge(g->want)) == "");
  const Stream one;
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 50; ++i) {
      for (Captured* g : graphs) g->graph.Launch(one);
    }
    check();
  }
  const Stream streams[3];
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 50; ++i) {
      for (size_t s = 0; s < 3; ++s) graphs[s]->graph.Launch(streams[s]);
    }
    check();
  }
}

TEST_CASE("two calls in one graph, on branches that may run side by side",
          "[gpu][gpu-quick][graph]") {
  REQUIRE_GPU();
  const Case c = GpuCase("h=160 i=96 e=16 k=4 m=64");
  const GpuLayer layer(c);
  GpuCall first(layer, c.in), second(layer, OtherRouting(c.p, 1)), want_first(layer, c.in),
      want_second(layer, OtherRouting(c.p, 1));
  want_first.Run(), want_second.Run();
  const Stream branch;
  cudaEvent_t fork = nullptr, join = nullptr;
  CUDA_MUST(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  CUDA_MUST(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
  const Graph graph([&](CUstream_st* stream) {
    CUDA_MUST(cudaEventRecord(fork, stream));
    CUDA_MUST(cudaStreamWaitEvent(branch.get(), fork, 0));
    first.Enqueue(stream);
    second.Enqueue(branch.get());
    CUDA_MUST(cudaEventRecord(join, branch.get()));
    CUDA_MUST(cudaStreamWaitEvent(stream, join, 0));
  });
  const Stream stream;
  for (int i = 0; i < 50; ++i) {
    first.Poison(), second.Poison();
    graph.Launch(stream);
    stream.Wait();
    REQUIRE(SameRows(first, want_first) == "");
    REQUIRE(SameRows(second, want_second) == "");
  }
  cudaEventDestroy(fork);
  cudaEventDestroy(join);
}

TEST_CASE("[B2] apply is legal in every capture mode, beside eager calls of another thread",
          "[gpu][gpu-quick][graph]") {
  REQUIRE_GPU();
  for (const char* path : kPaths) {
    for (const char* m : {" m=20", " m=500"}) {
      const Case c = GpuCase(std::string("h=160 i=96 e=8 k=3 ") + path + m);
      const GpuLayer layer(c);
      GpuCall want(layer, c.in);
      CHECK(RunAndJudge(&want) == "");
      for (const cudaStreamCaptureMode mode :
           {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal,
            cudaStreamCaptureModeRelaxed}) {
        INFO(path << m << " mode " << static_cast<int>(mode));
        GpuCall captured(layer, c.in), eager(layer, c.in);
        const Stream stream, side;
        std::string thrown;
        // The other thread only enqueues while the capture is open: an allocation or a synchronisation inside apply
        // would break it.
        const Graph graph(
            [&](CUstream_st* s) {
              captured.Enqueue(s);
              std::thread([&] {
                try {
                  eager.Enqueue(side.get());
                } catch (const std::exception& e) {
                  thrown = e.what();
                }
              }).join();
            },
            mode);
        CHECK(thrown == "");
        graph.Launch(stream);
        stream.Wait(), side.Wait();
        CHECK(SameRows(want, captured) == "");
        CHECK(SameRows(want, eager) == "");
      }
    }
  }
}

TEST_CASE("a refused call leaves the capture open and whole", "[gpu][gpu-quick][graph]") {
  REQUIRE_GPU();
  const Case c = GpuCase("h=160 i=96 e=8 k=3 m=20");
  const GpuLayer layer(c);
  GpuCall want(layer, c.in), captured(layer, c.in);
  want.Run();
  dsv4mx_status status = DSV4MX_STATUS_OK;
  const Graph graph([&](CUstream_st* stream) {
    dsv4mx_apply_args args = captured.args();
    args.workspace_bytes -= 1;
    status = dsv4mx_layer_apply(layer.layer(), layer.weights(), &args, stream);
    captured.Enqueue(stream);
  });
  CHECK(std::string(dsv4mx_status_name(status)) == "WORKSPACE_TOO_SMALL");
  const Stream stream;
  graph.Launch(stream);
  stream.Wait();
  CHECK(SameRows(want, captured) == "");
}

TEST_CASE("[B16] four threads with two streams each on one weights handle",
          "[gpu][gpu-quick][graph]") {
  REQUIRE_GPU();
  constexpr size_t kThreads = 4;
  for (const char* path : kPaths) {
    const Case c = GpuCase(std::string("h=160 i=96 e=16 k=4 m=64 ") + path);
    const GpuLayer layer(c);
    std::string result[kThreads];
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        try {
          Problem p = c.p;
          p.tokens = 300;  // a small and a large call side by side
          const Inputs in[2] = {OtherRouting(c.p, t), OtherRouting(p, 20 + t)};
          const Stream streams[2];
          GpuCall first(layer, in[0]), second(layer, in[1]), want_first(layer, in[0]),
              want_second(layer, in[1]);
          want_first.Run(), want_second.Run();
          result[t] = JudgeRows(want_first, TokensToJudge(want_first));
          for (int i = 0; i < 100 && result[t].empty(); ++i) {
            first.Enqueue(streams[0].get());
            second.Enqueue(streams[1].get());
            streams[0].Wait(), streams[1].Wait();
            if (i % 5 != 0) continue;
            result[t] = SameRows(first, want_first) + SameRows(second, want_second);
            first.Poison(), second.Poison();
          }
          if (result[t].empty()) result[t] = first.Damage() + second.Damage();
        } catch (const std::exception& e) {
          result[t] = e.what();
        }
      });
    }
    for (std::thread& t : threads) t.join();
    INFO(path);
    for (const std::string& r : result) CHECK(r == "");
  }
}

// An allocator hook on the device that counts.
struct Ledger {
  std::atomic<int> calls{0};
  std::atomic<int64_t> bytes{0}, peak{0}, pinned{0};
  std::atomic<int> others{0};  // blocks of a kind that a CUDA context does not ask for
  static void* Alloc(void* user, size_t bytes, size_t, dsv4mx_memory memory, dsv4mx_stream) {
    auto* l = static_cast<Ledger*>(user);
    ++l->calls;
    void* p = nullptr;
    const bool is_pinned = memory == DSV4MX_MEMORY_PINNED;
    if (!is_pinned && memory != DSV4MX_MEMORY_DEVICE) ++l->others;
    if ((is_pinned ? cudaMallocHost(&p, bytes) : cudaMalloc(&p, bytes)) != cudaSuccess)
      return nullptr;
    l->bytes += static_cast<int64_t>(bytes);
    l->peak = std::max(l->peak.load(), l->bytes.load());
    if (is_pinned) l->pinned += static_cast<int64_t>(bytes);
    return p;
  }
  static void Free(void* user, void* p, size_t bytes, dsv4mx_memory memory, dsv4mx_stream) {
    auto* l = static_cast<Ledger*>(user);
    ++l->calls;
    l->bytes -= static_cast<int64_t>(bytes);
    if (memory == DSV4MX_MEMORY_PINNED) {
      l->pinned -= static_cast<int64_t>(bytes);
      cudaFreeHost(p);
    } else {
      cudaFree(p);
    }
  }
};

TEST_CASE("[D1][D4] prepared bytes are the allocator's count, and apply allocates nothing",
          "[gpu][gpu-quick][graph]") {
  REQUIRE_GPU();
  for (const char* path : kPaths) {
    Ledger ledger;
    dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
    desc.device = DSV4MX_DEVICE_CUDA;
    desc.alloc = Ledger::Alloc;
    desc.free = Ledger::Free;
    desc.alloc_user = &ledger;
    dsv4mx_context* made = nullptr;
    REQUIRE_OK(dsv4mx_context_create(&desc, &made));
    {
      const ContextPtr context(made);
      Case c = GpuCase(std::string("h=160 i=96 e=16 k=4 m=1 ") + path);
      const GpuLayer layer(c, nullptr, context.get());
      dsv4mx_layer_info info{};
      info.struct_size = sizeof info;
      REQUIRE_OK(dsv4mx_layer_query(layer.layer(), &info));
      INFO(path);
      // Everything of the library's comes through the hook: experts and records of the census. Tensors that lie on the device
      // are packed from where they are, without staging.
      CHECK(ledger.bytes >= info.prepared_bytes);
      CHECK(ledger.bytes <= info.prepared_bytes + 4096);
      CHECK(ledger.peak <= info.prepared_bytes + info.peak_extra_bytes);
      CHECK(ledger.peak == ledger.bytes);
      CHECK(ledger.pinned == 0);
      CHECK(ledger.others == 0);
      for (const int64_t m : {0, 1, 64, 700, 5000}) {
        c.p.tokens = m;
        GpuCall call(layer, MakeRouting(c.p));
        // The hook sees what goes through it; free memory of the device sees the rest, if nobody else uses it.
        size_t free_before = 0, free_after = 0, total = 0;
        const int before = ledger.calls;
        CUDA_MUST(cudaMemGetInfo(&free_before, &total));
        for (int i = 0; i < 3; ++i) call.Enqueue(nullptr);
        CUDA_MUST(cudaMemGetInfo(&free_after, &total));
        CHECK(ledger.calls == before);
        if (free_after < free_before)
          WARN("device memory went down by " << free_before - free_after << " bytes in apply");
        REQUIRE_OK(dsv4mx_context_synchronize(context.get(), nullptr));
      }
    }
    CHECK(ledger.bytes == 0);
    CHECK(ledger.peak > 0);
  }
}

TEST_CASE("[F6] a thread that never used CUDA may call, and finds its device as it was",
          "[gpu][gpu-quick][graph]") {
  REQUIRE_GPU();
  const Case c = GpuCase("h=160 i=96 e=8 k=3 m=20");
  const GpuLayer layer(c);
  GpuCall want(layer, c.in), got(layer, c.in);
  want.Run();
  dsv4mx_status applied = DSV4MX_STATUS_INTERNAL, waited = DSV4MX_STATUS_INTERNAL;
  int device = -1;
  std::thread([&] {
    applied = dsv4mx_layer_apply(layer.layer(), layer.weights(), &got.args(), nullptr);
    waited = dsv4mx_context_synchronize(layer.context(), nullptr);
    if (cudaGetDevice(&device) != cudaSuccess) device = -2;
  }).join();
  CHECK(std::string(dsv4mx_status_name(applied)) == "OK");
  CHECK(std::string(dsv4mx_status_name(waited)) == "OK");
  CHECK(device == 0);
  CHECK(SameRows(want, got) == "");
}

TEST_CASE("[F6] every call restores another current device", "[gpu][gpu-quick][graph][two-gpus]") {
  REQUIRE_GPU();
  int devices = 0;
  CUDA_MUST(cudaGetDeviceCount(&devices));
  if (devices < 2) return Skip("needs two CUDA devices");
  const Case c = GpuCase("h=160 i=96 e=8 k=3 m=20");
  const GpuLayer layer(c);
  GpuCall want(layer, c.in), got(layer, c.in);
  want.Run();
  const Stream stream;  // of device 0
  CUDA_MUST(cudaSetDevice(1));
  const auto current = [] {
    int device = -1;
    cudaGetDevice(&device);
    return device;
  };
  std::vector<std::pair<const char*, int>> seen;
  const auto note = [&](const char* call, dsv4mx_status status) {
    seen.emplace_back(call, status == DSV4MX_STATUS_OK ? current() : -status);
  };
  note("apply", dsv4mx_layer_apply(layer.layer(), layer.weights(), &got.args(), stream.get()));
  note("synchronize", dsv4mx_context_synchronize(layer.context(), stream.get()));
  void* memory = nullptr;
  note("alloc", dsv4mx_context_alloc(layer.context(), 4096, &memory));
  char host[16] = {};
  note("copy", dsv4mx_context_copy(layer.context(), memory, host, sizeof host, stream.get()));
  dsv4mx_context_free(layer.context(), memory);
  note("free", DSV4MX_STATUS_OK);
  dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
  desc.device = DSV4MX_DEVICE_CUDA;
  dsv4mx_context* context = nullptr;
  note("context_create", dsv4mx_context_create(&desc, &context));
  dsv4mx_context_destroy(context);
  dsv4mx_weights* weights = nullptr;
  note("weights_create", dsv4mx_weights_create(layer.layer(), nullptr, &weights));
  dsv4mx_weights_destroy(weights);
  note("destroy", DSV4MX_STATUS_OK);
  CUDA_MUST(cudaSetDevice(0));
  for (const auto& [call, device] : seen) {
    INFO(call);
    CHECK(device == 1);
  }
  CHECK(SameRows(want, got) == "");
}

}  // namespace
}  // namespace dsv4mx::test
