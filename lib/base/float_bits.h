// Bit patterns of the small float formats, exactly. Kept apart from the math so that no compiler
// flag touches them.
#ifndef DSV4MX_LIB_BASE_FLOAT_BITS_H_
#define DSV4MX_LIB_BASE_FLOAT_BITS_H_

#include <bit>
#include <cstdint>

namespace dsv4mx {

inline uint32_t BitsOfFloat(float f) {
  return std::bit_cast<uint32_t>(f);
}
inline float FloatFromBits(uint32_t bits) {
  return std::bit_cast<float>(bits);
}

inline float FloatFromBf16(uint16_t b) {
  return FloatFromBits(static_cast<uint32_t>(b) << 16);
}

// Round to nearest, ties to even; a NaN stays one.
inline uint16_t Bf16FromFloat(float f) {
  const uint32_t bits = BitsOfFloat(f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float FloatFromF16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = (h >> 10) & 31u,
                 mantissa = h & 1023u;
  if (exponent == 31) return FloatFromBits(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return FloatFromBits(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude =
      static_cast<float>(mantissa) * 0x1p-24f;  // exact: a subnormal has at most 10 bits
  return sign != 0 ? -magnitude : magnitude;
}

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_FLOAT_BITS_H_
