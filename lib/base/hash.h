// FNV-1a over 64-bit values: ids that are equal in every process and on every machine.
#ifndef DSV4MX_LIB_BASE_HASH_H_
#define DSV4MX_LIB_BASE_HASH_H_

#include <cstdint>
#include <string_view>

#include "lib/base/float_bits.h"

namespace dsv4mx {

class Hash {
 public:
  Hash& operator<<(int64_t value) {
    for (int i = 0; i < 8; ++i) {
      sum_ = (sum_ ^ (static_cast<uint64_t>(value) >> (8 * i) & 0xff)) * 0x100000001b3;
    }
    return *this;
  }
  Hash& operator<<(float value) { return *this << int64_t{BitsOfFloat(value)}; }
  Hash& operator<<(std::string_view text) {
    for (const char c : text) *this << int64_t{static_cast<unsigned char>(c)};
    return *this << static_cast<int64_t>(text.size());
  }
  uint64_t sum() const { return sum_; }

 private:
  uint64_t sum_ = 0xcbf29ce484222325;
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_HASH_H_
