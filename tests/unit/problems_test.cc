// Problem strings and the numbers made from them: the harness judges everything else, so it is judged first.
#include "tests/problems.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/layer_data.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

TEST_CASE("problem strings: names, keys, one rank's share", "[harness]") {
  const Problem flash = Parse("flash m=64");
  CHECK(flash.hidden == 4096);
  CHECK(flash.intermediate == 2048);
  CHECK(flash.experts == 256);
  CHECK(flash.top_k == 6);
  CHECK(flash.clamp == 10.0f);
  CHECK(flash.rsf == 1.5f);
  CHECK(flash.tokens == 64);

  const Problem pro = Parse("pro tp=8 m=1 dist=zipf");
  CHECK(pro.LocalIntermediate() == 384);
  CHECK(pro.dist == Dist::kZipf);

  const Problem oss = Parse("h=2880 i=2880 e=128 k=4 m=16 act=gptoss bias=1");
  CHECK(oss.activation == DSV4MX_ACTIVATION_SWIGLU_GPTOSS);
  CHECK(oss.w13_bias == DSV4MX_DTYPE_BF16);
  CHECK(oss.w2_bias == DSV4MX_DTYPE_BF16);
  CHECK(oss.order == DSV4MX_W13_ORDER_GATE_UP);  // a fused bias needs an order

  const Problem ep = Parse("v41 ep=8 rank=3");
  CHECK(ep.LocalExperts() == 48);
  CHECK(ep.ExpertFirst() == 144);
}

TEST_CASE("problem strings: the text of a problem parses to the same problem", "[harness]") {
  for (const char* text : {"flash m=64", "pro tp=8 m=1 dist=zipf isa=avx2 threads=3",
                           "v41 ep=4 rank=2 out=f32 ids=i64 rw=bf16",
                           "gptoss m=3 scales=0..254 seed=99 nibble=high amp=0.25",
                           "k=1 wpos=input xs=264 os=272 invariant=1 slot=bf16"}) {
    const std::string first = ProblemText(Parse(text));
    INFO(text << " -> " << first);
    CHECK(ProblemText(Parse(first)) == first);
  }
}

TEST_CASE("problem strings: what is wrong is refused with what, got, wanted", "[harness]") {
  const struct {
    const char *text, *words;
  } cases[] = {
      {"flesh m=1", "flesh,flash,pro,v41"},
      {"flash n=4", "unknown key,n,wanted one of"},
      {"flash m=", "m,wanted"},
      {"flash m=4x", "m,4x,wanted"},
      {"dist=gauss", "dist,gauss,uniform"},
      {"scales=5..300", "scales,300,lo..hi"},
      {"scales=9..8", "scales"},
      {"i=96 tp=5", "96,multiple,tp=5"},
      {"e=8 ep=3", "e=8,multiple,ep=3"},
      {"out=f64", "out,f64,f32"},
  };
  for (const auto& c : cases) {
    Problem p;
    std::string error;
    INFO(c.text);
    CHECK_FALSE(ParseProblem(c.text, &p, &error));
    CHECK(MissingWords(error, c.words) == "");
  }
}

TEST_CASE("problem strings: comma lists give one string each", "[harness]") {
  CHECK(ExpandProblems("flash m=1,4") == std::vector<std::string>{"flash m=1", "flash m=4"});
  CHECK(ExpandProblems("flash,pro m=1,2 k=4").size() == 4);
  CHECK(ExpandProblems("v41") == std::vector<std::string>{"v41"});
}

TEST_CASE("routing: each distribution is what it says", "[harness]") {
  const auto rows = [](const std::string& text) {
    const Problem p = Parse(text);
    const Inputs in = MakeInputs(p);
    std::vector<std::vector<int64_t>> all;
    for (int64_t t = 0; t < p.tokens; ++t) {
      all.emplace_back(in.ids.begin() + t * p.top_k, in.ids.begin() + (t + 1) * p.top_k);
    }
    return all;
  };
  const auto distinct = [](const std::vector<int64_t>& row) {
    return std::set<int64_t>(row.begin(), row.end()).size();
  };
  for (const char* dist : {"uniform", "zipf", "one", "six"}) {
    for (const auto& row : rows(std::string("e=64 k=6 m=200 dist=") + dist)) {
      INFO(dist);
      REQUIRE(distinct(row) == 6);
      REQUIRE(*std::min_element(row.begin(), row.end()) >= 0);
      REQUIRE(*std::max_element(row.begin(), row.end()) < 64);
    }
  }
  std::set<int64_t> six;
  bool repeats = false;
  int64_t skipped = 0, hot = 0;
  for (const auto& row : rows("e=64 k=6 m=200 dist=six")) six.insert(row.begin(), row.end());
  for (const auto& row : rows("e=64 k=6 m=200 dist=dup")) repeats = repeats || distinct(row) < 6;
  for (const auto& row : rows("e=64 k=6 m=200 dist=half"))
    skipped += std::count(row.begin(), row.end(), -1);
  for (const auto& row : rows("e=64 k=6 m=200 dist=one"))
    hot += std::count(row.begin(), row.end(), 32);
  CHECK(six.size() == 6);
  CHECK(repeats);
  CHECK(skipped > 500);
  CHECK(skipped < 700);
  CHECK(hot == 200);
  for (const auto& row : rows("e=64 k=6 m=20 dist=none"))
    CHECK(std::count(row.begin(), row.end(), -1) == 6);
  for (const auto& row : rows("e=2 k=4 m=20")) CHECK(std::count(row.begin(), row.end(), -1) == 2);
}

TEST_CASE("weights and tokens follow from the seed, expert by expert", "[harness]") {
  const Problem p = Parse("h=64 i=32 e=4 seed=5"), other = Parse("h=64 i=32 e=4 seed=6");
  CHECK(MakeExpert(p, 2).codes[kUp] == MakeExpert(p, 2).codes[kUp]);
  CHECK(MakeExpert(p, 2).codes[kUp] != MakeExpert(p, 1).codes[kUp]);
  CHECK(MakeExpert(p, 2).codes[kUp] != MakeExpert(p, 2).codes[kGate]);
  CHECK(MakeExpert(p, 2).codes[kUp] != MakeExpert(other, 2).codes[kUp]);
  CHECK(MakeInputs(p).x != MakeInputs(other).x);
  // One rank's experts are those of the whole model.
  CHECK(MakeExpert(Parse("h=64 i=32 e=4 seed=5 ep=2 rank=1"), 0).codes[kDown] ==
        MakeExpert(p, 2).codes[kDown]);
  for (uint8_t s : MakeExpert(p, 0).scales[kDown]) REQUIRE((s >= 119 && s <= 127));
}

TEST_CASE("checks fail when they should: one wrong element, a damaged band, two rows swapped",
          "[harness]") {
  const Case c = MakeCase("h=64 i=64 m=3");
  const Reference want = Compute(c);
  Output good{3, 64, std::vector<uint8_t>(3 * 64 * 4), {}, ""};
  for (double v : want.truth) good.y.push_back(static_cast<float>(RoundBf16(v)));
  CHECK(CheckOutput(c, good, want, {5e-3, 1e-2, 5e-3, 1}) == "");
  Output bad = good;
  bad.y[70] += 0.2f * std::abs(bad.y[70]) + 20.0f;
  CHECK(MissingWords(CheckOutput(c, bad, want), "token 1,column 6,h=64") == "");
  bad = good;
  std::swap_ranges(bad.y.begin(), bad.y.begin() + 64, bad.y.begin() + 64);
  CHECK(CheckOutput(c, bad, want) != "");
  bad = good;
  bad.y[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK(MissingWords(CheckOutput(c, bad, want), "token 0,column 5,nan") == "");
  bad = good;
  bad.damage = "byte 3 was overwritten";
  CHECK(MissingWords(CheckOutput(c, bad, want), "byte 3") == "");
  bad = good;
  for (float& v : bad.y) v *= 1.005f;  // within every element's bound, but not right
  CHECK(MissingWords(CheckOutput(c, bad, want), "relative L2") == "");
}

TEST_CASE("guarded memory shows a byte written on either side", "[harness]") {
  for (const Edge edge : {Edge::kStart, Edge::kEnd}) {
    Guarded g(nullptr, 100, 16, edge);
    CHECK(g.Damage() == "");
    CHECK(g.Read() == std::vector<uint8_t>(100, 0xFF));
    g.data()[100] = 1;  // inside the room that alignment left
    CHECK(MissingWords(g.Damage(), "byte 100") == "");
  }
  Guarded g(nullptr, 100, 16, Edge::kEnd);
  g.data()[-1] = 1;
  CHECK(MissingWords(g.Damage(), "byte -1") == "");
}

}  // namespace
}  // namespace dsv4mx::test
