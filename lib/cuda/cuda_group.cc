#include "lib/cuda/cuda_group.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

#include "kernels/dist/launch_slices.h"
#include "lib/base/carver.h"
#include "lib/base/dtype.h"
#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {
namespace {

using dist::FaultWord;

// What ranks share in memory, in the device's own way.
dist::WindowShape DeviceShape(const GroupShape& s) {
  dist::WindowShape w = s.window;
  if (w.tp > 1) {
    w.reduce_cells = dist::kReduceCtas;
    w.flagged_bytes = dist::kFlaggedBytes;
  }
  if (w.ep > 1) {
    w.part_cells = dist::kPushCtas;
  } else {
    // Results of rows that stay at home go nowhere.
    w.top_k = 1;
    w.slot_bytes = 1;
    w.max_tokens = 1;
  }
  return w;
}

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

// ------------------------------------------------------------------------------------------------------------- layer --

Status CudaGroupLayer::Make(const CudaLayer& layer, const GroupRoutes& routes, bool weights_travel,
                            std::shared_ptr<const Device> device,
                            std::unique_ptr<GroupLayer>* out) {
  std::unique_ptr<CudaGroupLayer> l(new CudaGroupLayer(std::move(device)));
  l->rows_ = layer.spec();
  l->rows_.ids_dtype = DSV4MX_DTYPE_I32;
  l->rows_.router_weight_dtype = DSV4MX_DTYPE_F32;
  Placement& p = l->rows_.placement;
  p.id_map.clear();
  p.id_first = 0;
  p.id_count = p.experts;
  l->weights_travel_ = weights_travel;
  const auto ids = static_cast<int64_t>(routes.begin.size()) - 1;
  const auto copies = static_cast<int64_t>(routes.copies.size());
  l->id_count_ = static_cast<int32_t>(ids);
  const auto carve = [&](uint8_t* memory) {
    Carver c(memory, 256);
    l->ids_ = c.Take<uint64_t>(ids);
    l->copies_ = c.Take<uint32_t>(copies);
    l->loads_ = c.Take<int64_t>(p.experts);
    return c.bytes();
  };
  l->bytes_ = carve(nullptr);
  const DeviceScope scope(*l->device_, DeviceScope::Capture::kRelaxed);
  const cudaStream_t stream = cudaStreamPerThread;
  DSV4MX_TRY(scope.Begin(stream));
  const Memory& memory = l->device_->memory();
  DSV4MX_TRY(memory.Alloc(l->bytes_, 256, DSV4MX_MEMORY_DEVICE, stream, &l->block_));
  carve(static_cast<uint8_t*>(l->block_));
  void* told = nullptr;
  DSV4MX_TRY(memory.Alloc(static_cast<size_t>(p.experts) * sizeof(int64_t), 64,
                          DSV4MX_MEMORY_PINNED, stream, &told));
  l->told_ = static_cast<int64_t*>(told);
  std::fill_n(l->told_, p.experts, int64_t{0});
  std::vector<uint64_t> ways(static_cast<size_t>(ids));
  for (size_t id = 0; id < ways.size(); ++id) {
    const auto begin = static_cast<uint32_t>(routes.begin[id]);
    const auto count = static_cast<uint32_t>(routes.begin[id + 1]) - begin;
    ways[id] = uint64_t{count} << 32 | (count == 1 ? routes.copies[begin] : begin);
  }
  DSV4MX_CUDA(cudaMemsetAsync(l->block_, 0, l->bytes_, stream));
  DSV4MX_CUDA(cudaMemcpyAsync(l->ids_, ways.data(), ways.size() * sizeof(uint64_t),
                              cudaMemcpyHostToDevice, stream));
  DSV4MX_CUDA(cudaMemcpyAsync(l->copies_, routes.copies.data(),
                              routes.copies.size() * sizeof(uint32_t), cudaMemcpyHostToDevice,
                              stream));
  DSV4MX_CUDA(cudaStreamSynchronize(stream));
  *out = std::move(l);
  return kOk;
}

CudaGroupLayer::~CudaGroupLayer() {
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  const Memory& memory = device_->memory();
  (void)memory.Free(block_, bytes_, DSV4MX_MEMORY_DEVICE);
  (void)memory.Free(told_, static_cast<size_t>(rows_.experts) * sizeof(int64_t),
                    DSV4MX_MEMORY_PINNED);
}

void CudaGroupLayer::GetLoads(int64_t* pairs) const {
  for (int32_t e = 0; e < rows_.experts; ++e)
    pairs[e] = __atomic_load_n(told_ + e, __ATOMIC_RELAXED);
}

dist::RouteArgs CudaGroupLayer::routes() const {
  return {ids_, copies_, id_count_};
}

// ------------------------------------------------------------------------------------------------------------- group --

CudaGroup::CudaGroup(const GroupShape& shape, std::shared_ptr<const Device> device)
    : shape_(shape), window_(dist::LayOut(DeviceShape(shape))), device_(std::move(device)) {}

Status CudaGroup::Make(const GroupShape& shape, std::shared_ptr<const Device> device,
                       std::unique_ptr<RankGroup>* out) {
  out->reset(new CudaGroup(shape, std::move(device)));
  return kOk;
}

Status CudaGroup::MakeWindow(const std::vector<int32_t>& places) {
  for (const int32_t place : places) DSV4MX_TRY(CheckReach(device_->ordinal(), place));
  DSV4MX_TRY(CudaWindow::Make(device_, window_.bytes, places, &own_));
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(cudaStreamPerThread));
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
  DSV4MX_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  DSV4MX_CUDA(cudaEventCreateWithFlags(&pushed_, cudaEventDisableTiming));
  return kOk;
}

Status CudaGroup::Connect(std::vector<std::shared_ptr<GroupWindow>> windows) {
  std::set<int32_t> places;
  for (size_t r = 0; r < windows.size(); ++r) {
    auto window = std::static_pointer_cast<CudaWindow>(windows[r]);
    args_.windows[r] = window->base();
    args_.told[r] = window->told();
    places.insert(window->place());
    if (window->place() == place()) {
      if (static_cast<int32_t>(r) == shape_.rank) member_ = static_cast<int>(ranks_here_.size());
      if (gate_ == nullptr) gate_ = window->gate();
      ranks_here_.push_back(static_cast<int32_t>(r));
    }
    windows_.push_back(std::move(window));
  }
  members_ = static_cast<int>(ranks_here_.size());
  gate_->SetMembers(members_);
  args_.progress = progress_;
  args_.rank = shape_.rank;
  args_.size = shape_.size;
  args_.tp_size = shape_.tp_size;
  args_.part_cells = window_.part_cells;
  args_.timeout_ns = static_cast<uint64_t>(shape_.timeout_ns);
  what_ = "peer: windows in memory of " + std::to_string(places.size()) +
          (places.size() == 1 ? " CUDA device" : " CUDA devices");
  if (members_ > 1) what_ += ", which ranks share: in lock step";
  return kOk;
}

CudaGroup::~CudaGroup() {
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  const Memory& memory = device_->memory();
  if (stream_ != nullptr) {
    (void)cudaStreamSynchronize(stream_);
    (void)cudaStreamDestroy(stream_);
  }
  if (pushed_ != nullptr) (void)cudaEventDestroy(pushed_);
  (void)memory.Free(progress_, sizeof(dist::Progress), DSV4MX_MEMORY_DEVICE);
  (void)memory.Free(sums_, static_cast<size_t>(sums_bytes_), DSV4MX_MEMORY_DEVICE);
  (void)memory.Free(levels_, static_cast<size_t>(levels_bytes_), DSV4MX_MEMORY_DEVICE);
}

Status CudaGroup::MakeLayer(const LayerBackend& backend, const GroupRoutes& routes,
                            bool weights_travel, std::unique_ptr<GroupLayer>* out) {
  if (Invariant())
    DSV4MX_TRY(CheckInvariant(static_cast<const CudaLayer&>(backend).spec(), shape_));
  return CudaGroupLayer::Make(static_cast<const CudaLayer&>(backend), routes, weights_travel,
                              device_, out);
}

dist::GroupArgs CudaGroup::Args(uint64_t tag) const {
  dist::GroupArgs a = args_;
  a.tag = tag;
  return a;
}

dist::ExchangeSizes CudaGroup::Sizes(const Round& r) const {
  const LayerSpec& spec = r.layer.spec();
  const dist::WindowShape& w = shape_.window;
  dist::ExchangeSizes s{};
  s.ids = window_.meta;
  // A row's meta has room for both.
  s.weights =
      r.group.weights_travel() ? window_.meta + 4 * int64_t{w.ep} * w.max_tokens * w.top_k : -1;
  s.rows = window_.rows;
  s.slots = window_.slots;
  s.spacing = static_cast<int32_t>(r.spacing);
  s.top_k = spec.top_k;
  s.hidden = spec.hidden;
  s.pieces = dist::IsSmallRound(r.spacing, spec.hidden) ? dist::kSmallCtas : dist::kPushCtas;
  s.slot_bytes = spec.slot_dtype == DSV4MX_DTYPE_BF16 ? 2 : 4;
  s.sums_travel = w.rank_reduce;
  s.sum_is_bf16 = SumsAreBf16();
  return s;
}

dist::OwnTokens CudaGroup::Own(const Round& r) const {
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

Status CudaGroup::PassGate(const Round& r, dsv4mx_comm_stage stage) {
  const cudaStream_t stream = r.call.stream;
  DSV4MX_CUDA(cudaEventRecord(pushed_, stream));
  std::vector<GateVisit> visits;
  const int missing = gate_->Pass(
      member_, {stream, pushed_}, shape_.timeout_ns, [this] { return Fault().status != 0; },
      &visits);
  ++gates_passed_;
  if (missing == Gate::kEnded) {
    *r.fault = Fault();
    return {r.fault->status};
  }
  if (missing != Gate::kAllCame) {
    const int32_t rank = ranks_here_[static_cast<size_t>(missing)];
    const bool left = gate_->Left(missing);
    *r.fault = {left ? DSV4MX_STATUS_COMM_RANK_LOST : DSV4MX_STATUS_COMM_TIMEOUT, stage, rank,
                shape_.rank, gates_passed_};
    return {r.fault->status};
  }
  for (const GateVisit& visit : visits) {
    if (visit.stream != stream) DSV4MX_CUDA(cudaStreamWaitEvent(stream, visit.pushed, 0));
  }
  return kOk;
}

dist::SumArgs CudaGroup::SumOf(const Round& r) const {
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

void CudaGroup::ToCaller(const Round& r, dist::SumArgs* a) const {
  const LayerSpec& spec = r.layer.spec();
  const ApplyCall& c = r.call.call;
  a->factor = spec.routed_scaling_factor;
  a->out_is_f32 = spec.out_dtype == DSV4MX_DTYPE_F32;
  a->out = static_cast<uint8_t*>(c.out) + r.first * c.out_stride * (a->out_is_f32 ? 4 : 2);
  a->out_stride = c.out_stride;
  a->accumulate = c.accumulate;
}

Status CudaGroup::ComputeRows(const Round& r, const dist::ExchangeSizes& sizes) {
  const int64_t rows = shape_.window.ep * r.spacing;
  const ApplyCall& c = r.call.call;
  uint8_t* window = own_->base();
  ApplyCall call{};
  call.x = window + sizes.rows;
  call.x_stride = sizes.hidden;
  call.topk_ids = window + sizes.ids;
  call.topk_ids_stride = sizes.top_k;
  call.topk_weights = sizes.weights < 0 ? nullptr : window + sizes.weights;
  call.topk_weights_stride = sizes.top_k;
  call.tokens = rows;
  call.workspace = c.workspace;
  call.workspace_bytes = c.workspace_bytes;
  call.multiprocessors = c.multiprocessors;
  return r.layer.ForChunks(
      r.group.rows(), LayerTables{}, r.call.store, r.call.census, call, 0, rows,
      [&](const Pipeline& chunk, int64_t begin, int64_t count) -> Status {
        DSV4MX_TRY(chunk.RunToSlots(r.call.stream));
        dist::ReturnArgs a{};
        a.group = Args(r.tag);
        a.sizes = sizes;
        a.results = chunk.slots();
        a.result_row = chunk.slot_rows();
        a.first = static_cast<int32_t>(begin);
        a.rows = static_cast<int32_t>(count);
        a.weighted = r.layer.spec().router_weight_position == DSV4MX_ROUTER_WEIGHT_AFTER_W2;
        a.loads = r.group.loads();
        a.expert_counts = c.expert_counts;
        a.experts = r.group.rows().experts;
        a.last = begin + count == rows;
        a.parts = Parts();
        a.adds = a.last != 0 && Adds(r);
        a.sum = SumOf(r);
        DSV4MX_CUDA(dist::LaunchReturn(a, r.call.stream));
        if (a.last == 0 || members_ == 1) return kOk;
        DSV4MX_TRY(PassGate(r, DSV4MX_COMM_STAGE_COMBINE));
        a.parts = dist::kWait;
        DSV4MX_CUDA(dist::LaunchReturn(a, r.call.stream));
        return kOk;
      });
}

Status CudaGroup::EpRound(const Round& r) {
  const ApplyCall& c = r.call.call;
  dist::SendArgs a{};
  a.group = Args(r.tag);
  a.sizes = Sizes(r);
  a.routes = r.group.routes();
  a.own = Own(r);
  a.x = static_cast<const uint16_t*>(c.x) + r.first * c.x_stride;
  a.x_stride = c.x_stride;
  a.parts = Parts();
  DSV4MX_CUDA(dist::LaunchSend(a, r.call.stream));
  if (members_ > 1) {
    DSV4MX_TRY(PassGate(r, DSV4MX_COMM_STAGE_DISPATCH));
    a.parts = dist::kWait;
    DSV4MX_CUDA(dist::LaunchSend(a, r.call.stream));
  }
  DSV4MX_TRY(ComputeRows(r, a.sizes));
  if (!Adds(r)) {
    dist::FinishArgs f{};
    f.group = Args(r.tag);
    f.sizes = a.sizes;
    f.sum = SumOf(r);
    DSV4MX_CUDA(dist::LaunchFinish(f, r.call.stream));
  }
  return shape_.tp_size > 1 ? ReduceSums(r) : kOk;
}

Status CudaGroup::TpRound(const Round& r) {
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

Status CudaGroup::RunSlices(const Pipeline& chunk, int64_t begin, cudaStream_t stream) {
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

Status CudaGroup::ReduceSums(const Round& r) {
  const LayerSpec& spec = r.layer.spec();
  const ApplyCall& c = r.call.call;
  const int64_t some = shape_.window.reduce_tokens;
  const int64_t out_bytes = spec.out_dtype == DSV4MX_DTYPE_F32 ? 4 : 2;
  for (int64_t begin = 0; begin < r.count; begin += some) {
    const int64_t first = r.first + begin;
    dist::ReduceArgs a{};
    a.group = Args(r.tag);
    a.sums = static_cast<uint8_t*>(sums_) + begin * spec.hidden * shape_.window.partial_bytes;
    a.sum_is_bf16 = SumsAreBf16();
    a.partials = window_.partials;
    a.cells = window_.reduce_cells;
    a.flagged = window_.flagged;
    a.partial_bytes =
        shape_.window.reduce_tokens * shape_.window.hidden * shape_.window.partial_bytes;
    a.hidden = spec.hidden;
    a.tokens = static_cast<int32_t>(std::min(some, r.count - begin));
    a.tokens_device = c.tokens_device;
    a.first = static_cast<int32_t>(first);
    a.factor = spec.routed_scaling_factor;
    a.out = static_cast<uint8_t*>(c.out) + first * c.out_stride * out_bytes;
    a.out_stride = c.out_stride;
    a.out_is_f32 = spec.out_dtype == DSV4MX_DTYPE_F32;
    a.accumulate = c.accumulate;
    a.tree = Invariant();
    a.parts = Parts();
    DSV4MX_CUDA(dist::LaunchReduce(a, r.call.stream));
    if (members_ == 1) continue;
    DSV4MX_TRY(PassGate(r, DSV4MX_COMM_STAGE_REDUCE));
    a.parts = dist::kWait;
    DSV4MX_CUDA(dist::LaunchReduce(a, r.call.stream));
  }
  return kOk;
}

Status CudaGroup::Apply(const GroupCall& call, FaultWord* fault) {
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

void CudaGroup::Poison(const GroupCall& call) {
  const DeviceScope scope(*device_, DeviceScope::Capture::kAsIs);
  if (!scope.Begin(call.stream).ok()) return;
  FaultWord unused{};
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
  a.sizes = Sizes(all);
  a.sum.own = Own(all);
  ToCaller(all, &a.sum);
  a.poison = 1;
  (void)dist::LaunchFinish(a, call.stream);
}

// ------------------------------------------------------------------------------------------------------------ faults --

FaultWord CudaGroup::Fault() const {
  return dist::UnpackFault(__atomic_load_n(own_->told(), __ATOMIC_ACQUIRE));
}

Status CudaGroup::Tell(uint64_t fault, bool gone) {
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(stream_));
  dist::TellArgs a{};
  a.group = args_;
  a.fault = fault;
  a.gone = gone;
  DSV4MX_CUDA(dist::LaunchTell(a, stream_));
  DSV4MX_CUDA(cudaStreamSynchronize(stream_));
  return kOk;
}

FaultWord CudaGroup::Break(const FaultWord& fault) {
  // Where the device cannot be used any more the host's words are all that is left.
  if (!Tell(dist::PackFault(fault), false).ok()) {
    for (const auto& window : windows_) {
      uint64_t none = 0;
      (void)__atomic_compare_exchange_n(window->told(), &none, dist::PackFault(fault), false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
  }
  return Fault();
}

void CudaGroup::Leave() {
  if (windows_.empty()) return;
  (void)Tell(0, true);
  gate_->Leave(member_);
}

Status CudaGroup::Reset() {
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(stream_));
  DSV4MX_CUDA(cudaDeviceSynchronize());
  DSV4MX_CUDA(cudaMemsetAsync(own_->base(), 0, sizeof(dist::ControlBlock), stream_));
  DSV4MX_CUDA(cudaMemsetAsync(own_->base() + window_.flagged, 0,
                              static_cast<size_t>(window_.bytes - window_.flagged), stream_));
  DSV4MX_CUDA(cudaMemsetAsync(progress_, 0, sizeof(dist::Progress), stream_));
  DSV4MX_CUDA(cudaStreamSynchronize(stream_));
  __atomic_store_n(own_->told(), uint64_t{0}, __ATOMIC_RELEASE);
  gate_->Reset();
  gates_passed_ = 0;
  return kOk;
}

}  // namespace dsv4mx::cuda
