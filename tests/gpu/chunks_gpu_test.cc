// A call computed in chunks gives the bits of a call computed at once: every pointer moves with the chunk, and a device
// token count ends in any of them. The chunk comes from a plan file, so that a few hundred tokens make several.
#include <cstdio>
#include <string>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/run_seed.h"
#include "tests/runner.h"

namespace dsv4mx::test {
namespace {

ContextPtr WithPlan(const char* rows) {
  const char* path = "chunks_gpu_test.csv";
  std::FILE* f = std::fopen(path, "wb");
  REQUIRE(f != nullptr);
  std::fprintf(f, "dsv4mx-plan,1\n%s", rows);
  std::fclose(f);
  dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
  d.device = DSV4MX_DEVICE_CUDA;
  dsv4mx_context_experimental x = DSV4MX_CONTEXT_EXPERIMENTAL_INIT;
  x.plan_file = path;
  d.experimental = &x;
  dsv4mx_context* c = nullptr;
  const dsv4mx_status status = dsv4mx_context_create(&d, &c);
  std::remove(path);
  REQUIRE_OK(status);
  return ContextPtr(c);
}

}  // namespace

TEST_CASE("gpu chunks: the same bits as at once, for every argument that moves with a chunk",
          "[gpu]") {
  REQUIRE_GPU();
  const ContextPtr chunked = WithPlan("*,*,*,chunk,0,128\n");
  for (const char* path : {"planes", "bf16"}) {
    for (const char* problem :
         {"h=96 i=64 e=5 k=3 m=300", "h=64 i=32 e=4 k=2 m=257 ids=i64 rw=bf16 out=f32",
          "h=64 i=32 e=3 k=1 m=400 wpos=input", "h=64 i=32 e=3 k=2 m=129 wpos=before"}) {
      Problem p = Parse(std::string(problem) + " path=" + path + " dev=cuda");
      p.seed = SeedOf(problem);
      const Case c = MakeCase(p);
      INFO(ProblemText(p));
      const Runner at_once(c), in_chunks(c, chunked.get());
      for (const int64_t tokens :
           {int64_t{-1}, int64_t{0}, int64_t{100}, int64_t{128}, c.p.tokens}) {
        ApplyOptions options;
        options.tokens_device = tokens;
        const Output want = at_once.Apply(c.in, options), got = in_chunks.Apply(c.in, options);
        INFO("tokens on the device " << tokens);
        CHECK(want.damage == "");
        CHECK(got.damage == "");
        CHECK(want.raw == got.raw);
      }
      char text[1024];
      REQUIRE_OK(
          dsv4mx_layer_query_plan(in_chunks.layer(), nullptr, c.p.tokens, text, sizeof text));
      CHECK(std::string(text).find(" 1 chunk ") == std::string::npos);
    }
  }
}

}  // namespace dsv4mx::test
