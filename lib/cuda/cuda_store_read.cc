// Tensors out of files into the store. Threads read pieces of rows, each to its place in a block of pinned memory; the thread that
// made the call, the owner, copies full blocks to the blocks of the device and has them packed from there. The caller's stream
// packs, another copies, in the order of the blocks; the owner waits for neither, but looks at events.
//
// What decides, measured on an H200: every copy costs the link 3 us beside its bytes, so that blocks of 4 MiB lose 4 % and
// slots of 512 KiB a third; copies on two streams get into each other's way; and whoever sleeps wakes too late, so both sides
// look again for a while first. Reading is the faster part: a dozen threads read half as much again as the link takes.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
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

double Seconds(Clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

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
        plan_(tensors, *store->spec_, staging_.bytes(), staging_.count(), kPieceBytes),
        left_(plan_.blocks().size()),
        ahead_(kAheadBytes / staging_.bytes() + 1) {
    for (size_t b = 0; b < left_.size(); ++b) left_[b] = plan_.blocks()[b].pieces;
  }
  ~Reading() {
    // A failure left copies under way.
    if (copied_ < sent_) (void)cudaStreamSynchronize(staging_.copies());
  }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;

  Status Run(int threads, ReadTimes* times) {
    const auto begin = Clock::now();
    const auto tell = [&] {
      return call_.control.Report(DSV4MX_STAGE_LOAD, done_.load(), plan_.file_bytes());
    };
    DSV4MX_TRY(tell());
    do {
      DSV4MX_TRY(MakeBuffer());
    } while (buffers_ < staging_.count() && plan_.file_bytes() < kLarge);
    times->begin_s = Seconds(Clock::now() - begin);
    for (int64_t b = 0; b < ahead_; ++b) plan_.Prefetch(b);
    DSV4MX_TRY(crew_.Run(
        threads, plan_.pieces(), [&](int64_t item, int) { return Read(item); }, tell,
        [&](bool* busy) { return Attend(busy); }));
    bool busy = true;
    DSV4MX_TRY(Attend(&busy));  // what came last
    // Later users of the staging wait for events of its buffers: nothing is left to do for what is under way.
    copied_ = sent_;
    times->readers = threads;
    times->pieces = plan_.pieces();
    times->bytes = plan_.file_bytes();
    times->read_s = 1e-9 * static_cast<double>(read_ns_) / threads;
    times->wait_s = 1e-9 * static_cast<double>(wait_ns_) / threads;
    times->send_s = Seconds(send_);
    times->whole_s = Seconds(Clock::now() - begin);
    return tell();
  }

 private:
  // The system is asked to have this much ready ahead of what is being read.
  static constexpr int64_t kAheadBytes = int64_t{16} << 20;
  // What a thread reads at a time: a block is full soon after it was begun.
  static constexpr int64_t kPieceBytes = int64_t{256} << 10;
  // A load of so much begins before it has all its memory.
  static constexpr int64_t kLarge = int64_t{64} << 20;

  Status MakeBuffer();
  Status Read(int64_t item);
  Status AwaitBlock(int64_t item, int64_t block);
  Status CheckScales(const RowsToRead& t, int64_t first, int64_t rows, uint8_t* at) const;
  Status Attend(bool* busy);
  Status SendBlock(int64_t index);
  Status Pack(const ReadPlan::Run& run, int32_t expert, Matrix m, const uint8_t* at) const;
  Staging::Buffer& BufferOf(int64_t block) const {
    return staging_.At(static_cast<int>(block % staging_.count()));
  }

  CudaStore& store_;
  Staging& staging_;
  const Call& call_;
  const ReadPlan plan_;
  std::vector<std::atomic<int64_t>> left_;  // pieces of each block that are not read
  const int64_t ahead_;

  std::atomic<int64_t> open_{0};  // blocks from the first on that may be filled
  // The owner's: so many buffers there are, so many blocks were sent, and of these so many have left the host's memory.
  int buffers_ = 0;
  int64_t sent_ = 0, copied_ = 0;
  Clock::time_point last_{};
  Clock::duration send_{};

  std::atomic<int> waiting_{0};
  std::atomic<int64_t> done_{0}, read_ns_{0}, wait_ns_{0};
  Crew crew_;
};

// The next of the staging. Memory takes its time to come by: there is work as soon as there is the first of it.
Status CudaStore::Reading::MakeBuffer() {
  Staging::Buffer* buffer = nullptr;
  DSV4MX_TRY(staging_.AcquireNth(buffers_, call_, &buffer));
  ++buffers_;
  open_ = buffers_ < staging_.count() ? buffers_ : copied_ + buffers_;
  return kOk;
}

Status CudaStore::Reading::AwaitBlock(int64_t item, int64_t block) {
  constexpr auto kPatience = std::chrono::microseconds(500);  // several copies
  const auto is_open = [&] { return block < open_.load(); };
  if (is_open()) return kOk;
  const auto begin = Clock::now();
  while (!is_open() && !crew_.IsOwner() && Clock::now() - begin < kPatience) {
    std::this_thread::yield();
  }
  if (!is_open()) {
    ++waiting_;  // before it is asked again, so that who makes it true knows
    const Status status = crew_.Await(item, is_open);
    --waiting_;
    DSV4MX_TRY(status);
  }
  wait_ns_ += Nanoseconds(begin);
  return kOk;
}

Status CudaStore::Reading::Read(int64_t item) {
  const ReadPlan::Piece piece = plan_.At(item);
  const ReadPlan::Run& run = *piece.run;
  const RowSource& source = *run.tensor->source;
  if (item == plan_.blocks()[static_cast<size_t>(run.block)].first_piece) {
    plan_.Prefetch(run.block + ahead_);
  }
  DSV4MX_TRY(AwaitBlock(item, run.block));
  const auto begin = Clock::now();
  uint8_t* const to =
      BufferOf(run.block).host + run.at + (piece.first - run.first) * source.RowBytes();
  DSV4MX_TRY(source.Read(piece.first, piece.rows, to));
  DSV4MX_TRY(CheckScales(*run.tensor, piece.first, piece.rows, to));
  read_ns_ += Nanoseconds(begin);
  done_ += piece.rows * source.FileBytes();
  if (--left_[static_cast<size_t>(run.block)] == 0) crew_.Wake();
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

// The owner, again and again: sends blocks that are full, and opens those whose copies are done to be filled anew.
Status CudaStore::Reading::Attend(bool* busy) {
  constexpr auto kPatience = std::chrono::milliseconds(1);  // a thread that sleeps wakes late
  constexpr auto kYieldAfter = std::chrono::microseconds(50);
  const auto blocks = static_cast<int64_t>(left_.size());
  const auto begin = Clock::now();
  const int64_t before = sent_ + copied_ + buffers_;
  while (sent_ < blocks && left_[static_cast<size_t>(sent_)] == 0) {
    DSV4MX_TRY(SendBlock(sent_++));
  }
  if (buffers_ < staging_.count()) DSV4MX_TRY(MakeBuffer());
  while (copied_ < sent_) {
    const cudaError_t error = cudaEventQuery(BufferOf(copied_).copied);
    if (error == cudaErrorNotReady) break;
    DSV4MX_TRY(Check(error, "cudaEventQuery"));
    ++copied_;
  }
  if (sent_ + copied_ + buffers_ > before) {
    if (buffers_ == staging_.count()) open_ = copied_ + buffers_;
    if (waiting_ > 0) crew_.Changed();
    last_ = Clock::now();
    send_ += last_ - begin;
  } else if (begin - last_ > kYieldAfter) {
    std::this_thread::yield();
  }
  *busy = copied_ < sent_ || begin - last_ < kPatience;
  return kOk;
}

Status CudaStore::Reading::SendBlock(int64_t index) {
  const ReadPlan::Block& block = plan_.blocks()[static_cast<size_t>(index)];
  const Staging::Buffer& buffer = BufferOf(index);
  const cudaStream_t copies = staging_.copies();
  // Behind the kernels that packed what the block held before; those of the first one, behind whatever came before this call.
  DSV4MX_CUDA(cudaStreamWaitEvent(copies, buffer.idle, 0));
  DSV4MX_CUDA(cudaMemcpyAsync(buffer.device, buffer.host, static_cast<size_t>(block.bytes),
                              cudaMemcpyHostToDevice, copies));
  DSV4MX_CUDA(cudaEventRecord(buffer.copied, copies));
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

Status CudaStore::ReadRows(absl::Span<const RowsToRead> tensors, const Call& call,
                           ReadTimes* times) {
  DSV4MX_RETURN_IF(readers_ == 0, DSV4MX_STATUS_INTERNAL, "rows to read before BeginReading");
  Ordered ordered(*this, call.stream);
  DSV4MX_TRY(ordered.Begin());
  return Reading(this, tensors, call).Run(readers_, times);
}

}  // namespace dsv4mx::cuda
