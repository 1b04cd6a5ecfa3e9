// The prepared layout of the CPU backend, as index arithmetic that the store, the kernels' tests and nothing else use.
//
// A matrix [rows, K] comes in tiles of 32 rows, so that the lanes of a vector are rows: a value of x is broadcast, a
// scale is applied to 32 sums at once, and nothing is ever added across lanes. Inside a tile the unit is what four
// codes of one row take in raw form, 16 bits with k ascending from the low nibble, and the 32 units of four k follow
// each other:
//
//   codes   [rows/32][K/4][32 rows] of 16 bits     unit of (row, k) holds k at bit 4*(k%4)
//   scales  [rows/32][K/32][32 rows] of 8 bits
//
// Two neighbouring rows make one 32-bit lane (AVX-512 shifts and looks 16 values up at a time), two codes of one row
// make two neighbouring bytes (AVX2 looks bytes up and unpacks them). Both sizes are multiples of 32 (spec.h), so there
// is no padding: exactly 4.25 bit per weight. All codes of a layer come first, expert by expert in the order of
// kMatrices, then all scales alike, then the biases as f32.
#ifndef DSV4MX_LIB_BASE_CPU_LAYOUT_H_
#define DSV4MX_LIB_BASE_CPU_LAYOUT_H_

#include <cstdint>

#include "lib/base/spec.h"

namespace dsv4mx {

inline constexpr int kCpuTileRows = 32;
inline constexpr int kCpuUnitK = 4;  // codes in a 16-bit unit
inline constexpr int64_t kCpuAlign =
    64;  // of the whole; every tile of codes starts on a cache line

// Byte offset inside a matrix of the 16-bit unit (stored low byte first) that holds (row, k), and the code's bit.
struct CpuPos {
  int64_t byte;
  int bit;
};
inline CpuPos CpuCode(int64_t K, int64_t row, int64_t k) {
  const int64_t tile = row / kCpuTileRows, unit = k / kCpuUnitK;
  return CpuPos{tile * (kCpuTileRows * K / 2) + (unit * kCpuTileRows + row % kCpuTileRows) * 2,
                static_cast<int>(4 * (k % kCpuUnitK))};
}

// Byte offset inside a matrix of the scale of (row, group of 32 k).
inline int64_t CpuScale(int64_t K, int64_t row, int64_t group) {
  return row / kCpuTileRows * K + group * kCpuTileRows + row % kCpuTileRows;
}

// Where the parts of a layer's store begin.
class CpuLayout {
 public:
  CpuLayout() = default;
  explicit CpuLayout(const LayerSpec& s)
      : hidden_(s.hidden),
        intermediate_(s.intermediate),
        bias13_(s.w13_bias != 0 ? s.intermediate : 0),
        bias2_(s.w2_bias != 0 ? s.hidden : 0) {
    const int64_t weights = 3 * hidden_ * intermediate_ * s.experts;
    scales_ = weights / 2;
    biases_ = scales_ + weights / kGroup;
    bytes_ = biases_ + 4 * s.experts * (2 * bias13_ + bias2_);
  }
  int64_t Codes(int64_t expert, Matrix m) const { return Values(expert, m) / 2; }
  int64_t Scales(int64_t expert, Matrix m) const { return scales_ + Values(expert, m) / kGroup; }
  int64_t Bias(int64_t expert, Matrix m) const {
    return biases_ + 4 * (expert * (2 * bias13_ + bias2_) + static_cast<int>(m) * bias13_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t Values(int64_t expert, Matrix m) const {
    return (3 * expert + static_cast<int>(m)) * hidden_ * intermediate_;
  }
  int64_t hidden_ = 0, intermediate_ = 0, bias13_ = 0, bias2_ = 0;
  int64_t scales_ = 0, biases_ = 0, bytes_ = 0;
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_CPU_LAYOUT_H_
