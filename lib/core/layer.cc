#include "lib/core/layer.h"

#include <cstdint>
#include <cstdio>
#include <cstring>

#include "lib/core/weights.h"

namespace dsv4mx {
namespace {

constexpr int64_t kVector = 8;                    // strides keep rows 16-byte aligned
constexpr uintptr_t kRowAlignment = 16;           // of x and out
constexpr int64_t kMaxStride = int64_t{1} << 40;  // stride * tokens * 4 bytes stays far below 2^63

Status CheckTokens(const char* name, int64_t tokens) {
  if (tokens >= 0 && tokens <= kMaxTokens) return kOk;
  return Fail(DSV4MX_STATUS_INVALID_ARGUMENT, "%s is %lld, wanted 0..%lld", name,
              static_cast<long long>(tokens), static_cast<long long>(kMaxTokens));
}

Status CheckPointer(const char* name, const void* pointer, uintptr_t alignment) {
  DSV4MX_RETURN_IF(pointer == nullptr, DSV4MX_STATUS_INVALID_ARGUMENT, "%s is NULL", name);
  DSV4MX_RETURN_IF(reinterpret_cast<uintptr_t>(pointer) % alignment != 0, DSV4MX_STATUS_MISALIGNED,
                   "%s is %p, wanted a multiple of %d bytes", name, pointer,
                   static_cast<int>(alignment));
  return kOk;
}

Status CheckStride(const char* name, int64_t stride, int64_t hidden, int64_t* out) {
  if (stride == 0) stride = hidden;
  DSV4MX_RETURN_IF(stride < hidden || stride > kMaxStride, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "%s is %lld, wanted 0 or at least hidden = %lld (at most 2^40)", name,
                   static_cast<long long>(stride), static_cast<long long>(hidden));
  DSV4MX_RETURN_IF(stride % kVector != 0, DSV4MX_STATUS_MISALIGNED,
                   "%s is %lld, wanted a multiple of 8", name, static_cast<long long>(stride));
  *out = stride;
  return kOk;
}

}  // namespace

Status Layer::Create(std::shared_ptr<const Context> context, const dsv4mx_layer_desc& desc,
                     std::shared_ptr<const Layer>* out) {
  auto spec = std::make_shared<LayerSpec>();
  DSV4MX_TRY(MakeSpec(desc, spec.get()));
  std::shared_ptr<Layer> layer(new Layer);
  layer->context_ = std::move(context);
  layer->spec_ = std::move(spec);
  DSV4MX_TRY(layer->context_->backend().MakeLayer(layer->spec_, &layer->backend_));
  *out = std::move(layer);
  return kOk;
}

void Layer::Query(dsv4mx_layer_info* out) const {
  dsv4mx_context_info device{};
  context_->backend().Query(&device);
  out->device = device.device;
  out->number_path = spec_->number_path;
  out->prepared_bytes = backend_->PreparedBytes();
  out->peak_extra_bytes = backend_->PeakExtraBytes();
  out->prepared_alignment = backend_->PreparedAlignment();
  out->workspace_alignment = static_cast<int64_t>(kDeviceAlignment);
  out->max_tokens = kMaxTokens;
  context_->backend().Name(out->backend, sizeof(out->backend));
}

Status Layer::WorkspaceBytes(int64_t max_tokens, size_t* bytes) const {
  DSV4MX_TRY(CheckTokens("max_tokens", max_tokens));
  *bytes = backend_->WorkspaceBytes(max_tokens);
  return kOk;
}

Status Layer::PlanText(const Weights* weights, int64_t tokens, char* text, size_t bytes) const {
  DSV4MX_TRY(CheckTokens("tokens", tokens));
  DSV4MX_RETURN_IF(weights != nullptr && &weights->layer() != this, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "the weights are of another layer");
  char line[1024];
  line[0] = '\0';
  backend_->PlanText(tokens, weights == nullptr ? nullptr : weights->census(), line, sizeof(line));
  const size_t needed = std::strlen(line) + 1;
  DSV4MX_RETURN_IF(bytes < needed, DSV4MX_STATUS_BUFFER_TOO_SMALL,
                   "the text buffer has %zu bytes, wanted %zu", bytes, needed);
  std::memcpy(text, line, needed);
  return kOk;
}

Status Layer::CheckApply(const dsv4mx_apply_args& args, ApplyCall* call) const {
  const LayerSpec& s = *spec_;
  DSV4MX_TRY(CheckTokens("tokens", args.tokens));
  DSV4MX_TRY(CheckStride("x_stride", args.x_stride, s.hidden, &call->x_stride));
  DSV4MX_TRY(CheckStride("out_stride", args.out_stride, s.hidden, &call->out_stride));
  call->x = args.x;
  call->topk_ids = args.topk_ids;
  call->topk_weights = args.topk_weights;
  call->out = args.out;
  call->tokens = args.tokens;
  call->tokens_device = args.tokens_device;
  call->workspace = args.workspace;
  call->workspace_bytes = args.workspace_bytes;
  if (args.tokens == 0) return kOk;  // nothing is read or written, so the pointers may be NULL

  DSV4MX_TRY(CheckPointer("x", args.x, kRowAlignment));
  DSV4MX_TRY(CheckPointer("topk_ids", args.topk_ids, s.ids_dtype == DSV4MX_DTYPE_I64 ? 8 : 4));
  DSV4MX_TRY(CheckPointer("topk_weights", args.topk_weights,
                          s.router_weight_dtype == DSV4MX_DTYPE_BF16 ? 2 : 4));
  DSV4MX_TRY(CheckPointer("out", args.out, kRowAlignment));
  DSV4MX_RETURN_IF(args.x == args.out, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "out is x, wanted memory of its own");
  if (args.tokens_device != nullptr) {
    DSV4MX_TRY(CheckPointer("tokens_device", args.tokens_device, 4));
  }
  const size_t needed = backend_->WorkspaceBytes(args.tokens);
  if (needed == 0) return kOk;
  DSV4MX_TRY(CheckPointer("workspace", args.workspace, kDeviceAlignment));
  DSV4MX_RETURN_IF(args.workspace_bytes < needed, DSV4MX_STATUS_WORKSPACE_TOO_SMALL,
                   "workspace has %zu bytes, wanted %zu for %lld tokens", args.workspace_bytes,
                   needed, static_cast<long long>(args.tokens));
  return kOk;
}

Status Layer::Apply(const Weights& weights, const dsv4mx_apply_args& args,
                    dsv4mx_stream stream) const {
  DSV4MX_RETURN_IF(&weights.layer() != this, DSV4MX_STATUS_INVALID_STATE,
                   "the weights are of another layer, wanted weights created from this one");
  const Census* census = weights.census();
  DSV4MX_RETURN_IF(census == nullptr, DSV4MX_STATUS_INVALID_STATE,
                   "the weights are not prepared, wanted dsv4mx_weights_prepare before apply");
  ApplyCall call{};
  DSV4MX_TRY(CheckApply(args, &call));
  if (args.tokens == 0) return kOk;
  return backend_->Apply(weights.store(), *census, call, stream);
}

}  // namespace dsv4mx
