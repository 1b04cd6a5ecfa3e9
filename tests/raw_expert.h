// One expert in raw form in plain vectors: what the layout tests pack from and unpack into.
#ifndef DSV4MX_TESTS_RAW_EXPERT_H_
#define DSV4MX_TESTS_RAW_EXPERT_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "lib/base/expert_rows.h"

namespace dsv4mx::test {

class RawExpert : public ExpertReader, public ExpertWriter {
 public:
  explicit RawExpert(const LayerSpec& spec) {
    for (const Matrix m : kMatrices) {
      Tensors& t = tensors_[static_cast<int>(m)];
      t.k = spec.K(m);
      t.codes.resize(static_cast<size_t>(spec.Rows(m) * t.k / 2));
      t.scales.resize(static_cast<size_t>(spec.Rows(m) * t.k / kGroupSize));
      t.bias.resize(static_cast<size_t>(spec.Rows(m)));
    }
  }

  std::vector<uint8_t>& codes(Matrix m) { return tensors_[static_cast<int>(m)].codes; }
  std::vector<uint8_t>& scales(Matrix m) { return tensors_[static_cast<int>(m)].scales; }
  std::vector<float>& bias(Matrix m) { return tensors_[static_cast<int>(m)].bias; }

  void ReadCodes(Matrix m, int64_t row, uint8_t* out) const override {
    const Tensors& t = tensors_[static_cast<int>(m)];
    std::memcpy(out, t.codes.data() + row * (t.k / 2), static_cast<size_t>(t.k / 2));
  }
  void ReadScales(Matrix m, int64_t row, uint8_t* out) const override {
    const Tensors& t = tensors_[static_cast<int>(m)];
    std::memcpy(out, t.scales.data() + row * (t.k / kGroupSize),
                static_cast<size_t>(t.k / kGroupSize));
  }
  float ReadBias(Matrix m, int64_t row) const override {
    return tensors_[static_cast<int>(m)].bias[static_cast<size_t>(row)];
  }
  void WriteCodes(Matrix m, int64_t row, const uint8_t* from) override {
    Tensors& t = tensors_[static_cast<int>(m)];
    std::memcpy(t.codes.data() + row * (t.k / 2), from, static_cast<size_t>(t.k / 2));
  }
  void WriteScales(Matrix m, int64_t row, const uint8_t* from) override {
    Tensors& t = tensors_[static_cast<int>(m)];
    std::memcpy(t.scales.data() + row * (t.k / kGroupSize), from,
                static_cast<size_t>(t.k / kGroupSize));
  }
  void WriteBias(Matrix m, int64_t row, float value) override {
    tensors_[static_cast<int>(m)].bias[static_cast<size_t>(row)] = value;
  }

 private:
  struct Tensors {
    int64_t k = 0;
    std::vector<uint8_t> codes, scales;
    std::vector<float> bias;
  };
  Tensors tensors_[3];
};

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_RAW_EXPERT_H_
