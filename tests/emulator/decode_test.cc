// What the GEMMs make of words of the sm90 layout, instruction by instruction of the decoders (mxfp4/decode.cuh).
#include <cmath>
#include <cstdint>

#include "kernels/launch.h"
#include "kernels/mxfp4/layout.h"
#include "tests/catch.h"
#include "tests/numbers.h"
#include "tests/random.h"

// Behind all others: what it gives to device code are macros with names that the standard library's headers use.
#include "kernels/mxfp4/decode.cuh"

namespace dsv4mx::test {
namespace {

// A number of binary16, infinities and NaN apart.
double FromF16(uint32_t bits) {
  const int field = static_cast<int>(bits >> 10 & 31), mantissa = static_cast<int>(bits & 1023);
  const double v = field == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, field - 25);
  return (bits & 0x8000) != 0 ? -v : v;
}
bool IsNormalF16(uint32_t bits) {
  const uint32_t field = bits >> 10 & 31;
  return field != 0 && field != 31;
}

// Code j of eight in raw form.
int CodeOf(uint32_t raw, int j) {
  return static_cast<int>(raw >> 4 * j & 15);
}

// The half that meets the activation of value k of a block.
uint32_t F16At(const uint32_t* pair, int64_t k) {
  const int64_t in_step = Sm90F16Index(128, k) % 32, t = Sm90LaneOf(128, k).t;
  return pair[in_step / 8] >> 16 * (in_step % 8 - 2 * t) & 0xFFFF;
}

TEST_CASE(
    "decode: f16 is code times scale for each scale byte that it takes, and a normal number") {
  Rng rng(31);
  int right = 0;
  for (int b = kF16LeastScale; b <= kF16MostScale; ++b) {
    const F16Table table = F16Of(static_cast<uint32_t>(b));
    for (int turn = 0; turn < 64; ++turn) {
      const uint32_t others = static_cast<uint32_t>(rng.Next());
      for (int place = 0; place < 8; ++place) {
        for (uint32_t code = 0; code < 16; ++code) {
          const uint32_t raw = (others & ~(15u << 4 * place)) | code << 4 * place;
          // Of a lane in the middle of a block.
          const int64_t first = 32 * (turn % 4) + 8 * (turn / 4 % 4);
          uint32_t pair[4];
          DecodeF16(Sm90PackWord(raw), table, pair);
          for (int j = 0; j < 8; ++j) {
            const uint32_t bits = F16At(pair, first + j);
            const double value = E2m1(CodeOf(raw, j));
            const double wanted = std::ldexp(value, b - 115);
            const bool good = FromF16(bits) == wanted &&
                              std::signbit(FromF16(bits)) == (CodeOf(raw, j) >= 8) &&
                              (value == 0 || IsNormalF16(bits)) &&
                              FromF16(bits) * kF16Unit == Weight(CodeOf(raw, j), b);
            right += good;
            if (good) continue;
            FAIL("scale byte " << b << " word " << raw << " place " << j << " bits " << bits);
          }
        }
      }
    }
  }
  CHECK(right == 27 * 64 * 8 * 16 * 8);
}

TEST_CASE("decode: f16 of zeros is zero, whatever scale byte stands beside them") {
  int right = 0;
  for (uint32_t b = 0; b < 256; ++b) {
    for (uint32_t signs = 0; signs < 256; ++signs) {
      uint32_t raw = 0;
      for (int j = 0; j < 8; ++j) raw |= (signs >> j & 1) << (4 * j + 3);
      uint32_t pair[4];
      DecodeF16(Sm90PackWord(raw), F16Of(b), pair);
      for (int j = 0; j < 8; ++j) {
        const bool good = F16At(pair, j) == (signs >> j & 1) << 15;
        right += good;
        if (!good) FAIL("scale byte " << b << " signs " << signs << " place " << j);
      }
    }
  }
  CHECK(right == 256 * 256 * 8);
}

}  // namespace
}  // namespace dsv4mx::test
