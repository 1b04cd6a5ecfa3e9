#include "lib/cuda/cuda_read_plan.h"

#include <algorithm>

#include "kernels/launch_weights.h"

namespace dsv4mx::cuda {
namespace {

constexpr int64_t kAlignment = 256;                 // of a run in its block
constexpr int64_t kLeastPiece = int64_t{64} << 10;  // worth a call of the system

int64_t Aligned(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

// kRowRun rows of codes with their scales, also where gate and up alternate, and all of a bias.
int64_t ReadPlan::LeastBlock(const LayerSpec& spec) {
  const int64_t h = spec.hidden, i = spec.intermediate;
  const int64_t of_w13 = 2 * kRowRun * (h / 2 + h / kGroup), of_w2 = kRowRun * (i / 2 + i / kGroup);
  return Aligned(std::max({of_w13, of_w2, 8 * i, 4 * h, kLeastPiece}));
}

ReadPlan::ReadPlan(absl::Span<const RowsToRead> tensors, const LayerSpec& spec, int64_t block_bytes,
                   int blocks, int64_t piece_bytes) {
  int64_t total = 0;
  for (const RowsToRead& t : tensors) {
    const int64_t rows = spec.Rows(t.matrix) * (t.paired ? 2 : 1);
    total += Aligned(rows * t.source->RowBytes());
    file_bytes_ += rows * t.source->FileBytes();
  }
  const int64_t room = std::clamp(Aligned(total / (2 * blocks)), kAlignment, block_bytes);
  const int64_t most_piece = std::min(std::max(room / 8, kLeastPiece), piece_bytes);
  const auto close = [&] {
    Block& block = blocks_.back();
    block.end = runs_.size();
    block.pieces = pieces_ - block.first_piece;
  };
  for (const RowsToRead& t : tensors) {
    const int64_t step = t.paired ? 2 : 1, rows = spec.Rows(t.matrix) * step;
    const int64_t row_bytes = t.source->RowBytes();
    const int64_t unit = t.parts == RowsToRead::kBias ? rows : kRowRun * step;
    for (int64_t first = 0; first < rows;) {
      const int64_t left = rows - first;
      const int64_t at = blocks_.empty() ? 0 : Aligned(blocks_.back().bytes);
      int64_t count = (room - at) / row_bytes;  // that fit here
      count = count >= left ? left : std::max<int64_t>(count, 0) / unit * unit;
      if (blocks_.empty() || count == 0) {
        if (!blocks_.empty()) close();
        blocks_.push_back({runs_.size(), 0, 0, pieces_, 0});
        if (at > 0 || count == 0) {
          // Of a block of its own at least a unit, which it holds even where room is less.
          count = std::min(left, std::max(room / row_bytes / unit * unit, unit));
        }
      }
      Block& block = blocks_.back();
      const int64_t piece_rows = std::max<int64_t>(most_piece / row_bytes, 1);
      runs_.push_back({&t, first, count, block.bytes == 0 ? 0 : at,
                       static_cast<int64_t>(blocks_.size()) - 1, pieces_, piece_rows});
      block.bytes = runs_.back().at + count * row_bytes;
      pieces_ += (count + piece_rows - 1) / piece_rows;
      first += count;
    }
  }
  if (!blocks_.empty()) close();
}

ReadPlan::Piece ReadPlan::At(int64_t piece) const {
  const auto run = std::upper_bound(runs_.begin(), runs_.end(), piece,
                                    [](int64_t p, const Run& r) { return p < r.first_piece; }) -
                   1;
  const int64_t before = (piece - run->first_piece) * run->piece_rows;
  return {&*run, run->first + before, std::min(run->piece_rows, run->rows - before)};
}

void ReadPlan::Prefetch(int64_t block) const {
  if (block >= static_cast<int64_t>(blocks_.size())) return;
  const Block& b = blocks_[static_cast<size_t>(block)];
  for (size_t r = b.begin; r < b.end; ++r) {
    runs_[r].tensor->source->Prefetch(runs_[r].first, runs_[r].rows);
  }
}

}  // namespace dsv4mx::cuda
