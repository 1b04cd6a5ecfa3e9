// Cases on the device: a raw model in device memory, the layer made from it through the public C ABI with device tensors,
// and calls whose every buffer is guarded. The host sees ids, router weights and the rows that are judged, nothing else,
// so that real sizes are cheap.
#ifndef DSV4MX_TESTS_GPU_GPU_LAYER_H_
#define DSV4MX_TESTS_GPU_GPU_LAYER_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dsv4mx.h"
#include "tests/gpu/gpu_reference.h"
#include "tests/gpu/guard_pages.h"
#include "tests/runner.h"

namespace dsv4mx::test {

// A problem on the device. Its seed is the run's and the text's, unless the text has one.
Problem GpuProblem(const std::string& text);

// Ids and router weights as MakeInputs gives them, without x: that is made on the device.
Inputs MakeRouting(const Problem& problem);

// A case without experts and x in host memory.
Case GpuCase(const Problem& problem);
inline Case GpuCase(const std::string& text) {
  return GpuCase(GpuProblem(text));
}

// One rank's experts in raw form in device memory.
class RawModel {
 public:
  explicit RawModel(const Case& c);  // the case's experts, or hashed ones if it holds none
  GpuExperts View() const;
  ExpertData Read(int32_t expert) const;
  std::vector<float> ReadBias(int32_t expert, int matrix) const;  // empty if there is none
  // Gives every tensor to the weights as whole device tensors, fused if the problem has an order.
  void SetAll(dsv4mx_weights* weights, const Problem& p) const;
  std::string Damage() const;
  const DeviceBuffer& codes(int matrix) const { return *codes_[matrix]; }

 private:
  int64_t Rows(int matrix) const { return matrix == kDown ? hidden_ : intermediate_; }
  int64_t K(int matrix) const { return matrix == kDown ? intermediate_ : hidden_; }
  std::unique_ptr<DeviceBuffer> Fused(const DeviceBuffer& gate, const DeviceBuffer& up,
                                      int64_t row_bytes, dsv4mx_w13_order order) const;
  int64_t hidden_, intermediate_;
  int32_t experts_;
  std::unique_ptr<DeviceBuffer> codes_[3], scales_[3], bias_[3];
};

// A layer with prepared weights on the device.
class GpuLayer {
 public:
  // raw: shared by layers of the same sizes and numbers; made if null.
  explicit GpuLayer(const Case& c, std::shared_ptr<const RawModel> raw = nullptr,
                    const dsv4mx_context* context = nullptr);
  const Case& c() const { return case_; }
  const Problem& p() const { return case_.p; }
  const std::shared_ptr<const RawModel>& raw() const { return raw_; }
  const dsv4mx_context* context() const { return context_; }
  const dsv4mx_layer* layer() const { return layer_.get(); }
  const dsv4mx_weights* weights() const { return weights_.get(); }
  std::string Plan(int64_t tokens) const;

 private:
  Case case_;
  std::shared_ptr<const RawModel> raw_;
  const dsv4mx_context* context_;
  LayerPtr layer_;
  WeightsPtr weights_;
};

struct GpuCallOptions {
  Guard guard = Guard::kBands;
  std::optional<int32_t> tokens_device;
  bool fill = true;  // false: nothing is written where the library has to write
  int poison = 0xFF;
};

// The buffers of one call, which may be made many times.
class GpuCall {
 public:
  GpuCall(const GpuLayer& layer, const Inputs& in, const GpuCallOptions& options = {});
  const Inputs& in() const { return in_; }
  int64_t tokens() const { return args_.tokens; }
  int64_t live() const;  // rows that are written
  // Other ids and router weights (and x, if there is one) for as many tokens. The device must be idle.
  void SetInputs(const Inputs& in);
  void SetCount(int32_t tokens);
  void Poison();
  void Enqueue(CUstream_st* stream) const;
  // Enqueue on the default stream and wait.
  void Run() const;
  // "" or what was written outside the output's live rows, or anywhere in an input.
  std::string Damage() const;
  std::vector<uint16_t> X() const;                        // [tokens, hidden]
  Output Rows(const std::vector<int64_t>& tokens) const;  // one after the other
  std::vector<uint8_t> RowBytes(const std::vector<int64_t>& tokens) const;
  dsv4mx_apply_args& args() { return args_; }
  const GpuLayer& layer() const { return layer_; }
  const uint16_t* x() const { return reinterpret_cast<const uint16_t*>(x_->data()); }
  int64_t x_stride() const;
  const DeviceBuffer& out() const { return *out_; }

 private:
  int64_t ElementBytes() const { return layer_.p().out == DSV4MX_DTYPE_F32 ? 4 : 2; }
  int64_t out_stride() const;
  const GpuLayer& layer_;
  Inputs in_;
  GpuCallOptions options_;
  std::unique_ptr<DeviceBuffer> x_, ids_, weights_, out_, workspace_, count_;
  dsv4mx_apply_args args_;
};

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_GPU_LAYER_H_
