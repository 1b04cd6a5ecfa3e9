#include "lib/base/scales.h"

#include <cstring>

#include "lib/base/float_bits.h"
#include "lib/base/text.h"

namespace dsv4mx {

int64_t ScaleElementBytes(dsv4mx_dtype dtype) {
  switch (dtype) {
    case DSV4MX_DTYPE_E8M0:
    case DSV4MX_DTYPE_I8:
    case DSV4MX_DTYPE_U8:
      return 1;
    case DSV4MX_DTYPE_BF16:
    case DSV4MX_DTYPE_F16:
      return 2;
    case DSV4MX_DTYPE_F32:
      return 4;
    default:
      return 0;
  }
}

namespace {

uint32_t Load(const uint8_t* p, int64_t bytes) {
  uint32_t v = 0;
  std::memcpy(&v, p, static_cast<size_t>(bytes));  // little-endian hosts only, as the whole library
  return v;
}

// A scale dtype's value as float; F16 and BF16 convert exactly.
float Number(uint32_t bits, dsv4mx_dtype dtype) {
  if (dtype == DSV4MX_DTYPE_F16) return FloatFromF16(static_cast<uint16_t>(bits));
  return FloatFromBits(dtype == DSV4MX_DTYPE_BF16 ? bits << 16 : bits);
}

}  // namespace

int ScaleByte(const uint8_t* p, dsv4mx_dtype dtype) {
  const int64_t bytes = ScaleElementBytes(dtype);
  if (bytes == 0) return kBadScale;
  uint32_t bits = Load(p, bytes);
  if (bytes == 1) return bits == 255 ? kBadScale : static_cast<int>(bits);
  bits = BitsOfFloat(Number(bits, dtype));
  // 2^e has an empty mantissa and exponent field e + 127, which is its E8M0 byte; 2^-127 alone is a
  // subnormal.
  constexpr uint32_t kSubnormal = 0x00400000u;
  if (bits == kSubnormal) return 0;
  const uint32_t exponent = bits >> 23;  // with the sign: negative numbers come out above 255
  if ((bits & 0x007fffffu) != 0 || exponent == 0 || exponent >= 255) return kBadScale;
  return static_cast<int>(exponent);
}

Status BadScale(int32_t expert, Matrix m, int64_t row, int64_t group, const uint8_t* p,
                dsv4mx_dtype dtype) {
  const int64_t bytes = ScaleElementBytes(dtype);
  if (bytes <= 1) {
    return Fail(DSV4MX_STATUS_INVALID_SCALE,
                "scale of expert %d, %s, row %lld, group %lld is byte 255 (NaN), wanted 0..254",
                expert, MatrixName(m), static_cast<long long>(row), static_cast<long long>(group));
  }
  return Fail(DSV4MX_STATUS_INVALID_SCALE,
              "scale of expert %d, %s, row %lld, group %lld is %s, wanted an exact power of two "
              "in 2^-127..2^127",
              expert, MatrixName(m), static_cast<long long>(row), static_cast<long long>(group),
              Text(Number(Load(p, bytes), dtype)).text);
}

Status ReadScaleRow(const ScalesView& view, int32_t expert, Matrix m, int64_t row, int64_t groups,
                    uint8_t* out) {
  const uint8_t* p = view.data + row * view.row_stride;
  const bool raw = ScaleElementBytes(view.dtype) == 1;
  if (raw && view.group_stride == 1) {
    std::memcpy(out, p, static_cast<size_t>(groups));
    const void* bad = std::memchr(out, 255, static_cast<size_t>(groups));
    if (bad == nullptr) return kOk;
    const int64_t g = static_cast<const uint8_t*>(bad) - out;
    return BadScale(expert, m, row, g, p + g, view.dtype);
  }
  for (int64_t g = 0; g < groups; ++g) {
    const uint8_t* at = p + g * view.group_stride;
    const int byte = ScaleByte(at, view.dtype);
    if (byte < 0) return BadScale(expert, m, row, g, at, view.dtype);
    out[g] = static_cast<uint8_t>(byte);
  }
  return kOk;
}

Status ScaleRowToBytes(uint8_t* at, dsv4mx_dtype dtype, int32_t expert, Matrix m, int64_t row,
                       int64_t groups) {
  const int64_t bytes = ScaleElementBytes(dtype);
  if (bytes == 1) {
    const void* bad = std::memchr(at, 255, static_cast<size_t>(groups));
    if (bad == nullptr) return kOk;
    const int64_t g = static_cast<const uint8_t*>(bad) - at;
    return BadScale(expert, m, row, g, at + g, dtype);
  }
  for (int64_t g = 0; g < groups; ++g) {
    const int byte = ScaleByte(at + g * bytes, dtype);
    if (byte < 0) return BadScale(expert, m, row, g, at + g * bytes, dtype);
    at[g] = static_cast<uint8_t>(byte);
  }
  return kOk;
}

}  // namespace dsv4mx
