// Tensors out of files into the store. Threads read pieces of rows, each into small pinned slots of its own, which stay in its
// processor's cache; the thread that made the call, the owner, sends full ones to where they belong in a block of device memory
// and repacks blocks that are complete. Nobody waits for a copy: slots are looked after by their events, and blocks of the
// device follow each other in the order of two streams, one of copies and the caller's of kernels.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

#include "lib/base/crew.h"
#include "lib/base/scales.h"
#include "lib/base/usable_threads.h"
#include "lib/cuda/cuda_ordered.h"
#include "lib/cuda/cuda_read_plan.h"
#include "lib/cuda/cuda_store.h"

namespace dsv4mx::cuda {

class CudaStore::Reading {
 public:
  Reading(CudaStore* store, absl::Span<const RowsToRead> tensors, const Call& call)
      : store_(*store),
        staging_(store->staging_),
        call_(call),
        plan_(tensors, *store->spec_, staging_.bytes(), staging_.count(), SlotBytes()),
        blocks_(plan_.blocks().size()),
        ahead_(kAheadBytes / staging_.bytes() + 1) {
    for (size_t b = 0; b < blocks_.size(); ++b) blocks_[b].left = plan_.blocks()[b].pieces;
  }
  ~Reading() {
    // A failure left copies under way.
    if (staging_.copies() != nullptr && sending_ > 0) {
      (void)cudaStreamSynchronize(staging_.copies());
    }
    for (const Slot& slot : slots_) {
      if (slot.copied != nullptr) (void)cudaEventDestroy(slot.copied);
    }
  }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;

  Status Run(int threads) {
    const auto tell = [&] {
      return call_.control.Report(DSV4MX_STAGE_LOAD, done_.load(), plan_.file_bytes());
    };
    DSV4MX_TRY(tell());
    DSV4MX_TRY(staging_.AcquireAll(call_));
    threads = std::min(threads, staging_.count() * kSlotsPerBlock / kLeastSlots);
    DSV4MX_TRY(MakeSlots(threads));
    for (int64_t b = 0; b < ahead_; ++b) plan_.Prefetch(b);
    const auto poll = [&](bool* busy) { return Attend(busy); };
    DSV4MX_TRY(crew_.Run(
        threads, plan_.pieces(), [&](int64_t item, int worker) { return Read(item, worker); }, tell,
        poll));
    bool busy = true;
    DSV4MX_TRY(Attend(&busy));  // what came last
    // The slots are the staging's memory: its next user waits for these events.
    for (int i = 0; i < staging_.count(); ++i) {
      DSV4MX_TRY(Staging::Release(staging_.At(i), call_.stream));
    }
    sending_ = 0;
    return tell();
  }

 private:
  // The system is asked to have this much ready ahead of what is being read.
  static constexpr int64_t kAheadBytes = int64_t{16} << 20;
  // A thread reads into one slot while the other is copied. More would not stay in its cache.
  static constexpr int kSlotsPerBlock = 8, kLeastSlots = 2, kMostSlots = 3;
  int64_t SlotBytes() const { return staging_.bytes() / kSlotsPerBlock / 256 * 256; }

  struct Slot {
    uint8_t* host = nullptr;
    cudaEvent_t copied = nullptr;
    std::atomic<bool> free{true};
    ReadPlan::Piece piece{};
  };
  struct BlockState {
    int64_t left = 0;  // pieces that are not sent; the owner's
    std::atomic<bool> sent{false};
  };

  Status MakeSlots(int threads);
  Status Read(int64_t item, int worker);
  Status Await(int64_t item, Crew::Condition condition);
  Status CheckScales(const RowsToRead& t, int64_t first, int64_t rows, uint8_t* at) const;
  Status Attend(bool* busy);
  Status SendSlot(Slot* slot);
  Status PackBlock(size_t index);
  Status Pack(const ReadPlan::Run& run, int32_t expert, Matrix m, const uint8_t* at) const;

  CudaStore& store_;
  Staging& staging_;
  const Call& call_;
  const ReadPlan plan_;
  std::vector<BlockState> blocks_;
  int64_t ahead_;

  std::vector<Slot> slots_;  // so many for each worker
  size_t per_worker_ = 0;
  std::vector<size_t> turns_;  // of each worker
  std::mutex posting_;
  std::vector<Slot*> posted_;  // full, and not sent
  // The owner's.
  std::vector<Slot*> sending_of_;  // a ring of slots under way, in the order of the stream
  size_t first_sending_ = 0, sending_ = 0;
  std::vector<Slot*> taken_;
  std::chrono::steady_clock::time_point last_{};

  std::atomic<int> waiting_{0};
  std::atomic<int64_t> done_{0};
  Crew crew_;
};

Status CudaStore::Reading::MakeSlots(int threads) {
  per_worker_ =
      static_cast<size_t>(std::min(staging_.count() * kSlotsPerBlock / threads, kMostSlots));
  slots_ = std::vector<Slot>(per_worker_ * static_cast<size_t>(threads));
  turns_.assign(static_cast<size_t>(threads), 0);
  posted_.reserve(slots_.size());
  taken_.reserve(slots_.size());
  sending_of_.assign(slots_.size(), nullptr);
  for (size_t i = 0; i < slots_.size(); ++i) {
    const auto block = static_cast<int>(i / kSlotsPerBlock);
    slots_[i].host =
        staging_.At(block).host + static_cast<int64_t>(i % kSlotsPerBlock) * SlotBytes();
    DSV4MX_CUDA(cudaEventCreateWithFlags(&slots_[i].copied, cudaEventDisableTiming));
  }
  return kOk;
}

Status CudaStore::Reading::Await(int64_t item, Crew::Condition condition) {
  if (condition()) return kOk;
  ++waiting_;  // before it is asked again, so that who makes it true knows
  const Status status = crew_.Await(item, condition);
  --waiting_;
  return status;
}

Status CudaStore::Reading::Read(int64_t item, int worker) {
  const ReadPlan::Piece piece = plan_.At(item);
  const ReadPlan::Run& run = *piece.run;
  const auto block = static_cast<size_t>(run.block),
             buffers = static_cast<size_t>(staging_.count());
  if (item == plan_.blocks()[block].first_piece) plan_.Prefetch(run.block + ahead_);
  size_t& turn = turns_[static_cast<size_t>(worker)];
  Slot* const slot = &slots_[static_cast<size_t>(worker) * per_worker_ + turn++ % per_worker_];
  DSV4MX_TRY(Await(item, [&] {
    return slot->free.load() && (block < buffers || blocks_[block - buffers].sent.load());
  }));
  const RowSource& source = *run.tensor->source;
  DSV4MX_TRY(source.Read(piece.first, piece.rows, slot->host));
  DSV4MX_TRY(CheckScales(*run.tensor, piece.first, piece.rows, slot->host));
  done_ += piece.rows * source.FileBytes();
  slot->piece = piece;
  slot->free = false;
  {
    const std::lock_guard<std::mutex> lock(posting_);
    posted_.push_back(slot);  // there is room
  }
  crew_.Wake();
  return kOk;
}

// Numbers become bytes where they were read; what lies between is copied along.
Status CudaStore::Reading::CheckScales(const RowsToRead& t, int64_t first, int64_t rows,
                                       uint8_t* at) const {
  const bool both = t.parts == RowsToRead::kCodesAndScales;
  if (!both && t.parts != RowsToRead::kScales) return kOk;
  const int64_t k = store_.spec_->K(t.matrix), row_bytes = t.source->RowBytes();
  if (both) at += k / 2;
  for (int64_t row = first; row < first + rows; ++row, at += row_bytes) {
    const Matrix m = t.paired && row % 2 == 1 ? Matrix::kUp : t.matrix;
    DSV4MX_TRY(ScaleRowToBytes(at, t.dtype, t.experts[0], m, t.paired ? row / 2 : row, k / kGroup));
  }
  return kOk;
}

// The owner, again and again: sends what was posted, and gives slots back whose copies are done.
Status CudaStore::Reading::Attend(bool* busy) {
  constexpr auto kPatience = std::chrono::milliseconds(1);  // a thread that sleeps wakes late
  {
    const std::lock_guard<std::mutex> lock(posting_);
    taken_.swap(posted_);
  }
  bool news = !taken_.empty();
  for (Slot* slot : taken_) DSV4MX_TRY(SendSlot(slot));
  taken_.clear();
  while (sending_ > 0) {
    Slot* const slot = sending_of_[first_sending_];
    const cudaError_t error = cudaEventQuery(slot->copied);
    if (error == cudaErrorNotReady) break;
    DSV4MX_TRY(Check(error, "cudaEventQuery"));
    first_sending_ = (first_sending_ + 1) % sending_of_.size();
    --sending_;
    slot->free = true;
    news = true;
  }
  if (news && waiting_ > 0) crew_.Changed();
  const auto now = std::chrono::steady_clock::now();
  if (news) last_ = now;
  *busy = sending_ > 0 || now - last_ < kPatience;
  return kOk;
}

Status CudaStore::Reading::SendSlot(Slot* slot) {
  const ReadPlan::Run& run = *slot->piece.run;
  const auto index = static_cast<size_t>(run.block);
  const ReadPlan::Block& block = plan_.blocks()[index];
  const auto buffers = static_cast<int64_t>(staging_.count());
  const Staging::Buffer& buffer = staging_.At(static_cast<int>(run.block % buffers));
  if (blocks_[index].left == block.pieces && run.block >= buffers) {
    DSV4MX_CUDA(cudaStreamWaitEvent(staging_.copies(), buffer.idle, 0));
  }
  const int64_t row_bytes = run.tensor->source->RowBytes();
  ++sending_;
  sending_of_[(first_sending_ + sending_ - 1) % sending_of_.size()] = slot;
  DSV4MX_CUDA(cudaMemcpyAsync(buffer.device + run.at + (slot->piece.first - run.first) * row_bytes,
                              slot->host, static_cast<size_t>(slot->piece.rows * row_bytes),
                              cudaMemcpyHostToDevice, staging_.copies()));
  DSV4MX_CUDA(cudaEventRecord(slot->copied, staging_.copies()));
  if (--blocks_[index].left > 0) return kOk;
  DSV4MX_TRY(PackBlock(index));
  blocks_[index].sent = true;
  return kOk;
}

Status CudaStore::Reading::PackBlock(size_t index) {
  const ReadPlan::Block& block = plan_.blocks()[index];
  const Staging::Buffer& buffer =
      staging_.At(static_cast<int>(index % static_cast<size_t>(staging_.count())));
  DSV4MX_CUDA(cudaEventRecord(buffer.copied, staging_.copies()));
  DSV4MX_CUDA(cudaStreamWaitEvent(call_.stream, buffer.copied, 0));
  for (size_t r = block.begin; r < block.end; ++r) {
    const ReadPlan::Run& run = plan_.runs()[r];
    const uint8_t* at = buffer.device + run.at;
    for (const int32_t expert : run.tensor->experts) {
      DSV4MX_TRY(Pack(run, expert, run.tensor->matrix, at));
      if (!run.tensor->paired) continue;
      DSV4MX_TRY(Pack(run, expert, Matrix::kUp, at + run.tensor->source->RowBytes()));
    }
  }
  return Staging::Release(buffer, call_.stream);
}

Status CudaStore::Reading::Pack(const ReadPlan::Run& run, int32_t expert, Matrix m,
                                const uint8_t* at) const {
  const RowsToRead& t = *run.tensor;
  const cudaStream_t stream = call_.stream;
  const int64_t step = t.paired ? 2 : 1;
  const SlabMatrix to = store_.At(expert, m);
  const RowsView rows{at, step * t.source->RowBytes(), 1, run.first / step, run.rows / step};
  const bool both = t.parts == RowsToRead::kCodesAndScales;
  if (t.parts == RowsToRead::kBias) {
    DSV4MX_CUDA(
        LaunchPackBias(to, rows.data, rows.row_stride, t.dtype == DSV4MX_DTYPE_BF16, stream));
    return kOk;
  }
  if (both || t.parts == RowsToRead::kCodes) {
    DSV4MX_CUDA(LaunchPackCodes(to, rows, {}, t.high_first, stream));
  }
  if (both || t.parts == RowsToRead::kScales) {
    RowsView scales = rows;
    if (both) scales.data += to.k() / 2;
    DSV4MX_CUDA(LaunchPackScales(to, scales, ScaleType::kBytes, store_.bad_, stream));
  }
  return kOk;
}

Status CudaStore::BeginReading(int64_t bytes, int threads, const Call& call) {
  int64_t block = StagingBytes(*spec_);
  if (bytes != 0 && bytes < ExtraBytes(*spec_)) {
    const int64_t beside = ExtraBytes(*spec_) - Staging::TotalBytes(block);
    const int64_t least = ReadPlan::LeastBlock(*spec_);
    block = (bytes - beside) / Staging::TotalBytes(1) / 256 * 256;
    DSV4MX_RETURN_IF(block < least, DSV4MX_STATUS_INVALID_ARGUMENT,
                     "staging_bytes is %lld, wanted at least %lld: runs of %d rows",
                     static_cast<long long>(bytes),
                     static_cast<long long>(Staging::TotalBytes(least) + beside),
                     static_cast<int>(kRowRun));
  }
  // A link of 55 GB/s wants more from page cache than most hosts' cores copy; the owner has one for itself.
  constexpr int kMostReaders = 16;
  readers_ = threads == 0 ? std::clamp(UsableThreads() - 1, 1, kMostReaders) : threads;
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(call.stream));
  staging_.Resize(block);
  return kOk;
}

void CudaStore::EndReading() {
  readers_ = 0;
  const int64_t block = StagingBytes(*spec_);
  if (staging_.bytes() == block) return;  // stays for what is set next
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  staging_.Resize(block);
}

Status CudaStore::ReadRows(absl::Span<const RowsToRead> tensors, const Call& call) {
  DSV4MX_RETURN_IF(readers_ == 0, DSV4MX_STATUS_INTERNAL, "rows to read before BeginReading");
  Ordered ordered(*this, call.stream);
  DSV4MX_TRY(ordered.Begin());
  return Reading(this, tensors, call).Run(readers_);
}

}  // namespace dsv4mx::cuda
