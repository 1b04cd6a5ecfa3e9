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

// Raw form: code k of a row of packed bytes (low nibble = even k), and writing it into bytes that
// are zero there.
inline uint32_t RawCode(const uint8_t* codes, int64_t k) {
  return (codes[k / 2] >> (4 * (k % 2))) & 15u;
}
inline void PutRawCode(uint8_t* codes, int64_t k, uint32_t code) {
  codes[k / 2] = static_cast<uint8_t>(codes[k / 2] | (code << (4 * (k % 2))));
}

Sm90Slab Sm90SlabOf(const LayerSpec& spec);

// Writes all Sm90SlabOf(spec).bytes bytes: codes, scales, exponent bases, biases; rows that pad a
// tile to 64 are zero. An exponent base is, per row and block of 512 of K, the smallest scale byte
// of the groups that are not all zero, or 0 if there is none.
void Sm90PackExpert(const LayerSpec& spec, const ExpertReader& rows, uint8_t* slab);

// The inverse. Exponent bases are derived data and not read.
void Sm90UnpackExpert(const LayerSpec& spec, const uint8_t* slab, ExpertWriter* rows);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_HOST_LAYOUT_H_
