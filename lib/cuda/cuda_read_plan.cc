#include "lib/cuda/cuda_read_plan.h"

#include <algorithm>

#include "kernels/launch_weights.h"

namespace dsv4mx::cuda {
namespace {

constexpr int64_t kLeastPiece = int64_t{64} << 10;  // worth calls of the system and the driver
constexpr int64_t kMostOfFile = int64_t{2}
                                << 20;  // of a piece of columns, for which rows are read whole

int64_t RowsOf(const RowsToRead& t, const LayerSpec& spec) {
  return spec.Rows(t.matrix) * (t.paired ? 2 : 1);
}

}  // namespace

// kRowRun rows of codes with their scales, also where gate and up alternate, and all of a bias.
int64_t ReadPlan::LeastSlot(const LayerSpec& spec) {
  const int64_t h = spec.hidden, i = spec.intermediate;
  const int64_t of_w13 = 2 * kRowRun * (h / 2 + h / kGroup), of_w2 = kRowRun * (i / 2 + i / kGroup);
  return (std::max({of_w13, of_w2, 8 * i, 4 * h, kLeastPiece}) + 255) / 256 * 256;
}

ReadPlan::ReadPlan(absl::Span<const RowsToRead> tensors, const LayerSpec& spec, int64_t slot_bytes,
                   int slots) {
  int64_t total = 0;
  for (const RowsToRead& t : tensors) total += RowsOf(t, spec) * t.source->RowBytes();
  const int64_t room =
      std::min(std::max(total / (2 * std::max(slots, 1)), kLeastPiece), slot_bytes);
  runs_.reserve(tensors.size());
  for (const RowsToRead& t : tensors) {
    const int64_t rows = RowsOf(t, spec);
    const int64_t unit = t.parts == RowsToRead::kBias ? rows : kRowRun * (t.paired ? 2 : 1);
    const int64_t fit = std::min(room / t.source->RowBytes(), kMostOfFile / t.source->FileBytes());
    const int64_t units = (rows + unit - 1) / unit;  // the last one may be smaller
    const int64_t of_piece = std::max<int64_t>(fit / unit, 1);
    const int64_t count = (units + of_piece - 1) / of_piece;
    runs_.push_back({&t, rows, (units + count - 1) / count * unit, pieces_});
    pieces_ += (rows + runs_.back().piece_rows - 1) / runs_.back().piece_rows;
    file_bytes_ += rows * t.source->FileBytes();
  }
}

ReadPlan::Piece ReadPlan::At(int64_t piece) const {
  const auto run = std::upper_bound(runs_.begin(), runs_.end(), piece,
                                    [](int64_t p, const Run& r) { return p < r.first_piece; }) -
                   1;
  const int64_t first = (piece - run->first_piece) * run->piece_rows;
  return {run->tensor, first, std::min(run->piece_rows, run->rows - first)};
}

}  // namespace dsv4mx::cuda
