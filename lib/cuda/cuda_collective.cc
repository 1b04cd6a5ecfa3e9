#include "lib/cuda/cuda_collective.h"

#include "lib/base/carver.h"
#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {

using dist::FaultWord;

Status CudaCollective::Make(const GroupShape& shape, Collectives* collectives,
                            std::shared_ptr<const Device> device, std::unique_ptr<RankGroup>* out) {
  out->reset(new CudaCollective(shape, collectives, std::move(device)));
  return kOk;
}

Status CudaCollective::MakeWindow(const std::vector<int32_t>&) {
  const dist::WindowShape& w = shape_.window;
  const int64_t ep = w.ep > 1 ? w.ep : 0, tp = w.tp > 1 ? w.tp : 0;
  const int64_t sums = ep * w.max_tokens * w.hidden * w.partial_bytes;
  const int64_t routes = ep == 0 ? 0 : w.max_tokens * w.top_k * w.hidden * w.slot_bytes;
  const dist::RecordShape record{static_cast<int32_t>(w.hidden), w.top_k};
  const int64_t block =
      static_cast<int64_t>(sizeof(dist::RoundStamp)) + w.reduce_tokens * w.hidden * w.partial_bytes;
  const auto carve = [&](void* memory) {
    Carver c(memory, 256);
    records_ = c.Take<uint8_t>(ep * w.max_tokens * record.bytes());
    results_ = c.Take<uint8_t>(SumsTravel() ? sums : ep * routes);
    home_ = c.Take<uint8_t>(SumsTravel() ? sums : routes);
    blocks_ = c.Take<uint8_t>(tp * block);
    return c.bytes();
  };
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(cudaStreamPerThread));
  DSV4MX_TRY(MakeSums());
  const Memory& memory = device_->memory();
  bytes_ = carve(nullptr);
  if (bytes_ > 0) {
    DSV4MX_TRY(memory.Alloc(bytes_, 256, DSV4MX_MEMORY_DEVICE, cudaStreamPerThread, &block_));
    carve(block_);
    DSV4MX_TRY(ClearRecords());
  }
  void* told = nullptr;
  DSV4MX_TRY(memory.Alloc(sizeof(uint64_t), 64, DSV4MX_MEMORY_PINNED, cudaStreamPerThread, &told));
  told_ = static_cast<uint64_t*>(told);
  *told_ = 0;
  DSV4MX_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  DSV4MX_CUDA(cudaEventCreateWithFlags(&begun_, cudaEventDisableTiming));
  DSV4MX_CUDA(cudaEventCreateWithFlags(&ended_, cudaEventDisableTiming));
  return kOk;
}

// Records of another group, or of before a reset, must not pass for those of a round.
Status CudaCollective::ClearRecords() {
  if (bytes_ == 0) return kOk;
  DSV4MX_CUDA(cudaMemsetAsync(block_, 0, static_cast<size_t>(bytes_), cudaStreamPerThread));
  DSV4MX_CUDA(cudaStreamSynchronize(cudaStreamPerThread));
  return kOk;
}

Status CudaCollective::Follow(cudaStream_t behind, cudaEvent_t event, cudaStream_t stream) {
  DSV4MX_CUDA(cudaEventRecord(event, behind));
  DSV4MX_CUDA(cudaStreamWaitEvent(stream, event, 0));
  return kOk;
}

// The legacy stream, by either of its names, is one of the device, and NCCL's thread has the device current.
Status CudaCollective::Apply(const GroupCall& call, dist::FaultWord* fault) {
  if (call.stream != cudaStreamPerThread) return CudaRank::Apply(call, fault);
  const DeviceScope scope(*device_, DeviceScope::Capture::kAsIs);
  DSV4MX_TRY(scope.Begin(call.stream));
  DSV4MX_TRY(Follow(call.stream, begun_, stream_));
  GroupCall inside = call;
  inside.stream = stream_;
  const Status status = CudaRank::Apply(inside, fault);
  // Also where it failed: a capture must not end with a stream that has not come back.
  const KeepError why;
  const Status joined = Follow(stream_, ended_, call.stream);
  if (status.ok()) return joined;
  why.Restore();
  return status;
}

CudaCollective::~CudaCollective() {
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  const Memory& memory = device_->memory();
  if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  for (const cudaEvent_t event : {begun_, ended_})
    if (event != nullptr) (void)cudaEventDestroy(event);
  (void)memory.Free(block_, bytes_, DSV4MX_MEMORY_DEVICE);
  (void)memory.Free(told_, sizeof(uint64_t), DSV4MX_MEMORY_PINNED);
}

dist::CollectArgs CudaCollective::CollectOf(Among among, uint64_t tag) const {
  const int32_t tp = shape_.tp_size, slice = shape_.rank % tp;
  if (among == Among::kParts) return {progress_, told_, Part(), shape_.window.ep, slice, tp, tag};
  return {progress_, told_, slice, tp, shape_.rank - slice, 1, tag};
}

dist::GroupArgs CudaCollective::Args(uint64_t tag) const {
  // Finish looks at nothing but this rank's own.
  dist::GroupArgs a{};
  a.windows[shape_.rank] = home_;
  a.told[shape_.rank] = told_;
  a.progress = progress_;
  a.SetRank(shape_.rank, shape_.size, shape_.tp_size);
  a.tag = tag;
  return a;
}

Status CudaCollective::ComputeRows(const Round& r, const dist::RecordShape& record) {
  const int64_t rows = shape_.window.ep * r.spacing;
  const ApplyCall& c = r.call.call;
  ApplyCall call{};
  call.x = records_;
  call.x_stride = record.bytes() / 2;
  call.topk_ids = records_ + record.ids();
  call.topk_ids_stride = record.bytes() / 4;
  call.topk_weights = records_ + record.weights();
  call.topk_weights_stride = record.bytes() / 4;
  call.tokens = rows;
  call.workspace = c.workspace;
  call.workspace_bytes = c.workspace_bytes;
  call.multiprocessors = c.multiprocessors;
  return r.layer.ForChunks(r.group.rows(), LayerTables{}, r.call.store, r.call.census, call, 0,
                           rows, [&](const Pipeline& chunk, int64_t begin, int64_t) -> Status {
                             DSV4MX_TRY(chunk.RunToSlots(r.call.stream));
                             dist::SpreadRowsArgs a{};
                             a.group = CollectOf(Among::kParts, r.tag);
                             a.shape = record;
                             a.records = records_;
                             a.spacing = static_cast<int32_t>(r.spacing);
                             a.first = begin;
                             a.layer = chunk.CombineOf();
                             a.sum_is_bf16 = SumsAreBf16();
                             a.results = results_ + begin * RowBytes(record);
                             a.loads = r.group.loads();
                             a.expert_counts = c.expert_counts;
                             DSV4MX_CUDA(SumsTravel() ? dist::LaunchSpreadSums(a, r.call.stream)
                                                      : dist::LaunchSpreadRows(a, r.call.stream));
                             return kOk;
                           });
}

int64_t CudaCollective::RowBytes(const dist::RecordShape& record) const {
  const dist::WindowShape& w = shape_.window;
  return record.hidden * (SumsTravel() ? w.partial_bytes : int64_t{record.top_k} * w.slot_bytes);
}

Status CudaCollective::ReturnResults(const Round& r, const dist::RecordShape& record) {
  const int64_t bytes = r.spacing * RowBytes(record);
  if (SumsTravel())
    return collectives_->AllToAll(Among::kParts, results_, home_, static_cast<size_t>(bytes),
                                  nullptr, r.call.stream);
  return collectives_->ReduceScatter(Among::kParts, results_, home_,
                                     static_cast<size_t>(bytes / shape_.window.slot_bytes),
                                     r.layer.spec().slot_dtype, nullptr, r.call.stream);
}

Status CudaCollective::EpRound(const Round& r) {
  const LayerSpec& spec = r.layer.spec();
  const ApplyCall& c = r.call.call;
  const dist::RecordShape record{spec.hidden, spec.top_k};
  const auto bytes = static_cast<size_t>(r.spacing * record.bytes());
  dist::PackRowsArgs a{};
  a.group = CollectOf(Among::kParts, r.tag);
  a.routes = r.group.routes();
  a.own = Own(r);
  a.shape = record;
  a.spacing = static_cast<int32_t>(r.spacing);
  a.x = static_cast<const uint16_t*>(c.x) + r.first * c.x_stride;
  a.x_stride = c.x_stride;
  a.records = records_ + static_cast<size_t>(Part()) * bytes;
  DSV4MX_CUDA(dist::LaunchPackRows(a, r.call.stream));
  DSV4MX_TRY(collectives_->AllGather(Among::kParts, a.records, records_, bytes, r.call.stream));
  DSV4MX_TRY(ComputeRows(r, record));
  DSV4MX_TRY(ReturnResults(r, record));
  dist::FinishArgs f{};
  f.group = Args(r.tag);
  f.sizes.spacing = static_cast<int32_t>(r.spacing);
  f.sizes.top_k = spec.top_k;
  f.sizes.hidden = spec.hidden;
  f.sizes.slot_bytes = shape_.window.slot_bytes;
  f.sizes.sums_travel = SumsTravel();
  f.sizes.sum_is_bf16 = SumsAreBf16();
  f.sum = SumOf(r);
  DSV4MX_CUDA(dist::LaunchFinish(f, r.call.stream));
  return shape_.tp_size > 1 ? ReduceSums(r) : kOk;
}

Status CudaCollective::ReduceSums(const Round& r) {
  for (int64_t begin = 0; begin < r.count; begin += shape_.window.reduce_tokens) {
    dist::CollectSumsArgs a{};
    a.group = CollectOf(Among::kSlices, r.tag);
    a.reduce = ReduceOf(r, begin);
    a.blocks = blocks_;
    a.block_bytes = static_cast<int64_t>(sizeof(dist::RoundStamp)) +
                    int64_t{a.reduce.tokens} * a.reduce.hidden * shape_.window.partial_bytes;
    DSV4MX_CUDA(dist::LaunchPackSums(a, r.call.stream));
    DSV4MX_TRY(collectives_->AllGather(Among::kSlices, blocks_ + a.group.mine * a.block_bytes,
                                       blocks_, static_cast<size_t>(a.block_bytes), r.call.stream));
    DSV4MX_CUDA(dist::LaunchAddSums(a, r.call.stream));
  }
  return kOk;
}

FaultWord CudaCollective::Fault() const {
  return dist::UnpackFault(__atomic_load_n(told_, __ATOMIC_ACQUIRE));
}

FaultWord CudaCollective::Break(const FaultWord& fault) {
  uint64_t none = 0;
  (void)__atomic_compare_exchange_n(told_, &none, dist::PackFault(fault), false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE);
  collectives_->Abort();
  return Fault();
}

Status CudaCollective::Reset() {
  DSV4MX_RETURN_IF(collectives_->Aborted(), DSV4MX_STATUS_UNSUPPORTED,
                   "the group's collectives were aborted, wanted a new communicator");
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(cudaStreamPerThread));
  DSV4MX_CUDA(cudaDeviceSynchronize());
  DSV4MX_CUDA(cudaMemsetAsync(progress_, 0, sizeof(dist::Progress), cudaStreamPerThread));
  DSV4MX_CUDA(cudaStreamSynchronize(cudaStreamPerThread));
  DSV4MX_TRY(ClearRecords());
  __atomic_store_n(told_, uint64_t{0}, __ATOMIC_RELEASE);
  return kOk;
}

}  // namespace dsv4mx::cuda
