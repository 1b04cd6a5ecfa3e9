#include "lib/core/load.h"

#include "lib/base/names.h"
#include "lib/io/abi_tensor.h"
#include "lib/io/deepseek.h"
#include "lib/io/mapped_file.h"

namespace dsv4mx {
namespace {

class Progress {
 public:
  Progress(const Control& control, int64_t bytes) : control_(control), bytes_(bytes) {}
  // Called before every step; a step is one expert's tensor, which takes some milliseconds.
  Status Step(int64_t bytes) {
    const int64_t before = done_;
    done_ += bytes;
    return control_.Report(DSV4MX_STAGE_LOAD, before, bytes_);
  }

 private:
  const Control& control_;
  int64_t bytes_, done_ = 0;
};

// Blocks under a prefix of the caller's own are not looked up by number.
Status NumberOf(const dsv4mx_block& block, int32_t* layer) {
  DSV4MX_RETURN_IF(block.kind == DSV4MX_BLOCK_PREFIX, DSV4MX_STATUS_UNSUPPORTED,
                   "kind of block is PREFIX, wanted LAYER or MTP in this version");
  *layer = block.kind == DSV4MX_BLOCK_MTP ? -1 - block.index : block.index;
  return kOk;
}

// A tensor of all experts of the file: those held here are cut out of it, one by one.
Status SetFused(Weights* weights, const io::TensorView& view, const dsv4mx_tensor& whole,
                Progress* progress, const Weights::Call& call) {
  const LayerSpec& spec = weights->layer().spec();
  const int64_t experts = whole.shape[0];
  const int64_t bytes = static_cast<int64_t>(view.bytes) / experts;
  dsv4mx_tensor one = whole;
  --one.rank;
  for (int i = 0; i < 3; ++i) one.shape[i] = whole.shape[i + 1];
  one.shape[3] = 0;
  for (int64_t id = 0; id < experts; ++id) {
    DSV4MX_TRY(progress->Step(bytes));
    const int32_t local = spec.placement.FirstCopy(id);
    if (local < 0) continue;
    one.data = static_cast<const uint8_t*>(whole.data) + id * bytes;
    if (id + 1 < experts && spec.placement.FirstCopy(id + 1) >= 0) {
      io::Prefetch(static_cast<const uint8_t*>(one.data) + bytes, static_cast<size_t>(bytes));
    }
    DSV4MX_TRY(weights->Set(view.name, local, one, call));
  }
  return kOk;
}

}  // namespace

Status QueryLayer(const io::Checkpoint& checkpoint, const dsv4mx_block& block,
                  dsv4mx_layer_desc* desc) {
  int32_t layer = 0;
  DSV4MX_TRY(NumberOf(block, &layer));
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

Status LoadLayer(Weights* weights, const io::Checkpoint& checkpoint, const dsv4mx_block& block,
                 const Weights::Call& call) {
  DSV4MX_TRY(weights->CheckOpen("a layer was loaded"));
  int32_t layer = 0;
  DSV4MX_TRY(NumberOf(block, &layer));
  io::LayerTensors found;
  DSV4MX_TRY(io::FindLayer(checkpoint, layer, &found));
  const LayerSpec& spec = weights->layer().spec();
  DSV4MX_RETURN_IF(found.hidden != spec.hidden || found.intermediate != spec.intermediate_global,
                   DSV4MX_STATUS_INVALID_TENSOR,
                   "layer %d of '%s' has hidden %d and intermediate %d, wanted %d and %d", layer,
                   checkpoint.label().c_str(), found.hidden, found.intermediate, spec.hidden,
                   spec.intermediate_global);
  DSV4MX_RETURN_IF(spec.intermediate != spec.intermediate_global, DSV4MX_STATUS_UNSUPPORTED,
                   "the layer holds channels %d..%d of %d, and load does not cut tensors in this "
                   "version; set slices with dsv4mx_weights_set",
                   spec.intermediate_first, spec.intermediate_first + spec.intermediate - 1,
                   spec.intermediate_global);
  int64_t bytes = 0;
  for (const io::TensorView* view : found.tensors) bytes += static_cast<int64_t>(view->bytes);
  Progress progress(call.control, bytes);
  const Control part = call.control.Part();  // a tensor would count from 0 again
  const Weights::Call quiet{call.stream, part};
  for (size_t i = 0; i < found.tensors.size(); ++i) {
    const io::TensorView* view = found.tensors[i];
    dsv4mx_tensor tensor;
    DSV4MX_TRY(io::ToAbiTensor(*view, &tensor));
    TensorName name;
    DSV4MX_TRY(ParseTensorName(view->name, &name));
    if (!name.has_expert) {
      DSV4MX_TRY(SetFused(weights, *view, tensor, &progress, quiet));
      continue;
    }
    DSV4MX_TRY(progress.Step(static_cast<int64_t>(view->bytes)));
    if (spec.placement.FirstCopy(name.expert_id) < 0)
      continue;  // not held here: its bytes are not read
    // One expert ahead, if that one is held.
    constexpr size_t kAhead = 6;
    if (i + kAhead < found.tensors.size() && spec.placement.FirstCopy(name.expert_id + 1) >= 0) {
      io::Prefetch(found.tensors[i + kAhead]->data, found.tensors[i + kAhead]->bytes);
    }
    DSV4MX_TRY(weights->Set(view->name, -1, tensor, quiet));
  }
  return progress.Step(0);
}

}  // namespace dsv4mx
