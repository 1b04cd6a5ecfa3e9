// Turning a scale of any dtype into its E8M0 byte. E8M0, I8 and U8 are raw bytes; F32, BF16 and F16
// are numbers, and a number has a byte only if it is an exact power of two in 2^-127..2^127. Bytes
// taken as numbers, or numbers as bytes, would give fluent nonsense, so nothing is guessed and
// nothing is rounded.
#ifndef DSV4MX_LIB_BASE_SCALES_H_
#define DSV4MX_LIB_BASE_SCALES_H_

#include <cstdint>

#include "lib/base/backend.h"
#include "lib/base/spec.h"
#include "lib/base/status.h"

namespace dsv4mx {

inline constexpr int kBadScale = -1;

// Byte 0..254 of the scale at `p` (any alignment), or kBadScale.
int ScaleByte(const uint8_t* p, dsv4mx_dtype dtype);

// Bytes of one element; 0 for what is no scale dtype.
int64_t ScaleElementBytes(dsv4mx_dtype dtype);

// INVALID_SCALE with the position and the value found at `p`.
Status BadScale(int32_t expert, Matrix m, int64_t row, int64_t group, const uint8_t* p,
                dsv4mx_dtype dtype);

// One row of host scales as `groups` E8M0 bytes, or INVALID_SCALE with the position.
Status ReadScaleRow(const ScalesView& view, int32_t expert, Matrix m, int64_t row, int64_t groups,
                    uint8_t* out);

// The same in place: the row's elements of `dtype` become bytes at its beginning.
Status ScaleRowToBytes(uint8_t* at, dsv4mx_dtype dtype, int32_t expert, Matrix m, int64_t row,
                       int64_t groups);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_SCALES_H_
