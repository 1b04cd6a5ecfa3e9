// The end of every buffer against unmapped memory: a read or a write past the end of x, ids, router weights, output or
// workspace faults. After a fault every later test fails too: look at the first failure.
#include "tests/catch.h"
#include "tests/gpu/gpu_judge.h"

namespace dsv4mx::test {
namespace {

#define REQUIRE_GUARD_PAGES()                     \
  do {                                            \
    REQUIRE_GPU();                                \
    const std::string reason = WhyNoGuardPages(); \
    if (!reason.empty()) return Skip(reason);     \
  } while (0)

const char* const kPaths[] = {"path=planes", "path=bf16", "path=bf16 scales=120..140"};

void CheckPages(const std::string& words, std::initializer_list<int64_t> tokens) {
  GpuCallOptions options;
  options.guard = Guard::kPages;
  for (const char* path : kPaths) {
    Problem p = GpuProblem(words + " " + path);
    const GpuLayer layer(GpuCase(p));
    for (const int64_t m : tokens) {
      p.tokens = m;
      CHECK(RunAndJudge(layer, MakeRouting(p), options) == "");
    }
  }
}

TEST_CASE("[A10][B1] nothing is read or written past the end of a buffer",
          "[gpu][gpu-quick][guard-pages]") {
  REQUIRE_GUARD_PAGES();
  CheckPages("h=160 i=96 e=8 k=3", {0, 1, 2, 7, 33, 100, 1000});
  CheckPages("h=32 i=32 e=3 k=1 ids=i64 rw=bf16", {1, 3, 65, 1100});
  CheckPages("h=96 i=288 e=5 k=7 rw=bf16 out=f32 xs=104 os=112", {1, 5, 19, 300});
  CheckPages("h=160 i=96 e=8 k=4 dist=none", {1, 20, 700});
  CheckPages("h=160 i=96 e=32 ep=4 rank=2 k=5 dist=half bias=bf16 act=gptoss slot=bf16",
             {1, 20, 700});
}

TEST_CASE("[A10] nothing is read or written past the end: sizes of the models",
          "[gpu][guard-pages]") {
  REQUIRE_GUARD_PAGES();
  CheckPages("h=2880 i=2880 e=3 k=2 act=gptoss clamp=7 bias=1", {1, 9, 130});
  CheckPages("h=7168 i=192 e=8 k=6", {1, 17, 200});
  CheckPages("h=5120 i=288 e=8 k=6", {2, 33, 999});
  CheckPages("h=64 i=32 e=1024 k=16", {1, 63, 4097});
}

TEST_CASE("fewer tokens by the device integer, guard pages behind the bound",
          "[gpu][gpu-quick][guard-pages]") {
  REQUIRE_GUARD_PAGES();
  for (const char* path : kPaths) {
    const Case c = GpuCase(std::string("h=160 i=96 e=4 k=3 m=400 ") + path);
    const GpuLayer layer(c);
    for (const int32_t n : {0, 1, 399, 400, 100000}) {
      GpuCallOptions options;
      options.guard = Guard::kPages;
      options.tokens_device = n;
      CHECK(RunAndJudge(layer, c.in, options) == "");
    }
  }
}

// The weights: prepared into a caller's buffer of exactly the size that the query says, its end at the edge.
TEST_CASE("[A10] scales and codes are not read past the end of the prepared experts",
          "[gpu][gpu-quick][guard-pages]") {
  REQUIRE_GUARD_PAGES();
  for (const char* path : kPaths) {
    for (const char* sizes : {"h=160 i=96 e=3 k=2 m=70", "h=2880 i=96 e=2 k=2 m=3",
                              "h=32 i=32 e=1 k=1 m=5", "h=96 i=288 e=3 k=2 m=9 bias=1"}) {
      const Case c = GpuCase(std::string(sizes) + " " + path);
      const RawModel raw(c);
      const GpuLayer own(c);  // memory of its own: what the result must be
      dsv4mx_layer_info info{};
      info.struct_size = sizeof info;
      REQUIRE_OK(dsv4mx_layer_query(own.layer(), &info));
      DeviceBuffer memory(static_cast<size_t>(info.prepared_bytes),
                          static_cast<size_t>(info.prepared_alignment), Guard::kPages);
      memory.Fill(0xFF);
      dsv4mx_weights_desc desc = DSV4MX_WEIGHTS_DESC_INIT;
      desc.memory = memory.data();
      desc.memory_bytes = memory.bytes();
      dsv4mx_weights* made = nullptr;
      REQUIRE_OK(dsv4mx_weights_create(own.layer(), &desc, &made));
      const WeightsPtr weights(made);
      raw.SetAll(weights.get(), c.p);
      REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr));
      REQUIRE_OK(dsv4mx_context_synchronize(own.context(), nullptr));
      INFO(sizes << " " << path);
      GpuCall want(own, c.in), got(own, c.in);
      CHECK(RunAndJudge(&want) == "");
      REQUIRE_OK(dsv4mx_layer_apply(own.layer(), weights.get(), &got.args(), nullptr));
      REQUIRE_OK(dsv4mx_context_synchronize(own.context(), nullptr));
      CHECK(got.Damage() == "");
      CHECK(memory.Damage() == "");
      CHECK(SameRows(want, got) == "");
    }
  }
}

}  // namespace
}  // namespace dsv4mx::test
