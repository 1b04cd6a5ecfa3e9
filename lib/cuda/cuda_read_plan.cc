#include "lib/cuda/cuda_read_plan.h"

#include <algorithm>

#include "kernels/launch_weights.h"

namespace dsv4mx::cuda {
namespace {

constexpr int64_t kAlignment = 256;                // of a run in its block
constexpr int64_t kLeastRoom = int64_t{64} << 10;  // worth calls of the system and the driver
constexpr int64_t kMostOfFile = int64_t{4}
                                << 20;  // of a block of columns, for which rows are read whole

int64_t Aligned(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

// kRowRun rows of codes with their scales, also where gate and up alternate, and all of a bias.
int64_t ReadPlan::LeastBlock(const LayerSpec& spec) {
  const int64_t h = spec.hidden, i = spec.intermediate;
  const int64_t of_w13 = 2 * kRowRun * (h / 2 + h / kGroupSize),
                of_w2 = kRowRun * (i / 2 + i / kGroupSize);
  return Aligned(std::max({of_w13, of_w2, 8 * i, 4 * h, kLeastRoom}));
}

ReadPlan::ReadPlan(absl::Span<const RowsToRead> tensors, const LayerSpec& spec, int64_t block_bytes,
                   int blocks) {
  int64_t total = 0;
  for (const RowsToRead& t : tensors) {
    total += Aligned(spec.Rows(t.matrix) * (t.paired ? 2 : 1) * t.source->RowBytes());
  }
  const int64_t room = std::clamp(Aligned(total / (2 * blocks)), kAlignment, block_bytes);
  for (const RowsToRead& t : tensors) {
    const int64_t step = t.paired ? 2 : 1, rows = spec.Rows(t.matrix) * step;
    const int64_t row_bytes = t.source->RowBytes(), of_file = t.source->FileBytes();
    const int64_t unit = t.parts == RowsToRead::kBias ? rows : kRowRun * step;
    const auto fit = [&](int64_t bytes, int64_t of_file_bytes, int64_t left) {
      const int64_t count = std::min(bytes / row_bytes, of_file_bytes / of_file);
      return count >= left ? left : std::max<int64_t>(count, 0) / unit * unit;
    };
    for (int64_t first = 0; first < rows;) {
      const int64_t left = rows - first;
      int64_t at = blocks_.empty() ? 0 : Aligned(blocks_.back().bytes);
      int64_t count =
          blocks_.empty() ? 0 : fit(room - at, kMostOfFile - blocks_.back().file_bytes, left);
      if (count == 0) {
        blocks_.push_back({runs_.size(), 0, 0, 0});
        at = 0;
        // Of a block of its own at least a unit, which it holds even where room is less.
        count = std::min(left, std::max(fit(room, kMostOfFile, left), unit));
      }
      Block& block = blocks_.back();
      runs_.push_back({&t, first, count, at});
      block.end = runs_.size();
      block.bytes = at + count * row_bytes;
      block.file_bytes += count * of_file;
      file_bytes_ += count * of_file;
      first += count;
    }
  }
}

void ReadPlan::Prefetch(int64_t block) const {
  if (block >= static_cast<int64_t>(blocks_.size())) return;
  const Block& b = blocks_[static_cast<size_t>(block)];
  for (size_t r = b.begin; r < b.end; ++r) {
    runs_[r].tensor->source->Prefetch(runs_[r].first, runs_[r].rows);
  }
}

}  // namespace dsv4mx::cuda
