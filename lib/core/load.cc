#include "lib/core/load.h"

#include "lib/base/names.h"
#include "lib/io/abi_tensor.h"
#include "lib/io/deepseek.h"
#include "lib/io/mapped_file.h"

namespace dsv4mx {
namespace {

class Progress {
 public:
  Progress(const dsv4mx_prepare_args& args, int64_t steps) : args_(args), steps_(steps) {}
  // Called before every step; a step is one expert's tensor, which takes some milliseconds.
  Status Step() {
    const double fraction = static_cast<double>(done_++) / static_cast<double>(steps_);
    if (args_.progress == nullptr || args_.progress(args_.progress_user, fraction) == 0) return kOk;
    return Fail(DSV4MX_STATUS_CANCELLED,
                "load was cancelled by its progress callback after %lld of %lld tensors",
                static_cast<long long>(done_ - 1), static_cast<long long>(steps_));
  }

 private:
  const dsv4mx_prepare_args& args_;
  int64_t steps_, done_ = 0;
};

// A tensor of all experts of the file: those held here are cut out of it, one by one.
Status SetFused(Weights* weights, const io::TensorView& view, const dsv4mx_tensor& whole,
                Progress* progress, dsv4mx_stream stream) {
  const LayerSpec& spec = weights->layer().spec();
  const int64_t experts = whole.shape[0];
  const int64_t bytes = static_cast<int64_t>(view.bytes) / experts;
  dsv4mx_tensor one = whole;
  --one.rank;
  for (int i = 0; i < 3; ++i) one.shape[i] = whole.shape[i + 1];
  one.shape[3] = 0;
  for (int64_t id = 0; id < experts; ++id) {
    DSV4MX_TRY(progress->Step());
    const int32_t local = spec.LocalExpert(id);
    if (local < 0) continue;
    one.data = static_cast<const uint8_t*>(whole.data) + id * bytes;
    if (id + 1 < experts && spec.LocalExpert(id + 1) >= 0) {
      io::Prefetch(static_cast<const uint8_t*>(one.data) + bytes, static_cast<size_t>(bytes));
    }
    DSV4MX_TRY(weights->Set(view.name, local, one, stream));
  }
  return kOk;
}

}  // namespace

Status QueryLayer(const io::Checkpoint& checkpoint, int32_t layer, dsv4mx_layer_desc* desc) {
  io::LayerTensors found;
  DSV4MX_TRY(io::FindLayer(checkpoint, layer, &found));
  desc->hidden = found.hidden;
  desc->intermediate = found.intermediate;
  desc->experts = found.experts;
  desc->experts_global = found.experts;
  // Separate gate and up tensors need no order; a fused one in this naming is [w1; w3].
  desc->w13_order = found.fused ? DSV4MX_W13_ORDER_GATE_UP : DSV4MX_W13_ORDER_UNSET;
  desc->group_size = kGroup;
  return kOk;
}

Status LoadLayer(Weights* weights, const io::Checkpoint& checkpoint, int32_t layer,
                 const dsv4mx_prepare_args& args, dsv4mx_stream stream) {
  io::LayerTensors found;
  DSV4MX_TRY(io::FindLayer(checkpoint, layer, &found));
  const LayerSpec& spec = weights->layer().spec();
  DSV4MX_RETURN_IF(found.hidden != spec.hidden || found.intermediate != spec.intermediate,
                   DSV4MX_STATUS_INVALID_TENSOR,
                   "layer %d of '%s' has hidden %d and intermediate %d, wanted %d and %d", layer,
                   checkpoint.label().c_str(), found.hidden, found.intermediate, spec.hidden,
                   spec.intermediate);
  int64_t steps = 0;
  for (const io::TensorView* view : found.tensors) {
    TensorName name;
    DSV4MX_TRY(ParseTensorName(view->name, &name));
    steps += name.has_expert ? 1 : view->shape[0];
  }
  Progress progress(args, steps);
  for (size_t i = 0; i < found.tensors.size(); ++i) {
    const io::TensorView* view = found.tensors[i];
    dsv4mx_tensor tensor;
    DSV4MX_TRY(io::ToAbiTensor(*view, &tensor));
    TensorName name;
    DSV4MX_TRY(ParseTensorName(view->name, &name));
    if (!name.has_expert) {
      DSV4MX_TRY(SetFused(weights, *view, tensor, &progress, stream));
      continue;
    }
    DSV4MX_TRY(progress.Step());
    if (spec.LocalExpert(name.expert_id) < 0) continue;  // not held here: its bytes are not read
    // One expert ahead, if that one is held.
    constexpr size_t kAhead = 6;
    if (i + kAhead < found.tensors.size() && spec.LocalExpert(name.expert_id + 1) >= 0) {
      io::Prefetch(found.tensors[i + kAhead]->data, found.tensors[i + kAhead]->bytes);
    }
    DSV4MX_TRY(weights->Set(view->name, -1, tensor, stream));
  }
  return progress.Step();
}

}  // namespace dsv4mx
