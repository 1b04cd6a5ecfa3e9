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

int64_t TensorRows::Wanted(int64_t bytes) const {
  if (part_ == Part::kAll) return bytes;
  return bytes / kMxfp4BlockBytes * (part_ == Part::kBlockCodes ? 16 : 1);
}

void TensorRows::Take(const uint8_t* from, int64_t bytes, uint8_t* to) const {
  const int64_t blocks = bytes / kMxfp4BlockBytes;
  switch (part_) {
    case Part::kAll:
      std::memcpy(to, from, static_cast<size_t>(bytes));
      break;
    case Part::kBlockCodes:
      CodesOfMxfp4Blocks(from, blocks, to);
      break;
    case Part::kBlockScales:
      for (int64_t b = 0; b < blocks; ++b) to[b] = from[b * kMxfp4BlockBytes];
  }
}

Status TensorRows::Read(int64_t first, int64_t rows, uint8_t* to) const {
  uint64_t at = offset_ + static_cast<uint64_t>(first * stride_);
  if (part_ == Part::kAll && (bytes_ == stride_ || rows == 1)) {
    return place_.Read(at, static_cast<size_t>((rows - 1) * stride_ + bytes_), to);
  }
  uint8_t piece[kPieceBytes];
  if (bytes_ > kPieceBytes || stride_ > kPieceBytes) {
    // Row by row, each in pieces of whole blocks.
    constexpr int64_t kMost = kPieceBytes / kMxfp4BlockBytes * kMxfp4BlockBytes;
    for (int64_t row = 0; row < rows; ++row, at += static_cast<uint64_t>(stride_)) {
      for (int64_t byte = 0; byte < bytes_; byte += kMost) {
        const int64_t n = std::min(kMost, bytes_ - byte);
        DSV4MX_TRY(place_.Read(at + static_cast<uint64_t>(byte), static_cast<size_t>(n), piece));
        Take(piece, n, to);
        to += Wanted(n);
      }
    }
    return kOk;
  }
  const int64_t fit = (kPieceBytes - bytes_) / stride_ + 1;
  for (int64_t row = 0; row < rows; row += fit) {
    const int64_t n = std::min(fit, rows - row);
    DSV4MX_TRY(place_.Read(at, static_cast<size_t>((n - 1) * stride_ + bytes_), piece));
    for (int64_t i = 0; i < n; ++i, to += RowBytes()) Take(piece + i * stride_, bytes_, to);
    at += static_cast<uint64_t>(n * stride_);
  }
  return kOk;
}

}  // namespace dsv4mx::io
