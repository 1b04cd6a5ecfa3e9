// Number formats as model.md states them, written for reading and apart from the library's own: bf16, E2M1, E8M0.
#ifndef DSV4MX_TESTS_NUMBERS_H_
#define DSV4MX_TESTS_NUMBERS_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace dsv4mx::test {

inline float FromBf16(uint16_t b) {
  return std::bit_cast<float>(static_cast<uint32_t>(b) << 16);
}

// Bytes of bf16 (2 to an element) or fp32 (4) as numbers.
inline std::vector<float> NumbersOf(const std::vector<uint8_t>& bytes, size_t element) {
  std::vector<float> numbers(bytes.size() / element);
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (element == 4) {
      std::memcpy(&numbers[i], &bytes[4 * i], 4);
    } else {
      uint16_t half;
      std::memcpy(&half, &bytes[2 * i], 2);
      numbers[i] = FromBf16(half);
    }
  }
  return numbers;
}

// One rounding (nearest, ties to even) straight from double, subnormals and overflow included.
inline double RoundBf16(double v) {
  if (!std::isfinite(v) || v == 0.0) return v;
  int exponent;
  std::frexp(v, &exponent);  // |v| in [2^(exponent-1), 2^exponent)
  const int ulp = exponent - 8 < -133 ? -133 : exponent - 8;
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(v, -ulp)), ulp);
  return std::fabs(rounded) >= 0x1p128 ? std::copysign(std::numeric_limits<double>::infinity(), v)
                                       : rounded;
}

inline uint16_t ToBf16(double v) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(RoundBf16(v))) >> 16);
}

// 2^exponent as binary16, exponent -24..15.
inline uint16_t PowerOfTwoF16(int exponent) {
  return static_cast<uint16_t>(exponent >= -14 ? (exponent + 15) << 10 : 1 << (exponent + 24));
}

inline double E2m1(int code) {
  static constexpr double kMagnitude[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return (code & 8) != 0 ? -kMagnitude[code & 7] : kMagnitude[code & 7];
}

// The weight that a code and a scale byte mean: bf16(code * 2^(byte - 127)).
inline double Weight(int code, int scale_byte) {
  return RoundBf16(std::ldexp(E2m1(code), scale_byte - 127));
}

// Nearest E4M3 number (4 significant bits, subnormals of 2^-9, at most 448), ties to even.
inline double RoundE4m3(double v) {
  if (v == 0.0) return v;
  int exponent;
  std::frexp(v, &exponent);
  const int ulp = exponent - 4 < -9 ? -9 : exponent - 4;
  return std::fmin(448.0, std::fmax(-448.0, std::ldexp(std::nearbyint(std::ldexp(v, -ulp)), ulp)));
}

// Exponent of the scale that W4A8 gives to numbers with this peak.
inline int E4m3Exponent(double peak) {
  return static_cast<int>(
      std::ceil(std::log2(std::fmax(peak, static_cast<double>(1e-4f)) / 448.0)));
}

// A row as W4A8 computes with it: 128 numbers at a time over a power of two, as E4M3.
inline void QuantiseRow(double* row, size_t count) {
  for (size_t first = 0; first < count; first += 128) {
    const size_t end = first + 128 < count ? first + 128 : count;
    double peak = 0;
    bool finite = true;
    for (size_t i = first; i < end; ++i) {
      peak = std::fmax(peak, std::fabs(row[i]));
      finite = finite && std::isfinite(row[i]);
    }
    const int exponent = finite ? E4m3Exponent(peak) : 0;
    for (size_t i = first; i < end; ++i)
      row[i] = finite ? std::ldexp(RoundE4m3(std::ldexp(row[i], -exponent)), exponent)
                      : std::numeric_limits<double>::quiet_NaN();
  }
}

// Code number `k` of a packed row, low nibble = even k.
inline int CodeAt(const uint8_t* row, int64_t k) {
  return (row[k / 2] >> (k % 2 == 0 ? 0 : 4)) & 15;
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_NUMBERS_H_
