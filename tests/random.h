// Fast random numbers for tests and benchmarks (xoshiro256**, Blackman and Vigna), the same on every machine: the seed
// printed with a case makes the case again.
#ifndef DSV4MX_TESTS_RANDOM_H_
#define DSV4MX_TESTS_RANDOM_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dsv4mx::test {

class Rng {
 public:
  // `stream` tells apart the uses of one seed (expert, matrix), so that any part can be made alone.
  explicit Rng(uint64_t seed, uint64_t stream = 0) {
    uint64_t s = seed * 0x9E3779B97F4A7C15u ^ (stream + 1) * 0xD1B54A32D192ED03u;
    for (uint64_t& word : state_) {  // splitmix64
      uint64_t z = (s += 0x9E3779B97F4A7C15u);
      z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
      z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
      word = z ^ (z >> 31);
    }
  }
  uint64_t Next() {
    const uint64_t result = Rotl(state_[1] * 5, 7) * 9, t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = Rotl(state_[3], 45);
    return result;
  }
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }  // [0, 1)
  int64_t Below(int64_t n) { return static_cast<int64_t>(Uniform() * static_cast<double>(n)); }
  double Normal() {  // Box-Muller, one of the pair
    const double u = 1.0 - Uniform();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * Uniform());
  }
  void Bytes(uint8_t* to, size_t n) {
    for (; n >= 8; n -= 8, to += 8) {
      const uint64_t v = Next();
      std::memcpy(to, &v, 8);
    }
    const uint64_t v = Next();
    std::memcpy(to, &v, n);
  }

 private:
  static uint64_t Rotl(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }
  uint64_t state_[4];
};

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_RANDOM_H_
