// The Marlin form of an expert from its slab and back, element by element through the index functions of
// mxfp4/layout.h: one thread per word or byte written, in the order of what is written. Padding is written as zeros and
// never read. A tensor comes in parts, so that host memory can be staged piece by piece.
#include "kernels/launch_weights.h"
#include "kernels/mxfp4/words.h"
#include "kernels/weights.cuh"

namespace dsv4mx {
namespace {

// One of the two tensors of a slab.
struct Side {
  SlabMatrix m;  // matrix is 0 for all of w13, 2 for w2
  MarlinPart part;

  // Padded Marlin row of slab row n, or -1 if that row is padding.
  __device__ int64_t MarlinRow(int64_t n) const {
    if (m.down()) {
      const int64_t row = Sm90W2Hidden(n);
      return row < m.hidden ? row : -1;
    }
    int half;
    const int64_t channel = Sm90W13Channel(m.intermediate, n, &half);
    return half * part.half + channel;
  }
  // Slab row of a padded Marlin row, or -1 if that is padding. *matrix and *row say whose it is.
  __device__ int64_t SlabRow(int64_t n, int* matrix, int64_t* row) const {
    const int half = n >= part.half ? 1 : 0;
    *matrix = m.down() ? 2 : half;
    *row = n - half * part.half;
    if (*row >= m.rows()) return -1;
    return m.down() ? Sm90W2Row(*row) : Sm90W13Row(m.intermediate, *row, half);
  }
  __device__ bool Holds(int64_t n, int64_t k) const {
    return n >= part.first_row && n < part.first_row + part.rows && k >= part.first_k &&
           k < part.first_k + part.k_length;
  }
  __device__ uint8_t* Tile(int64_t tile) const { return m.slab + m.tile_offset(tile); }
};

__global__ void ImportCodes(Side s, int64_t per_tile) {
  const int64_t index = ThreadIndex(), tile = blockIdx.y, k_all = s.m.k();
  if (index >= per_tile) return;
  int in_tile;
  int64_t k;
  Sm90CodeAt(k_all, index, &in_tile, &k);
  const int64_t n = s.MarlinRow(tile * kSm90TileRows + in_tile);
  uint32_t raw = 0;
  if (n >= 0) {
    if (!s.Holds(n, k)) return;
    const uint32_t* words = reinterpret_cast<const uint32_t*>(s.part.data);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const MarlinPos p = MarlinCode(s.part.rows, n - s.part.first_row, k - s.part.first_k + j);
      raw |= (words[p.word] >> (4 * p.nibble) & 15u) << (4 * j);
    }
  }
  uint8_t* at = s.Tile(tile) + Sm90Code(k_all, in_tile, k).byte;
  *reinterpret_cast<uint32_t*>(at) = PackWord(raw);
}

__global__ void ExportCodes(Side s, int64_t words) {
  const int64_t word = ThreadIndex(), k_all = s.m.k();
  if (word >= words) return;
  uint32_t out = 0;
#pragma unroll
  for (int nibble = 0; nibble < 8; ++nibble) {
    int64_t n, k, row;
    int matrix;
    MarlinCodeAt(s.part.rows, word, nibble, &n, &k);
    k += s.part.first_k;
    const int64_t slab_row = s.SlabRow(n + s.part.first_row, &matrix, &row);
    if (slab_row < 0 || k >= k_all) continue;
    const Sm90Pos p = Sm90Code(k_all, static_cast<int>(slab_row % kSm90TileRows), k);
    const uint8_t* at = s.Tile(slab_row / kSm90TileRows) + p.byte;
    out |= Sm90Decode(*reinterpret_cast<const uint32_t*>(at), p) << (4 * nibble);
  }
  reinterpret_cast<uint32_t*>(s.part.data)[word] = out;
}

__global__ void ImportScales(Side s, int64_t per_tile) {
  const int64_t index = ThreadIndex(), tile = blockIdx.y, k_all = s.m.k();
  if (index >= per_tile) return;
  int in_tile;
  int64_t k;
  Sm90ScaleAt(k_all, index, &in_tile, &k);
  const int64_t n = s.MarlinRow(tile * kSm90TileRows + in_tile);
  uint8_t byte = 0;
  if (n >= 0) {
    if (!s.Holds(n, k)) return;
    byte = s.part.data[MarlinScale(s.part.rows, n - s.part.first_row, (k - s.part.first_k) / 32)];
  }
  s.Tile(tile)[Sm90Scale(k_all, in_tile, k)] = byte;
}

// Threads of the two kernels below walk rows inside a group; 64 of them share 64 neighbouring bytes.
__global__ void ExportScales(Side s) {
  const int64_t at = ThreadIndex(), group = blockIdx.y, k = s.part.first_k + 32 * group;
  if (at >= s.part.rows) return;
  int64_t row;
  int matrix;
  const int64_t slab_row = s.SlabRow(at + s.part.first_row, &matrix, &row);
  uint8_t byte = 0;
  if (slab_row >= 0 && k < s.m.k()) {
    byte = s.Tile(slab_row /
                  kSm90TileRows)[Sm90Scale(s.m.k(), static_cast<int>(slab_row % kSm90TileRows), k)];
  }
  s.part.data[MarlinScale(s.part.rows, at, group)] = byte;
}

__global__ void CheckScales(Side s, unsigned long long* bad) {
  const int64_t at = ThreadIndex(), group = blockIdx.y, k = s.part.first_k + 32 * group;
  if (at >= s.part.rows) return;
  int64_t row;
  int matrix;
  if (s.SlabRow(at + s.part.first_row, &matrix, &row) < 0 || k >= s.m.k()) return;
  if (s.part.data[MarlinScale(s.part.rows, at, group)] != 255) return;
  atomicMin(bad, static_cast<unsigned long long>(matrix) << 48 |
                     static_cast<unsigned long long>(row * (s.m.k() / 32) + k / 32));
}

__device__ __forceinline__ uint32_t BiasBits(const uint8_t* data, int64_t at, bool is_bf16) {
  const int bytes = is_bf16 ? 2 : 4;
  uint32_t bits = 0;
  for (int i = 0; i < bytes; ++i) {
    bits |= static_cast<uint32_t>(data[at * bytes + i]) << (8 * (4 - bytes + i));
  }
  return bits;
}

__device__ __forceinline__ uint32_t* SlabBias(const SlabMatrix& m) {
  return reinterpret_cast<uint32_t*>(m.slab + (m.down() ? m.parts.w2_bias : m.parts.w13_bias));
}

__global__ void ImportBias(Side s, bool is_bf16, int64_t slab_rows) {
  const int64_t slab_row = ThreadIndex();
  if (slab_row >= slab_rows) return;
  const int64_t n = s.MarlinRow(slab_row);
  uint32_t bits = 0;
  if (n >= 0) {
    if (!s.Holds(n, s.part.first_k)) return;
    bits = BiasBits(s.part.data, MarlinBias(n - s.part.first_row), is_bf16);
  }
  SlabBias(s.m)[slab_row] = bits;
}

// Round to nearest, ties to even; a NaN stays one: the same bits as on the host.
__device__ __forceinline__ uint32_t RoundToBf16(uint32_t bits) {
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return bits >> 16 | 0x40u;
  return (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
}

__global__ void ExportBias(Side s, bool is_bf16) {
  const int64_t at = ThreadIndex();
  if (at >= s.part.rows) return;
  int64_t row;
  int matrix;
  const int64_t slab_row = s.SlabRow(at + s.part.first_row, &matrix, &row);
  uint32_t bits = slab_row >= 0 ? SlabBias(s.m)[slab_row] : 0;
  const int bytes = is_bf16 ? 2 : 4;
  if (is_bf16) bits = RoundToBf16(bits);
  uint8_t* to = s.part.data + MarlinBias(at) * bytes;
  for (int i = 0; i < bytes; ++i) to[i] = static_cast<uint8_t>(bits >> (8 * i));
}

Side MakeSide(SlabMatrix slab, bool w2, const MarlinPart& part) {
  slab.matrix = w2 ? 2 : 0;
  return Side{slab, part};
}

}  // namespace

int LaunchMarlinImportCodes(const SlabMatrix& slab, bool w2, const MarlinPart& part,
                            CUstream_st* stream) {
  const Side s = MakeSide(slab, w2, part);
  return LaunchElements(ImportCodes, 8 * s.m.k(), s.m.tiles(), stream, s, 8 * s.m.k());
}

int LaunchMarlinImportScales(const SlabMatrix& slab, bool w2, const MarlinPart& part,
                             CUstream_st* stream) {
  const Side s = MakeSide(slab, w2, part);
  return LaunchElements(ImportScales, 2 * s.m.k(), s.m.tiles(), stream, s, 2 * s.m.k());
}

int LaunchMarlinExportCodes(const SlabMatrix& slab, bool w2, const MarlinPart& part,
                            CUstream_st* stream) {
  const int64_t words = part.k_length / 16 * 2 * part.rows;
  return LaunchElements(ExportCodes, words, 1, stream, MakeSide(slab, w2, part), words);
}

int LaunchMarlinExportScales(const SlabMatrix& slab, bool w2, const MarlinPart& part,
                             CUstream_st* stream) {
  return LaunchElements(ExportScales, part.rows, part.k_length / 32, stream,
                        MakeSide(slab, w2, part));
}

int LaunchMarlinImportBias(const SlabMatrix& slab, bool w2, const MarlinPart& part, bool is_bf16,
                           CUstream_st* stream) {
  const Side s = MakeSide(slab, w2, part);
  return LaunchElements(ImportBias, s.m.tiles() * kSm90TileRows, 1, stream, s, is_bf16,
                        s.m.tiles() * kSm90TileRows);
}

int LaunchMarlinExportBias(const SlabMatrix& slab, bool w2, const MarlinPart& part, bool is_bf16,
                           CUstream_st* stream) {
  return LaunchElements(ExportBias, part.rows, 1, stream, MakeSide(slab, w2, part), is_bf16);
}

int LaunchMarlinCheckScales(const SlabMatrix& slab, bool w2, const MarlinPart& part, uint64_t* bad,
                            CUstream_st* stream) {
  return LaunchElements(CheckScales, part.rows, part.k_length / 32, stream,
                        MakeSide(slab, w2, part), reinterpret_cast<unsigned long long*>(bad));
}

int LoadMarlinKernels() {
  return LoadAll(ImportCodes, ExportCodes, ImportScales, ExportScales, CheckScales, ImportBias,
                 ExportBias);
}

}  // namespace dsv4mx
