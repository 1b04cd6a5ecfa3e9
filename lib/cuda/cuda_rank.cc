#include "lib/cuda/cuda_rank.h"

#include <algorithm>
#include <bit>

#include "kernels/dist/launch_slices.h"
#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {
namespace {

// What TP_INVARIANT needs of a layer here.
Status CheckInvariant(const LayerSpec& s, const GroupShape& g) {
  DSV4MX_RETURN_IF(s.intermediate_global % (g.tp_slices * dist::kSliceUnit) != 0,
                   DSV4MX_STATUS_UNSUPPORTED_SHAPE,
                   "intermediate is %d, wanted %d slices of a multiple of %d channels for "
                   "TP_INVARIANT on CUDA: fewer slices, or RANK_ORDER",
                   s.intermediate_global, g.tp_slices, dist::kSliceUnit);
  DSV4MX_RETURN_IF(s.slot_dtype != DSV4MX_DTYPE_F32, DSV4MX_STATUS_UNSUPPORTED,
                   "slot_dtype is BF16 with TP_INVARIANT on CUDA, wanted F32 (the default): "
                   "slices are added in fp32");
  DSV4MX_RETURN_IF(s.number_path == DSV4MX_NUMBER_PATH_PLANES, DSV4MX_STATUS_UNSUPPORTED,
                   "number_path is PLANES with TP_INVARIANT, wanted AUTO or BF16: exponent bases "
                   "of planes go over slices");
  return kOk;
}

}  // namespace

Status CudaRank::MakeSums() {
  const Memory& memory = device_->memory();
  void* block = nullptr;
  DSV4MX_TRY(
      memory.Alloc(sizeof(dist::Progress), 256, DSV4MX_MEMORY_DEVICE, cudaStreamPerThread, &block));
  progress_ = static_cast<dist::Progress*>(block);
  if (shape_.tp_size > 1) {
    const int64_t bytes =
        shape_.window.max_tokens * shape_.window.hidden * shape_.window.partial_bytes;
    DSV4MX_TRY(memory.Alloc(static_cast<size_t>(bytes), 256, DSV4MX_MEMORY_DEVICE,
                            cudaStreamPerThread, &sums_));
    sums_bytes_ = bytes;
  }
  if (Invariant()) {
    const int levels = std::bit_width(static_cast<uint32_t>(Slices())) - 1;
    const int64_t bytes = levels * shape_.window.max_tokens * shape_.window.hidden *
                          static_cast<int64_t>(sizeof(float));
    block = nullptr;
    if (bytes > 0)
      DSV4MX_TRY(memory.Alloc(static_cast<size_t>(bytes), 256, DSV4MX_MEMORY_DEVICE,
                              cudaStreamPerThread, &block));
    levels_ = static_cast<float*>(block);
    levels_bytes_ = bytes;
  }
  DSV4MX_CUDA(cudaMemsetAsync(progress_, 0, sizeof(dist::Progress), cudaStreamPerThread));
  DSV4MX_CUDA(cudaStreamSynchronize(cudaStreamPerThread));
  return kOk;
}

CudaRank::~CudaRank() {
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  const Memory& memory = device_->memory();
  (void)memory.Free(progress_, sizeof(dist::Progress), DSV4MX_MEMORY_DEVICE);
  (void)memory.Free(sums_, static_cast<size_t>(sums_bytes_), DSV4MX_MEMORY_DEVICE);
  (void)memory.Free(levels_, static_cast<size_t>(levels_bytes_), DSV4MX_MEMORY_DEVICE);
}

Status CudaRank::MakeLayer(const LayerBackend& backend, const GroupRoutes& routes,
                           bool weights_travel, std::unique_ptr<GroupLayer>* out) {
  if (Invariant())
    DSV4MX_TRY(CheckInvariant(static_cast<const CudaLayer&>(backend).spec(), shape_));
  return CudaGroupLayer::Make(static_cast<const CudaLayer&>(backend), routes, weights_travel,
                              IdFirst(), IdCount(), device_, out);
}

dist::OwnTokens CudaRank::Own(const Round& r) const {
  const LayerSpec& spec = r.layer.spec();
  const ApplyCall& c = r.call.call;
  dist::OwnTokens o{};
  o.ids_are_64 = spec.ids_dtype == DSV4MX_DTYPE_I64;
  o.ids = static_cast<const uint8_t*>(c.topk_ids) +
          r.first * c.topk_ids_stride * (o.ids_are_64 ? 8 : 4);
  o.ids_stride = c.topk_ids_stride;
  o.weight_is_bf16 = spec.router_weight_dtype == DSV4MX_DTYPE_BF16;
  o.weights = static_cast<const uint8_t*>(c.topk_weights) +
              r.first * c.topk_weights_stride * (o.weight_is_bf16 ? 2 : 4);
  o.weights_stride = c.topk_weights_stride;
  o.tokens_device = c.tokens_device;
  o.first = static_cast<int32_t>(r.first);
  o.tokens = static_cast<int32_t>(r.count);
  o.top_k = spec.top_k;
  return o;
}

dist::SumArgs CudaRank::SumOf(const Round& r) const {
  const LayerSpec& spec = r.layer.spec();
  dist::SumArgs a{};
  a.routes = r.group.routes();
  a.own = Own(r);
  a.weighted = spec.router_weight_position == DSV4MX_ROUTER_WEIGHT_AFTER_W2;
  a.loads = r.group.loads();
  a.loads_told = r.group.told();
  a.experts = r.group.rows().experts;
  if (shape_.tp_size > 1) {
    // Tensor-parallel ranks have theirs to add.
    a.factor = 1.0f;
    a.out = sums_;
    a.out_stride = spec.hidden;
    a.out_is_f32 = !SumsAreBf16();
    return a;
  }
  ToCaller(r, &a);
  return a;
}

void CudaRank::ToCaller(const Round& r, dist::SumArgs* a) const {
  const LayerSpec& spec = r.layer.spec();
  const ApplyCall& c = r.call.call;
  a->factor = spec.routed_scaling_factor;
  a->out_is_f32 = spec.out_dtype == DSV4MX_DTYPE_F32;
  a->out = static_cast<uint8_t*>(c.out) + r.first * c.out_stride * (a->out_is_f32 ? 4 : 2);
  a->out_stride = c.out_stride;
  a->accumulate = c.accumulate;
}

Status CudaRank::TpRound(const Round& r) {
  if (r.count == 0) return kOk;
  LayerSpec spec = r.layer.spec();
  ApplyCall call = r.call.call;
  if (shape_.tp_size > 1) {
    // The layer as it is, but for what it writes: unscaled sums, where the round's first token is row 0.
    spec.routed_scaling_factor = 1.0f;
    spec.out_dtype = SumsAreBf16() ? DSV4MX_DTYPE_BF16 : DSV4MX_DTYPE_F32;
    const int64_t row = spec.hidden * shape_.window.partial_bytes;
    call.out = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(sums_) -
                                       static_cast<uintptr_t>(r.first * row));
    call.out_stride = spec.hidden;
    call.accumulate = false;
  }
  if (Invariant()) spec.number_path = DSV4MX_NUMBER_PATH_BF16;
  DSV4MX_TRY(r.layer.ForChunks(spec, r.layer.tables(), r.call.store, r.call.census, call, r.first,
                               r.count, [&](const Pipeline& chunk, int64_t begin, int64_t) {
                                 return Invariant() ? RunSlices(chunk, begin, r.call.stream)
                                                    : chunk.Run(r.call.stream);
                               }));
  return shape_.tp_size > 1 ? ReduceSums(r) : kOk;
}

Status CudaRank::RunSlices(const Pipeline& chunk, int64_t begin, cudaStream_t stream) {
  DSV4MX_TRY(chunk.RunToHidden(stream));
  const int32_t slices = Slices(), channels = chunk.channels() / slices;
  for (int32_t slice = 0; slice < slices; ++slice) {
    DSV4MX_TRY(chunk.Gemm2Slice(slice * channels, channels, stream));
    dist::SliceSumArgs a{};
    a.combine = chunk.CombineOf();
    a.levels = levels_ + begin * a.combine.hidden;
    a.level_rows = shape_.window.max_tokens;
    a.slice = slice;
    a.last = slice + 1 == slices;
    DSV4MX_CUDA(dist::LaunchSliceSum(a, stream));
  }
  return kOk;
}

dist::ReduceArgs CudaRank::ReduceOf(const Round& r, int64_t begin) const {
  const LayerSpec& spec = r.layer.spec();
  const ApplyCall& c = r.call.call;
  const int64_t first = r.first + begin;
  dist::ReduceArgs a{};
  a.sums = static_cast<uint8_t*>(sums_) + begin * spec.hidden * shape_.window.partial_bytes;
  a.sum_is_bf16 = SumsAreBf16();
  a.hidden = spec.hidden;
  a.tokens = static_cast<int32_t>(std::min(shape_.window.reduce_tokens, r.count - begin));
  a.tokens_device = c.tokens_device;
  a.first = static_cast<int32_t>(first);
  a.factor = spec.routed_scaling_factor;
  a.out_is_f32 = spec.out_dtype == DSV4MX_DTYPE_F32;
  a.out = static_cast<uint8_t*>(c.out) + first * c.out_stride * (a.out_is_f32 ? 4 : 2);
  a.out_stride = c.out_stride;
  a.accumulate = c.accumulate;
  a.tree = Invariant();
  return a;
}

Status CudaRank::Apply(const GroupCall& call, dist::FaultWord* fault) {
  const DeviceScope scope(*device_, DeviceScope::Capture::kAsIs);
  DSV4MX_TRY(scope.Begin(call.stream));
  const int64_t tokens = call.call.tokens, of = shape_.window.max_tokens;
  const bool parts = shape_.window.ep > 1;
  // Tensor-parallel ranks have the same tokens; of other parts' the caller tells the most.
  const int64_t most = parts ? call.comm_tokens : tokens;
  const int64_t rounds = std::max<int64_t>(1, (most + of - 1) / of);
  for (int64_t i = 0; i < rounds; ++i) {
    const int64_t first = std::min(i * of, tokens);
    const uint32_t place =
        static_cast<uint32_t>(i * 0x9e3779b1) ^ static_cast<uint32_t>(rounds * 0x85ebca6b);
    const Round round{call,
                      static_cast<const CudaLayer&>(call.backend),
                      *static_cast<const CudaGroupLayer*>(call.layer),
                      first,
                      std::min(of, tokens - first),
                      std::min(of, most - i * of),
                      (call.layer_tag ^ place) << 32 | call.comm_tag,
                      fault};
    DSV4MX_TRY(parts ? EpRound(round) : TpRound(round));
  }
  return kOk;
}

void CudaRank::Poison(const GroupCall& call) {
  const DeviceScope scope(*device_, DeviceScope::Capture::kAsIs);
  if (!scope.Begin(call.stream).ok()) return;
  dist::FaultWord unused{};
  const Round all{call,
                  static_cast<const CudaLayer&>(call.backend),
                  *static_cast<const CudaGroupLayer*>(call.layer),
                  0,
                  call.call.tokens,
                  0,
                  0,
                  &unused};
  dist::FinishArgs a{};
  a.group = Args(0);
  a.sizes.hidden = all.layer.spec().hidden;
  a.sum.own = Own(all);
  ToCaller(all, &a.sum);
  a.poison = 1;
  (void)dist::LaunchFinish(a, call.stream);
}

}  // namespace dsv4mx::cuda
