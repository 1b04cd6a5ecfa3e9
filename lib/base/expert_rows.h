// One expert's tensors row by row in raw form: what every change of layout reads from and writes
// to, so that a backend shows its own layout to the Marlin code, the sm90 code and the tests
// through one pair of interfaces.
#ifndef DSV4MX_LIB_BASE_EXPERT_ROWS_H_
#define DSV4MX_LIB_BASE_EXPERT_ROWS_H_

#include <cstdint>

#include "lib/base/spec.h"

namespace dsv4mx {

// Raw form of row r of a matrix: K/2 bytes of codes, low nibble = even k; K/32 E8M0 bytes; one bias
// value.
class ExpertReader {
 public:
  virtual ~ExpertReader() = default;
  virtual void ReadCodes(Matrix m, int64_t row, uint8_t* codes) const = 0;
  virtual void ReadScales(Matrix m, int64_t row, uint8_t* scales) const = 0;
  virtual float ReadBias(Matrix m,
                         int64_t row) const = 0;  // only called where the layer has that bias
};

class ExpertWriter {
 public:
  virtual ~ExpertWriter() = default;
  virtual void WriteCodes(Matrix m, int64_t row, const uint8_t* codes) = 0;
  virtual void WriteScales(Matrix m, int64_t row, const uint8_t* scales) = 0;
  virtual void WriteBias(Matrix m, int64_t row, float bias) = 0;
};

// Whether a group of 32 codes (16 bytes) holds nothing but zeros of either sign, so that its scale
// has no effect.
inline bool GroupIsZero(const uint8_t* codes) {
  uint8_t any = 0;
  for (int i = 0; i < kGroupSize / 2; ++i) any |= codes[i] & 0x77;
  return any == 0;
}

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_EXPERT_ROWS_H_
