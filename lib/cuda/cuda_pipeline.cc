#include "lib/cuda/cuda_pipeline.h"

#include <algorithm>
#include <cmath>

#include "kernels/dist/launch_slices.h"
#include "kernels/launch_ids.h"
#include "lib/base/host_layout.h"
#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {

namespace {

// What f16 multiplies h with, a power of two: large, so that small values count, and as large as the activation's limits allow. Where
// it has none, as for negative gates of a small alpha, GEMM1 sees what does not fit.
float F16FactorOf(const LayerSpec& spec) {
  const float limit = spec.situ_beta > 0
                          ? spec.situ_beta * spec.situ_linear_beta
                          : spec.clamp_limit * (spec.clamp_limit + std::fabs(spec.beta));
  if (!(limit > 0)) return 0x1p6f;
  return std::exp2(std::clamp(std::floor(std::log2(65504.0f / limit)), 6.0f, 10.0f));
}

// Whether x of f16 stands in its panel once for each token. What the gather saves by that, GEMM1 pays for each 128 channels, which fetch
// it row by row: one H200, 4,096 tokens, us without and with it: one of 8 tensor-parallel slices of Flash (256 channels) 491 and 465,
// all of Flash (2,048) 2,289 and 2,373; and a rank with few of a token's experts saves nothing: expert-parallel 338 and 355. (With rows
// that lie in one piece, as they do now: 458, and 2,249 and 2,320; at 48 rows an expert 1,555 and 1,568.) Rows of planes, which some
// experts may have, would be in its way.
bool FetchesX(const LayerSpec& spec, const Plan& plan) {
  constexpr int32_t kMostChannels = 512;
  const auto* const end = plan.parts + plan.part_count;
  return spec.intermediate <= kMostChannels && 2 * spec.experts >= spec.placement.id_count &&
         std::all_of(plan.parts, end, [](const PlanPart& p) { return p.path == Path::kF16; });
}

}  // namespace

Pipeline::Pipeline(const LayerSpec& spec, const Plan& plan, const LayerTables& tables,
                   const CudaStore& store, const ApplyCall& call, TokenRange chunk, TokenRange part,
                   int32_t multiprocessors)
    : spec_(spec),
      plan_(plan),
      tables_(tables),
      store_(store),
      call_(call),
      chunk_(chunk),
      part_(part),
      multiprocessors_(call.multiprocessors == 0 ? multiprocessors
                                                 : std::min(call.multiprocessors, multiprocessors)),
      limited_(multiprocessors_ != multiprocessors),
      few_(plan.few && !limited_),
      half_slots_(plan.has_f16() && !spec.plain_slots && call.out != nullptr),
      levelled_(plan.levelled && call.out != nullptr),
      work_(CarveWorkspace(spec, *plan.generation, part.count, call.workspace)) {
  routing_.expert_map = tables.id_map;
  routing_.tokens_device = call.tokens_device;
  routing_.token_begin = static_cast<int32_t>(part.begin);
  routing_.tokens = static_cast<int32_t>(part.count);
  routing_.listed = plan.part_count > 1;
  routing_.top_k = spec.top_k;
  routing_.experts = spec.experts;
  routing_.expert_first = spec.placement.id_first;
  routing_.experts_global = spec.placement.id_count;
  if (ReadsIds()) {
    routing_.ids = work_.ids;
    weights_ = work_.router_weights;
  } else {
    routing_ = CallersRouting(part);
    weights_ = CallersWeights();
  }
}

bool Pipeline::ReadsIds() const {
  return call_.topk_ids_stride != spec_.top_k || call_.topk_weights_stride != spec_.top_k ||
         call_.expert_counts != nullptr || tables_.invalid_ids != nullptr;
}

Routing Pipeline::CallersRouting(TokenRange tokens) const {
  Routing r = routing_;
  r.token_begin = static_cast<int32_t>(tokens.begin);
  r.tokens = static_cast<int32_t>(tokens.count);
  const bool ids_are_64 = spec_.ids_dtype == DSV4MX_DTYPE_I64;
  r.ids = static_cast<const uint8_t*>(call_.topk_ids) +
          tokens.begin * call_.topk_ids_stride * (ids_are_64 ? 8 : 4);
  r.ids_are_64 = ids_are_64;
  return r;
}

const void* Pipeline::CallersWeights() const {
  return static_cast<const uint8_t*>(call_.topk_weights) +
         part_.begin * call_.topk_weights_stride * (WeightIsBf16() ? 2 : 4);
}

Status Pipeline::Sizes(cudaStream_t stream) const {
  if (!InParts() || part_.begin != chunk_.begin) return kOk;
  DSV4MX_CUDA(LaunchSizes(
      {CallersRouting(chunk_), call_.topk_ids_stride, work_.sizes, work_.extent}, stream));
  return kOk;
}

Status Pipeline::ReadIds(cudaStream_t stream) const {
  DSV4MX_TRY(Sizes(stream));
  if (!ReadsIds()) return kOk;
  ReadIdsArgs a{};
  a.routing = CallersRouting(part_);
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
  a.x = static_cast<const uint16_t*>(call_.x) + part_.begin * call_.x_stride;
  a.x_stride = call_.x_stride;
  a.hidden = spec_.hidden;
  a.panel = work_.x;
  a.panel_rows = work_.panel_rows;
  a.source = FetchesX(spec_, plan_) ? work_.source : nullptr;
  a.row_scale = work_.row_scale;
  a.router_weights = weights_;
  a.weight_is_bf16 = WeightIsBf16();
  a.weight_on_input = spec_.router_weight_position == DSV4MX_ROUTER_WEIGHT_ON_INPUT;
  a.hidden_weight = work_.hidden_weight;
  // Of the parts of planes, the one with the most tokens: the forms of others are the same, or the one of larger experts.
  const PlanPart* planes = nullptr;
  for (int32_t i = plan_.part_count; i-- > 0;) {
    if (IsPlanes(plan_.parts[i].path)) planes = &plan_.parts[i];
  }
  a.path = planes != nullptr ? Path::kPlanes : plan_.path;
  a.most = planes != nullptr ? planes->most : kAnyCount;
  a.beside = a.most == kAnyCount ? a.path : plan_.parts[0].path;
  a.sizes = InParts() ? work_.sizes : work_.counts;
  a.extent = plan_.part_count > 1 && !InParts() ? work_.extent : nullptr;
  a.quantised = plan_.quantised;
  a.half_slots = half_slots_;
  a.levelled = levelled_;
  return a;
}

Status Pipeline::Level(cudaStream_t stream) const {
  if (!levelled_) return kOk;
  LevelArgs a{};
  a.routing = routing_;
  a.panel_row = work_.panel_row;
  a.panel = work_.h;
  a.panel_rows = work_.panel_rows;
  a.h_scale = work_.h_scale;
  a.row_scale = work_.row_scale;  // those of x have served
  a.k = spec_.intermediate;
  a.one_plane = plan_.quantised;
  DSV4MX_CUDA(LaunchLevel(a, stream));
  return kOk;
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
  a.source = FetchesX(spec_, plan_) ? work_.source : nullptr;
  a.row_scale = work_.row_scale;
  a.h = work_.h;
  a.h_scale = work_.h_scale;
  a.hidden_weight = work_.hidden_weight;
  a.clamp_limit = spec_.clamp_limit;
  a.alpha = spec_.alpha;
  a.beta = spec_.beta;
  a.situ_beta = spec_.situ_beta;
  a.situ_linear_beta = spec_.situ_linear_beta;
  a.h_factor = F16FactorOf(spec_);
  return a;
}

GemmArgs Pipeline::Gemm2Of() const {
  const Sm90Slab& slab = store_.parts();
  GemmArgs a = Gemm();
  a.taken = work_.taken + kMostParts;
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
  a.half_slots = half_slots_;
  a.levelled = levelled_;
  a.h_factor = kF16Unit / F16FactorOf(spec_) * (half_slots_ ? kHalfSlotFactor : 1.0f);
  return a;
}

CombineArgs Pipeline::CombineOf() const {
  CombineArgs a{};
  a.routing = routing_;
  a.panel_row = few_ ? nullptr : work_.panel_row;
  a.slots = work_.slots;
  a.slots_are_bf16 = spec_.slot_dtype == DSV4MX_DTYPE_BF16;
  a.unfit = half_slots_ ? work_.taken + kTakenCounters : nullptr;
  a.level_scale = levelled_ ? work_.row_scale : nullptr;
  a.level_unit = levelled_ ? 1.0f / LevelFactor(spec_.intermediate) : 1.0f;
  a.weights = spec_.router_weight_position == DSV4MX_ROUTER_WEIGHT_AFTER_W2 ? weights_ : nullptr;
  a.weight_is_bf16 = WeightIsBf16();
  a.routed_scaling_factor = spec_.routed_scaling_factor;
  a.out_is_f32 = spec_.out_dtype == DSV4MX_DTYPE_F32;
  if (call_.out != nullptr) {
    a.out =
        static_cast<uint8_t*>(call_.out) + part_.begin * call_.out_stride * (a.out_is_f32 ? 4 : 2);
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
  if (plan_.part_count > 1) {
    a.sizes = InParts() ? work_.sizes : work_.counts;
    a.extent = work_.extent;
  }
  a.width = plan_.width;
  a.least = 1;
  a.most = kAnyCount;
  a.slabs = store_.memory();
  a.slab_bytes = store_.parts().bytes;
  a.panel_rows = work_.panel_rows;
  a.quantised = plan_.quantised;
  a.ctas = multiprocessors_;
  a.unfit = work_.taken + kTakenCounters;
  return a;
}

Status Pipeline::LaunchParts(int (*launch)(Path, const GemmArgs&, KernelStream), GemmArgs a,
                             cudaStream_t stream) const {
  const bool last_is_late = a.late != 0;
  for (a.earlier = 0; a.earlier < plan_.part_count; ++a.earlier, ++a.taken) {
    const PlanPart& part = plan_.parts[a.earlier];
    a.width = part.width, a.least = part.least, a.most = part.most;
    a.late = last_is_late || (part.least > 1 && limited_);
    DSV4MX_CUDA(launch(part.path, a, stream));
  }
  return kOk;
}

Status Pipeline::Gather(cudaStream_t stream) const {
  if (!few_) DSV4MX_CUDA(LaunchGather(GatherOf(), stream));
  return kOk;
}

Status Pipeline::Gemm1(cudaStream_t stream) const {
  if (few_) {
    DSV4MX_CUDA(LaunchFewGemm1(GatherOf(), Gemm1Of(), stream));
    return kOk;
  }
  return LaunchParts(LaunchGemm1, Gemm1Of(), stream);
}

Status Pipeline::Gemm2To(void* const* targets, cudaStream_t stream) const {
  GemmArgs a = Gemm2Of();
  a.targets = targets;
  if (few_) {
    DSV4MX_CUDA(LaunchFewGemm2(a, CombineOf(), stream));
    return kOk;
  }
  a.late = limited_ && plan_.has_f16();
  const auto launch = [](Path path, const GemmArgs& gemm, KernelStream on) {
    GemmArgs own = gemm;
    own.levelled = gemm.levelled != 0 && (IsPlanes(path) || IsE4m3(path));
    if (own.levelled != 0) own.h_factor = LevelFactor(gemm.k);
    return LaunchGemm2(path, own, on);
  };
  DSV4MX_TRY(LaunchParts(launch, a, stream));
  return LaunchAgain(a, stream);
}

Status Pipeline::LaunchAgain(GemmArgs gemm2, cudaStream_t stream) const {
  if (!plan_.has_f16()) return kOk;
  const auto again = [&](GemmArgs a) {
    a.again = 1;
    a.half_slots = a.levelled = 0;
    a.late = limited_;
    a.most = 0;
    for (int32_t i = 0; i < plan_.part_count; ++i) {
      const PlanPart& part = plan_.parts[i];
      if (part.path != Path::kF16) continue;
      a.width = part.width, a.least = part.least;
      a.most = std::max(a.most, part.most);
    }
    return a;
  };
  DSV4MX_CUDA(LaunchGemm1(Path::kF16, again(Gemm1Of()), stream));
  DSV4MX_CUDA(LaunchGemm2(Path::kBf16, again(gemm2), stream));
  return kOk;
}

Status Pipeline::Combine(cudaStream_t stream) const {
  if (!few_ || plan_.generation->few_combines(routing_.tokens)) {
    DSV4MX_CUDA(LaunchCombine(CombineOf(), stream));
  }
  return kOk;
}

Status Pipeline::Gemm2Slice(int32_t first, int32_t count, cudaStream_t stream) const {
  constexpr int64_t kPartK = 128, kPartRow = 256;  // of a bf16 panel (launch.h)
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
  DSV4MX_TRY(Level(stream));
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
