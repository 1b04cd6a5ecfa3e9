#include "tests/sha256.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace dsv4mx::test {
namespace {

// The standard's constants are the first 32 bits of the fractional parts of square and cube roots
// of primes; long double holds enough of them.
struct Constants {
  uint32_t initial[8];
  uint32_t round[64];
  Constants() {
    int found = 0;
    for (int n = 2; found < 64; ++n) {
      bool prime = true;
      for (int d = 2; d * d <= n; ++d) prime = prime && n % d != 0;
      if (!prime) continue;
      if (found < 8) initial[found] = Fraction(std::sqrt(static_cast<long double>(n)));
      round[found++] = Fraction(std::cbrt(static_cast<long double>(n)));
    }
  }
  static uint32_t Fraction(long double v) {
    return static_cast<uint32_t>((v - std::floor(v)) * 4294967296.0L);
  }
};

void Block(const Constants& c, const uint8_t* p, uint32_t h[8]) {
  uint32_t w[64];
  for (int i = 0; i < 16; ++i) {
    w[i] = static_cast<uint32_t>(p[4 * i]) << 24 | static_cast<uint32_t>(p[4 * i + 1]) << 16 |
           static_cast<uint32_t>(p[4 * i + 2]) << 8 | p[4 * i + 3];
  }
  for (int i = 16; i < 64; ++i) {
    const uint32_t a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) + w[i - 7] +
           (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
  }
  uint32_t s[8];
  std::memcpy(s, h, sizeof(s));
  for (int i = 0; i < 64; ++i) {
    const uint32_t e = s[4], a = s[0];
    const uint32_t t1 = s[7] + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) +
                        ((e & s[5]) ^ (~e & s[6])) + c.round[i] + w[i];
    const uint32_t t2 = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) +
                        ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
    for (int j = 7; j > 0; --j) s[j] = s[j - 1];
    s[4] += t1;
    s[0] = t1 + t2;
  }
  for (int i = 0; i < 8; ++i) h[i] += s[i];
}

}  // namespace

std::string Sha256(const void* data, size_t bytes) {
  static const Constants constants;
  std::vector<uint8_t> message((bytes + 8) / 64 * 64 + 64, 0);
  if (bytes != 0) std::memcpy(message.data(), data, bytes);
  message[bytes] = 0x80;
  for (size_t i = 0; i < 8; ++i) {
    message[message.size() - 1 - i] =
        static_cast<uint8_t>(static_cast<uint64_t>(bytes) * 8 >> (8 * i));
  }
  uint32_t h[8];
  std::memcpy(h, constants.initial, sizeof(h));
  for (size_t at = 0; at < message.size(); at += 64) Block(constants, message.data() + at, h);
  std::string hex;
  for (const uint32_t word : h) {
    char text[9];
    std::snprintf(text, sizeof(text), "%08x", word);
    hex += text;
  }
  return hex;
}

}  // namespace dsv4mx::test
