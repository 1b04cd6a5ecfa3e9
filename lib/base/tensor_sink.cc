#include "lib/base/tensor_sink.h"

#include <cstring>

#include "lib/base/float_bits.h"

namespace dsv4mx {
namespace {

float ScaleValue(uint8_t byte) {
  return FloatFromBits(byte == 0 ? 0x00400000u : static_cast<uint32_t>(byte) << 23);
}

// Without a rounding of its own: a code has two significant bits, and 2^-128 is a bf16 number as well.
uint16_t WeightOf(uint32_t code, float scale) {
  constexpr float kMagnitudes[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  const uint16_t magnitude = Bf16FromFloat(kMagnitudes[code & 7] * scale);
  return static_cast<uint16_t>(magnitude | (code >> 3) << 15);
}

}  // namespace

void TensorSink::MakeRow(const uint8_t* codes, const uint8_t* scales, int64_t k,
                         uint8_t* row) const {
  switch (form) {
    case TensorForm::kCodes:
      for (int64_t i = 0; i < k / 2; ++i) {
        row[i] = high_first ? static_cast<uint8_t>(codes[i] << 4 | codes[i] >> 4) : codes[i];
      }
      return;
    case TensorForm::kScales:
      std::memcpy(row, scales, static_cast<size_t>(k / kGroupSize));
      return;
    default:
      for (int64_t i = 0; i < k; ++i) {
        const uint32_t code = codes[i / 2] >> (4 * (i % 2)) & 15u;
        const uint16_t weight = WeightOf(code, ScaleValue(scales[i / kGroupSize]));
        std::memcpy(row + 2 * i, &weight, 2);
      }
  }
}

void TensorSink::PutRow(const uint8_t* row, int64_t k, int64_t number) const {
  uint8_t* to = data + number * row_stride;
  const auto bytes = static_cast<size_t>(ElementBytes());
  const int64_t columns = Columns(k);
  if (columns == 1 || column_stride == ElementBytes()) {
    std::memcpy(to, row, static_cast<size_t>(columns) * bytes);
    return;
  }
  for (int64_t c = 0; c < columns; ++c) {
    std::memcpy(to + c * column_stride, row + c * ElementBytes(), bytes);
  }
}

}  // namespace dsv4mx
