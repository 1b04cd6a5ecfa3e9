#include "lib/cuda/cuda_pipeline.h"

#include <algorithm>

#include "kernels/dist/launch_slices.h"
#include "kernels/launch_ids.h"
#include "lib/base/host_layout.h"
#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {

Pipeline::Pipeline(const LayerSpec& spec, const Plan& plan, const LayerTables& tables,
                   const CudaStore& store, const ApplyCall& call, int64_t begin, int64_t tokens,
                   int32_t multiprocessors)
    : spec_(spec),
      plan_(plan),
      tables_(tables),
      store_(store),
      call_(call),
      begin_(begin),
      multiprocessors_(call.multiprocessors == 0 ? multiprocessors
                                                 : std::min(call.multiprocessors, multiprocessors)),
      few_(plan.few && multiprocessors_ == multiprocessors),
      work_(CarveWorkspace(spec, *plan.generation, tokens, call.workspace)) {
  routing_.expert_map = tables.id_map;
  routing_.tokens_device = call.tokens_device;
  routing_.token_begin = static_cast<int32_t>(begin);
  routing_.tokens = static_cast<int32_t>(tokens);
  routing_.top_k = spec.top_k;
  routing_.experts = spec.experts;
  routing_.expert_first = spec.placement.id_first;
  routing_.experts_global = spec.placement.id_count;
  if (ReadsIds()) {
    routing_.ids = work_.ids;
    weights_ = work_.router_weights;
  } else {
    routing_ = CallersRouting();
    weights_ = CallersWeights();
  }
}

bool Pipeline::ReadsIds() const {
  return call_.topk_ids_stride != spec_.top_k || call_.topk_weights_stride != spec_.top_k ||
         call_.expert_counts != nullptr || tables_.invalid_ids != nullptr;
}

Routing Pipeline::CallersRouting() const {
  Routing r = routing_;
  const bool ids_are_64 = spec_.ids_dtype == DSV4MX_DTYPE_I64;
  r.ids = static_cast<const uint8_t*>(call_.topk_ids) +
          begin_ * call_.topk_ids_stride * (ids_are_64 ? 8 : 4);
  r.ids_are_64 = ids_are_64;
  return r;
}

const void* Pipeline::CallersWeights() const {
  return static_cast<const uint8_t*>(call_.topk_weights) +
         begin_ * call_.topk_weights_stride * (WeightIsBf16() ? 2 : 4);
}

Status Pipeline::ReadIds(cudaStream_t stream) const {
  if (!ReadsIds()) return kOk;
  ReadIdsArgs a{};
  a.routing = CallersRouting();
  a.ids_stride = call_.topk_ids_stride;
  a.weights = CallersWeights();
  a.weights_stride = call_.topk_weights_stride;
  a.weight_is_bf16 = WeightIsBf16();
  a.ids_out = work_.ids;
  a.weights_out = work_.router_weights;
  a.expert_counts = call_.expert_counts;
  a.invalid_ids = tables_.invalid_ids;
  DSV4MX_CUDA(LaunchReadIds(a, stream));
  return kOk;
}

GatherArgs Pipeline::GatherOf() const {
  GatherArgs a{};
  a.routing = routing_;
  a.counts = work_.counts;
  a.taken = work_.taken;
  a.panel_row = work_.panel_row;
  a.x = static_cast<const uint16_t*>(call_.x) + begin_ * call_.x_stride;
  a.x_stride = call_.x_stride;
  a.hidden = spec_.hidden;
  a.panel = work_.x;
  a.panel_rows = work_.panel_rows;
  a.row_scale = work_.row_scale;
  a.router_weights = weights_;
  a.weight_is_bf16 = WeightIsBf16();
  a.weight_on_input = spec_.router_weight_position == DSV4MX_ROUTER_WEIGHT_ON_INPUT;
  a.hidden_weight = work_.hidden_weight;
  a.path = IsPlanes(plan_.path) ? Path::kPlanes : plan_.path;  // the same panels
  a.quantised = plan_.quantised;
  return a;
}

Status Pipeline::Quantise(cudaStream_t stream) const {
  if (!plan_.quantised || IsE4m3(plan_.path)) return kOk;
  QuantiseArgs a{};
  a.routing = routing_;
  a.panel_row = work_.panel_row;
  a.panel = work_.h;
  a.panel_rows = work_.panel_rows;
  a.k = spec_.intermediate;
  DSV4MX_CUDA(LaunchQuantise(a, stream));
  return kOk;
}

GemmArgs Pipeline::Gemm1Of() const {
  const Sm90Slab& slab = store_.parts();
  GemmArgs a = Gemm();
  a.taken = work_.taken;
  a.matrix = slab.w13;
  a.bases = slab.w13_base;
  a.bias = spec_.w13_bias != 0 ? slab.w13_bias : -1;
  a.tiles = spec_.intermediate / (kSm90TileRows / 2);
  a.k = spec_.hidden;
  a.panel = work_.x;
  a.row_scale = work_.row_scale;
  a.h = work_.h;
  a.h_scale = work_.h_scale;
  a.hidden_weight = work_.hidden_weight;
  a.clamp_limit = spec_.clamp_limit;
  a.alpha = spec_.alpha;
  a.beta = spec_.beta;
  a.situ_beta = spec_.situ_beta;
  a.situ_linear_beta = spec_.situ_linear_beta;
  return a;
}

GemmArgs Pipeline::Gemm2Of() const {
  const Sm90Slab& slab = store_.parts();
  GemmArgs a = Gemm();
  a.taken = work_.taken + 1;
  a.matrix = slab.w2;
  a.bases = slab.w2_base;
  a.bias = spec_.w2_bias != 0 ? slab.w2_bias : -1;
  a.tiles = static_cast<int32_t>(Sm90PaddedRows(spec_.hidden) / kSm90TileRows);
  a.k = spec_.intermediate;
  a.panel = work_.h;
  a.row_scale = work_.h_scale;
  a.slots = work_.slots;
  a.slots_are_bf16 = spec_.slot_dtype == DSV4MX_DTYPE_BF16;
  a.hidden = spec_.hidden;
  return a;
}

CombineArgs Pipeline::CombineOf() const {
  CombineArgs a{};
  a.routing = routing_;
  a.panel_row = few_ ? nullptr : work_.panel_row;
  a.slots = work_.slots;
  a.slots_are_bf16 = spec_.slot_dtype == DSV4MX_DTYPE_BF16;
  a.weights = spec_.router_weight_position == DSV4MX_ROUTER_WEIGHT_AFTER_W2 ? weights_ : nullptr;
  a.weight_is_bf16 = WeightIsBf16();
  a.routed_scaling_factor = spec_.routed_scaling_factor;
  a.out_is_f32 = spec_.out_dtype == DSV4MX_DTYPE_F32;
  if (call_.out != nullptr) {
    a.out = static_cast<uint8_t*>(call_.out) + begin_ * call_.out_stride * (a.out_is_f32 ? 4 : 2);
  }
  a.out_stride = call_.out_stride;
  a.accumulate = call_.accumulate;
  a.hidden = spec_.hidden;
  return a;
}

GemmArgs Pipeline::Gemm() const {
  GemmArgs a{};
  a.routing = routing_;
  a.counts = work_.counts;
  a.slabs = store_.memory();
  a.slab_bytes = store_.parts().bytes;
  a.panel_rows = work_.panel_rows;
  a.width = plan_.width;
  a.quantised = plan_.quantised;
  a.ctas = multiprocessors_;
  return a;
}

Status Pipeline::Gather(cudaStream_t stream) const {
  if (!few_) DSV4MX_CUDA(LaunchGather(GatherOf(), stream));
  return kOk;
}

Status Pipeline::Gemm1(cudaStream_t stream) const {
  DSV4MX_CUDA(few_ ? LaunchFewGemm1(GatherOf(), Gemm1Of(), stream)
                   : LaunchGemm1(plan_.path, Gemm1Of(), stream));
  return kOk;
}

Status Pipeline::Gemm2To(void* const* targets, cudaStream_t stream) const {
  GemmArgs a = Gemm2Of();
  a.targets = targets;
  DSV4MX_CUDA(few_ ? LaunchFewGemm2(a, CombineOf(), stream) : LaunchGemm2(plan_.path, a, stream));
  return kOk;
}

Status Pipeline::Combine(cudaStream_t stream) const {
  if (!few_ || plan_.generation->few_combines(routing_.tokens)) {
    DSV4MX_CUDA(LaunchCombine(CombineOf(), stream));
  }
  return kOk;
}

Status Pipeline::Gemm2Slice(int32_t first, int32_t count, cudaStream_t stream) const {
  constexpr int64_t kPartK = 64, kPartRow = 128;  // of a bf16 panel (launch.h)
  dist::SliceGemmArgs a{Gemm2Of(), Sm90TileBytes(spec_.intermediate)};
  a.gemm.k = count;
  a.gemm.matrix += Sm90TileBytes(first);
  a.gemm.panel += first / kPartK * work_.panel_rows * kPartRow;
  if (first != 0) a.gemm.bias = -1;
  DSV4MX_CUDA(dist::LaunchSliceGemm2(plan_.path, a, stream));
  return kOk;
}

Status Pipeline::RunToHidden(cudaStream_t stream) const {
  DSV4MX_TRY(ReadIds(stream));
  DSV4MX_TRY(Gather(stream));
  DSV4MX_TRY(Gemm1(stream));
  return Quantise(stream);
}

Status Pipeline::RunToSlots(cudaStream_t stream) const {
  DSV4MX_TRY(RunToHidden(stream));
  return Gemm2(stream);
}

Status Pipeline::Run(cudaStream_t stream) const {
  DSV4MX_TRY(RunToSlots(stream));
  return Combine(stream);
}

}  // namespace dsv4mx::cuda
