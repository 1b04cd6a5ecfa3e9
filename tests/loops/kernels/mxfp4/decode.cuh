// In place of kernels/mxfp4/decode.cuh, whose permute is PTX: the same functions, E4M3 bytes made one by one.
#ifndef DSV4MX_KERNELS_MXFP4_DECODE_CUH_
#define DSV4MX_KERNELS_MXFP4_DECODE_CUH_

#include "tests/loops/lanes.h"

namespace dsv4mx {

struct PlaneTable {
  uint32_t step;  // scale byte - base
};
inline PlaneTable PlaneOf(uint32_t step) {
  return {step};
}
inline float PlaneUnit(uint32_t base) {
  return std::ldexp(1.0f, static_cast<int>(base) - 122);
}

// Magnitudes of a word stand in nibbles, those of k_low below those of k_high, their signs above each byte and its half.
inline void DecodePlane(uint32_t q, PlaneTable t, uint32_t& k_low, uint32_t& k_high) {
  constexpr uint8_t kOnes[8] = {0x00, 0x08, 0x10, 0x14, 0x18, 0x1C, 0x20, 0x24};  // step 0
  k_low = k_high = 0;
  for (uint32_t i = 0; i < 4; i++) {
    const uint32_t low = q >> 4 * i & 7, high = q >> (16 + 4 * i) & 7;
    const uint32_t low_sign = q >> (8 * i + 7) & 1, high_sign = q >> (8 * i + 3) & 1;
    const auto number = [&](uint32_t code, uint32_t sign) {
      return (code == 0 ? 0u : kOnes[code] + 8 * t.step) | sign << 7;
    };
    k_low |= number(low, low_sign) << 8 * i;
    k_high |= number(high, high_sign) << 8 * i;
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MXFP4_DECODE_CUH_
