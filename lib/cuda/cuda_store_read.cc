// Tensors out of files into the store. Threads read pieces of rows, each into any free slot of pinned memory; the thread that
// made the call, the owner, sends full slots to the slots' other halves on the device and has them packed from there, on lanes,
// streams of the staging's own: copies and kernels of different lanes overlap, those of one follow each other, so that nothing
// has to be waited for. A slot is free when its event says that it was packed.
//
// A link takes a slot in ten or twenty microseconds. What every slot costs the owner must be well below that, and nobody may
// sleep for as long: both look again for a while before they do.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "lib/base/crew.h"
#include "lib/base/scales.h"
#include "lib/base/usable_threads.h"
#include "lib/cuda/cuda_ordered.h"
#include "lib/cuda/cuda_read_plan.h"
#include "lib/cuda/cuda_store.h"

namespace dsv4mx::cuda {
namespace {

using Clock = std::chrono::steady_clock;

int64_t Nanoseconds(Clock::time_point begin) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin).count();
}

}  // namespace

class CudaStore::Reading {
 public:
  Reading(CudaStore* store, absl::Span<const RowsToRead> tensors, const Call& call)
      : store_(*store),
        staging_(store->staging_),
        call_(call),
        per_buffer_(SlotsOf(staging_.bytes(), *store->spec_)),
        slot_bytes_(staging_.bytes() / per_buffer_ / kAlignment * kAlignment),
        slots_(static_cast<size_t>(per_buffer_ * staging_.count())),
        plan_(tensors, *store->spec_, slot_bytes_, static_cast<int>(slots_.size())),
        ahead_(kAheadBytes / slot_bytes_ + 1) {}
  ~Reading() {
    // A failure left work under way.
    if (!joined_) {
      for (int i = 0; i < Staging::kLanes; ++i) {
        if (staging_.lane(i) != nullptr) (void)cudaStreamSynchronize(staging_.lane(i));
      }
    }
    for (const Slot& slot : slots_) {
      if (slot.packed != nullptr) (void)cudaEventDestroy(slot.packed);
    }
  }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;

  Status Run(int threads, ReadTimes* times) {
    const auto begin = Clock::now();
    const auto tell = [&] {
      return call_.control.Report(DSV4MX_STAGE_LOAD, done_.load(), plan_.file_bytes());
    };
    DSV4MX_TRY(tell());
    DSV4MX_TRY(Begin());
    // One is read into while another is on its way.
    threads = std::max(1, std::min(threads, static_cast<int>(slots_.size()) * 2 / 3));
    times->begin_s = 1e-9 * static_cast<double>(Nanoseconds(begin));
    for (int64_t item = 0; item < ahead_; ++item) Prefetch(item);
    const auto poll = [&](bool* busy) { return Attend(busy); };
    DSV4MX_TRY(crew_.Run(
        threads, plan_.pieces(), [&](int64_t item, int) { return Read(item); }, tell, poll));
    bool busy = true;
    DSV4MX_TRY(Attend(&busy));  // what came last
    DSV4MX_TRY(Join());
    times->readers = threads;
    times->pieces = plan_.pieces();
    times->bytes = plan_.file_bytes();
    times->read_s = 1e-9 * static_cast<double>(read_ns_) / threads;
    times->wait_s = 1e-9 * static_cast<double>(wait_ns_) / threads;
    times->send_s = 1e-9 * static_cast<double>(send_ns_);
    times->whole_s = 1e-9 * static_cast<double>(Nanoseconds(begin));
    return tell();
  }

 private:
  static constexpr int64_t kAlignment = 256;
  // The system is asked to have this much ready ahead of what is being read.
  static constexpr int64_t kAheadBytes = int64_t{16} << 20;
  static constexpr int64_t kSlotBytes = int64_t{1} << 20;
  // A load of so much begins before it has all its memory.
  static constexpr int64_t kLarge = int64_t{64} << 20;
  static int SlotsOf(int64_t buffer_bytes, const LayerSpec& spec) {
    return static_cast<int>(
        std::max<int64_t>(1, buffer_bytes / std::max(kSlotBytes, ReadPlan::LeastSlot(spec))));
  }

  struct Slot {
    uint8_t *host = nullptr, *device = nullptr;
    cudaEvent_t packed = nullptr;
    ReadPlan::Piece piece{};
  };

  Status Begin();
  Status MakeSlots();
  void Prefetch(int64_t item) const {
    if (item >= plan_.pieces()) return;
    const ReadPlan::Piece piece = plan_.At(item);
    piece.tensor->source->Prefetch(piece.first, piece.rows);
  }
  Status Read(int64_t item);
  Status TakeSlot(int64_t item, Slot** out);
  Slot* TryTakeSlot();
  Status CheckScales(const RowsToRead& t, int64_t first, int64_t rows, uint8_t* at) const;
  Status Attend(bool* busy);
  Status SendSlot(Slot* slot);
  Status Pack(const Slot& slot, int32_t expert, Matrix m, const uint8_t* at,
              cudaStream_t lane) const;
  Status Join();

  CudaStore& store_;
  Staging& staging_;
  const Call& call_;
  const int per_buffer_;
  const int64_t slot_bytes_;
  std::vector<Slot> slots_;
  const ReadPlan plan_;
  const int64_t ahead_;

  std::mutex mutex_;  // of both lists, for which there is room
  std::vector<Slot*>
      free_;  // the last one that became free is taken first: caches may still hold it
  std::vector<Slot*> posted_;  // full, and not sent
  std::atomic<size_t> free_count_{0};
  // The owner's.
  std::vector<Slot*> sending_;  // a ring of slots under way, in the order in which they were sent
  size_t first_sending_ = 0, sending_count_ = 0, turn_ = 0;
  int buffers_ = 0;  // of the staging, whose slots there are
  std::vector<Slot*> taken_;
  Clock::time_point last_{};
  int64_t send_ns_ = 0;
  bool joined_ = false;

  std::atomic<int> waiting_{0};
  std::atomic<int64_t> done_{0}, read_ns_{0}, wait_ns_{0};
  Crew crew_;
};

Status CudaStore::Reading::Begin() {
  free_.reserve(slots_.size());
  posted_.reserve(slots_.size());
  taken_.reserve(slots_.size());
  sending_.assign(slots_.size(), nullptr);
  DSV4MX_TRY(staging_.MakeLanes());
  do {
    DSV4MX_TRY(MakeSlots());
  } while (buffers_ < staging_.count() && plan_.file_bytes() < kLarge);
  // What is packed comes behind what the caller's stream and earlier calls did to the store.
  joined_ = false;
  const cudaEvent_t begin = slots_[0].packed;
  DSV4MX_CUDA(cudaEventRecord(begin, call_.stream));
  for (int i = 0; i < Staging::kLanes; ++i) {
    DSV4MX_CUDA(cudaStreamWaitEvent(staging_.lane(i), begin, 0));
  }
  return kOk;
}

// Those of the next buffer. Memory takes its time to come by: there is work as soon as there is the first of it.
Status CudaStore::Reading::MakeSlots() {
  Staging::Buffer* buffer = nullptr;
  DSV4MX_TRY(staging_.AcquireNth(buffers_, call_, &buffer));
  const auto first = static_cast<size_t>(buffers_++) * static_cast<size_t>(per_buffer_);
  for (size_t i = first; i < first + static_cast<size_t>(per_buffer_); ++i) {
    const int64_t at = static_cast<int64_t>(i - first) * slot_bytes_;
    slots_[i].host = buffer->host + at;
    slots_[i].device = buffer->device + at;
    DSV4MX_CUDA(cudaEventCreateWithFlags(&slots_[i].packed, cudaEventDisableTiming));
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  for (size_t i = first; i < first + static_cast<size_t>(per_buffer_); ++i) {
    free_.push_back(&slots_[i]);
  }
  free_count_ = free_.size();
  return kOk;
}

CudaStore::Reading::Slot* CudaStore::Reading::TryTakeSlot() {
  if (free_count_.load(std::memory_order_relaxed) == 0) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (free_.empty()) return nullptr;
  Slot* slot = free_.back();
  free_.pop_back();
  free_count_ = free_.size();
  return slot;
}

Status CudaStore::Reading::TakeSlot(int64_t item, Slot** out) {
  constexpr auto kPatience = std::chrono::microseconds(200);  // a thread that sleeps wakes late
  *out = TryTakeSlot();
  if (*out != nullptr) return kOk;
  const auto begin = Clock::now();
  while (*out == nullptr) {
    if (Clock::now() - begin < kPatience && !crew_.IsOwner()) {
      std::this_thread::yield();
    } else {
      ++waiting_;  // before it is asked again, so that who makes it true knows
      const Status status = crew_.Await(item, [&] { return free_count_.load() > 0; });
      --waiting_;
      DSV4MX_TRY(status);
    }
    *out = TryTakeSlot();
  }
  wait_ns_ += Nanoseconds(begin);
  return kOk;
}

Status CudaStore::Reading::Read(int64_t item) {
  const ReadPlan::Piece piece = plan_.At(item);
  Prefetch(item + ahead_);
  Slot* slot = nullptr;
  DSV4MX_TRY(TakeSlot(item, &slot));
  const RowSource& source = *piece.tensor->source;
  const auto begin = Clock::now();
  DSV4MX_TRY(source.Read(piece.first, piece.rows, slot->host));
  DSV4MX_TRY(CheckScales(*piece.tensor, piece.first, piece.rows, slot->host));
  read_ns_ += Nanoseconds(begin);
  done_ += piece.rows * source.FileBytes();
  slot->piece = piece;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    posted_.push_back(slot);
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

// The owner, again and again: sends what was posted, and gives slots back that are packed.
Status CudaStore::Reading::Attend(bool* busy) {
  constexpr auto kPatience = std::chrono::milliseconds(1);  // a thread that sleeps wakes late
  constexpr auto kYieldAfter = std::chrono::microseconds(50);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    taken_.swap(posted_);
  }
  const auto begin = Clock::now();
  bool news = !taken_.empty();
  for (Slot* slot : taken_) DSV4MX_TRY(SendSlot(slot));
  taken_.clear();
  const bool more = buffers_ < staging_.count();
  if (more) DSV4MX_TRY(MakeSlots());
  size_t packed = 0;
  for (; packed < sending_count_; ++packed) {
    const Slot& slot = *sending_[(first_sending_ + packed) % sending_.size()];
    const cudaError_t error = cudaEventQuery(slot.packed);
    if (error == cudaErrorNotReady) break;
    DSV4MX_TRY(Check(error, "cudaEventQuery"));
  }
  if (packed > 0) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < packed; ++i) {
      free_.push_back(sending_[(first_sending_ + i) % sending_.size()]);
    }
    free_count_ = free_.size();
    first_sending_ = (first_sending_ + packed) % sending_.size();
    sending_count_ -= packed;
    news = true;
  }
  if ((packed > 0 || more) && waiting_ > 0) crew_.Changed();
  news = news || more;
  if (news) {
    last_ = Clock::now();
    send_ns_ += std::chrono::duration_cast<std::chrono::nanoseconds>(last_ - begin).count();
  } else if (begin - last_ > kYieldAfter) {
    std::this_thread::yield();
  }
  *busy = sending_count_ > 0 || begin - last_ < kPatience;
  return kOk;
}

Status CudaStore::Reading::SendSlot(Slot* slot) {
  const RowsToRead& t = *slot->piece.tensor;
  const int64_t row_bytes = t.source->RowBytes();
  const cudaStream_t lane = staging_.lane(static_cast<int>(turn_++ % Staging::kLanes));
  DSV4MX_CUDA(cudaMemcpyAsync(slot->device, slot->host,
                              static_cast<size_t>(slot->piece.rows * row_bytes),
                              cudaMemcpyHostToDevice, lane));
  for (const int32_t expert : t.experts) {
    DSV4MX_TRY(Pack(*slot, expert, t.matrix, slot->device, lane));
    if (t.paired) DSV4MX_TRY(Pack(*slot, expert, Matrix::kUp, slot->device + row_bytes, lane));
  }
  DSV4MX_CUDA(cudaEventRecord(slot->packed, lane));
  sending_[(first_sending_ + sending_count_++) % sending_.size()] = slot;
  return kOk;
}

Status CudaStore::Reading::Pack(const Slot& slot, int32_t expert, Matrix m, const uint8_t* at,
                                cudaStream_t lane) const {
  const RowsToRead& t = *slot.piece.tensor;
  const int64_t step = t.paired ? 2 : 1;
  const SlabMatrix to = store_.At(expert, m);
  const RowsView rows{at, step * t.source->RowBytes(), 1, slot.piece.first / step,
                      slot.piece.rows / step};
  const bool both = t.parts == RowsToRead::kCodesAndScales;
  if (t.parts == RowsToRead::kBias) {
    DSV4MX_CUDA(LaunchPackBias(to, rows.data, rows.row_stride, t.dtype == DSV4MX_DTYPE_BF16, lane));
    return kOk;
  }
  if (both || t.parts == RowsToRead::kCodes) {
    DSV4MX_CUDA(LaunchPackCodes(to, rows, {}, t.high_first, lane));
  }
  if (both || t.parts == RowsToRead::kScales) {
    RowsView scales = rows;
    if (both) scales.data += to.k() / 2;
    DSV4MX_CUDA(LaunchPackScales(to, scales, ScaleType::kBytes, store_.bad_, lane));
  }
  return kOk;
}

// The caller's stream goes on behind the lanes, and what uses the staging next behind that.
Status CudaStore::Reading::Join() {
  for (int i = 0; i < Staging::kLanes; ++i) {
    const cudaEvent_t end = staging_.At(i % buffers_).copied;
    DSV4MX_CUDA(cudaEventRecord(end, staging_.lane(i)));
    DSV4MX_CUDA(cudaStreamWaitEvent(call_.stream, end, 0));
  }
  for (int i = 0; i < buffers_; ++i) {
    DSV4MX_TRY(Staging::Release(staging_.At(i), call_.stream));
  }
  joined_ = true;
  return kOk;
}

Status CudaStore::BeginReading(int64_t bytes, int threads, const Call& call) {
  int64_t block = StagingBytes(*spec_);
  if (bytes != 0 && bytes < ExtraBytes(*spec_)) {
    const int64_t beside = ExtraBytes(*spec_) - Staging::TotalBytes(block);
    const int64_t least = ReadPlan::LeastSlot(*spec_);
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

Status CudaStore::ReadRows(absl::Span<const RowsToRead> tensors, const Call& call,
                           ReadTimes* times) {
  DSV4MX_RETURN_IF(readers_ == 0, DSV4MX_STATUS_INTERNAL, "rows to read before BeginReading");
  Ordered ordered(*this, call.stream);
  DSV4MX_TRY(ordered.Begin());
  return Reading(this, tensors, call).Run(readers_, times);
}

}  // namespace dsv4mx::cuda
