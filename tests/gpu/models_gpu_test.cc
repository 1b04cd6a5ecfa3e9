// The released models at their real sizes with all their experts, on every number path and for every number of tokens; and
// ranks of Pro.
#include <utility>

#include "tests/catch.h"
#include "tests/gpu/gpu_judge.h"

namespace dsv4mx::test {
namespace {

const int64_t kTokens[] = {0, 1, 2, 3, 7, 8, 9, 16, 17, 31, 33, 64, 100, 256, 1000, 4096, 16384};

// The kind of routing changes from one number of tokens to the next, and from path to path.
const Dist kDists[] = {Dist::kUniform, Dist::kZipf, Dist::kOne, Dist::kSix,
                       Dist::kNone,    Dist::kHalf, Dist::kDup};

void CheckModel(const char* model) {
  Problem p = GpuProblem(model);
  const auto raw = std::make_shared<const RawModel>(GpuCase(p));
  size_t turn = 0;
  for (const char* path : {"planes", "bf16", "auto"}) {
    p.path = Parse(std::string("path=") + path).path;
    p.tokens = 0;
    const GpuLayer layer(GpuCase(p), raw);
    if (p.path != DSV4MX_NUMBER_PATH_AUTO) CHECK(MissingWords(layer.Plan(64), path) == "");
    for (const int64_t m : kTokens) {
      p.tokens = m;
      p.dist = kDists[turn++ % std::size(kDists)];
      CHECK(RunAndJudge(layer, MakeRouting(p)) == "");
    }
  }
}

TEST_CASE("Flash at its real size, all experts, every number of tokens",
          "[gpu][gpu-long][models]") {
  REQUIRE_GPU();
  CheckModel("flash");
}

TEST_CASE("Pro at its real size, all experts, every number of tokens", "[gpu][gpu-long][models]") {
  REQUIRE_GPU();
  CheckModel("pro");
}

TEST_CASE("GPT-OSS at its real size, all experts, every number of tokens",
          "[gpu][gpu-long][models]") {
  REQUIRE_GPU();
  CheckModel("gptoss");
}

TEST_CASE("one rank of Pro, tensor- and expert-parallel", "[gpu][gpu-long][models]") {
  REQUIRE_GPU();
  for (const char* rank : {"pro tp=16 e=48", "pro ep=32 rank=31", "pro tp=8 ep=8 rank=3"}) {
    for (const char* m : {" m=1", " m=64 dist=zipf", " m=2000"})
      CHECK(RunAndJudge(std::string(rank) + m) == "");
  }
}

}  // namespace
}  // namespace dsv4mx::test
