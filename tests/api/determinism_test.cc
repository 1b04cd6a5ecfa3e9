// Repeatability: run to run, thread to thread, alone or in a batch, with any number of threads, on every instruction set,
// whatever the environment says.
#include <algorithm>
#include <cstdlib>
#include <thread>

#include "tests/catch.h"
#include "tests/check.h"

namespace dsv4mx::test {
namespace {

DEVICE_TEST_CASE("[G1] run to run the same bits", "[determinism]") {
  for (const char* text : {"h=160 i=96 e=8 k=4 m=1", "h=160 i=96 e=8 k=4 m=37 dist=zipf",
                           "h=2880 i=96 e=4 k=2 m=9 dist=half"}) {
    Case c = MakeCase(text);
    c.p.device = device;
    const Runner run(c);
    const Output first = run.Apply();
    for (int i = 0; i < 30; ++i) REQUIRE(CheckSame(first, run.Apply()) == "");
    // A second layer from the same tensors too.
    CHECK(CheckSame(first, Runner(c).Apply()) == "");
  }
}

// Rows alone, in pairs, shifted and reversed must equal the rows of the whole batch.
void CheckBatchInvariance(Case c) {
  const Runner run(c);
  const Output all = run.Apply();
  const size_t row = all.raw.size() / static_cast<size_t>(c.p.tokens);
  const auto same = [&](const std::vector<int64_t>& tokens) {
    const Output part = run.Apply(TakeRows(c.p, c.in, tokens));
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (!std::equal(part.raw.begin() + static_cast<int64_t>(i * row),
                      part.raw.begin() + static_cast<int64_t>((i + 1) * row),
                      all.raw.begin() + tokens[i] * static_cast<int64_t>(row))) {
        return "token " + std::to_string(tokens[i]) + " differs in a batch of " +
               std::to_string(tokens.size());
      }
    }
    return part.damage;
  };
  INFO(ProblemText(c.p));
  std::vector<int64_t> backward;
  for (int64_t t = c.p.tokens - 1; t >= 0; --t) {
    CHECK(same({t}) == "");
    backward.push_back(t);
  }
  CHECK(same(backward) == "");
  for (size_t n : {2u, 3u, 5u, 8u, 13u, 33u}) {
    if (n < backward.size())
      CHECK(same({backward.begin(), backward.begin() + static_cast<int64_t>(n)}) == "");
  }
}

TEST_CASE(
    "[G1] batch independence on the CPU: a row alone equals the row in any batch, bit for bit",
    "[determinism]") {
  for (const char* isa : {"best", "portable"}) {
    for (const char* text :
         {"h=160 i=96 e=4 k=3 m=21", "h=96 i=288 e=2 k=2 m=70 dist=one",
          "h=64 i=64 e=3 k=4 m=19 dist=dup", "h=2880 i=96 e=2 k=2 m=9 act=gptoss clamp=7 bias=1"}) {
      CheckBatchInvariance(MakeCase(std::string(text) + " isa=" + isa));
    }
  }
}

DEVICE_TEST_CASE("[G1] batch independence in the mode that promises it", "[determinism]") {
  for (const char* text :
       {"h=160 i=96 e=4 k=3 m=21 invariant=1", "h=96 i=288 e=2 k=2 m=40 dist=one invariant=1"}) {
    Case c = MakeCase(text);
    c.p.device = device;
    CheckBatchInvariance(c);
  }
}

TEST_CASE("[G3] the number of threads changes no bit", "[determinism]") {
  for (const char* text :
       {"h=160 i=96 e=4 k=3 m=1", "h=160 i=96 e=8 k=3 m=33", "h=96 i=64 e=4 k=2 m=5 oracle=spec"}) {
    Case c = MakeCase(std::string(text) + " threads=1");
    const Output one = Runner(c).Apply();
    for (const int threads : {2, 3, 5, 16}) {
      c.p.threads = threads;
      INFO(text << " threads=" << threads);
      CHECK(CheckSame(one, Runner(c).Apply()) == "");
    }
  }
}

TEST_CASE("[B16] two and eight threads on one weights handle, each with its own workspace",
          "[determinism]") {
  for (const char* text : {"h=160 i=96 e=8 k=3 m=17", "h=160 i=96 e=8 k=3 m=1 threads=1",
                           "h=64 i=64 e=4 k=2 m=3 oracle=truth"}) {
    const Case c = MakeCase(text);
    const Runner run(c);
    const Output want = run.Apply();
    for (const int count : {2, 8}) {
      std::vector<std::string> result(static_cast<size_t>(count));
      std::vector<std::thread> threads;
      for (int t = 0; t < count; ++t) {
        threads.emplace_back([&, t] {
          try {
            for (int i = 0; i < 20 && result[static_cast<size_t>(t)].empty(); ++i) {
              result[static_cast<size_t>(t)] = CheckSame(want, run.Apply());
            }
          } catch (const std::exception& e) {
            result[static_cast<size_t>(t)] = e.what();
          }
        });
      }
      for (std::thread& t : threads) t.join();
      for (const std::string& r : result) CHECK(r == "");
    }
  }
}

TEST_CASE("[B16] threads make and destroy layers and weights of their own on one context",
          "[determinism]") {
  const Case c = MakeCase("h=64 i=64 e=3 k=2 m=4");
  const Output want = Runner(c).Apply();
  std::vector<std::string> result(6);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < result.size(); ++t) {
    threads.emplace_back([&, t] {
      try {
        for (int i = 0; i < 10 && result[t].empty(); ++i)
          result[t] = CheckSame(want, Runner(c).Apply());
      } catch (const std::exception& e) {
        result[t] = e.what();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  for (const std::string& r : result) CHECK(r == "");
}

TEST_CASE("[H7] environment variables change no result", "[determinism]") {
  const Case c = MakeCase("h=160 i=96 e=4 k=3 m=9");
  const Output want = Runner(c).Apply();
  const struct {
    const char *name, *value;
  } set[] = {{"DSV4MX_ISA", "portable"},       {"DSV4MX_THREADS", "1"},
             {"DSV4MX_COMPUTE", "w4a8"},       {"DSV4MX_PLAN", "/nonexistent"},
             {"DSV4MX_LOG", "debug"},          {"OMP_NUM_THREADS", "1"},
             {"MKL_NUM_THREADS", "1"},         {"CUDA_VISIBLE_DEVICES", "99"},
             {"LC_NUMERIC", "de_DE.UTF-8"},    {"LANG", "tr_TR.UTF-8"},
             {"VLLM_USE_FLASHINFER_MOE", "1"}, {"SGLANG_MOE_PADDING", "1"}};
  for (const auto& v : set) setenv(v.name, v.value, 1);
  Problem fresh = c.p;
  fresh.threads = 2;  // a context of its own, made under these variables
  Case again = c;
  again.p = fresh;
  const Output got = Runner(again).Apply();
  for (const auto& v : set) unsetenv(v.name);
  CHECK(CheckSame(want, got) == "");
}

}  // namespace
}  // namespace dsv4mx::test
