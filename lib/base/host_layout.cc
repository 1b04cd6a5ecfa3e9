#include "lib/base/host_layout.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace dsv4mx {
namespace {

// One tensor of a slab: its rows in slab order, each a row of a matrix or padding.
struct Part {
  bool w13;
  int64_t tiles, rows, k;     // rows of the slab: w2's are padded to 64
  int64_t real;               // rows of one matrix: I, or H
  int64_t codes, base, bias;  // offsets in the slab
  bool has_bias;

  bool At(int64_t n, Matrix* m, int64_t* row) const {
    if (!w13) {
      *m = Matrix::kDown;
      *row = Sm90W2Hidden(n);
      return *row < real;
    }
    int half;
    *row = Sm90W13Channel(real, n, &half);
    *m = half == 0 ? Matrix::kGate : Matrix::kUp;
    return true;
  }
};

void PartsOf(const LayerSpec& spec, Part parts[2]) {
  const Sm90Slab slab = Sm90SlabOf(spec);
  const int64_t rows13 = 2 * static_cast<int64_t>(spec.intermediate);
  const int64_t rows2 = Sm90PaddedRows(spec.hidden);
  parts[0] = {true,     rows13 / kSm90TileRows, rows13,        spec.hidden,       spec.intermediate,
              slab.w13, slab.w13_base,          slab.w13_bias, spec.w13_bias != 0};
  parts[1] = {false,   rows2 / kSm90TileRows, rows2,        spec.intermediate, spec.hidden,
              slab.w2, slab.w2_base,          slab.w2_bias, spec.w2_bias != 0};
}

uint8_t RowBase(const uint8_t* codes, const uint8_t* scales, int64_t k, int64_t block) {
  int base = 256;
  const int64_t end = std::min<int64_t>(k, (block + 1) * kSm90BaseK);
  for (int64_t at = block * kSm90BaseK; at < end; at += kGroupSize) {
    if (!GroupIsZero(codes + at / 2)) base = std::min<int>(base, scales[at / kGroupSize]);
  }
  return static_cast<uint8_t>(base == 256 ? 0 : base);
}

void PackPart(const Part& part, const ExpertReader& rows, uint8_t* slab) {
  std::vector<uint8_t> codes(static_cast<size_t>(part.k / 2)),
      scales(static_cast<size_t>(part.k / kGroupSize));
  for (int64_t n = 0; n < part.rows; ++n) {
    Matrix m;
    int64_t row;
    if (!part.At(n, &m, &row)) continue;
    rows.ReadCodes(m, row, codes.data());
    rows.ReadScales(m, row, scales.data());
    const int64_t tile = n / kSm90TileRows;
    const int in_tile = static_cast<int>(n % kSm90TileRows);
    uint8_t* at = slab + part.codes + tile * Sm90TileBytes(part.k);
    for (int64_t k = 0; k < part.k; ++k) {
      const Sm90Pos pos = Sm90Code(part.k, in_tile, k);
      uint32_t word;
      std::memcpy(&word, at + pos.byte, 4);
      word |= Sm90Encode(RawCode(codes.data(), k), pos);
      std::memcpy(at + pos.byte, &word, 4);
    }
    for (int64_t k = 0; k < part.k; k += kGroupSize) {
      at[Sm90Scale(part.k, in_tile, k)] = scales[static_cast<size_t>(k / kGroupSize)];
    }
    const int64_t blocks = Sm90BaseBlocks(part.k);
    for (int64_t b = 0; b < blocks; ++b) {
      slab[part.base + (tile * blocks + b) * kSm90TileRows + in_tile] =
          RowBase(codes.data(), scales.data(), part.k, b);
    }
    if (part.has_bias) {
      const float bias = rows.ReadBias(m, row);
      std::memcpy(slab + part.bias + 4 * n, &bias, 4);
    }
  }
}

void UnpackPart(const Part& part, const uint8_t* slab, ExpertWriter* rows) {
  std::vector<uint8_t> codes(static_cast<size_t>(part.k / 2)),
      scales(static_cast<size_t>(part.k / kGroupSize));
  for (int64_t n = 0; n < part.rows; ++n) {
    Matrix m;
    int64_t row;
    if (!part.At(n, &m, &row)) continue;
    const int in_tile = static_cast<int>(n % kSm90TileRows);
    const uint8_t* at = slab + part.codes + n / kSm90TileRows * Sm90TileBytes(part.k);
    Sm90ReadCodes(at, part.k, in_tile, codes.data());
    Sm90ReadScales(at, part.k, in_tile, scales.data());
    rows->WriteCodes(m, row, codes.data());
    rows->WriteScales(m, row, scales.data());
    if (part.has_bias) {
      float bias;
      std::memcpy(&bias, slab + part.bias + 4 * n, 4);
      rows->WriteBias(m, row, bias);
    }
  }
}

}  // namespace

Sm90Slab Sm90SlabOf(const LayerSpec& spec) {
  return Sm90MakeSlab(spec.hidden, spec.intermediate, spec.w13_bias != 0, spec.w2_bias != 0);
}

// The eight codes of a word are neighbours along K.
void Sm90ReadCodes(const uint8_t* tile, int64_t k, int row, uint8_t* codes) {
  for (int64_t at = 0; at < k; at += 8) {
    uint32_t word;
    std::memcpy(&word, tile + Sm90Code(k, row, at).byte, 4);
    word = Sm90UnpackWord(word);
    std::memcpy(codes + at / 2, &word, 4);
  }
}

void Sm90ReadScales(const uint8_t* tile, int64_t k, int row, uint8_t* scales) {
  for (int64_t at = 0; at < k; at += kGroupSize)
    scales[at / kGroupSize] = tile[Sm90Scale(k, row, at)];
}

void Sm90PackExpert(const LayerSpec& spec, const ExpertReader& rows, uint8_t* slab) {
  std::memset(slab, 0, static_cast<size_t>(Sm90SlabOf(spec).bytes));
  Part parts[2];
  PartsOf(spec, parts);
  for (const Part& part : parts) PackPart(part, rows, slab);
}

void Sm90UnpackExpert(const LayerSpec& spec, const uint8_t* slab, ExpertWriter* rows) {
  Part parts[2];
  PartsOf(spec, parts);
  for (const Part& part : parts) UnpackPart(part, slab, rows);
}

}  // namespace dsv4mx
