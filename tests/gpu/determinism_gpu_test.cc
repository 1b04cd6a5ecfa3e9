// Repeatability on the device: run to run under load, alone or in a batch in the mode that promises it, and numbers that
// are not finite stay in their row.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/catch.h"
#include "tests/gpu/gpu_data.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/gpu/streams.h"
#include "tests/numbers.h"
#include "tests/random.h"

namespace dsv4mx::test {
namespace {

const char* const kPaths[] = {"path=planes", "path=bf16", "path=bf16 scales=120..140", "path=auto"};

TEST_CASE("[G1][J15] run to run the same bits, beside other work and on any poison",
          "[gpu][gpu-quick][determinism]") {
  REQUIRE_GPU();
  const Stream busy, stream;
  for (const char* path : kPaths) {
    for (const char* sizes :
         {"h=160 i=96 e=8 k=4 m=1", "h=160 i=96 e=8 k=4 m=37 dist=zipf",
          "h=2880 i=288 e=6 k=4 m=400 dist=half", "h=4096 i=192 e=16 k=6 m=64 dist=zipf",
          "h=96 i=64 e=8 k=4 m=3000 dist=one"}) {
      const Case c = GpuCase(std::string(sizes) + " " + path);
      INFO(sizes << " " << path);
      const GpuLayer layer(c);
      GpuCall first(layer, c.in);
      CHECK(RunAndJudge(&first) == "");
      for (int i = 0; i < 20; ++i) {
        GpuCallOptions options;
        options.poison = i % 3 == 0 ? 0x00 : i % 3 == 1 ? 0xFF : 0x7F;
        GpuCall again(layer, c.in, options);
        KeepBusy(busy.get(), 1 + 20 * (i % 7), 1'000'000);  // up to one block a multiprocessor
        again.Enqueue(stream.get());
        stream.Wait();
        REQUIRE(SameRows(first, again) == "");
        busy.Wait();
        REQUIRE(again.Damage() == "");
      }
      // A second layer from the same tensors too.
      const GpuLayer other(c, layer.raw());
      GpuCall twin(other, c.in);
      twin.Run();
      CHECK(SameRows(first, twin) == "");
    }
  }
}

// Rows alone, in smaller batches, shifted and reversed must equal the rows of the whole batch.
void CheckBatchInvariance(const std::string& text) {
  INFO(text);
  Case c = GpuCase(text);
  const GpuLayer layer(c);
  GpuCall all(layer, c.in);
  CHECK(RunAndJudge(&all) == "");
  Inputs in = c.in;
  in.x = all.X();
  const int64_t m = c.p.tokens;
  const auto same = [&](const std::vector<int64_t>& tokens) -> std::string {
    GpuCall part(layer, TakeRows(c.p, in, tokens));
    part.Run();
    std::vector<int64_t> rows(tokens.size());
    std::iota(rows.begin(), rows.end(), 0);
    const std::vector<uint8_t> got = part.RowBytes(rows), want = all.RowBytes(tokens);
    const auto at = std::mismatch(got.begin(), got.end(), want.begin()).first - got.begin();
    if (at == static_cast<int64_t>(got.size())) return part.Damage();
    return "token " +
           std::to_string(tokens[static_cast<size_t>(at) / (got.size() / tokens.size())]) +
           " differs in a batch of " + std::to_string(tokens.size());
  };
  std::vector<int64_t> order(static_cast<size_t>(m));
  std::iota(order.begin(), order.end(), 0);
  std::reverse(order.begin(), order.end());
  CHECK(same(order) == "");
  Rng rng(c.p.seed, 7);
  for (const int64_t n : {1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 8, 9, 13, 16, 17, 33, 64, 100, 257}) {
    if (n >= m) continue;
    for (size_t i = 0; i < static_cast<size_t>(n); ++i)  // a shuffle of the first n
      std::swap(order[i], order[i + static_cast<size_t>(rng.Below(m - static_cast<int64_t>(i)))]);
    CHECK(same({order.begin(), order.begin() + n}) == "");
  }
  // A larger bound with the same tokens counted on the device.
  for (const int64_t n : {int64_t{1}, m / 3, m - 1}) {
    GpuCallOptions options;
    options.tokens_device = static_cast<int32_t>(n);
    GpuCall counted(layer, c.in, options);
    counted.Run();
    std::vector<int64_t> rows(static_cast<size_t>(n));
    std::iota(rows.begin(), rows.end(), 0);
    CHECK(counted.RowBytes(rows) == all.RowBytes(rows));
    CHECK(counted.Damage() == "");
  }
}

TEST_CASE("[G1][G3] batch independence in the mode that promises it",
          "[gpu][gpu-quick][determinism]") {
  REQUIRE_GPU();
  for (const char* path : kPaths) {
    const std::string words = std::string(" invariant=1 ") + path;
    CheckBatchInvariance("h=160 i=96 e=4 k=3 m=41" + words);
    CheckBatchInvariance("h=2880 i=160 e=4 k=4 m=300 dist=one" + words);
    CheckBatchInvariance("h=96 i=2304 e=3 k=2 m=700 dist=dup act=gptoss clamp=7 bias=1" + words);
  }
}

TEST_CASE("[G1] batch independence at a real hidden size, large batches", "[gpu][determinism]") {
  REQUIRE_GPU();
  for (const char* path : kPaths)
    CheckBatchInvariance(std::string("h=4096 i=256 e=32 k=6 m=2500 dist=zipf invariant=1 ") + path);
}

// "" if all rows but `row` are the same bits.
std::string OtherRowsSame(const GpuCall& a, const GpuCall& b, int64_t row) {
  std::vector<int64_t> others;
  for (int64_t t = 0; t < a.tokens(); ++t) {
    if (t != row) others.push_back(t);
  }
  return a.RowBytes(others) == b.RowBytes(others) ? "" : "another row changed";
}

bool NoneFinite(const GpuCall& call, int64_t row) {
  const Output y = call.Rows({row});
  return std::none_of(y.y.begin(), y.y.end(), [](float v) { return std::isfinite(v); });
}

TEST_CASE("[A23] NaN and Inf in a row of x reach that row and no other",
          "[gpu][gpu-quick][determinism]") {
  REQUIRE_GPU();
  for (const char* path : kPaths) {
    // With a clamp a row of Inf may come out finite, so only NaN is asked for there.
    for (const char* sizes :
         {"h=160 i=96 e=3 k=3 m=8", "h=160 i=96 e=3 k=3 m=8 clamp=10",
          "h=2880 i=96 e=2 k=1 m=40 act=gptoss clamp=7", "h=96 i=288 e=4 k=2 m=700",
          "h=160 i=96 e=3 k=3 m=40 wpos=before slot=bf16 out=f32"}) {
      const Case c = GpuCase(std::string(sizes) + " " + path);
      const GpuLayer layer(c);
      GpuCall clean(layer, c.in);
      clean.Run();
      Inputs in = c.in;
      in.x = clean.X();
      Rng rng(c.p.seed, 8);
      for (const uint16_t poison : {0x7FC1, 0xFFC0, 0x7F80, 0xFF80}) {
        const int64_t row = rng.Below(c.p.tokens), column = rng.Below(c.p.hidden);
        Inputs dirty = in;
        dirty.x[static_cast<size_t>(row * c.p.hidden + column)] = poison;
        GpuCall call(layer, dirty);
        call.Run();
        INFO(sizes << " " << path << " poison " << std::hex << poison << std::dec << " row " << row
                   << " column " << column);
        CHECK(call.Damage() == "");
        CHECK(OtherRowsSame(clean, call, row) == "");
        if ((poison & 0x7F) != 0 || c.p.clamp == 0) CHECK(NoneFinite(call, row));
      }
      // A row of NaN, one of zeros, one of small numbers, and one of subnormals, whose products fp32 cannot hold.
      Inputs dirty = in;
      const auto row_of = [&](int64_t row, uint16_t value) {
        std::fill_n(dirty.x.begin() + row * c.p.hidden, c.p.hidden, value);
      };
      row_of(1, 0x7FFF), row_of(2, 0), row_of(3, ToBf16(0x1p-50)), row_of(4, 1);
      GpuCall call(layer, dirty);
      call.Run();
      INFO(sizes << " " << path << " rows of NaN, zero, small numbers and subnormals");
      CHECK(NoneFinite(call, 1));
      std::vector<int64_t> finite = {0, 2, 3};
      for (int64_t t = 5; t < c.p.tokens; ++t) finite.push_back(t);
      CHECK(JudgeRows(call, finite) == "");
      const Output tiny = call.Rows({4});
      CHECK(std::all_of(tiny.y.begin(), tiny.y.end(),
                        [](float v) { return std::fabs(v) <= 1e-20f; }));
    }
  }
}

TEST_CASE("[A23] NaN and Inf in a router weight reach its row; a skipped slot's is not looked at",
          "[gpu][gpu-quick][determinism]") {
  REQUIRE_GPU();
  for (const char* path : kPaths) {
    for (const char* words :
         {"k=3 m=9", "k=3 m=500", "k=3 m=9 wpos=before", "k=1 m=9 wpos=input"}) {
      const Case c = GpuCase(std::string("h=160 i=96 e=4 ") + words + " " + path);
      const GpuLayer layer(c);
      INFO(words << " " << path);
      GpuCall clean(layer, c.in);
      clean.Run();
      const size_t at = 2 * static_cast<size_t>(c.p.top_k);
      for (const float poison :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        Inputs in = c.in;
        in.weights[at] = poison;
        GpuCall call(layer, in);
        call.Run();
        CHECK(OtherRowsSame(clean, call, 2) == "");
        CHECK(NoneFinite(call, 2));
      }
      Inputs skipped = c.in;
      skipped.ids[at] = -1;
      GpuCall want(layer, skipped);
      want.Run();
      skipped.weights[at] = std::numeric_limits<float>::quiet_NaN();
      GpuCall got(layer, skipped);
      got.Run();
      CHECK(SameRows(want, got) == "");
    }
  }
}

// The census chooses the path, so both layers have a group of the largest scale; only the codes differ.
TEST_CASE("[A9] an expert of Inf weights that no token goes to leaves every bit as it was",
          "[gpu][gpu-quick][determinism]") {
  REQUIRE_GPU();
  for (const char* m : {" m=9", " m=300"}) {
    Case c = MakeCase(GpuProblem(std::string("h=96 i=64 e=4 k=2 clamp=10") + m));
    for (int64_t& id : c.in.ids) id = id == 2 ? -1 : id;
    ExpertData& dormant = *c.experts[2];
    for (int matrix = 0; matrix < 3; ++matrix) {
      std::fill(dormant.scales[matrix].begin(), dormant.scales[matrix].end(), uint8_t{254});
      std::fill(dormant.codes[matrix].begin(), dormant.codes[matrix].end(), uint8_t{0x11});
    }
    const GpuLayer finite(c);
    for (int matrix = 0; matrix < 3; ++matrix)
      std::fill(dormant.codes[matrix].begin(), dormant.codes[matrix].end(), uint8_t{0x77});
    const GpuLayer infinite(c);
    GpuCall want(finite, c.in), got(infinite, c.in);
    CHECK(RunAndJudge(&want) == "");
    CHECK(RunAndJudge(&got) == "");
    CHECK(SameRows(want, got) == "");
  }
}

TEST_CASE(
    "[A8][A23] weights that overflow bf16 are Inf in the rows that meet them and nowhere else",
    "[gpu][gpu-quick][determinism]") {
  REQUIRE_GPU();
  Case c = MakeCase(GpuProblem("h=96 i=64 e=4 k=1 m=32"));
  for (size_t t = 0; t < 32; ++t) c.in.ids[t] = static_cast<int64_t>(t % 4);
  ExpertData& e = *c.experts[1];
  e.scales[kDown][0] = 254;
  std::fill_n(e.codes[kDown].begin(), 16, uint8_t{0x11});
  const GpuLayer finite(c);
  e.codes[kDown][0] = 0x77;  // 6 * 2^127
  const GpuLayer infinite(c);
  GpuCall before(finite, c.in), after(infinite, c.in);
  before.Run(), after.Run();
  for (int64_t t = 0; t < 32; ++t) {
    INFO("token " << t);
    if (t % 4 == 1)
      CHECK_FALSE(std::isfinite(after.Rows({t}).y[0]));
    else
      CHECK(before.RowBytes({t}) == after.RowBytes({t}));
  }
  CHECK(after.Damage() == "");
}

}  // namespace
}  // namespace dsv4mx::test
