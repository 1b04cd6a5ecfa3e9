// The checksum XXH64, after its specification (github.com/Cyan4973/xxHash, doc/xxhash_spec.md; Yann Collet): 64 bits at
// memory speed with four multiplications a 32 bytes, on any processor. zstd's frames end with the low half of the same sum, which
// is what the tests compare it with.
#ifndef DSV4MX_LIB_IO_XXH64_H_
#define DSV4MX_LIB_IO_XXH64_H_

#include <cstddef>
#include <cstdint>

namespace dsv4mx::io {

class Xxh64 {
 public:
  void Add(const void* data, size_t bytes);
  void AddZeros(size_t bytes);
  uint64_t Sum() const;

 private:
  static constexpr uint64_t kPrime[5] = {0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9,
                                         0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5};
  static constexpr size_t kStripe = 32;
  static uint64_t Round(uint64_t lane, uint64_t input);
  void Stripes(const uint8_t* data, size_t count);

  uint64_t lanes_[4] = {kPrime[0] + kPrime[1], kPrime[1], 0, 0 - kPrime[0]};
  uint64_t length_ = 0;
  uint8_t rest_[kStripe] = {};  // of length_ % kStripe bytes
};

inline uint64_t Xxh64Of(const void* data, size_t bytes) {
  Xxh64 sum;
  sum.Add(data, bytes);
  return sum.Sum();
}

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_XXH64_H_
