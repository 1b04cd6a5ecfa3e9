// A word of eight codes of the sm90 layout from its raw form and back, as Sm90PackWord and Sm90UnpackWord of layout.h say code by
// code, in a dozen operations on whole words: magnitudes of even codes go to the lower half and those of odd ones to the
// upper, in order; signs stay in the pair of nibbles that they come from and change places there.
#ifndef DSV4MX_KERNELS_MXFP4_WORDS_H_
#define DSV4MX_KERNELS_MXFP4_WORDS_H_

#include "kernels/mxfp4/layout.h"

namespace dsv4mx {

DSV4MX_HD uint32_t PackWord(uint32_t raw) {
  const uint32_t even = raw & 0x07070707u, odd = raw >> 4 & 0x07070707u;
  const uint32_t low = even | even >> 4, high = odd | odd >> 4;  // bytes 0 and 2 count
  return (low & 0xFFu) | (low >> 8 & 0xFF00u) | (high & 0xFFu) << 16 | (high << 8 & 0xFF000000u) |
         (raw & 0x80808080u) >> 4 | (raw & 0x08080808u) << 4;
}

DSV4MX_HD uint32_t UnpackWord(uint32_t word) {
  const uint32_t low = (word & 0xFFu) | (word & 0xFF00u) << 8;
  const uint32_t high = (word >> 16 & 0xFFu) | (word >> 8 & 0xFF0000u);
  return (low & 0x00070007u) | (low & 0x00700070u) << 4 | (high & 0x00070007u) << 4 |
         (high & 0x00700070u) << 8 | (word & 0x80808080u) >> 4 | (word & 0x08080808u) << 4;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MXFP4_WORDS_H_
