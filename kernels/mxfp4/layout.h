// Where every FP4 code and scale byte stands, as index arithmetic that host and device share: preparation on the GPU
// and on the CPU, import, export and the tests all call these functions, so there is one definition of each layout.
//
//   raw     row-major [rows, K/2] bytes, low nibble = even k; scales [rows, K/32]
//   marlin  the 16(k) x 64(n) tiles of GPTQ-Marlin and its scale permutation, as SGLang and vLLM hold MXFP4
//   sm90    the prepared layout of the CUDA kernels, below
//
// sm90. Rows come in tiles of 64, K in blocks: 128s, then at most one of 64 and one of 32. A block of Kb holds the tile's
// codes (32 Kb bytes), then its scales (2 Kb bytes); blocks follow each other, so a tile is 34 K bytes. Inside a block
// lane t of a quad owns the t-th quarter, so that a lane meets one scale group a row; step s (32 of K) of the block holds
// for lane t the codes with h in {0,1}, i in 0..3 at
//
//     k = block + t*Kb/4 + 8*s + 2*i + h     magnitude at bit 16h+4i, sign at bit 8i+7 (h = 0) or 8i+3 (h = 1)
//
// which a byte permute turns into an E4M3 fragment, another one into f16 pairs (k, k+2), and shifts into bf16 pairs (k, k+1).
// Activations meet the codes in the same order: a permutation inside each block, one for E4M3 bytes, one for f16 and one for
// bf16 elements.
//
// The order of rows serves the epilogues. Tile T of w13 holds the 32 channels of step T of I, gate in rows 0..7 and up in
// rows 8..15 of each 16, so that one thread holds both of a channel, and eight lanes hold eight neighbours in h as bf16.
// Tile T of w2 holds 64 values of H, rows g and g+8 of each 16 being 2g and 2g+1: a lane holds neighbours.
#ifndef DSV4MX_KERNELS_MXFP4_LAYOUT_H_
#define DSV4MX_KERNELS_MXFP4_LAYOUT_H_

#include <cstdint>

#if defined(__CUDACC__)
#define DSV4MX_HD __host__ __device__ __forceinline__
#else
#define DSV4MX_HD inline
#endif

namespace dsv4mx {

// ---------------------------------------------------------------------------------------------------------- marlin --

// Position of code (n, k) in an expert's [K/16, 2N] words, and of its nibble (marlin.md section 3 of GPTQ-Marlin's
// tiles: a lane's 16 bytes are the fragments it feeds to mma.m16n8k16).
struct MarlinPos {
  int64_t word;
  int nibble;
};
DSV4MX_HD MarlinPos MarlinCode(int64_t rows, int64_t n, int64_t k) {
  MarlinPos p;
  p.word = (k / 16) * 2 * rows + (n / 64) * 128 + 4 * (4 * (n % 8) + (k % 8) / 2) + (n % 64) / 16;
  p.nibble = static_cast<int>(2 * ((n % 16) / 8) + ((k % 16) / 8) + 4 * (k % 2));
  return p;
}
// The same backwards: which (n, k) stands in nibble `nibble` of word `word`.
DSV4MX_HD void MarlinCodeAt(int64_t rows, int64_t word, int nibble, int64_t* n, int64_t* k) {
  const int64_t tile_row = word / (2 * rows), in_row = word % (2 * rows);
  const int64_t lane = (in_row % 128) / 4, block = in_row % 4;
  *n = (in_row / 128) * 64 + block * 16 + ((nibble >> 1) & 1) * 8 + lane / 4;
  *k = tile_row * 16 + (nibble & 1) * 8 + (lane % 4) * 2 + (nibble >> 2);
}
// Byte offset of the scale of column n, group g in [K/32, N].
DSV4MX_HD int64_t MarlinScale(int64_t rows, int64_t n, int64_t g) {
  constexpr uint32_t kSub = 0x75643120u;  // 0,2,1,3,4,6,5,7 as nibbles, lowest first
  return g * rows + 64 * (n / 64) + 8 * (n % 8) + ((kSub >> (4 * ((n % 64) / 8))) & 15);
}
// Position of bias n in the permuted vector: in every 32, position 8i+p takes 2i + {0,1,8,9,16,17,24,25}[p].
DSV4MX_HD int64_t MarlinBias(int64_t n) {
  const int64_t c = n % 32, i = (c % 8) / 2, p = 2 * (c / 8) + (c % 2);
  return n - c + 8 * i + p;
}

// ------------------------------------------------------------------------------------------------------------ sm90 --

inline constexpr int kSm90TileRows = 64;
inline constexpr int kSm90BlockK = 128;
inline constexpr int kSm90BaseK = 512;  // K per exponent base of the plane path
// Of a tile, per value of K: 64 rows of half a byte of codes, and of a 32nd of a byte of scales.
inline constexpr int kSm90CodeBytesPerK = kSm90TileRows / 2;
inline constexpr int kSm90BytesPerK = kSm90CodeBytesPerK + kSm90TileRows / 32;

DSV4MX_HD int64_t Sm90PaddedRows(int64_t rows) {
  return (rows + kSm90TileRows - 1) / kSm90TileRows * kSm90TileRows;
}
DSV4MX_HD int64_t Sm90TileBytes(int64_t k) {
  return kSm90BytesPerK * k;
}
DSV4MX_HD int64_t Sm90BaseBlocks(int64_t k) {
  return (k + kSm90BaseK - 1) / kSm90BaseK;
}

// The block that holds k.
struct Sm90Block {
  int64_t first;
  int length;
};
DSV4MX_HD Sm90Block Sm90BlockOf(int64_t K, int64_t k) {
  const int64_t first = k / kSm90BlockK * kSm90BlockK, rest = K - first;
  if (rest >= kSm90BlockK) return {first, kSm90BlockK};
  if (rest < 64) return {first, 32};
  return k < first + 64 ? Sm90Block{first, 64} : Sm90Block{first + 64, 32};
}

// Which lane of a quad meets k, when, and where in its word.
struct Sm90Lane {
  Sm90Block block;
  int step, t, i, h;  // step within the block
};
DSV4MX_HD Sm90Lane Sm90LaneOf(int64_t K, int64_t k) {
  const Sm90Block b = Sm90BlockOf(K, k);
  const int j = static_cast<int>(k - b.first), quarter = b.length / 4, q = j % quarter;
  return Sm90Lane{b, q / 8, j / quarter, q % 8 / 2, q % 2};
}

// Where value k of a row of activations stands: index in E4M3 bytes, and in bf16 elements.
DSV4MX_HD int64_t Sm90PlaneIndex(int64_t K, int64_t k) {
  const Sm90Lane l = Sm90LaneOf(K, k);
  return l.block.first + 32 * l.step + 16 * l.h + 4 * l.t + l.i;
}
DSV4MX_HD int64_t Sm90Bf16Index(int64_t K, int64_t k) {
  const Sm90Lane l = Sm90LaneOf(K, k);
  return l.block.first + 32 * l.step + 8 * l.i + 2 * l.t + l.h;
}
// The same for f16, whose pairs are of two values of i with the same h.
DSV4MX_HD int64_t Sm90F16Index(int64_t K, int64_t k) {
  const Sm90Lane l = Sm90LaneOf(K, k);
  return l.block.first + 32 * l.step + 16 * l.h + 8 * (l.i / 2) + 2 * l.t + l.i % 2;
}
// The inverse of Sm90Bf16Index.
DSV4MX_HD int64_t Sm90Bf16At(int64_t K, int64_t index) {
  const Sm90Block b = Sm90BlockOf(K, index);  // a step lies in one block, whatever the order inside
  const int64_t step = (index - b.first) / 32;
  return b.first + index % 8 / 2 * (b.length / 4) + 8 * step + 2 * (index % 32 / 8) + index % 2;
}

// Row of w13 that holds gate (half 0) or up (half 1) channel i; and the inverse.
DSV4MX_HD int64_t Sm90W13Row(int64_t intermediate, int64_t channel, int half) {
  const int64_t p = Sm90Bf16Index(intermediate, channel);
  return p / 8 * 16 + half * 8 + p % 8;
}
DSV4MX_HD int64_t Sm90W13Channel(int64_t intermediate, int64_t row, int* half) {
  *half = static_cast<int>(row / 8 % 2);
  return Sm90Bf16At(intermediate, row / 16 * 8 + row % 8);
}
// Row of w2 that holds value `hidden` of H; and the inverse, which gives H or more for a padding row.
DSV4MX_HD int64_t Sm90W2Row(int64_t hidden) {
  return hidden / 16 * 16 + hidden % 2 * 8 + hidden % 16 / 2;
}
DSV4MX_HD int64_t Sm90W2Hidden(int64_t row) {
  return row / 16 * 16 + row % 8 * 2 + row % 16 / 8;
}

// Byte offset inside a tile of the 32-bit word that holds code (row in 0..63, k), and its bit positions.
struct Sm90Pos {
  int64_t byte;
  int magnitude_bit, sign_bit;
};
DSV4MX_HD Sm90Pos Sm90Bits(int64_t byte, int i, int h) {
  return Sm90Pos{byte, 16 * h + 4 * i, 8 * i + (h ? 3 : 7)};
}
DSV4MX_HD Sm90Pos Sm90Code(int64_t K, int row, int64_t k) {
  const Sm90Lane l = Sm90LaneOf(K, k);
  const int warp = row / 16, half = row / 8 % 2, lane = row % 8 * 4 + l.t;
  // Two steps share a lane's 16 bytes; a block of one step has 8 bytes a lane.
  const int word = l.block.length == 32 ? lane * 2 : l.step / 2 * 128 + lane * 4 + l.step % 2 * 2;
  return Sm90Bits(kSm90BytesPerK * l.block.first + warp * l.block.length * 8 + (word + half) * 4,
                  l.i, l.h);
}
// The inverse of its byte offset: row and first k of word `word` of a tile, counted over the 8 K words of codes alone.
// The eight codes of a word are neighbours along K.
DSV4MX_HD void Sm90CodeAt(int64_t K, int64_t word, int* row, int64_t* k) {
  Sm90Block b = Sm90BlockOf(K, word / 8 / kSm90BlockK * kSm90BlockK);
  if (word >= 8 * (b.first + b.length)) b = Sm90BlockOf(K, b.first + b.length);
  const int in_block = static_cast<int>(word - 8 * b.first), words = 2 * b.length;  // of a warp
  const int warp = in_block / words, at = in_block % words;
  const bool one_step = b.length == 32;
  const int lane = one_step ? at / 2 : at % 128 / 4;
  const int step = one_step ? 0 : at / 128 * 2 + at % 4 / 2;
  *row = warp * 16 + at % 2 * 8 + lane / 4;
  *k = b.first + lane % 4 * (b.length / 4) + 8 * step;
}
DSV4MX_HD uint32_t Sm90Encode(uint32_t code, const Sm90Pos& p) {
  return ((code & 7u) << p.magnitude_bit) | ((code >> 3) << p.sign_bit);
}
DSV4MX_HD uint32_t Sm90Decode(uint32_t word, const Sm90Pos& p) {
  return ((word >> p.magnitude_bit) & 7u) | (((word >> p.sign_bit) & 1u) << 3);
}

// A whole word from eight codes in raw form (k ascending from the low nibble), and back.
DSV4MX_HD uint32_t Sm90PackWord(uint32_t raw) {
  uint32_t word = 0;
  for (int j = 0; j < 8; ++j) word |= Sm90Encode(raw >> (4 * j) & 15u, Sm90Bits(0, j / 2, j % 2));
  return word;
}
DSV4MX_HD uint32_t Sm90UnpackWord(uint32_t word) {
  uint32_t raw = 0;
  for (int j = 0; j < 8; ++j) raw |= Sm90Decode(word, Sm90Bits(0, j / 2, j % 2)) << (4 * j);
  return raw;
}

// Byte offset inside a tile of the scale of group k/32 of a row: a lane's two row halves are neighbours.
DSV4MX_HD int64_t Sm90Scale(int64_t K, int row, int64_t k) {
  const Sm90Block b = Sm90BlockOf(K, k);
  const int warp = row / 16, half = row / 8 % 2, g = row % 8, groups = b.length / 32;
  return kSm90BytesPerK * b.first + kSm90CodeBytesPerK * b.length +
         ((warp * 8 + g) * groups + static_cast<int>(k - b.first) / 32) * 2 + half;
}

// The inverse: row and first k of scale byte `index` of a tile, counted over its 2 K bytes of scales alone.
DSV4MX_HD void Sm90ScaleAt(int64_t K, int64_t index, int* row, int64_t* k) {
  Sm90Block b = Sm90BlockOf(K, index / 2 / kSm90BlockK * kSm90BlockK);
  if (index >= 2 * (b.first + b.length)) b = Sm90BlockOf(K, b.first + b.length);
  const int at = static_cast<int>(index - 2 * b.first) / 2, groups = b.length / 32;
  const int of_warp = at / groups;  // warp * 8 + g
  *row = of_warp / 8 * 16 + static_cast<int>(index % 2) * 8 + of_warp % 8;
  *k = b.first + 32 * (at % groups);
}

// The slab of one expert: where its parts begin, in bytes. Slabs are relocatable and follow each other.
struct Sm90Slab {
  int64_t w13, w2, w13_base, w2_base, w13_bias, w2_bias, bytes;
};
DSV4MX_HD Sm90Slab Sm90MakeSlab(int64_t hidden, int64_t intermediate, bool has_w13_bias,
                                bool has_w2_bias) {
  const int64_t tiles13 = intermediate / 32, tiles2 = Sm90PaddedRows(hidden) / kSm90TileRows;
  Sm90Slab s{};
  s.w13 = 0;
  s.w2 = s.w13 + tiles13 * Sm90TileBytes(hidden);
  s.w13_base = s.w2 + tiles2 * Sm90TileBytes(intermediate);  // [tile][block of 512][64] bytes
  s.w2_base = s.w13_base + tiles13 * Sm90BaseBlocks(hidden) * kSm90TileRows;
  s.w13_bias =
      s.w2_base + tiles2 * Sm90BaseBlocks(intermediate) * kSm90TileRows;  // f32, in row order
  s.w2_bias = s.w13_bias + (has_w13_bias ? tiles13 * kSm90TileRows * 4 : 0);
  s.bytes = s.w2_bias + (has_w2_bias ? tiles2 * kSm90TileRows * 4 : 0);
  s.bytes = (s.bytes + 255) / 256 * 256;
  return s;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_MXFP4_LAYOUT_H_
