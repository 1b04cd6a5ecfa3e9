// The thread pool, and that neither it nor the split of tokens into parts leaves a trace in the numbers.
#include <pthread.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "lib/base/backend.h"
#include "lib/base/thread_pool.h"
#include "lib/base/usable_threads.h"
#include "lib/cpu/cpu_host.h"
#include "tests/catch.h"
#include "tests/numbers.h"
#include "tests/random.h"
#include "tests/store_call.h"

namespace dsv4mx::test {
namespace {

TEST_CASE("cpu threads: every item runs once, on a thread of the pool", "[cpu]") {
  for (const int threads : {1, 2, 5}) {
    std::unique_ptr<ThreadPool> pool;
    REQUIRE(ThreadPool::Make(threads, &pool).ok());
    for (const int64_t items : {0, 1, 2, 3, 17, 1000}) {
      for (int again = 0; again < 20; ++again) {
        std::vector<std::atomic<int>> seen(static_cast<size_t>(items));
        std::atomic<int> strangers{0};
        pool->For(items, [&](int64_t item, int thread) {
          seen[static_cast<size_t>(item)].fetch_add(1);
          if (thread < 0 || thread >= threads) strangers.fetch_add(1);
        });
        bool once = strangers == 0;
        for (const auto& s : seen) once = once && s == 1;
        REQUIRE(once);
      }
    }
  }
}

TEST_CASE("[B16] cpu threads: several callers share a pool and none gets stuck", "[cpu]") {
  std::unique_ptr<ThreadPool> pool;
  REQUIRE(ThreadPool::Make(3, &pool).ok());
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int loop = 0; loop < 500; ++loop) {
        pool->For(7, [&](int64_t item, int) { sum.fetch_add(item); });
      }
    });
  }
  for (std::thread& c : callers) c.join();
  CHECK(sum == 4 * 500 * 21);
}

TEST_CASE("cpu threads: the default is what affinity and cgroup allow, at least one", "[cpu]") {
  CHECK(UsableThreads() >= 1);
  CHECK(UsableThreads() <= static_cast<int>(std::thread::hardware_concurrency()));
  CHECK(cpu::HasIsa(DSV4MX_CPU_ISA_PORTABLE));
}

// While it lives, no thread can be started: stacks of 2^46 bytes, which cannot be mapped, give the error of a process
// limit that is used up.
class NoMoreThreads {
 public:
  NoMoreThreads() {
    pthread_attr_t huge;
    REQUIRE(pthread_getattr_default_np(&usual_) == 0);
    REQUIRE(pthread_attr_init(&huge) == 0);
    REQUIRE(pthread_attr_setstacksize(&huge, size_t{1} << 46) == 0);
    REQUIRE(pthread_setattr_default_np(&huge) == 0);
    pthread_attr_destroy(&huge);
  }
  ~NoMoreThreads() {
    pthread_setattr_default_np(&usual_);
    pthread_attr_destroy(&usual_);
  }

 private:
  pthread_attr_t usual_;
};

TEST_CASE("[J14] cpu threads: a system that gives no more threads leaves a pool of those there are",
          "[cpu]") {
  std::unique_ptr<ThreadPool> pool;
  {
    const NoMoreThreads limit;
    REQUIRE(ThreadPool::Make(3, &pool).ok());
  }
  CHECK(pool->threads() == 1);
  int sum = 0;
  pool->For(10, [&](int64_t item, int) { sum += static_cast<int>(item); });
  CHECK(sum == 45);
}

TEST_CASE("[J14] cpu threads: a context runs on what the system gives, and warns", "[cpu]") {
  std::string log;
  dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
  desc.device = DSV4MX_DEVICE_CPU;
  desc.log_user = &log;
  desc.log = [](void* user, dsv4mx_log_level level, const char* text) {
    *static_cast<std::string*>(user) += std::to_string(level) + " " + text;
  };
  const NoMoreThreads limit;
  dsv4mx_context* context = nullptr;
  REQUIRE_OK(dsv4mx_context_create(&desc, &context));
  dsv4mx_context_info info{};
  info.struct_size = sizeof info;
  const dsv4mx_status asked = dsv4mx_context_query(context, &info);
  dsv4mx_context_destroy(context);
  REQUIRE_OK(asked);
  CHECK(info.threads == 1);
  const int usable = UsableThreads();
  if (usable > 1) {
    CHECK(MissingWords(log, "2 the system gave 1 of " + std::to_string(usable) +
                                " threads,runs slower,ulimit") == "");
  } else {
    CHECK(log == "");
  }
  desc.threads = 3;
  log.clear();
  REQUIRE_OK(dsv4mx_context_create(&desc, &context));
  dsv4mx_context_destroy(context);
  CHECK(MissingWords(log, "2 the system gave 1 of 3 threads,runs slower,ulimit") == "");
  desc.threads = 1;
  REQUIRE_OK(dsv4mx_context_create(&desc, &context));
  dsv4mx_context_destroy(context);
}

TEST_CASE("[H6] cpu: an instruction set that the processor lacks is refused with its best",
          "[cpu]") {
  using Has = bool (*)(dsv4mx_cpu_isa);
  const Has old = [](dsv4mx_cpu_isa isa) { return isa == DSV4MX_CPU_ISA_PORTABLE; };
  const Has middle = [](dsv4mx_cpu_isa isa) { return isa < DSV4MX_CPU_ISA_AVX512; };
  const Has wide = [](dsv4mx_cpu_isa isa) { return isa < DSV4MX_CPU_ISA_AVX512_BF16; };
  const Has all = [](dsv4mx_cpu_isa) { return true; };
  const struct {
    Has has;
    dsv4mx_cpu_isa best;
  } processors[] = {{old, DSV4MX_CPU_ISA_PORTABLE},
                    {middle, DSV4MX_CPU_ISA_AVX2},
                    {wide, DSV4MX_CPU_ISA_AVX512},
                    {all, DSV4MX_CPU_ISA_AVX512_BF16}};
  for (const auto& p : processors) {
    dsv4mx_cpu_isa isa = -1;
    CHECK(cpu::ChooseIsa(DSV4MX_CPU_ISA_DEFAULT, p.has, &isa).ok());
    CHECK(isa == p.best);
    for (dsv4mx_cpu_isa asked = DSV4MX_CPU_ISA_PORTABLE; asked <= DSV4MX_CPU_ISA_AVX512_BF16;
         ++asked) {
      isa = -1;
      const Status status = cpu::ChooseIsa(asked, p.has, &isa);
      if (asked <= p.best) {
        CHECK(status.ok());
        CHECK(isa == asked);
      } else {
        CHECK(status.code == DSV4MX_STATUS_UNSUPPORTED_DEVICE);
        CHECK(isa == -1);
        CHECK(test::MissingWords(LastError(), std::string(cpu::IsaName(asked)) + ",lacks," +
                                                  cpu::IsaName(p.best)) == "");
      }
    }
  }
}

struct Free {
  const Backend* backend;
  size_t bytes;
  void operator()(void* p) const { REQUIRE(backend->Free(p, bytes).ok()); }
};

// Output bits of a layer on a backend of `threads` threads; 1500 tokens of 16 slots are several parts.
std::vector<float> Outputs(dsv4mx_cpu_isa isa, int threads, int64_t tokens) {
  dsv4mx_context_desc context = DSV4MX_CONTEXT_DESC_INIT;
  context.threads = threads;
  context.cpu_isa = isa;
  std::unique_ptr<Backend> backend;
  const dsv4mx_context_experimental experimental = DSV4MX_CONTEXT_EXPERIMENTAL_INIT;
  REQUIRE(MakeCpuBackend(BackendDesc{context, experimental}, &backend).ok());
  auto spec = std::make_shared<LayerSpec>();
  spec->hidden = 96;
  spec->intermediate = spec->intermediate_global = 32;
  spec->experts = spec->placement.experts = spec->placement.experts_global =
      spec->placement.id_count = 20;
  spec->top_k = 16;
  spec->out_dtype = DSV4MX_DTYPE_F32;
  std::unique_ptr<LayerBackend> layer;
  REQUIRE(backend->MakeLayer(spec, &layer).ok());

  const auto alloc = [&](size_t bytes) {
    void* p = nullptr;
    REQUIRE(backend->Alloc(bytes, 256, &p).ok());
    return std::unique_ptr<void, Free>(p, Free{backend.get(), bytes});
  };
  const auto memory = alloc(static_cast<size_t>(layer->PreparedBytes()));
  std::unique_ptr<ExpertStore> store;
  REQUIRE(layer->MakeStore(memory.get(), &store).ok());
  Rng rng(11);
  Census census;
  for (int32_t e = 0; e < spec->experts; ++e) {
    for (const Matrix m : kMatrices) {
      std::vector<uint8_t> codes(96 * 32 / 2), scales(96);
      rng.Bytes(codes.data(), codes.size());
      for (uint8_t& s : scales) s = static_cast<uint8_t>(120 + rng.Below(6));
      const int64_t k = spec->K(m);
      REQUIRE(store->SetCodes(e, m, {codes.data(), k / 2, 1, false, false}, test::kCall).ok());
      REQUIRE(
          store->SetScales(e, m, {scales.data(), k / 32, 1, DSV4MX_DTYPE_E8M0, false}, test::kCall)
              .ok());
    }
    REQUIRE(store->PrepareExpert(e, &census, test::kCall).ok());
  }
  std::vector<uint16_t> x(static_cast<size_t>(tokens * 96));
  for (uint16_t& v : x) v = ToBf16(rng.Normal());
  std::vector<int32_t> ids(static_cast<size_t>(tokens * 16));
  std::vector<float> weights(ids.size());
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(24)) - 2;  // some are skipped
  for (float& w : weights) w = static_cast<float>(rng.Uniform());
  const size_t bytes = layer->WorkspaceBytes(tokens);
  const auto workspace = alloc(bytes);
  std::memset(workspace.get(), 0xff, bytes);
  std::vector<float> out(x.size());
  ApplyCall call{};
  call.x = x.data();
  call.topk_ids = ids.data();
  call.topk_weights = weights.data();
  call.out = out.data();
  call.x_stride = call.out_stride = 96;
  call.tokens = tokens;
  call.workspace = workspace.get();
  call.workspace_bytes = bytes;
  REQUIRE(layer->Apply(*store, census, call, nullptr).ok());
  return out;
}

TEST_CASE("[G1][G2][G3] cpu threads: the number of threads and the parts of a call change no bit",
          "[cpu]") {
  for (const dsv4mx_cpu_isa isa :
       {DSV4MX_CPU_ISA_PORTABLE, DSV4MX_CPU_ISA_AVX2, DSV4MX_CPU_ISA_AVX512}) {
    if (!cpu::HasIsa(isa)) continue;
    INFO("instruction set " << cpu::IsaName(isa));
    const std::vector<float> one = Outputs(isa, 1, 1500);
    for (const int threads : {2, 7}) {
      const std::vector<float> many = Outputs(isa, threads, 1500);
      CHECK(std::memcmp(one.data(), many.data(), one.size() * sizeof(float)) == 0);
    }
  }
}

}  // namespace
}  // namespace dsv4mx::test
