// Tensors out of files into the store. Threads read pieces of rows straight into pinned blocks of staging; the thread that
// made the call opens blocks and sends those that are full to the device, where kernels repack them behind their copies.
// Reading, copies and repacking of different blocks run at the same time.
#include <algorithm>
#include <atomic>
#include <memory>
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
        call_(call),
        plan_(tensors, *store->spec_, store->staging_.bytes(), Staging::kBuffers),
        blocks_(plan_.blocks().size()) {
    for (size_t b = 0; b < blocks_.size(); ++b) blocks_[b].left = plan_.blocks()[b].pieces;
    ahead_ = kAheadBytes / store->staging_.bytes() + 1;
  }

  Status Run(int threads) {
    const auto tell = [&] {
      return call_.control.Report(DSV4MX_STAGE_LOAD, done_.load(), plan_.file_bytes());
    };
    DSV4MX_TRY(tell());
    for (int64_t b = 0; b < ahead_; ++b) plan_.Prefetch(b);
    DSV4MX_TRY(crew_.Run(
        threads, plan_.pieces(), [&](int64_t item, int) { return Read(item); }, tell));
    return tell();
  }

 private:
  // The system is asked to have this much ready ahead of what is being read.
  static constexpr int64_t kAheadBytes = int64_t{16} << 20;
  struct BlockState {
    Staging::Buffer* buffer = nullptr;  // once it is open
    std::atomic<int64_t> left{0};       // pieces that are not read
    std::atomic<bool> sent{false};
  };

  // The first of a block's readers opens it, in the order of blocks, once the one that had the buffer before was sent.
  Status Open(int64_t block) {
    DSV4MX_TRY(crew_.Await([&] {
      return opened_ == block &&
             (block < Staging::kBuffers ||
              blocks_[static_cast<size_t>(block - Staging::kBuffers)].sent.load());
    }));
    plan_.Prefetch(block + ahead_);
    DSV4MX_TRY(crew_.OnOwner(
        [&] { return store_.staging_.Acquire(call_, &blocks_[static_cast<size_t>(block)].buffer); }));
    ++opened_;
    crew_.Changed();
    return kOk;
  }

  Status Read(int64_t item) {
    const ReadPlan::Piece piece = plan_.At(item);
    const ReadPlan::Run& run = *piece.run;
    const auto index = static_cast<size_t>(run.block);
    if (item == plan_.blocks()[index].first_piece) DSV4MX_TRY(Open(run.block));
    if (opened_ <= run.block) DSV4MX_TRY(crew_.Await([&] { return opened_ > run.block; }));
    BlockState& block = blocks_[index];
    const RowSource& source = *run.tensor->source;
    uint8_t* to = block.buffer->host + run.at + (piece.first - run.first) * source.RowBytes();
    DSV4MX_TRY(source.Read(piece.first, piece.rows, to));
    DSV4MX_TRY(CheckScales(*run.tensor, piece.first, piece.rows, to));
    done_ += piece.rows * source.FileBytes();
    if (--block.left > 0) return kOk;
    DSV4MX_TRY(crew_.OnOwner([&] { return Send(index); }));
    block.sent = true;
    crew_.Changed();
    return kOk;
  }

  // Numbers become bytes where they were read; what lies between is copied along.
  Status CheckScales(const RowsToRead& t, int64_t first, int64_t rows, uint8_t* at) const {
    const bool both = t.parts == RowsToRead::kCodesAndScales;
    if (!both && t.parts != RowsToRead::kScales) return kOk;
    const int64_t k = store_.spec_->K(t.matrix), row_bytes = t.source->RowBytes();
    if (both) at += k / 2;
    for (int64_t row = first; row < first + rows; ++row, at += row_bytes) {
      const Matrix m = t.paired && row % 2 == 1 ? Matrix::kUp : t.matrix;
      DSV4MX_TRY(ScaleRowToBytes(at, t.dtype, t.experts[0], m, t.paired ? row / 2 : row,
                                 k / kGroup));
    }
    return kOk;
  }

  Status Send(size_t index) {
    const ReadPlan::Block& block = plan_.blocks()[index];
    Staging::Buffer& buffer = *blocks_[index].buffer;
    DSV4MX_TRY(store_.staging_.Upload(buffer, block.bytes, call_.stream));
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

  Status Pack(const ReadPlan::Run& run, int32_t expert, Matrix m, const uint8_t* at) const {
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

  CudaStore& store_;
  const Call& call_;
  const ReadPlan plan_;
  std::vector<BlockState> blocks_;
  int64_t ahead_ = 0;
  std::atomic<int64_t> opened_{0}, done_{0};
  Crew crew_;
};

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
  // So many keep a link of 50 GB/s busy from page cache.
  constexpr int kReaders = 12;
  readers_ = threads == 0 ? std::min(kReaders, UsableThreads()) : threads;
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
