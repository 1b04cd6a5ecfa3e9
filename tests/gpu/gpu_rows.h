// What rows of a batch must keep to themselves, on any path.
#ifndef DSV4MX_TESTS_GPU_GPU_ROWS_H_
#define DSV4MX_TESTS_GPU_GPU_ROWS_H_

#include <cmath>
#include <initializer_list>
#include <iterator>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/gpu/gpu_layer.h"
#include "tests/numbers.h"

namespace dsv4mx::test {

// A layer of this text, whose plan has these words, is right at these numbers of tokens, with one kind of routing after the other.
inline void CheckTokens(const std::string& text, const char* planned,
                        const std::vector<int64_t>& tokens) {
  Problem p = GpuProblem(text);
  p.tokens = 0;
  const GpuLayer layer(GpuCase(p));
  CHECK(MissingWords(layer.Plan(64), planned) == "");
  size_t turn = 0;
  constexpr Dist kDists[] = {Dist::kUniform, Dist::kZipf, Dist::kOne, Dist::kHalf, Dist::kDup};
  for (const int64_t m : tokens) {
    p.tokens = m;
    p.dist = kDists[turn++ % std::size(kDists)];
    CHECK(RunAndJudge(layer, MakeRouting(p)) == "");
  }
}

// A token has the bits in the batch `all` that it has in a call of its own.
inline void CheckBitsAlone(const GpuLayer& layer, const Problem& p, const Inputs& in,
                           const GpuCall& all, std::initializer_list<int64_t> tokens) {
  for (const int64_t token : tokens) {
    GpuCall one(layer, TakeRows(p, in, {token}));
    one.Run();
    CHECK((one.RowBytes({0}) == all.RowBytes({token})));
  }
}

// What each row of x is multiplied with, from one token to the next.
using Factor = float (*)(int64_t token);
inline Inputs Scaled(const GpuCall& call, const Problem& p, Factor factor) {
  Inputs in = call.in();
  in.x = call.X();
  for (int64_t t = 0; t < p.tokens; ++t) {
    for (int64_t k = 0; k < p.hidden; ++k) {
      uint16_t& v = in.x[static_cast<size_t>(t * p.hidden + k)];
      v = ToBf16(static_cast<double>(FromBf16(v)) * static_cast<double>(factor(t)));
    }
  }
  return in;
}

// NaN in one row of x and Inf in another make NaN of these rows, and change no bit of others.
inline void CheckNanStays(const std::string& words) {
  INFO(words);
  const Case c = GpuCase("h=288 i=160 e=4 k=2" + words);
  const GpuLayer layer(c);
  GpuCall clean(layer, c.in);
  clean.Run();
  Inputs in = c.in;
  in.x = clean.X();
  in.x[7 * 288 + 200] = 0x7FC1;  // NaN
  in.x[9 * 288 + 3] = 0x7F80;    // Inf
  GpuCall call(layer, in);
  call.Run();
  for (int64_t t = 0; t < c.p.tokens; ++t) {
    if (t != 7 && t != 9) {
      REQUIRE(call.RowBytes({t}) == clean.RowBytes({t}));
      continue;
    }
    for (const float y : call.Rows({t}).y) REQUIRE(std::isnan(y));
  }
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_GPU_ROWS_H_
