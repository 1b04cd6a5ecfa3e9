// Fresh numbers in every run of the tests, and the same ones again when asked for: the seed of a run is printed at first
// use, and DSV4MX_SEED repeats it.
#ifndef DSV4MX_TESTS_RUN_SEED_H_
#define DSV4MX_TESTS_RUN_SEED_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

namespace dsv4mx::test {

inline uint64_t RunSeed() {
  static const uint64_t seed = [] {
    const char* given = std::getenv("DSV4MX_SEED");
    const uint64_t s =
        given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
    std::printf("seed %llu (DSV4MX_SEED repeats it)\n", static_cast<unsigned long long>(s));
    return s;
  }();
  return seed;
}

// The run's seed for a case of that text: a case keeps its numbers if others come or go. 48 bits, so that a problem
// string can hold it.
inline uint64_t SeedOf(const std::string& text) {
  uint64_t hash = 0xCBF29CE484222325u ^ RunSeed();  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3u;
  return hash >> 16;
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_RUN_SEED_H_
