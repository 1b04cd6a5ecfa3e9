// Every scale that a file can hold, by dtype: the byte it becomes, or the refusal.
#include "lib/base/scales.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "lib/base/float_bits.h"
#include "tests/catch.h"

using namespace dsv4mx;

namespace {

template <class T>
int Byte(T value, dsv4mx_dtype dtype) {
  uint8_t bytes[sizeof(T) + 1];  // an odd address, as in a file
  std::memcpy(bytes + 1, &value, sizeof(T));
  return ScaleByte(bytes + 1, dtype);
}

// The definition, computed another way: a byte b has the value 2^(b-127).
int Expected(double value) {
  for (int b = 0; b <= 254; ++b) {
    if (value == std::ldexp(1.0, b - 127)) return b;
  }
  return kBadScale;
}

}  // namespace

TEST_CASE("scales: raw bytes are taken as they are, 255 is refused", "[unit]") {
  for (const dsv4mx_dtype dtype : {DSV4MX_DTYPE_E8M0, DSV4MX_DTYPE_I8, DSV4MX_DTYPE_U8}) {
    for (int b = 0; b < 255; ++b) CHECK(Byte(static_cast<uint8_t>(b), dtype) == b);
    CHECK(Byte(uint8_t{255}, dtype) == kBadScale);
  }
}

TEST_CASE("scales: every bf16 and every f16 pattern", "[unit]") {
  int bf16 = 0, f16 = 0;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const int got = Byte(half, DSV4MX_DTYPE_BF16);
    if (got != Expected(static_cast<double>(FloatFromBits(bits << 16)))) FAIL("bf16 " << bits);
    bf16 += got >= 0;
    // f16 by its definition: exponent e, mantissa m.
    const int e = static_cast<int>(bits >> 10 & 31), m = static_cast<int>(bits & 1023);
    double value = e == 0 ? std::ldexp(m, -24) : std::ldexp(1024 + m, e - 25);
    if (e == 31) value = std::numeric_limits<double>::quiet_NaN();
    if (bits >> 15) value = -value;
    const int got16 = Byte(half, DSV4MX_DTYPE_F16);
    if (got16 != Expected(value)) FAIL("f16 " << bits);
    f16 += got16 >= 0;
  }
  CHECK(bf16 == 255);  // 2^-127..2^127
  CHECK(f16 == 40);    // 2^-24..2^15
}

TEST_CASE("scales: f32 powers of two and their neighbours", "[unit]") {
  for (int b = 0; b <= 254; ++b) {
    const auto value = static_cast<float>(std::ldexp(1.0, b - 127));
    CHECK(Byte(value, DSV4MX_DTYPE_F32) == b);
    CHECK(Byte(-value, DSV4MX_DTYPE_F32) == kBadScale);
    CHECK(Byte(std::nextafter(value, 0.0f), DSV4MX_DTYPE_F32) == kBadScale);
    CHECK(Byte(std::nextafter(value, INFINITY), DSV4MX_DTYPE_F32) == kBadScale);
  }
  const float bad[] = {0.0f, -0.0f, 0x1p-128f, 0x1p-149f, INFINITY, -INFINITY, NAN, 3.0f, 119.0f};
  for (const float value : bad) CHECK(Byte(value, DSV4MX_DTYPE_F32) == kBadScale);
}

TEST_CASE("scales: dtypes that are no scale", "[unit]") {
  const dsv4mx_dtype others[] = {DSV4MX_DTYPE_DEFAULT,
                                 DSV4MX_DTYPE_E2M1,
                                 DSV4MX_DTYPE_E4M3,
                                 DSV4MX_DTYPE_I32,
                                 DSV4MX_DTYPE_F64,
                                 -1,
                                 1000};
  for (const dsv4mx_dtype dtype : others) {
    CHECK(ScaleElementBytes(dtype) == 0);
    CHECK(Byte(uint64_t{0}, dtype) == kBadScale);
  }
}

TEST_CASE("scales: a row with strides, and the position of what is refused", "[unit]") {
  uint8_t bytes[64];
  for (int i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>(100 + i);
  const ScalesView strided{bytes, 16, 3, DSV4MX_DTYPE_U8, false};
  uint8_t out[16];
  REQUIRE(ReadScaleRow(strided, 0, Matrix::kUp, 2, 5, out).ok());
  for (int g = 0; g < 5; ++g) CHECK(out[g] == 100 + 32 + 3 * g);

  bytes[16 + 6] = 255;
  CHECK(ReadScaleRow(strided, 9, Matrix::kDown, 1, 5, out).code == DSV4MX_STATUS_INVALID_SCALE);
  CHECK(std::string(LastError()) ==
        "scale of expert 9, down (w2), row 1, group 2 is byte 255 (NaN), wanted 0..254");
  const ScalesView dense{bytes, 16, 1, DSV4MX_DTYPE_I8, false};
  CHECK(ReadScaleRow(dense, 9, Matrix::kGate, 1, 16, out).code == DSV4MX_STATUS_INVALID_SCALE);
  CHECK(std::string(LastError()).find("gate (w1), row 1, group 6") != std::string::npos);

  const float numbers[] = {1.0f, 0.5f, 3.0f};
  const ScalesView f32{reinterpret_cast<const uint8_t*>(numbers), 12, 4, DSV4MX_DTYPE_F32, false};
  REQUIRE(ReadScaleRow(f32, 0, Matrix::kGate, 0, 2, out).ok());
  CHECK(out[0] == 127);
  CHECK(out[1] == 126);
  CHECK(ReadScaleRow(f32, 0, Matrix::kGate, 0, 3, out).code == DSV4MX_STATUS_INVALID_SCALE);
  CHECK(std::string(LastError()).find("group 2 is 3, wanted an exact power of two") !=
        std::string::npos);
}
