// Raw tensors into the layout of cpu_layout.h.
#ifndef DSV4MX_LIB_CPU_CPU_PACK_H_
#define DSV4MX_LIB_CPU_CPU_PACK_H_

#include <cstdint>

#include "lib/base/backend.h"
#include "lib/base/status.h"

namespace dsv4mx::cpu {

// One tile of 32 rows of codes from row `first_row` of the view on.
void PackCodes(const CodesView& v, int64_t first_row, int64_t k, uint8_t* tile);

// Scales of the 32 rows of a matrix from `row` on, in the view those from `at` on. Refuses the first bad one in their order.
Status PackScales(const ScalesView& v, int64_t at, int32_t expert, Matrix m, int64_t row, int64_t k,
                  uint8_t* scales);

// Floats from BF16 or F32.
void PackBias(const uint8_t* from, int64_t stride, int64_t rows, dsv4mx_dtype dtype, uint8_t* to);

}  // namespace dsv4mx::cpu

#endif  // DSV4MX_LIB_CPU_CPU_PACK_H_
