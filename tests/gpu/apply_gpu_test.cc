// The layer on the device against the fp64 reference: every number path, every shape class, every kind of routing, row by
// row, with guards around every buffer and NaN in the output and the workspace.
#include <algorithm>

#include "tests/catch.h"
#include "tests/gpu/gpu_judge.h"

namespace dsv4mx::test {
namespace {

const std::vector<int64_t> kTokens = {0,  1,  2,  3,   7,   8,    9,    16,   17,
                                      31, 33, 64, 100, 256, 1000, 4096, 16384};

const Dist kDists[] = {Dist::kUniform, Dist::kZipf, Dist::kOne, Dist::kSix,
                       Dist::kNone,    Dist::kHalf, Dist::kDup};

// Scale bytes and the paths that may run on them. Above 128, or with more than 11 binades in a block, only bf16 is left,
// in the form for wide scales; span 11 is the widest that the planes carry exactly.
struct Weights {
  const char* scales;
  std::vector<const char*> paths;
  bool planes_exact;
};
const std::vector<Weights> kWeights = {{"119..127", {"planes", "bf16", "auto"}, true},
                                       {"117..128", {"planes", "auto"}, true},
                                       {"120..140", {"bf16", "auto"}, false}};

std::string CheckCensus(const GpuLayer& layer, bool planes_exact) {
  const auto& [info, census] = FactsOf(layer.weights());
  if (info.state != DSV4MX_WEIGHTS_PREPARED) return "not prepared";
  if (census.planes_exact != (planes_exact ? 1 : 0)) return "planes_exact is wrong";
  if (info.scale_min < layer.p().scale_lo || info.scale_max > layer.p().scale_hi)
    return "census outside the scales that were set";
  return "";
}

// Every path of a shape with every token count of the list; the kind of routing changes from one to the next.
void CheckShape(const std::string& shape, const std::vector<int64_t>& tokens,
                const std::vector<const char*>& outs, size_t weights_kinds = 3) {
  size_t turn = 0;
  for (size_t w = 0; w < weights_kinds; ++w) {
    const Weights& weights = kWeights[w];
    const Problem base = GpuProblem(shape + " scales=" + weights.scales);
    const auto raw = std::make_shared<const RawModel>(GpuCase(base));
    for (const char* path : weights.paths) {
      for (const char* out : outs) {
        Problem p = base;
        p.path = Parse(std::string("path=") + path).path;
        p.out = Parse(std::string("out=") + out).out;
        p.tokens = 0;
        const GpuLayer layer(GpuCase(p), raw);
        CHECK(CheckCensus(layer, weights.planes_exact) == "");
        // The path that was asked for; bf16 in the form that the scales need.
        if (p.path != DSV4MX_NUMBER_PATH_AUTO) {
          CHECK(MissingWords(layer.Plan(64), path) == "");
          if (p.scale_hi > 128) CHECK(MissingWords(layer.Plan(64), "wide") == "");
        }
        for (const int64_t m : tokens) {
          p.tokens = m;
          p.dist = kDists[turn++ % std::size(kDists)];
          CHECK(RunAndJudge(layer, MakeRouting(p)) == "");
        }
      }
    }
  }
}

TEST_CASE("every path on small layers at every number of tokens", "[gpu][gpu-quick][apply]") {
  REQUIRE_GPU();
  CheckShape("h=96 i=32 e=1 k=1", kTokens, {"bf16"});
  CheckShape("h=160 i=96 e=8 k=4", kTokens, {"bf16"});
}

TEST_CASE("[C4][C6] every path, 144 to 4096 experts, top_k to 16, every number of tokens",
          "[gpu][apply]") {
  REQUIRE_GPU();
  CheckShape("h=256 i=160 e=144 k=6", kTokens, {"bf16", "f32"});
  CheckShape("h=128 i=288 e=256 k=7", kTokens, {"f32", "bf16"});
  CheckShape("h=64 i=192 e=896 k=16", kTokens, {"bf16"});
  CheckShape("h=96 i=64 e=1024 k=6", kTokens, {"f32"});
  CheckShape("h=160 i=96 e=8 k=4", kTokens, {"f32"});
  CheckShape("h=32 i=32 e=8 k=1", kTokens, {"f32"});
  CheckShape("h=32 i=32 e=4096 k=16", {1, 64, 65, 700}, {"f32"});  // the most experts and ids
}

TEST_CASE("[C1][A10] tails of K and of the rows: all small multiples of 32", "[gpu][apply]") {
  REQUIRE_GPU();
  for (int n = 32; n <= 544; n += 32) {
    CheckShape("h=" + std::to_string(n) + " i=96 e=3 k=2", {5, 70}, {"f32"}, 1);
    CheckShape("h=96 i=" + std::to_string(n) + " e=3 k=2", {6, 70}, {"f32"}, 1);
  }
  for (const char* shape : {"h=288 i=224", "h=224 i=288", "h=544 i=160", "h=160 i=544"})
    CheckShape(std::string(shape) + " e=3 k=2", {1, 9, 200}, {"bf16"});
}

TEST_CASE("[C1] every path on the hidden and intermediate sizes of the models", "[gpu][apply]") {
  REQUIRE_GPU();
  const std::vector<int64_t> few = {1, 8, 33, 256, 1000};
  CheckShape("h=2880 i=2880 e=4 k=4", few, {"bf16"});
  CheckShape("h=4096 i=2304 e=6 k=4", few, {"f32"});
  CheckShape("h=5120 i=288 e=8 k=6", few, {"bf16"});
  CheckShape("h=5120 i=1152 e=6 k=4", few, {"f32"});
  CheckShape("h=4096 i=384 e=8 k=6", few, {"bf16"});
  CheckShape("h=4096 i=576 e=8 k=6", few, {"f32"});
  CheckShape("h=7168 i=192 e=8 k=7", few, {"f32"});
  CheckShape("h=7168 i=96 e=16 k=16", {1, 17, 100, 1000}, {"bf16"});
  CheckShape("h=4096 i=160 e=144 k=6", {2, 31, 256}, {"bf16"});
  CheckShape("h=2880 i=32 e=8 k=4", {3, 64, 256}, {"f32"});
  CheckShape("h=96 i=2880 e=8 k=4", {3, 64, 256}, {"f32"});
}

// Rows of x longer than the 8,192 values that a block of the gather holds at a time; with and without a kernel that lists the
// pairs.
TEST_CASE("[C1] rows of x that are gathered in parts", "[gpu][apply]") {
  REQUIRE_GPU();
  CheckShape("h=8352 i=32 e=4 k=2", {3, 70, 300, 2100}, {"f32"}, 1);
  CheckShape("h=16384 i=32 e=4 k=3", {9, 65}, {"bf16"}, 1);
  // The h that decides most ends so near the middle of two numbers of bf16 that an H200 and the reference round it apart.
  CHECK(RunAndJudge("h=16384 i=32 e=4 k=3 m=9 dist=one out=bf16 path=bf16 "
                    "seed=177204795597818") == "");
}

// More items than multiprocessors, and small ones, which CTAs take out of the counter several at a time (sched/share.cuh); the last of
// them are not as many, or are none.
TEST_CASE("items that are shared out, several at a time", "[gpu][gpu-quick][apply][shared]") {
  REQUIRE_GPU();
  CheckShape("h=544 i=128 e=64 k=4", {40, 0, 100}, {"f32"}, 1);
  CheckShape("h=64 i=64 e=96 k=8", {30, 65}, {"bf16"}, 1);
}

TEST_CASE("large batches on the sizes of the models", "[gpu][gpu-long][apply]") {
  REQUIRE_GPU();
  CheckShape("h=4096 i=288 e=16 k=6", {4096, 16384}, {"bf16"});
  CheckShape("h=5120 i=2304 e=4 k=4", {4096}, {"bf16"});
  CheckShape("h=7168 i=192 e=8 k=7", {4096, 16384}, {"f32"});
}

TEST_CASE("every kind of routing at few and many tokens", "[gpu][gpu-quick][apply]") {
  REQUIRE_GPU();
  for (const char* path : {"planes", "bf16"}) {
    Problem p = GpuProblem(std::string("h=128 i=96 e=32 k=6 path=") + path);
    const GpuLayer layer(GpuCase(p));
    for (const Dist dist : kDists) {
      for (const int64_t m : {1, 5, 40, 682, 683, 900}) {  // 683 * 6 are more than 4096 pairs
        p.dist = dist;
        p.tokens = m;
        CHECK(RunAndJudge(layer, MakeRouting(p)) == "");
      }
    }
  }
}

TEST_CASE("all tokens to one expert, and one token more or less around every width of a tile",
          "[gpu][apply]") {
  REQUIRE_GPU();
  for (const Weights& weights : kWeights) {
    for (const char* path : weights.paths) {
      const Problem p =
          GpuProblem(std::string("h=160 i=96 e=5 k=1 path=") + path + " scales=" + weights.scales);
      const GpuLayer layer(GpuCase(p));
      for (int64_t n : {4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256}) {
        for (const int64_t m : {n - 1, n, n + 1}) {
          Problem q = p;
          q.tokens = m;
          Inputs in = MakeRouting(q);
          std::fill(in.ids.begin(), in.ids.end(), m % 5);
          CHECK(RunAndJudge(layer, in) == "");
        }
      }
    }
  }
}

TEST_CASE("[A24] more than 2^31 slot elements, and the largest number of tokens",
          "[gpu][gpu-long][apply]") {
  REQUIRE_GPU();
  CHECK(RunAndJudge("h=4096 i=96 e=16 k=16 m=40000") == "");
  CHECK(RunAndJudge("h=64 i=32 e=8 k=2 m=131072") == "");
  CHECK(RunAndJudge("h=64 i=32 e=8 k=3 m=100001 path=bf16 out=f32") == "");
}

TEST_CASE("scale bytes far from one, narrow and wide ranges: the path that is right for them runs",
          "[gpu][gpu-quick][apply]") {
  REQUIRE_GPU();
  // x, and with it gate and up, stay in range through the amplitude; y of the smallest scales is far below one.
  for (const char* scales :
       {"60..70", "113..124", "100..128", "126..131", "128..139", "150..160", "90..125"}) {
    for (const char* m : {" m=3", " m=40", " m=600"}) {
      CHECK(RunAndJudge(std::string("h=160 i=96 e=4 k=2 out=f32 scales=") + scales + m) == "");
    }
  }
}

// The census does not count such groups, so any byte may stand beside them on a path made for bytes up to 128.
TEST_CASE("[A8][A28] groups of zeros of either sign have any scale byte, on every path",
          "[gpu][gpu-quick][apply]") {
  REQUIRE_GPU();
  for (const Weights& weights : kWeights) {
    for (const char* path : weights.paths) {
      Case c = MakeCase(GpuProblem(std::string("h=96 i=64 e=2 k=2 m=9 scales=") + weights.scales +
                                   " path=" + path));
      const uint8_t bytes[] = {0, 1, 128, 129, 130, 200, 253, 254};
      size_t turn = 0;
      for (auto& e : c.experts) {
        for (int m = 0; m < 3; ++m) {
          for (size_t g = 0; g < e->scales[m].size(); g += 3) {
            std::fill_n(e->codes[m].begin() + static_cast<int64_t>(16 * g), 16,
                        g % 2 == 0 ? uint8_t{0x08} : uint8_t{0x80});
            e->scales[m][g] = bytes[turn++ % std::size(bytes)];
          }
        }
      }
      INFO(weights.scales << " " << path);
      const GpuLayer layer(c);
      CHECK(CheckCensus(layer, weights.planes_exact) == "");
      CHECK(RunAndJudge(layer, c.in) == "");
    }
  }
}

TEST_CASE("[A28] planes asked for and not exact are refused, and AUTO takes another path",
          "[gpu][gpu-quick][apply]") {
  REQUIRE_GPU();
  for (const char* scales : {"116..128", "118..129", "60..72"}) {
    Case c = GpuCase(std::string("h=512 i=512 e=4 k=2 m=9 path=planes scales=") + scales);
    INFO(scales);
    bool refused = false;
    try {
      const GpuLayer layer(c);
    } catch (const Refused& e) {
      refused = e.status == DSV4MX_STATUS_UNSUPPORTED;
    }
    CHECK(refused);
    c.p.path = DSV4MX_NUMBER_PATH_AUTO;
    const GpuLayer layer(c);
    CHECK(CheckCensus(layer, false) == "");
    CHECK(RunAndJudge(layer, c.in) == "");
  }
}

}  // namespace
}  // namespace dsv4mx::test
