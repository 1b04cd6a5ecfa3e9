// The six tensors of a layer in Marlin form at its default paddings, all experts, with guards around each: in device memory,
// or in host memory at odd addresses. The sizes are those of dsv4mx.h, counted here and not by the library.
#ifndef DSV4MX_TESTS_GPU_MARLIN_TENSORS_H_
#define DSV4MX_TESTS_GPU_MARLIN_TENSORS_H_

#include <memory>
#include <string>
#include <vector>

#include "tests/gpu/gpu_layer.h"

namespace dsv4mx::test {

class MarlinTensors {
 public:
  static constexpr int kTensors = 6;
  // Not initialised: see Fill.
  MarlinTensors(const GpuLayer& layer, dsv4mx_memory memory);
  const dsv4mx_marlin& desc() const { return desc_; }
  size_t bytes(int tensor) const { return bytes_[tensor]; }
  uint8_t* data(int tensor) const;  // of a tensor with bytes
  void Fill(int value);
  void Write(const std::vector<std::vector<uint8_t>>& tensors);
  std::vector<std::vector<uint8_t>> Read() const;
  std::string Damage() const;

 private:
  dsv4mx_marlin desc_ = DSV4MX_MARLIN_INIT;
  size_t bytes_[kTensors];
  std::vector<uint8_t> host_[kTensors];  // a band, the tensor, a band
  std::unique_ptr<DeviceBuffer> device_[kTensors];
};

// What the weights hold, exported on the default stream.
std::vector<std::vector<uint8_t>> ExportMarlin(const GpuLayer& layer,
                                               const dsv4mx_weights* weights);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_MARLIN_TENSORS_H_
