// Tensors out of files into the store: threads take runs of rows, read each into a block of their own and pack it where it
// belongs. All tensors of a load are one piece of work, so that no thread waits for another before its end.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "lib/base/crew.h"
#include "lib/base/scales.h"
#include "lib/cpu/cpu_pack.h"
#include "lib/cpu/cpu_store.h"

namespace dsv4mx::cpu {
namespace {

constexpr int kRows = kCpuTileRows;
constexpr int64_t kMostReading = int64_t{64} << 20;
// The system is asked to have this much ready ahead of what is being read.
constexpr int64_t kAheadBytes = int64_t{16} << 20;

// What one thread reads into: 64 of the longest rows with their scales, so a tile of gate and one of up, and never less than
// the 64 raw rows, padded, of a Marlin import.
int64_t BlockBytes(const LayerSpec& spec) {
  const int64_t row = (std::max(spec.hidden, spec.intermediate) + 127) / 128 * 128;
  return (64 * row / 2 + 65 * row / kGroupSize + kCpuAlign - 1) / kCpuAlign * kCpuAlign;
}

// Tensors as runs of rows, whole tiles, numbered throughout.
class Runs {
 public:
  Runs(absl::Span<const RowsToRead> tensors, const LayerSpec& spec, int64_t block, int readers)
      : tensors_(tensors) {
    cuts_.reserve(tensors.size());
    for (const RowsToRead& t : tensors) {
      const int64_t step = t.paired ? 2 : 1, tile = kRows * step;
      const int64_t rows = spec.Rows(t.matrix) * step;
      // As many rows as a block takes; but where there are few tensors some runs for each thread.
      const int64_t least = 4 * readers / static_cast<int64_t>(tensors.size()) + 1;
      const int64_t fair = (rows / least + tile - 1) / tile * tile;
      const int64_t fit = block / t.source->RowBytes() / tile * tile;
      const int64_t per = std::max(std::min(fair, fit), tile);
      cuts_.push_back({count_, per, rows});
      count_ += (rows + per - 1) / per;
      bytes_ += rows * t.source->FileBytes();
    }
  }
  int64_t count() const { return count_; }
  int64_t bytes() const { return bytes_; }  // of the files
  struct Run {
    const RowsToRead* tensor;
    int64_t first, rows;  // of the source
  };
  Run At(int64_t number) const {
    const auto cut = std::upper_bound(cuts_.begin(), cuts_.end(), number,
                                      [](int64_t n, const Cut& c) { return n < c.begin; }) -
                     1;
    const int64_t first = (number - cut->begin) * cut->per;
    return {&tensors_[static_cast<size_t>(cut - cuts_.begin())], first,
            std::min(cut->per, cut->rows - first)};
  }
  void Prefetch(int64_t number) const {
    if (number >= count_) return;
    const Run run = At(number);
    run.tensor->source->Prefetch(run.first, run.rows);
  }

 private:
  struct Cut {
    int64_t begin, per, rows;
  };
  absl::Span<const RowsToRead> tensors_;
  std::vector<Cut> cuts_;
  int64_t count_ = 0, bytes_ = 0;
};

}  // namespace

struct CpuStore::Run {
  const uint8_t* data;  // of the first row
  int64_t stride;       // from row to row of a matrix
  int64_t row, rows;    // of the matrix
};

int64_t CpuStore::ReadingBytes(const LayerSpec& spec, int threads) {
  const int64_t block = BlockBytes(spec);
  return block * std::clamp<int64_t>(kMostReading / block, 1, threads);
}

Status CpuStore::BeginReading(int64_t bytes, int threads, const Call&) {
  DSV4MX_TRY(EndReading());
  const int64_t block = BlockBytes(*spec_);
  if (threads == 0 || threads > pool_->threads()) threads = pool_->threads();
  if (bytes == 0) bytes = ReadingBytes(*spec_, threads);
  DSV4MX_RETURN_IF(bytes < block, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "staging_bytes is %lld, wanted at least %lld: a run of rows for one thread",
                   static_cast<long long>(bytes), static_cast<long long>(block));
  const int readers = static_cast<int>(std::min<int64_t>(bytes / block, threads));
  void* memory = nullptr;
  DSV4MX_TRY(staging_->Alloc(static_cast<size_t>(readers * block), kCpuAlign, &memory));
  reading_ = static_cast<uint8_t*>(memory);
  readers_ = readers;
  return kOk;
}

Status CpuStore::EndReading() {
  staging_->Free(reading_, static_cast<size_t>(readers_ * BlockBytes(*spec_)));
  reading_ = nullptr;
  readers_ = 0;
  return kOk;
}

Status CpuStore::PackRunFor(const RowsToRead& tensor, int32_t expert, Matrix m, const Run& run) {
  const int64_t k = spec_->K(m), end = run.rows;
  const bool both = tensor.parts == RowsToRead::kCodesAndScales;
  if (tensor.parts == RowsToRead::kBias) {
    PackBias(run.data, run.stride, end, tensor.dtype, At(layout_.Bias(expert, m)) + 4 * run.row);
    return kOk;
  }
  if (both || tensor.parts == RowsToRead::kCodes) {
    const CodesView codes{run.data, run.stride, 1, tensor.high_first, false};
    uint8_t* to = At(layout_.Codes(expert, m)) + run.row * k / 2;
    for (int64_t row = 0; row < end; row += kRows, to += kRows * k / 2) {
      PackCodes(codes, row, k, to);
    }
  }
  if (both || tensor.parts == RowsToRead::kScales) {
    const ScalesView scales{run.data + (both ? k / 2 : 0), run.stride,
                            ScaleElementBytes(tensor.dtype), tensor.dtype, false};
    uint8_t* to = At(layout_.Scales(expert, m));
    for (int64_t row = 0; row < end; row += kRows) {
      DSV4MX_TRY(PackScales(scales, row, expert, m, run.row + row, k, to));
    }
  }
  return kOk;
}

Status CpuStore::PackRun(const RowsToRead& tensor, const Run& run) {
  for (const int32_t expert : tensor.experts) {
    DSV4MX_TRY(PackRunFor(tensor, expert, tensor.matrix, run));
    if (!tensor.paired) continue;
    Run up = run;
    up.data += tensor.source->RowBytes();
    DSV4MX_TRY(PackRunFor(tensor, expert, Matrix::kUp, up));
  }
  return kOk;
}

Status CpuStore::ReadRows(absl::Span<const RowsToRead> tensors, const Call& call,
                          ReadTimes* times) {
  const auto begin = std::chrono::steady_clock::now();
  DSV4MX_RETURN_IF(reading_ == nullptr, DSV4MX_STATUS_INTERNAL, "rows to read before BeginReading");
  const int64_t block = BlockBytes(*spec_), ahead = kAheadBytes / block + 1;
  const Runs runs(tensors, *spec_, block, readers_);
  std::atomic<int64_t> done{0};
  const auto tell = [&] {
    return call.control.Report(DSV4MX_STAGE_LOAD, done.load(), runs.bytes());
  };
  DSV4MX_TRY(tell());
  for (int64_t i = 0; i < std::min(ahead, runs.count()); ++i) runs.Prefetch(i);
  Crew crew;
  DSV4MX_TRY(crew.Run(
      readers_, runs.count(),
      [&](int64_t item, int reader) -> Status {
        const Runs::Run run = runs.At(item);
        const RowSource& source = *run.tensor->source;
        const int64_t step = run.tensor->paired ? 2 : 1;
        uint8_t* data = reading_ + reader * block;
        runs.Prefetch(item + ahead);
        DSV4MX_TRY(source.Read(run.first, run.rows, data));
        DSV4MX_TRY(PackRun(*run.tensor,
                           {data, step * source.RowBytes(), run.first / step, run.rows / step}));
        done += run.rows * source.FileBytes();
        return kOk;
      },
      tell));
  const std::chrono::duration<double> whole = std::chrono::steady_clock::now() - begin;
  *times = {.readers = readers_,
            .pieces = runs.count(),
            .bytes = runs.bytes(),
            .whole_s = whole.count(),
            .read_s = whole.count()};  // nobody waits for a buffer, and packing is part of it
  return tell();
}

}  // namespace dsv4mx::cpu
