#include "lib/cuda/cuda_group.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {
namespace {

using dist::FaultWord;

// What ranks share in memory, in the device's own way.
dist::WindowShape DeviceShape(const GroupShape& s) {
  dist::WindowShape w = s.window;
  if (w.tp > 1) {
    w.flagged_bytes = dist::FlaggedBytes(w.reduce_tokens * w.hidden * w.partial_bytes);
    w.reduce_tokens = 0;  // partial sums lie in flagged blocks alone
  }
  if (w.ep > 1) {
    w.part_cells = dist::kMostPieces;
    w.target_rows = MoePanelRows(w.ep * w.max_tokens * w.top_k, kMostExperts);
    w.flagged_row_bytes = dist::FlaggedRowBytes(w.max_tokens, w.hidden);
    w.flagged_slot_bytes = dist::FlaggedSlotBytes(
        w.max_tokens, w.hidden,
        w.rank_reduce ? w.ep * w.partial_bytes : int64_t{w.top_k} * w.slot_bytes);
  } else {
    // Results of rows that stay at home go nowhere.
    w.top_k = 1;
    w.slot_bytes = 1;
    w.max_tokens = 1;
  }
  return w;
}

}  // namespace

CudaGroup::CudaGroup(const GroupShape& shape, std::shared_ptr<const Device> device)
    : CudaRank(shape, std::move(device)),
      device_shape_(DeviceShape(shape)),
      window_(dist::LayOut(device_shape_)) {}

Status CudaGroup::Make(const GroupShape& shape, std::shared_ptr<const Device> device,
                       std::unique_ptr<RankGroup>* out) {
  out->reset(new CudaGroup(shape, std::move(device)));
  return kOk;
}

Status CudaGroup::MakeWindow(const std::vector<int32_t>& places) {
  for (const int32_t place : places) DSV4MX_TRY(CheckReach(device_->ordinal(), place));
  DSV4MX_TRY(CudaWindow::Make(device_, window_.bytes, places, shape_.processes, &own_));
  places_ = places;
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(cudaStreamPerThread));
  DSV4MX_TRY(MakeSums());
  DSV4MX_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  DSV4MX_CUDA(cudaEventCreateWithFlags(&pushed_, cudaEventDisableTiming));
  return kOk;
}

Status CudaGroup::Identify(DeviceIdentity* out) const {
  cudaDeviceProp properties;
  DSV4MX_CUDA(cudaGetDeviceProperties(&properties, place()));
  std::memcpy(out->bytes, properties.uuid.bytes, sizeof(out->bytes));
  return kOk;
}

Status CudaGroup::FindPlace(const DeviceIdentity& identity, int32_t* place) const {
  int count = 0;
  DSV4MX_CUDA(cudaGetDeviceCount(&count));
  for (*place = 0; *place < count; ++*place) {
    cudaDeviceProp properties;
    DSV4MX_CUDA(cudaGetDeviceProperties(&properties, *place));
    if (std::memcmp(identity.bytes, properties.uuid.bytes, sizeof(identity.bytes)) == 0) return kOk;
  }
  return Fail(DSV4MX_STATUS_UNSUPPORTED,
              "another rank's GPU is not among the %d that rank %d sees, wanted a "
              "CUDA_VISIBLE_DEVICES with those of all ranks, or kind NCCL_ID",
              count, shape_.rank);
}

Status CudaGroup::Open(int file, std::shared_ptr<GroupWindow>* out) const {
  std::shared_ptr<CudaWindow> window;
  DSV4MX_TRY(CudaWindow::Open(device_, window_.bytes, file, &window));
  *out = std::move(window);
  return kOk;
}

Status CudaGroup::Connect(std::vector<std::shared_ptr<GroupWindow>> windows) {
  const std::set<int32_t> places(places_.begin(), places_.end());
  for (size_t r = 0; r < windows.size(); ++r) {
    auto window = std::static_pointer_cast<CudaWindow>(windows[r]);
    args_.windows[r] = window->data();
    args_.told[r] = window->told();
    if (!window->opened() && window->place() == place()) {
      if (static_cast<int32_t>(r) == shape_.rank) member_ = static_cast<int>(ranks_here_.size());
      if (gate_ == nullptr) gate_ = window->gate();
      ranks_here_.push_back(static_cast<int32_t>(r));
    }
    windows_.push_back(std::move(window));
  }
  members_ = static_cast<int>(ranks_here_.size());
  alone_ = places.size() == places_.size();
  gate_->SetMembers(members_);
  args_.progress = progress_;
  args_.SetRank(shape_.rank, shape_.size, shape_.tp_size);
  args_.part_cells = window_.part_cells;
  args_.timeout_ns = static_cast<uint64_t>(shape_.timeout_ns);
  what_ = "peer: windows in memory of " + std::to_string(places.size()) +
          (places.size() == 1 ? " CUDA device" : " CUDA devices");
  if (shape_.processes) what_ += ", of processes";
  if (members_ > 1) what_ += ", which ranks share: in lock step";
  return kOk;
}

CudaGroup::~CudaGroup() {
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  if (stream_ != nullptr) {
    (void)cudaStreamSynchronize(stream_);
    (void)cudaStreamDestroy(stream_);
  }
  if (pushed_ != nullptr) (void)cudaEventDestroy(pushed_);
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
  s.flagged = dist::IsFlagged(r.spacing, spec.hidden);
  // Either has room for both.
  s.ids = s.flagged ? window_.targets : window_.meta;
  s.weights = r.group.weights_travel() ? s.ids + 4 * int64_t{w.ep} * w.max_tokens * w.top_k : -1;
  s.rows = window_.rows;
  s.slots = window_.slots;
  s.spacing = static_cast<int32_t>(r.spacing);
  s.top_k = spec.top_k;
  s.hidden = spec.hidden;
  s.pieces = dist::PiecesOf(r.spacing, spec.hidden);
  s.flagged_rows = window_.flagged_rows;
  s.flagged_row_bytes = device_shape_.flagged_row_bytes;
  s.flagged_slots = window_.flagged_slots;
  s.slot_bytes = spec.slot_dtype == DSV4MX_DTYPE_BF16 ? 2 : 4;
  s.sums_travel = w.rank_reduce;
  s.sum_is_bf16 = SumsAreBf16();
  return s;
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

Status CudaGroup::ComputeRows(const Round& r, const dist::ExchangeSizes& sizes) {
  const int64_t rows = shape_.window.ep * r.spacing;
  const ApplyCall& c = r.call.call;
  uint8_t* window = own_->data();
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
        // Results of larger rounds go home as GEMM2 computes them.
        const bool direct = sizes.flagged == 0 && sizes.sums_travel == 0 && sizes.slot_bytes == 2 &&
                            chunk.slot_rows() != nullptr;
        DSV4MX_TRY(direct ? RunToTargets(r, sizes, chunk, begin, count)
                          : chunk.RunToSlots(r.call.stream));
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
        a.pushed = direct;
        a.last = begin + count == rows;
        a.parts = Parts();
        a.sum = SumOf(r);
        DSV4MX_CUDA(dist::LaunchReturn(a, r.call.stream));
        if (a.last == 0 || members_ == 1) return kOk;
        DSV4MX_TRY(PassGate(r, DSV4MX_COMM_STAGE_COMBINE));
        a.parts = dist::kWait;
        DSV4MX_CUDA(dist::LaunchReturn(a, r.call.stream));
        return kOk;
      });
}

Status CudaGroup::RunToTargets(const Round& r, const dist::ExchangeSizes& sizes,
                               const Pipeline& chunk, int64_t begin, int64_t count) {
  DSV4MX_TRY(chunk.RunToHidden(r.call.stream));
  dist::PlaceArgs a{};
  a.group = Args(r.tag);
  a.sizes = sizes;
  a.panel_row = chunk.slot_rows();
  a.first = static_cast<int32_t>(begin);
  a.rows = static_cast<int32_t>(count);
  a.slots = chunk.slots();
  a.targets = reinterpret_cast<void**>(own_->data() + window_.targets);
  a.loads = r.group.loads();
  a.expert_counts = r.call.call.expert_counts;
  a.experts = r.group.rows().experts;
  DSV4MX_CUDA(dist::LaunchPlace(a, r.call.stream));
  return chunk.Gemm2To(a.targets, r.call.stream);
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
  if (!a.sizes.flagged) {
    dist::FinishArgs f{};
    f.group = Args(r.tag);
    f.sizes = a.sizes;
    f.sum = SumOf(r);
    DSV4MX_CUDA(dist::LaunchFinish(f, r.call.stream));
  }
  return shape_.tp_size > 1 ? ReduceSums(r) : kOk;
}

Status CudaGroup::ReduceSums(const Round& r) {
  // Ranks of one device pass its gate together, also those of a part that has fewer tokens to reduce.
  const int64_t most = members_ == 1 || shape_.window.ep == 1 ? r.count : r.spacing;
  for (int64_t begin = 0; begin < most; begin += shape_.window.reduce_tokens) {
    dist::ReduceArgs a{};
    if (begin < r.count) {
      a = ReduceOf(r, begin);
      a.group = Args(r.tag);
      a.flagged = window_.flagged;
      a.flagged_bytes = device_shape_.flagged_bytes;
      a.parts = Parts();
      a.alone = alone_;
      DSV4MX_CUDA(dist::LaunchReduce(a, r.call.stream));
    }
    if (members_ == 1) continue;
    DSV4MX_TRY(PassGate(r, DSV4MX_COMM_STAGE_REDUCE));
    if (begin >= r.count) continue;
    a.parts = dist::kWait;
    DSV4MX_CUDA(dist::LaunchReduce(a, r.call.stream));
  }
  return kOk;
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
      if (window->told() == nullptr) continue;
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
  DSV4MX_CUDA(cudaMemsetAsync(own_->data(), 0, sizeof(dist::ControlBlock), stream_));
  DSV4MX_CUDA(cudaMemsetAsync(own_->data() + window_.flagged, 0,
                              static_cast<size_t>(window_.bytes - window_.flagged), stream_));
  DSV4MX_CUDA(cudaMemsetAsync(progress_, 0, sizeof(dist::Progress), stream_));
  DSV4MX_CUDA(cudaStreamSynchronize(stream_));
  __atomic_store_n(own_->told(), uint64_t{0}, __ATOMIC_RELEASE);
  gate_->Reset();
  gates_passed_ = 0;
  return kOk;
}

}  // namespace dsv4mx::cuda
