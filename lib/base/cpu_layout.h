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
// is no padding inside: exactly 4.25 bit per weight. An expert is one slab (slab.h): the codes of its matrices in the order
// of kMatrices, their scales alike, the biases as f32, and zeros up to a whole cache line. Slabs follow each other.
#ifndef DSV4MX_LIB_BASE_CPU_LAYOUT_H_
#define DSV4MX_LIB_BASE_CPU_LAYOUT_H_

#include <cstdint>

#include "lib/base/spec.h"

namespace dsv4mx {

inline constexpr int kCpuTileRows = 32;
inline constexpr int kCpuUnitK = 4;       // codes in a 16-bit unit
inline constexpr int64_t kCpuAlign = 64;  // of every slab, and with it of every tile of codes

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

// Where the parts of an expert's slab begin, counted from the first slab of a layer.
class CpuLayout {
 public:
  CpuLayout() = default;
  explicit CpuLayout(const LayerSpec& s)
      : weights_(int64_t{s.hidden} * s.intermediate),
        experts_(s.experts),
        bias13_(s.w13_bias != 0 ? s.intermediate : 0) {
    scales_ = 3 * weights_ / 2;
    biases_ = scales_ + 3 * weights_ / kGroupSize;
    padding_ = biases_ + 4 * (2 * bias13_ + (s.w2_bias != 0 ? s.hidden : 0));
    slab_ = (padding_ + kCpuAlign - 1) / kCpuAlign * kCpuAlign;
  }
  int64_t Codes(int64_t expert, Matrix m) const {
    return expert * slab_ + static_cast<int>(m) * weights_ / 2;
  }
  int64_t Scales(int64_t expert, Matrix m) const {
    return expert * slab_ + scales_ + static_cast<int>(m) * weights_ / kGroupSize;
  }
  int64_t Bias(int64_t expert, Matrix m) const {
    return expert * slab_ + biases_ + 4 * static_cast<int>(m) * bias13_;
  }
  // Inside a slab: the zeros at its end.
  int64_t Padding() const { return padding_; }
  int64_t slab_bytes() const { return slab_; }
  int64_t bytes() const { return experts_ * slab_; }

 private:
  int64_t weights_ = 0;  // values of one matrix
  int64_t experts_ = 0;
  int64_t bias13_ = 0;
  int64_t scales_ = 0, biases_ = 0, padding_ = 0, slab_ = 0;
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_CPU_LAYOUT_H_
