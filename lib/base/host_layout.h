// Layouts of a whole expert on the host: the sm90 slab of the CUDA kernels made from rows and taken
// apart again. The index arithmetic is kernels/mxfp4/layout.h; here it is walked by plain loops, as
// the tests' ground truth and as the fallback where no device can do it.
#ifndef DSV4MX_LIB_BASE_HOST_LAYOUT_H_
#define DSV4MX_LIB_BASE_HOST_LAYOUT_H_

#include <cstdint>

#include "kernels/mxfp4/layout.h"
#include "lib/base/expert_rows.h"
#include "lib/base/spec.h"

namespace dsv4mx {

// Raw form: code k of a row of packed bytes (low nibble = even k).
inline uint32_t RawCode(const uint8_t* codes, int64_t k) {
  return (codes[k / 2] >> (4 * (k % 2))) & 15u;
}

Sm90Slab Sm90SlabOf(const LayerSpec& spec);

// Row 0..63 of a tile in raw form: K/2 bytes of codes, K/32 scales.
void Sm90ReadCodes(const uint8_t* tile, int64_t k, int row, uint8_t* codes);
void Sm90ReadScales(const uint8_t* tile, int64_t k, int row, uint8_t* scales);

// Writes all Sm90SlabOf(spec).bytes bytes: codes, scales, exponent bases, biases; rows that pad a
// tile to 64 are zero. An exponent base is, per row and block of 512 of K, the smallest scale byte
// of the groups that are not all zero, or 0 if there is none.
void Sm90PackExpert(const LayerSpec& spec, const ExpertReader& rows, uint8_t* slab);

// The inverse. Exponent bases are derived data and not read.
void Sm90UnpackExpert(const LayerSpec& spec, const uint8_t* slab, ExpertWriter* rows);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_HOST_LAYOUT_H_
