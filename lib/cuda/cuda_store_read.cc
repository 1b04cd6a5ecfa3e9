// Tensors out of files into the store. Threads read blocks, each into any free buffer of the staging; the thread that made the
// call, the owner, copies full buffers to blocks of the device, of which there are fewer, and has them packed from there. One
// stream copies and the caller's packs; the owner waits for neither, but looks at events.
//
// What decides, measured on an H200: every copy costs the link 3 us beside its bytes; copies on two streams get into each other's
// way; whoever sleeps wakes too late, so both sides look again for a while first; and a processor may be taken away for a
// while, so that nobody may have to wait for what a certain thread reads. Reading is the faster part: a dozen threads read
// half as much again as the link takes.
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

double Seconds(Clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

int64_t Nanoseconds(Clock::time_point begin) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin).count();
}

}  // namespace

// Makes what is derived of an expert as soon as all of it was packed: the device has the time while the link is busy, and
// prepare has not. A few experts at once, since what comes next waits for it.
class CudaStore::Deriving {
 public:
  Deriving(CudaStore* store, const ReadPlan& plan, cudaStream_t stream)
      : store_(*store),
        stream_(stream),
        left_(store->derived_.size(), 0),
        parts_(store->derived_.size(), 0) {
    for (const ReadPlan::Run& run : plan.runs()) {
      for (const int32_t expert : run.tensor->experts) {
        const auto e = static_cast<size_t>(expert);
        ++left_[e];
        parts_[e] = static_cast<uint8_t>(parts_[e] | PartsOf(*run.tensor));
        store_.derived_[e] = 0;
      }
    }
    packed_.reserve(left_.size());
  }

  // Behind the kernels that pack the run.
  Status Packed(const ReadPlan::Run& run) {
    for (const int32_t expert : run.tensor->experts) {
      const auto e = static_cast<size_t>(expert);
      if (--left_[e] == 0 && parts_[e] == kAllParts) packed_.push_back(expert);
    }
    return packed_.size() < kAtOnce ? kOk : Rest();
  }

  Status Rest() {
    std::sort(packed_.begin(), packed_.end());
    for (size_t i = 0, end; i < packed_.size(); i = end) {
      end = i + 1;
      while (end < packed_.size() && packed_[end] == packed_[end - 1] + 1) ++end;
      const int32_t first = packed_[i], count = static_cast<int32_t>(end - i);
      DSV4MX_TRY(store_.Derive(store_.memory_ + first * store_.parts_.bytes, count,
                               store_.records_ + first, stream_));
      std::fill_n(store_.derived_.begin() + first, count, uint8_t{1});
    }
    packed_.clear();
    return kOk;
  }

 private:
  static constexpr size_t kAtOnce = 4;
  static constexpr unsigned kAllParts = 63;  // codes and scales of three matrices

  static unsigned PartsOf(const RowsToRead& t) {
    const unsigned codes = t.parts == RowsToRead::kCodes || t.parts == RowsToRead::kCodesAndScales;
    const unsigned scales =
        t.parts == RowsToRead::kScales || t.parts == RowsToRead::kCodesAndScales;
    const unsigned part = codes | scales << 3;
    const auto matrix = static_cast<unsigned>(t.matrix);
    return part << matrix | (t.paired ? part << static_cast<unsigned>(Matrix::kUp) : 0);
  }

  CudaStore& store_;
  const cudaStream_t stream_;
  std::vector<int32_t> left_;  // runs of each expert
  std::vector<uint8_t> parts_;
  std::vector<int32_t> packed_;
};

class CudaStore::Reading {
 public:
  Reading(CudaStore* store, absl::Span<const RowsToRead> tensors, const Call& call)
      : store_(*store),
        staging_(store->staging_),
        call_(call),
        plan_(tensors, *store->spec_, staging_.bytes(), staging_.hosts()),
        ahead_(kAheadBytes / staging_.bytes() + 1),
        derive_(store, plan_, call.stream) {}
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
    free_.reserve(static_cast<size_t>(staging_.hosts()));
    posted_.reserve(static_cast<size_t>(staging_.hosts()));
    taken_.reserve(static_cast<size_t>(staging_.hosts()));
    const bool large = plan_.file_bytes() >= kLarge;
    do {
      DSV4MX_TRY(MakeBuffer());
    } while (buffers_ < (large ? staging_.count() : staging_.hosts()));
    while (!large && ready_ < buffers_) DSV4MX_TRY(staging_.AcquireRest(ready_++, call_));
    times->begin_s = Seconds(Clock::now() - begin);
    for (int64_t b = 0; b < ahead_; ++b) plan_.Prefetch(b);
    // Some buffers are read into while others are on their way: of 16 the best is 10, measured on an H200 with 16 processors.
    threads = std::max(1, std::min(threads, staging_.hosts() * 5 / 8));
    DSV4MX_TRY(crew_.Run(
        threads, static_cast<int64_t>(plan_.blocks().size()),
        [&](int64_t item, int) { return Read(item); }, tell,
        [&](bool* busy) { return Attend(busy); }));
    bool busy = true;
    DSV4MX_TRY(Attend(&busy));  // what came last
    DSV4MX_TRY(derive_.Rest());
    // What is packed has left the host's memory: its next user waits for that.
    for (int i = 0; i < buffers_; ++i) {
      if (staging_.At(i).idle == nullptr) continue;  // nobody sent it
      DSV4MX_TRY(Staging::Release(staging_.At(i), call_.stream));
    }
    copied_ = sent_;
    times->readers = threads;
    times->pieces = static_cast<int64_t>(plan_.blocks().size());
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
  // A load of so much begins before it has all its memory.
  static constexpr int64_t kLarge = int64_t{64} << 20;

  struct Full {
    int buffer;
    int64_t block;
  };

  Status MakeBuffer();
  Status Read(int64_t item);
  Status TakeBuffer(int64_t item, int* out);
  bool TryTakeBuffer(int* out);
  Status CheckScales(const RowsToRead& t, int64_t first, int64_t rows, uint8_t* at) const;
  Status Attend(bool* busy);
  Status Send(const Full& full);
  Status Pack(const ReadPlan::Run& run, int32_t expert, Matrix m, const uint8_t* at) const;

  CudaStore& store_;
  Staging& staging_;
  const Call& call_;
  const ReadPlan plan_;
  const int64_t ahead_;

  std::mutex mutex_;  // of both lists, for which there is room
  std::vector<int> free_;
  std::vector<Full> posted_;  // not sent
  std::atomic<size_t> free_count_{0};
  // The owner's: so many buffers may be read into, and of these so many be copied from; so many blocks were sent, and of these
  // so many have left the host's memory.
  int buffers_ = 0, ready_ = 0;
  int64_t sent_ = 0, copied_ = 0;
  int sending_[Staging::kMostHosts] =
      {};  // buffers under way, that of block n of those sent at n modulo its length
  std::vector<Full> taken_;
  Deriving derive_;
  Clock::time_point last_{};
  Clock::duration send_{};

  std::atomic<int> waiting_{0};
  std::atomic<int64_t> done_{0}, read_ns_{0}, wait_ns_{0};
  Crew crew_;
};

// The next of the staging. Memory takes its time to come by: there is work as soon as there is some of it.
Status CudaStore::Reading::MakeBuffer() {
  DSV4MX_TRY(staging_.AcquireHost(buffers_, call_));
  const std::lock_guard<std::mutex> lock(mutex_);
  free_.push_back(buffers_++);
  free_count_ = free_.size();
  return kOk;
}

bool CudaStore::Reading::TryTakeBuffer(int* out) {
  if (free_count_.load(std::memory_order_relaxed) == 0) return false;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (free_.empty()) return false;
  *out = free_.back();
  free_.pop_back();
  free_count_ = free_.size();
  return true;
}

Status CudaStore::Reading::TakeBuffer(int64_t item, int* out) {
  constexpr auto kPatience = std::chrono::microseconds(500);  // several copies
  if (TryTakeBuffer(out)) return kOk;
  const auto begin = Clock::now();
  while (!TryTakeBuffer(out)) {
    if (!crew_.IsOwner() && Clock::now() - begin < kPatience) {
      std::this_thread::yield();
      continue;
    }
    ++waiting_;  // before it is asked again, so that who makes it true knows
    const Status status = crew_.Await(item, [&] { return free_count_.load() > 0; });
    --waiting_;
    DSV4MX_TRY(status);
  }
  wait_ns_ += Nanoseconds(begin);
  return kOk;
}

Status CudaStore::Reading::Read(int64_t item) {
  const ReadPlan::Block& block = plan_.blocks()[static_cast<size_t>(item)];
  plan_.Prefetch(item + ahead_);
  Full full{0, item};
  DSV4MX_TRY(TakeBuffer(item, &full.buffer));
  const auto begin = Clock::now();
  for (size_t r = block.begin; r < block.end; ++r) {
    const ReadPlan::Run& run = plan_.runs()[r];
    uint8_t* const to = staging_.At(full.buffer).host + run.at;
    DSV4MX_TRY(run.tensor->source->Read(run.first, run.rows, to));
    DSV4MX_TRY(CheckScales(*run.tensor, run.first, run.rows, to));
    done_ += run.rows * run.tensor->source->FileBytes();
  }
  read_ns_ += Nanoseconds(begin);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    posted_.push_back(full);
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
    DSV4MX_TRY(
        ScaleRowToBytes(at, t.dtype, t.experts[0], m, t.paired ? row / 2 : row, k / kGroupSize));
  }
  return kOk;
}

// The owner, again and again: sends what was posted, and gives buffers back whose copies are done.
Status CudaStore::Reading::Attend(bool* busy) {
  constexpr auto kPatience = std::chrono::milliseconds(1);  // a thread that sleeps wakes late
  constexpr auto kYieldAfter = std::chrono::microseconds(50);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    taken_.swap(posted_);
  }
  const auto begin = Clock::now();
  const int64_t before = sent_ + copied_ + buffers_ + ready_;
  for (const Full& full : taken_) DSV4MX_TRY(Send(full));
  taken_.clear();
  if (buffers_ < staging_.hosts()) {
    DSV4MX_TRY(MakeBuffer());
  } else if (ready_ < buffers_) {
    DSV4MX_TRY(staging_.AcquireRest(ready_++, call_));
  }
  int64_t done = copied_;
  for (; done < sent_; ++done) {
    const int buffer = sending_[done % Staging::kMostHosts];
    const cudaError_t error = cudaEventQuery(staging_.At(buffer).copied);
    if (error == cudaErrorNotReady) break;
    DSV4MX_TRY(Check(error, "cudaEventQuery"));
  }
  if (done > copied_) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (; copied_ < done; ++copied_) free_.push_back(sending_[copied_ % Staging::kMostHosts]);
    free_count_ = free_.size();
  }
  if (sent_ + copied_ + buffers_ + ready_ > before) {
    if (waiting_ > 0) crew_.Changed();
    last_ = Clock::now();
    send_ += last_ - begin;
  } else if (begin - last_ > kYieldAfter) {
    std::this_thread::yield();
  }
  *busy = copied_ < sent_ || begin - last_ < kPatience;
  return kOk;
}

Status CudaStore::Reading::Send(const Full& full) {
  const ReadPlan::Block& block = plan_.blocks()[static_cast<size_t>(full.block)];
  const int place = static_cast<int>(sent_ % staging_.count());
  DSV4MX_TRY(staging_.AcquireRest(full.buffer, call_));
  DSV4MX_TRY(staging_.AcquireRest(place, call_));
  const Staging::Buffer& from = staging_.At(full.buffer);
  const Staging::Buffer& to = staging_.At(place);
  const cudaStream_t copies = staging_.copies();
  sending_[sent_++ % Staging::kMostHosts] = full.buffer;
  // Behind the kernels that packed what the device's block held before.
  DSV4MX_CUDA(cudaStreamWaitEvent(copies, to.idle, 0));
  DSV4MX_CUDA(cudaMemcpyAsync(to.device, from.host, static_cast<size_t>(block.bytes),
                              cudaMemcpyHostToDevice, copies));
  DSV4MX_CUDA(cudaEventRecord(from.copied, copies));
  DSV4MX_CUDA(cudaStreamWaitEvent(call_.stream, from.copied, 0));
  for (size_t r = block.begin; r < block.end; ++r) {
    const ReadPlan::Run& run = plan_.runs()[r];
    const uint8_t* at = to.device + run.at;
    for (const int32_t expert : run.tensor->experts) {
      DSV4MX_TRY(Pack(run, expert, run.tensor->matrix, at));
      if (!run.tensor->paired) continue;
      DSV4MX_TRY(Pack(run, expert, Matrix::kUp, at + run.tensor->source->RowBytes()));
    }
  }
  DSV4MX_TRY(Staging::Release(to, call_.stream));
  for (size_t r = block.begin; r < block.end; ++r) DSV4MX_TRY(derive_.Packed(plan_.runs()[r]));
  return kOk;
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
  StagingShape shape = ShapeOf(*spec_, 0);
  if (bytes != 0 && bytes < ExtraBytes(*spec_)) {
    const int64_t beside =
        ExtraBytes(*spec_) -
        Staging::TotalBytes(shape.block, std::max(shape.hosts, Staging::kBuffers));
    const int64_t least =
        Staging::TotalBytes(ReadPlan::LeastBlock(*spec_), Staging::kBuffers) + beside;
    DSV4MX_RETURN_IF(bytes < least, DSV4MX_STATUS_INVALID_ARGUMENT,
                     "staging_bytes is %lld, wanted at least %lld: runs of %d rows",
                     static_cast<long long>(bytes), static_cast<long long>(least),
                     static_cast<int>(kRowRun));
    shape = ShapeOf(*spec_, bytes - beside);
  }
  // A link of 55 GB/s wants more from page cache than most hosts' cores copy; the owner has one for itself.
  constexpr int kMostReaders = 16;
  readers_ = threads == 0 ? std::clamp(UsableThreads() - 1, 1, kMostReaders) : threads;
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(call.stream));
  staging_.Resize(shape.block, std::max(shape.hosts, Staging::kBuffers));
  return kOk;
}

Status CudaStore::EndReading() {
  readers_ = 0;
  const StagingShape shape = ShapeOf(*spec_, 0);
  const int hosts = std::max(shape.hosts, Staging::kBuffers);
  if (staging_.bytes() == shape.block && staging_.hosts() == hosts)
    return kOk;  // stays for what is set next
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  const Status status = scope.Begin(cudaStreamPerThread);
  staging_.Resize(shape.block, hosts);
  return status;
}

Status CudaStore::ReadRows(absl::Span<const RowsToRead> tensors, const Call& call,
                           ReadTimes* times) {
  DSV4MX_RETURN_IF(readers_ == 0, DSV4MX_STATUS_INTERNAL, "rows to read before BeginReading");
  Ordered ordered(*this, call.stream);
  DSV4MX_TRY(ordered.Begin());
  return Reading(this, tensors, call).Run(readers_, times);
}

}  // namespace dsv4mx::cuda
