#include "lib/io/tensor_rows.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "lib/io/gguf.h"

namespace dsv4mx::io {
namespace {

// Read at once where not all bytes are wanted as they are: small enough to stay in a processor's first caches and on any
// thread's stack, large enough that copying outweighs the call.
constexpr int64_t kPieceBytes = 32768;

}  // namespace

void TensorRows::Take(const uint8_t* from, int64_t at, int64_t bytes, uint8_t* row) const {
  if (part_ == Part::kAll) {
    std::memcpy(row + at, from, static_cast<size_t>(bytes));
    return;
  }
  const int64_t first = at / kMxfp4BlockBytes, blocks = bytes / kMxfp4BlockBytes;
  CodesOfMxfp4Blocks(from, blocks, row + first * kMxfp4CodeBytes);
  uint8_t* scales = row + bytes_ / kMxfp4BlockBytes * kMxfp4CodeBytes + first;
  for (int64_t b = 0; b < blocks; ++b) scales[b] = from[b * kMxfp4BlockBytes];
}

Status TensorRows::Read(int64_t first, int64_t rows, uint8_t* to) const {
  if (part_ == Part::kAll && (bytes_ == stride_ || rows == 1)) {
    return place_->Read(At(first), static_cast<size_t>((rows - 1) * stride_ + bytes_), to);
  }
  uint8_t piece[kPieceBytes];
  if (bytes_ > kPieceBytes || stride_ > kPieceBytes) {
    // Row by row, each in pieces of whole blocks.
    constexpr int64_t kMost = kPieceBytes / kMxfp4BlockBytes * kMxfp4BlockBytes;
    for (int64_t row = 0; row < rows; ++row, to += bytes_) {
      for (int64_t byte = 0; byte < bytes_; byte += kMost) {
        const int64_t n = std::min(kMost, bytes_ - byte);
        DSV4MX_TRY(place_->Read(At(first + row) + static_cast<uint64_t>(byte),
                                static_cast<size_t>(n), piece));
        Take(piece, byte, n, to);
      }
    }
    return kOk;
  }
  const int64_t fit = (kPieceBytes - bytes_) / stride_ + 1;
  for (int64_t row = 0; row < rows; row += fit) {
    const int64_t n = std::min(fit, rows - row);
    DSV4MX_TRY(
        place_->Read(At(first + row), static_cast<size_t>((n - 1) * stride_ + bytes_), piece));
    for (int64_t i = 0; i < n; ++i, to += bytes_) Take(piece + i * stride_, 0, bytes_, to);
  }
  return kOk;
}

void TensorRows::Prefetch(int64_t first, int64_t rows) const {
  place_->Prefetch(At(first), static_cast<size_t>((rows - 1) * stride_ + bytes_));
}

}  // namespace dsv4mx::io
