#include "lib/core/layer.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "lib/core/overlap.h"
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

// Of rows of [tokens, top_k].
Status CheckPairStride(const char* name, int64_t stride, int64_t top_k, int64_t* out) {
  if (stride == 0) stride = top_k;
  DSV4MX_RETURN_IF(stride < top_k || stride > kMaxStride, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "%s is %lld, wanted 0 or at least top_k = %lld (at most 2^40)", name,
                   static_cast<long long>(stride), static_cast<long long>(top_k));
  *out = stride;
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
                     const dsv4mx_layer_experimental& experimental, std::shared_ptr<Layer>* out) {
  auto spec = std::make_shared<LayerSpec>();
  DSV4MX_TRY(MakeSpec(desc, experimental, spec.get()));
  std::shared_ptr<Layer> layer(new Layer);
  layer->context_ = std::move(context);
  layer->placement_ = std::shared_ptr<const Placement>(spec, &spec->placement);
  layer->spec_ = std::move(spec);
  DSV4MX_TRY(layer->context_->backend().MakeLayer(layer->spec_, &layer->backend_));
  if (layer->spec_->checked_ids) layer->context_->Watch(layer->backend_.get());
  *out = std::move(layer);
  return kOk;
}

void Layer::LogMade() const {
  const LayerSpec& s = *spec_;
  context_->Log(DSV4MX_LOG_INFO,
                "layer: hidden %d, intermediate %d of %d, experts %d of %d, top_k %d", s.hidden,
                s.intermediate, s.intermediate_global, s.experts, s.placement.experts_global,
                s.top_k);
}

Layer::~Layer() {
  if (backend_ != nullptr && spec_->checked_ids) context_->Unwatch(backend_.get());
}

std::shared_ptr<const Placement> Layer::placement() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return placement_;
}

Status Layer::SetPlacement(const int32_t* placement, dsv4mx_stream stream) {
  auto spec = std::make_shared<LayerSpec>(*spec_);
  DSV4MX_TRY(ChangePlacement(placement, &spec->placement));
  DSV4MX_TRY(backend_->SetPlacement(spec, stream));
  std::shared_ptr<const Placement> changed(spec, &spec->placement);
  const std::lock_guard<std::mutex> lock(mutex_);
  placement_.swap(changed);
  return kOk;
}

void Layer::Query(dsv4mx_layer_info* out) const {
  dsv4mx_context_info device{};
  context_->backend().Query(&device);
  out->device = device.device;
  out->hidden = spec_->hidden;
  out->intermediate = spec_->intermediate_global;
  out->intermediate_first = spec_->intermediate_first;
  out->intermediate_count = spec_->intermediate;
  out->experts = spec_->experts;
  out->experts_global = spec_->placement.experts_global;
  out->top_k = spec_->top_k;
  out->prepared_bytes = backend_->PreparedBytes();
  out->peak_extra_bytes = backend_->PeakExtraBytes();
  out->prepared_alignment = backend_->PreparedAlignment();
  out->max_tokens = kMaxTokens;
  out->prepared_id = PreparedForm(*spec_);
  // Odd multipliers keep the two apart: xor alone would let equal halves cancel.
  out->numerics_id = (Arithmetic(*spec_) * 0x9e3779b97f4a7c15) ^
                     (backend_->NumericsOfDevice() * 0xc2b2ae3d27d4eb4f);
  context_->backend().Name(out->backend, sizeof(out->backend));
}

Status Layer::QueryWorkspace(int64_t max_tokens, dsv4mx_workspace_info* out) const {
  DSV4MX_TRY(CheckTokens("max_tokens", max_tokens));
  out->bytes = backend_->WorkspaceBytes(max_tokens);
  out->minimum_bytes = backend_->MinimumWorkspaceBytes(max_tokens);
  out->alignment = kDeviceAlignment;
  return kOk;
}

void Layer::QueryFaults(dsv4mx_fault_info* out) const {
  out->invalid_ids = backend_->InvalidIds();
  out->status = out->invalid_ids != 0 ? DSV4MX_STATUS_INVALID_ID : DSV4MX_STATUS_OK;
}

Status Layer::CheckForm(const Weights& weights, dsv4mx_status code) const {
  const Layer& other = weights.layer();
  if (&other == this) return kOk;
  DSV4MX_RETURN_IF(&other.context() != context_.get(), code,
                   "the weights are of another context, wanted weights of this layer's");
  DSV4MX_RETURN_IF(
      PreparedForm(other.spec()) != PreparedForm(*spec_), code,
      "the weights are of a layer with hidden %d, intermediate %d, %d experts and other biases or "
      "sizes, wanted the same prepared_id: hidden %d, intermediate %d, %d experts",
      other.spec().hidden, other.spec().intermediate, other.spec().experts, spec_->hidden,
      spec_->intermediate, spec_->experts);
  // What prepare asked of the other layer's path.
  const Census* census = weights.census();
  return census == nullptr ? kOk : backend_->CheckCensus(*census);
}

Status Layer::PlanText(const Weights* weights, int64_t tokens, char* text, size_t bytes) const {
  DSV4MX_TRY(CheckTokens("tokens", tokens));
  if (weights != nullptr) DSV4MX_TRY(CheckForm(*weights, DSV4MX_STATUS_INVALID_ARGUMENT));
  char line[1024];
  line[0] = '\0';
  backend_->PlanText(tokens, weights == nullptr ? nullptr : weights->census(), line, sizeof(line));
  const size_t needed = std::strlen(line) + 1;
  DSV4MX_RETURN_IF(bytes < needed, DSV4MX_STATUS_BUFFER_TOO_SMALL,
                   "the text buffer has %zu bytes, wanted %zu", bytes, needed);
  std::memcpy(text, line, needed);
  return kOk;
}

Status Layer::CheckApply(const Weights& weights, const dsv4mx_apply_args& args,
                         ApplyCall* call) const {
  const LayerSpec& s = *spec_;
  DSV4MX_TRY(CheckForm(weights, DSV4MX_STATUS_INVALID_STATE));
  DSV4MX_RETURN_IF(weights.census() == nullptr, DSV4MX_STATUS_INVALID_STATE,
                   "the weights are not prepared, wanted dsv4mx_weights_prepare before apply");
  DSV4MX_TRY(CheckTokens("tokens", args.tokens));
  DSV4MX_TRY(CheckStride("x_stride", args.x_stride, s.hidden, &call->x_stride));
  DSV4MX_TRY(CheckStride("out_stride", args.out_stride, s.hidden, &call->out_stride));
  DSV4MX_TRY(
      CheckPairStride("topk_ids_stride", args.topk_ids_stride, s.top_k, &call->topk_ids_stride));
  DSV4MX_TRY(CheckPairStride("topk_weights_stride", args.topk_weights_stride, s.top_k,
                             &call->topk_weights_stride));
  DSV4MX_RETURN_IF(args.x_scale != nullptr || args.x_scale_stride != 0, DSV4MX_STATUS_UNSUPPORTED,
                   "x_scale is given, but this version takes no quantised x, wanted NULL and 0");
  DSV4MX_RETURN_IF((args.flags & ~uint32_t{DSV4MX_APPLY_ACCUMULATE}) != 0,
                   DSV4MX_STATUS_INVALID_ARGUMENT, "flags is 0x%x, wanted only bits of 0x%x",
                   args.flags, static_cast<unsigned>(DSV4MX_APPLY_ACCUMULATE));
  DSV4MX_RETURN_IF(args.multiprocessors < 0, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "multiprocessors is %d, wanted 0 (all) or more", args.multiprocessors);
  call->x = args.x;
  call->topk_ids = args.topk_ids;
  call->topk_weights = args.topk_weights;
  call->out = args.out;
  call->tokens = args.tokens;
  call->tokens_device = args.tokens_device;
  call->workspace = args.workspace;
  call->workspace_bytes = args.workspace_bytes;
  call->expert_counts = args.expert_counts;
  call->multiprocessors = args.multiprocessors;
  call->accumulate = (args.flags & DSV4MX_APPLY_ACCUMULATE) != 0;
  return kOk;
}

Status Layer::CheckMemory(const ApplyCall& call) const {
  const LayerSpec& s = *spec_;
  DSV4MX_TRY(CheckPointer("x", call.x, kRowAlignment));
  DSV4MX_TRY(CheckPointer("topk_ids", call.topk_ids, s.ids_dtype == DSV4MX_DTYPE_I64 ? 8 : 4));
  DSV4MX_TRY(CheckPointer("topk_weights", call.topk_weights,
                          s.router_weight_dtype == DSV4MX_DTYPE_BF16 ? 2 : 4));
  DSV4MX_TRY(CheckPointer("out", call.out, kRowAlignment));
  if (call.tokens_device != nullptr) {
    DSV4MX_TRY(CheckPointer("tokens_device", call.tokens_device, 4));
  }
  if (call.expert_counts != nullptr) {
    DSV4MX_TRY(CheckPointer("expert_counts", call.expert_counts, 8));
  }
  const size_t needed = backend_->MinimumWorkspaceBytes(call.tokens);
  DSV4MX_TRY(CheckOverlaps(s, call,
                           std::min(backend_->WorkspaceBytes(call.tokens), call.workspace_bytes)));
  if (needed == 0) return kOk;
  DSV4MX_TRY(CheckPointer("workspace", call.workspace, kDeviceAlignment));
  DSV4MX_RETURN_IF(call.workspace_bytes < needed, DSV4MX_STATUS_WORKSPACE_TOO_SMALL,
                   "workspace has %zu bytes, wanted at least %zu for %lld tokens, and %zu for full "
                   "speed",
                   call.workspace_bytes, needed, static_cast<long long>(call.tokens),
                   backend_->WorkspaceBytes(call.tokens));
  return kOk;
}

Status Layer::Apply(const Weights& weights, const ApplyCall& call, dsv4mx_stream stream) const {
  DSV4MX_TRY(CheckMemory(call));
  return backend_->Apply(weights.store(), *weights.census(), call, stream);
}

}  // namespace dsv4mx
