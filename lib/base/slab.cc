#include "lib/base/slab.h"

#include <algorithm>
#include <cstring>

#include "lib/base/cpu_layout.h"
#include "lib/base/hash.h"
#include "lib/base/host_layout.h"
#include "lib/base/scales.h"

namespace dsv4mx {
namespace {

SlabForm FormOf(const char* layout, const LayerSpec& spec, int64_t bytes) {
  Hash h;
  h << layout << int64_t{spec.hidden} << int64_t{spec.intermediate};
  h << int64_t{spec.w13_bias != 0} << int64_t{spec.w2_bias != 0};
  return SlabForm{layout, h.sum(), bytes};
}

// Hands on what is not empty, and knows where it stands.
struct Cursor {
  SlabStretch f;
  int64_t at = 0;
  void operator()(SlabPart part, int64_t bytes) {
    if (bytes != 0) f(part, at, bytes);
    at += bytes;
  }
};

// Offset in the slab of the first scale byte 255 of a piece, or -1. `for_slab` is one of the For...Slab.
template <class ForSlab>
int64_t FindBadScale(const ForSlab& for_slab, const LayerSpec& spec, const SlabPiece& piece) {
  int64_t found = -1;
  for_slab(spec, [&](SlabPart part, int64_t offset, int64_t bytes) {
    const int64_t begin = std::max(offset, piece.first);
    const int64_t end = std::min(offset + bytes, piece.first + piece.bytes);
    if (part != SlabPart::kScales || begin >= end || found >= 0) return;
    const uint8_t* from = piece.data + (begin - piece.first);
    const void* bad = std::memchr(from, 255, static_cast<size_t>(end - begin));
    if (bad != nullptr) found = begin + (static_cast<const uint8_t*>(bad) - from);
  });
  return found;
}

Status Refuse(int32_t expert, Matrix m, int64_t row, int64_t group) {
  const uint8_t nan = 255;
  return BadScale(expert, m, row, group, &nan, DSV4MX_DTYPE_E8M0);
}

}  // namespace

SlabForm CpuSlabForm(const LayerSpec& spec) {
  return FormOf("cpu 1", spec, CpuLayout(spec).slab_bytes());
}

void ForCpuSlab(const LayerSpec& spec, SlabStretch f) {
  const CpuLayout layout(spec);
  Cursor cursor{f};
  cursor(SlabPart::kCodes, layout.Scales(0, Matrix::kGate));
  cursor(SlabPart::kScales, layout.Bias(0, Matrix::kGate) - cursor.at);
  cursor(SlabPart::kBias, layout.Padding() - cursor.at);
  cursor(SlabPart::kDerived, layout.slab_bytes() - cursor.at);
}

Status CheckCpuSlabScales(const LayerSpec& spec, int32_t expert, const SlabPiece& piece) {
  const int64_t at = FindBadScale(ForCpuSlab, spec, piece);
  if (at < 0) return kOk;
  const CpuLayout layout(spec);
  Matrix m = Matrix::kDown;
  while (layout.Scales(0, m) > at) m = static_cast<Matrix>(static_cast<int>(m) - 1);
  const int64_t k = spec.K(m), in_matrix = at - layout.Scales(0, m);
  const int64_t row = in_matrix / k * kCpuTileRows + in_matrix % kCpuTileRows;
  return Refuse(expert, m, row, in_matrix % k / kCpuTileRows);
}

SlabForm Sm90SlabForm(const LayerSpec& spec) {
  return FormOf("sm90 1", spec, Sm90SlabOf(spec).bytes);
}

void ForSm90Slab(const LayerSpec& spec, SlabStretch f) {
  const Sm90Slab slab = Sm90SlabOf(spec);
  const int64_t tiles13 = spec.intermediate / (kSm90TileRows / 2);
  const int64_t tiles2 = Sm90PaddedRows(spec.hidden) / kSm90TileRows;
  Cursor cursor{f};
  const auto tiles = [&cursor](int64_t count, int64_t k) {
    for (int64_t tile = 0; tile < count; ++tile) {
      for (int64_t at = 0; at < k;) {
        const int64_t length = Sm90BlockOf(k, at).length;
        cursor(SlabPart::kCodes, 32 * length);
        cursor(SlabPart::kScales, 2 * length);
        at += length;
      }
    }
  };
  tiles(tiles13, spec.hidden);
  tiles(tiles2, spec.intermediate);
  cursor(SlabPart::kDerived, slab.w13_bias - cursor.at);
  if (spec.w13_bias != 0) cursor(SlabPart::kBias, tiles13 * kSm90TileRows * 4);
  if (spec.w2_bias != 0) cursor(SlabPart::kBias, tiles2 * kSm90TileRows * 4);
  cursor(SlabPart::kDerived, slab.bytes - cursor.at);
}

Status CheckSm90SlabScales(const LayerSpec& spec, int32_t expert, const SlabPiece& piece) {
  const int64_t at = FindBadScale(ForSm90Slab, spec, piece);
  if (at < 0) return kOk;
  const Sm90Slab slab = Sm90SlabOf(spec);
  const bool w2 = at >= slab.w2;
  const int64_t k = w2 ? spec.intermediate : spec.hidden, in_part = at - (w2 ? slab.w2 : slab.w13);
  const int64_t tile = in_part / Sm90TileBytes(k), in_tile = in_part % Sm90TileBytes(k);
  const Sm90Block block = Sm90BlockOf(k, in_tile / Sm90TileBytes(1));
  const int64_t in_scales = in_tile - 34 * block.first - 32 * block.length;
  int in_rows, half = 0;
  int64_t first_k;
  Sm90ScaleAt(k, 2 * block.first + in_scales, &in_rows, &first_k);
  const int64_t row = tile * kSm90TileRows + in_rows;
  if (w2) return Refuse(expert, Matrix::kDown, Sm90W2Hidden(row), first_k / kGroupSize);
  const int64_t channel = Sm90W13Channel(spec.intermediate, row, &half);
  return Refuse(expert, half == 0 ? Matrix::kGate : Matrix::kUp, channel, first_k / kGroupSize);
}

}  // namespace dsv4mx
