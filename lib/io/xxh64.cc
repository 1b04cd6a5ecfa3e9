#include "lib/io/xxh64.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "lib/io/little_endian.h"

namespace dsv4mx::io {

uint64_t Xxh64::Round(uint64_t lane, uint64_t input) {
  return std::rotl(lane + input * kPrime[1], 31) * kPrime[0];
}

void Xxh64::Stripes(const uint8_t* data, size_t count) {
  uint64_t a = lanes_[0], b = lanes_[1], c = lanes_[2], d = lanes_[3];  // in registers
  for (const uint8_t* end = data + count * kStripe; data != end; data += kStripe) {
    a = Round(a, LoadLittle<uint64_t>(data));
    b = Round(b, LoadLittle<uint64_t>(data + 8));
    c = Round(c, LoadLittle<uint64_t>(data + 16));
    d = Round(d, LoadLittle<uint64_t>(data + 24));
  }
  lanes_[0] = a, lanes_[1] = b, lanes_[2] = c, lanes_[3] = d;
}

void Xxh64::Add(const void* data, size_t bytes) {
  const auto* from = static_cast<const uint8_t*>(data);
  const size_t held = length_ % kStripe;
  length_ += bytes;
  if (held != 0) {
    const size_t more = std::min(bytes, kStripe - held);
    std::memcpy(rest_ + held, from, more);
    from += more;
    bytes -= more;
    if (held + more < kStripe) return;
    Stripes(rest_, 1);
  }
  Stripes(from, bytes / kStripe);
  if (bytes % kStripe != 0) std::memcpy(rest_, from + bytes / kStripe * kStripe, bytes % kStripe);
}

void Xxh64::AddZeros(size_t bytes) {
  constexpr uint8_t kZeros[64] = {};
  for (; bytes > 0; bytes -= std::min(bytes, sizeof kZeros)) {
    Add(kZeros, std::min(bytes, sizeof kZeros));
  }
}

uint64_t Xxh64::Sum() const {
  uint64_t h = kPrime[4];  // plus a seed, which is 0 here
  if (length_ >= kStripe) {
    h = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) +
        std::rotl(lanes_[3], 18);
    for (const uint64_t lane : lanes_) h = (h ^ Round(0, lane)) * kPrime[0] + kPrime[3];
  }
  h += length_;
  const uint8_t* p = rest_;
  size_t left = length_ % kStripe;
  for (; left >= 8; left -= 8, p += 8) {
    h = std::rotl(h ^ Round(0, LoadLittle<uint64_t>(p)), 27) * kPrime[0] + kPrime[3];
  }
  if (left >= 4) {
    h = std::rotl(h ^ LoadLittle<uint32_t>(p) * kPrime[0], 23) * kPrime[1] + kPrime[2];
    left -= 4, p += 4;
  }
  for (; left > 0; --left, ++p) h = std::rotl(h ^ *p * kPrime[4], 11) * kPrime[0];
  h = (h ^ h >> 33) * kPrime[1];
  h = (h ^ h >> 29) * kPrime[2];
  return h ^ h >> 32;
}

}  // namespace dsv4mx::io
