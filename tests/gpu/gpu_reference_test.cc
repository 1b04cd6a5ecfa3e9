// The instruments of the GPU tests: the device reference against the host's, the hashed numbers, the guards, and that
// the judge condemns what is wrong.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/catch.h"
#include "tests/gpu/cuda_must.h"
#include "tests/gpu/gpu_data.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

// "" if both references agree to fp64 rounding.
std::string Compare(const Case& c) {
  DeviceBuffer x(c.in.x.size() * 2, 16);
  x.Upload(c.in.x.data(), c.in.x.size() * 2);
  const RawModel raw(c);
  std::vector<int64_t> tokens(static_cast<size_t>(c.p.tokens));
  std::iota(tokens.begin(), tokens.end(), 0);
  const Reference host = Compute(c);
  const Reference device =
      ComputeOnGpu(c, raw, c.in, reinterpret_cast<const uint16_t*>(x.data()), c.p.hidden, tokens);
  const auto near = [&](double a, double b, double bound) {
    if (!std::isfinite(a) || !std::isfinite(b))
      return std::isnan(a) == std::isnan(b) && (std::isnan(a) || a == b);
    return std::fabs(a - b) <= 1e-12 * bound;
  };
  double largest = 0;
  for (size_t i = 0; i < host.truth.size(); ++i) {
    const double bound = host.bound[i];
    // A sum that ends on the edge between two bf16 numbers may round either way: one step of one of its terms.
    if (!near(host.truth[i], device.truth[i], bound) ||
        !near(host.bound[i], device.bound[i], bound) ||
        !near(host.spec[i], device.spec[i], 1e9 * bound)) {
      return "token " + std::to_string(i / static_cast<size_t>(c.p.hidden)) + " column " +
             std::to_string(i % static_cast<size_t>(c.p.hidden)) + ": host " +
             std::to_string(host.truth[i]) + ", device " + std::to_string(device.truth[i]) + " [" +
             ProblemText(c.p) + "]";
    }
    if (near(host.spec[i], device.spec[i], bound)) ++largest;
  }
  if (largest < 0.99 * static_cast<double>(host.truth.size()))
    return "spec differs in many places [" + ProblemText(c.p) + "]";
  return raw.Damage() + x.Damage();
}

TEST_CASE("device reference equals the host's for every option", "[gpu][gpu-quick][reference]") {
  REQUIRE_GPU();
  for (const char* words : {"",
                            "clamp=1",
                            "act=gptoss",
                            "act=gptoss clamp=2 alpha=0.5 beta=-2",
                            "bias=bf16",
                            "bias=f32 act=gptoss clamp=7",
                            "bias13=f32",
                            "bias2=bf16",
                            "wpos=before rsf=1.5",
                            "k=1 wpos=input",
                            "k=1 wpos=input bias=1 rw=bf16",
                            "rsf=-0.25",
                            "rw=bf16",
                            "dist=dup",
                            "dist=half",
                            "dist=none",
                            "ep=2 rank=1",
                            "scales=0..20",
                            "scales=120..200",
                            "scales=250..254",
                            "m=0"}) {
    for (const char* sizes : {"h=96 i=64 e=6 k=3 m=7 ", "h=160 i=288 e=4 k=2 m=3 "}) {
      CHECK(Compare(MakeCase(GpuProblem(std::string(sizes) + words))) == "");
    }
  }
  Case c = MakeCase(GpuProblem("h=96 i=64 e=4 k=2 m=5"));
  c.in.x[2 * 96 + 5] = 0x7FC1;  // NaN
  c.in.x[3 * 96 + 5] = 0x7F80;  // Inf
  CHECK(Compare(c) == "");
  c = MakeCase(GpuProblem("h=96 i=64 e=8 k=3 m=12 ep=2 rank=0"));
  c.placement = {2, 4, 6, 0};
  CHECK(Compare(c) == "");
}

// One weight of every row of w13 is not zero, so that all channels of a token have the h of a formula.
TEST_CASE("what of a row long sums may round to another neighbour", "[gpu][gpu-quick][reference]") {
  REQUIRE_GPU();
  for (const int64_t hidden : {64, 16384}) {
    Case c = MakeCase(GpuProblem("i=32 e=1 k=1 m=128 h=" + std::to_string(hidden)));
    ExpertData& e = *c.experts[0];
    for (const int m : {kGate, kUp}) {
      std::fill(e.codes[m].begin(), e.codes[m].end(), uint8_t{0});
      std::fill(e.scales[m].begin(), e.scales[m].end(), uint8_t{127});
      for (int64_t n = 0; n < e.rows[m]; ++n)
        e.codes[m][static_cast<size_t>(n * hidden / 2)] = m == kGate ? 4 : 5;  // 2 and 3
    }
    for (int64_t t = 0; t < c.p.tokens; ++t)
      c.in.x[static_cast<size_t>(t * hidden)] = static_cast<uint16_t>(0x3F80 + t);  // 1 to 2
    DeviceBuffer x(c.in.x.size() * 2, 16);
    x.Upload(c.in.x.data(), c.in.x.size() * 2);
    const RawModel raw(c);
    std::vector<int64_t> tokens(static_cast<size_t>(c.p.tokens));
    std::iota(tokens.begin(), tokens.end(), 0);
    const Reference got =
        ComputeOnGpu(c, raw, c.in, reinterpret_cast<const uint16_t*>(x.data()), hidden, tokens);
    REQUIRE(got.moved.size() == tokens.size());
    const auto activate = [](double g, double u) { return g / (1 + std::exp(-g)) * u; };
    const double steps = static_cast<double>(hidden / 16 + 16) * 0x1p-25;
    int64_t in_doubt = 0;
    for (size_t t = 0; t < tokens.size(); ++t) {
      const double g = 2 + 2 * static_cast<double>(t) / 128, u = 1.5 * g, h = activate(g, u),
                   off = std::fabs(activate(g * (1 + steps), u) - h) + h * steps,
                   moved = std::max(RoundBf16(h + off) - RoundBf16(h),
                                    RoundBf16(h) - RoundBf16(h - off));
      INFO("hidden " << hidden << ", token " << t << ", h " << h);
      CHECK(std::fabs(got.moved[t] - moved / h) <= 1e-12);
      in_doubt += got.moved[t] > 0 ? 1 : 0;
    }
    // Long sums leave some 2^-14 of h in doubt, on either side, where numbers are 2^-8 to 2^-7 apart.
    if (hidden == 64) CHECK(in_doubt <= 1);
    if (hidden == 16384) CHECK((in_doubt >= 1 && in_doubt <= 16));
  }
}

TEST_CASE("device reference of many rows, in several chunks of pairs", "[gpu][reference]") {
  REQUIRE_GPU();
  // 2^25 elements of h are one chunk: 1300 * 8 * 4096 are more.
  const Case c = GpuCase("h=32 i=4096 e=2 k=8 m=1300 dist=dup");
  const RawModel raw(c);
  DeviceBuffer x(static_cast<size_t>(c.p.tokens * c.p.hidden) * 2, 16);
  FillX(1, c.p.tokens, c.p.hidden, c.p.hidden, c.p.Amplitude(),
        reinterpret_cast<uint16_t*>(x.data()));
  const auto compute = [&](const std::vector<int64_t>& tokens) {
    return ComputeOnGpu(c, raw, c.in, reinterpret_cast<const uint16_t*>(x.data()), c.p.hidden,
                        tokens);
  };
  std::vector<int64_t> all(1300);
  std::iota(all.begin(), all.end(), 0);
  const Reference whole = compute(all);
  for (const int64_t t : {0, 700, 1023, 1024, 1025, 1299}) {
    const Reference one = compute({t});
    CHECK(std::equal(one.truth.begin(), one.truth.end(), whole.truth.begin() + t * c.p.hidden));
    CHECK(std::equal(one.bound.begin(), one.bound.end(), whole.bound.begin() + t * c.p.hidden));
  }
}

TEST_CASE(
    "hashed weights: uniform codes, scales in their range, experts that differ, ranks that agree",
    "[gpu][gpu-quick][reference]") {
  REQUIRE_GPU();
  const Problem p = GpuProblem("h=256 i=192 e=6 m=1 scales=100..110 bias=bf16 seed=77");
  const RawModel raw(GpuCase(p));
  std::vector<double> codes(16), scales(256);
  double total = 0;
  for (int32_t e = 0; e < 6; ++e) {
    const ExpertData d = raw.Read(e);
    for (int m = 0; m < 3; ++m) {
      for (const uint8_t b : d.codes[m]) ++codes[b & 15], ++codes[b >> 4], total += 2;
      for (const uint8_t b : d.scales[m]) ++scales[b];
      for (const float b : d.bias[m])
        CHECK(static_cast<double>(b) == RoundBf16(static_cast<double>(b)));
    }
    CHECK(d.codes[kGate] != d.codes[kUp]);
    CHECK(d.codes[kGate] != raw.Read((e + 1) % 6).codes[kGate]);
  }
  for (const double n : codes) CHECK(std::fabs(n - total / 16) < 6 * std::sqrt(total / 16));
  for (size_t b = 0; b < 256; ++b) {
    INFO("scale byte " << b);
    CHECK((scales[b] > 0) == (b >= 100 && b <= 110));
  }
  Problem rank = p;
  rank.ep = 3;
  rank.ep_rank = 1;  // experts 2 and 3
  const RawModel part(GpuCase(rank));
  for (int32_t e = 0; e < 2; ++e) {
    for (int m = 0; m < 3; ++m) {
      CHECK(part.Read(e).codes[m] == raw.Read(2 + e).codes[m]);
      CHECK(part.Read(e).scales[m] == raw.Read(2 + e).scales[m]);
      CHECK(part.Read(e).bias[m] == raw.Read(2 + e).bias[m]);
    }
  }
}

TEST_CASE("hashed activations: their deviation, and nothing in the gaps",
          "[gpu][gpu-quick][reference]") {
  REQUIRE_GPU();
  DeviceBuffer x((99 * 328 + 320) * 2, 16);
  x.Fill(0xFF);
  FillX(5, 100, 320, 328, 0.25, reinterpret_cast<uint16_t*>(x.data()));
  const std::vector<uint8_t> bytes = x.Download();
  double sum = 0, squares = 0;
  for (size_t i = 0; i < bytes.size() / 2; ++i) {
    const uint16_t half = static_cast<uint16_t>(bytes[2 * i] | bytes[2 * i + 1] << 8);
    if (i % 328 >= 320) {
      CHECK(half == 0xFFFF);
      continue;
    }
    const double v = static_cast<double>(FromBf16(half));
    sum += v, squares += v * v;
  }
  CHECK(std::fabs(sum / 32000) < 0.01);
  CHECK(std::fabs(std::sqrt(squares / 32000) - 0.25) < 0.01);
  CHECK(x.Damage() == "");
}

TEST_CASE("guards see one byte before and one after, and the searches find it",
          "[gpu][gpu-quick][reference]") {
  REQUIRE_GPU();
  for (const Guard guard : {Guard::kBands, Guard::kPages}) {
    if (guard == Guard::kPages && !WhyNoGuardPages().empty()) continue;
    // No whole pages, so that the byte before is of one as well: those of an emulated device have 64 KB.
    for (const size_t bytes : {size_t{0}, size_t{36}, size_t{4096}, size_t{(3 << 20) + 16}}) {
      INFO(bytes << " bytes, guard " << static_cast<int>(guard));
      DeviceBuffer b(bytes, 16, guard);
      b.Fill(1);
      CHECK(b.Damage() == "");
      CHECK(FirstOtherByte(b.data(), static_cast<int64_t>(bytes), 1) == -1);
      if (bytes > 0) {
        CUDA_MUST(cudaMemset(b.data() + bytes - 1, 2, 1));
        CHECK(FirstOtherByte(b.data(), static_cast<int64_t>(bytes), 1) ==
              static_cast<int64_t>(bytes) - 1);
      }
      if (guard == Guard::kBands || bytes % 16 != 0) {  // pages: only what alignment leaves over
        CUDA_MUST(cudaMemset(b.data() + bytes, 2, 1));
        CHECK(MissingWords(b.Damage(), "byte " + std::to_string(bytes) + " ") == "");
        CUDA_MUST(cudaMemset(b.data() + bytes, 0xC5, 1));
        CHECK(b.Damage() == "");
      }
      CUDA_MUST(cudaMemset(b.data() - 1, 2, 1));
      CHECK(MissingWords(b.Damage(), "byte -1 ") == "");
    }
  }
  DeviceBuffer a(1000, 16), b(1000, 16);
  a.Fill(3), b.Fill(3);
  CHECK(FirstDifference(a.data(), b.data(), 1000) == -1);
  CUDA_MUST(cudaMemset(b.data() + 517, 4, 2));
  CHECK(FirstDifference(a.data(), b.data(), 1000) == 517);
  // Rows of 100 bytes 250 apart: 517 lies in row 2, 610 in the gap behind it.
  CHECK(FirstOtherByteInGaps(b.data(), 4, 100, 250, 3) == -1);
  CUDA_MUST(cudaMemset(b.data() + 610, 4, 1));
  CHECK(FirstOtherByteInGaps(b.data(), 4, 100, 250, 3) == 610);
  CHECK(FirstNotFinite(a.data(), true, 10, 20, 25) == -1);
  CUDA_MUST(cudaMemset(a.data() + 4 * (25 * 3 + 7), 0xFF, 4));
  CHECK(FirstNotFinite(a.data(), true, 10, 20, 25) == 3 * 20 + 7);
}

TEST_CASE("the judge condemns one wrong element, a missing row, a write behind the rows",
          "[gpu][gpu-quick][reference]") {
  REQUIRE_GPU();
  const Case c = GpuCase("h=160 i=96 e=4 k=2 m=9");
  const GpuLayer layer(c);
  GpuCall call(layer, c.in);
  REQUIRE(RunAndJudge(&call) == "");
  const std::vector<int64_t> all = TokensToJudge(call);
  REQUIRE(all.size() == 9);
  uint8_t* row = call.out().data() + 4 * 160 * 2;
  // The largest element of row 4, its exponent one step up.
  const Output y = call.Rows({4});
  const size_t at = static_cast<size_t>(
      std::max_element(y.y.begin(), y.y.end(),
                       [](float a, float b) { return std::fabs(a) < std::fabs(b); }) -
      y.y.begin());
  const uint16_t right = ToBf16(static_cast<double>(y.y[at])),
                 wrong = static_cast<uint16_t>(right + 0x80);
  CUDA_MUST(cudaMemcpy(row + 2 * at, &wrong, 2, cudaMemcpyHostToDevice));
  CHECK(MissingWords(JudgeRows(call, all), "token 4,column " + std::to_string(at)) == "");
  CUDA_MUST(cudaMemcpy(row + 2 * at, &right, 2, cudaMemcpyHostToDevice));
  CHECK(JudgeRows(call, all) == "");
  CUDA_MUST(cudaMemset(row, 0xFF, 160 * 2));
  CHECK(MissingWords(JudgeRows(call, all), "token 4") == "");
  GpuCallOptions counted;
  counted.tokens_device = 5;
  GpuCall few(layer, c.in, counted);
  few.Run();
  CHECK(few.Damage() == "");
  CUDA_MUST(cudaMemset(few.out().data() + 5 * 160 * 2 + 3, 0, 1));
  CHECK(MissingWords(few.Damage(), "row 5,byte 3") == "");
}

// Where few values of h decide, their neighbours are allowed for; slots that are rounded once more are still too far off.
TEST_CASE("the judge condemns one rounding too many of few h and long sums",
          "[gpu][gpu-quick][reference]") {
  REQUIRE_GPU();
  for (const char* seed : {"1", "2", "3", "177204795597818"}) {
    const std::string text =
        std::string("h=16384 i=32 e=4 k=3 m=9 dist=one out=bf16 path=bf16 seed=") + seed;
    INFO(text);
    const GpuLayer layer(GpuCase(text)), rounded(GpuCase(text + " slot=bf16"), layer.raw());
    GpuCall call(layer, layer.c().in), other(rounded, rounded.c().in);
    CHECK(RunAndJudge(&call) == "");
    CHECK(RunAndJudge(&other) == "");
    CUDA_MUST(cudaMemcpy(call.out().data(), other.out().data(), call.out().bytes(),
                         cudaMemcpyDeviceToDevice));
    CHECK(MissingWords(JudgeRows(call, TokensToJudge(call)), "too far off") == "");
  }
}

}  // namespace
}  // namespace dsv4mx::test
