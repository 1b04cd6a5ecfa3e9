// A case through the public C ABI: context, layer, weights, apply, with every buffer guarded. What the library refuses
// is thrown as Refused with its status and text.
#ifndef DSV4MX_TESTS_RUNNER_H_
#define DSV4MX_TESTS_RUNNER_H_

#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "dsv4mx.h"
#include "tests/guarded.h"
#include "tests/layer_data.h"

namespace dsv4mx::test {

struct Refused : std::runtime_error {
  Refused(const std::string& call, dsv4mx_status s)
      : std::runtime_error(call + ": " + dsv4mx_status_name(s) + ": " + dsv4mx_last_error()),
        status(s) {}
  Refused(const std::string& call, dsv4mx_status s, const std::string& text)
      : std::runtime_error(call + ": " + dsv4mx_status_name(s) + ": " + text), status(s) {}
  dsv4mx_status status;
};

// A block of a checkpoint by number: layers.N, or mtp.(-1-N) for N < 0. For the length of one call.
struct Block {
  explicit Block(int32_t n) {
    block.kind = n < 0 ? DSV4MX_BLOCK_MTP : DSV4MX_BLOCK_LAYER;
    block.index = n < 0 ? -1 - n : n;
  }
  operator const dsv4mx_block*() const { return &block; }
  dsv4mx_block block = DSV4MX_BLOCK_INIT;
};

// Throws Refused unless the call succeeded.
void Must(dsv4mx_status status, const char* call);

struct Destroy {
  void operator()(dsv4mx_context* p) const { dsv4mx_context_destroy(p); }
  void operator()(dsv4mx_layer* p) const { dsv4mx_layer_destroy(p); }
  void operator()(dsv4mx_weights* p) const { dsv4mx_weights_destroy(p); }
};
using ContextPtr = std::unique_ptr<dsv4mx_context, Destroy>;
using LayerPtr = std::unique_ptr<dsv4mx_layer, Destroy>;
using WeightsPtr = std::unique_ptr<dsv4mx_weights, Destroy>;

// One context per (device, isa, threads), kept for the whole run.
dsv4mx_context* ContextOf(const Problem& problem);
dsv4mx_context* CpuContext();

// The extension of a layer's descriptor; static.
const dsv4mx_layer_experimental* Experimental(dsv4mx_number_path path, dsv4mx_oracle oracle);

// Workspace at full speed.
size_t WorkspaceBytes(const dsv4mx_layer* layer, int64_t tokens);

// What prepared weights say of their scales.
struct WeightsFacts {
  dsv4mx_weights_info info;
  dsv4mx_weights_census census;
};
WeightsFacts FactsOf(const dsv4mx_weights* weights);

// A descriptor of the case; it points into the case's placement.
dsv4mx_layer_desc DescOf(const Case& c);

LayerPtr MakeLayer(const dsv4mx_context* context, const dsv4mx_layer_desc& desc);
WeightsPtr MakeWeights(const dsv4mx_layer* layer);

// A contiguous host tensor.
dsv4mx_tensor Tensor(const void* data, dsv4mx_dtype dtype, std::initializer_list<int64_t> shape);

// One tensor of one expert as the case's problem wants it given, ready to be set.
struct NamedTensor {
  std::string name;
  int32_t expert;
  std::vector<uint8_t> bytes;
  dsv4mx_dtype dtype;
  std::vector<int64_t> shape;
  dsv4mx_tensor View() const;
};
// Everything that expert `e` needs: w1/w3/w2 for an unset order, else w13/w2, in the case's nibble order.
std::vector<NamedTensor> TensorsOf(const Problem& p, int32_t e, const ExpertData& data);

void SetExpert(dsv4mx_weights* weights, const Problem& p, int32_t e, const ExpertData& data);

struct Output {
  int64_t tokens = 0, hidden = 0;
  std::vector<uint8_t> raw;  // rows without the gaps of the stride
  std::vector<float> y;
  std::string
      damage;  // "" or what was written outside the output, the workspace or the rows to process
};

struct ApplyOptions {
  int64_t tokens_device = -1;  // >= 0: given to the layer as a device integer
  Edge edge = Edge::kEnd;
  int poison = 0xFF;  // bytes that output and workspace start with
  bool minimum_workspace = false;
  const std::vector<uint8_t>* accumulate = nullptr;  // out before the call, rows without gaps
  std::vector<int64_t>* expert_counts = nullptr;     // added to
  int32_t multiprocessors = 0;
};

// One apply with every buffer guarded; sizes and types are the problem's.
Output ApplyGuarded(const dsv4mx_context* context, const dsv4mx_layer* layer,
                    const dsv4mx_weights* weights, const Problem& p, const Inputs& in,
                    const ApplyOptions& options = {});

// A layer with prepared weights.
class Runner {
 public:
  explicit Runner(const Case& c, const dsv4mx_context* context = nullptr);
  Output Apply(const Inputs& in, const ApplyOptions& options = {}) const {
    return ApplyGuarded(context_, layer_.get(), weights_.get(), case_.p, in, options);
  }
  Output Apply() const { return Apply(case_.in); }
  const dsv4mx_layer* layer() const { return layer_.get(); }
  dsv4mx_weights* weights() const { return weights_.get(); }
  const dsv4mx_context* context() const { return context_; }
  dsv4mx_layer_info info() const;

 private:
  Case case_;
  const dsv4mx_context* context_;
  LayerPtr layer_;
  WeightsPtr weights_;
};

// ids and router weights as the layer's types.
std::vector<uint8_t> PackIds(const Problem& p, const std::vector<int64_t>& ids);
std::vector<uint8_t> PackRouterWeights(const Problem& p, const std::vector<float>& weights);

// The inputs of some tokens alone.
Inputs TakeRows(const Problem& p, const Inputs& in, const std::vector<int64_t>& tokens);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_RUNNER_H_
