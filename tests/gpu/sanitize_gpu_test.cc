// What run_sanitizer.sh runs: the smallest cases that together reach every dispatchable kernel (each number path, every
// tile width, both ways of counting pairs, every branch of the epilogues). Output and workspace are left unwritten, so
// that initcheck sees a read of what no kernel wrote.
#include <algorithm>

#include "tests/catch.h"
#include "tests/gpu/gpu_judge.h"

namespace dsv4mx::test {
namespace {

void CheckUnwritten(const std::string& text) {
  GpuCallOptions options;
  options.fill = false;
  CHECK(RunAndJudge(text, options) == "");
}

TEST_CASE("sanitize: every path and width", "[gpu][sanitize]") {
  REQUIRE_GPU();
  for (const char* path : {"path=planes", "path=bf16", "path=bf16 scales=120..140"}) {
    // Two experts, one id each: m / 2 rows an expert meet every width of the plan and many between.
    for (const char* m :
         {"1", "6", "10", "14", "22", "30", "46", "66", "88", "108", "130", "150", "250", "600"}) {
      CheckUnwritten(std::string("h=160 i=96 e=2 k=1 ") + path + " m=" + m);
    }
    // 1025 pairs: counted by a kernel of its own.
    CheckUnwritten(std::string("h=160 i=96 e=6 k=5 dist=half ") + path + " m=205");
    CheckUnwritten(std::string("h=288 i=160 e=6 k=4 ") + path + " m=256");
    CheckUnwritten(std::string("h=544 i=544 e=3 k=2 ") + path + " m=20");
  }
}

TEST_CASE("sanitize: every epilogue", "[gpu][sanitize]") {
  REQUIRE_GPU();
  for (const char* path : {"path=planes", "path=bf16", "path=bf16 scales=120..140"}) {
    for (const char* words :
         {"k=3 bias=bf16 act=gptoss clamp=7", "k=3 bias=f32 clamp=10 rsf=1.5 out=f32",
          "k=3 wpos=before slot=bf16", "k=1 wpos=input rw=bf16", "k=3 ids=i64 xs=168 os=176",
          "k=3 e=16 ep=4 rank=1", "k=3 dist=none", "k=3 dist=dup invariant=1", "k=3 m=0"}) {
      CheckUnwritten(std::string("h=160 i=96 e=4 m=9 ") + path + " " + words);
    }
  }
}

TEST_CASE("sanitize: device count and expert map", "[gpu][sanitize]") {
  REQUIRE_GPU();
  for (const char* path : {"path=planes", "path=bf16", "path=bf16 scales=120..140"}) {
    for (const char* m : {" m=40", " m=400"}) {
      Case c = GpuCase(std::string("h=160 i=96 e=12 ep=3 k=3 ") + path + m);
      c.map = {-1, 3, -1, 0, -1, -1, 1, -1, 3, -1, 2, -1};
      const GpuLayer layer(c);
      GpuCallOptions options;
      options.fill = false;
      options.tokens_device = 17;
      CHECK(RunAndJudge(layer, c.in, options) == "");
    }
  }
}

}  // namespace
}  // namespace dsv4mx::test
