// What lib/cuda sees of the kernels that make, read and convert prepared experts: plain arguments and launch functions,
// like launch.h. All pointers are device pointers unless said otherwise; every launch is asynchronous, allocates nothing
// and returns a cudaError_t as int. Where everything stands is mxfp4/layout.h.
#ifndef DSV4MX_KERNELS_LAUNCH_WEIGHTS_H_
#define DSV4MX_KERNELS_LAUNCH_WEIGHTS_H_

#include <cstdint>

#include "kernels/mxfp4/layout.h"

struct CUstream_st;

namespace dsv4mx {

// One matrix of one expert's slab. Tiles of w13 hold gate in one half of their rows and up in the other, so each of the
// two is written on its own without touching the other.
struct SlabMatrix {
  uint8_t* slab;
  Sm90Slab parts;
  int32_t hidden, intermediate;
  int32_t matrix;  // 0 gate, 1 up, 2 down

  DSV4MX_HD bool down() const { return matrix == 2; }
  DSV4MX_HD int64_t k() const { return down() ? intermediate : hidden; }
  DSV4MX_HD int64_t rows() const { return down() ? hidden : intermediate; }  // of the matrix
  DSV4MX_HD int64_t tiles() const {
    return down() ? Sm90PaddedRows(hidden) / kSm90TileRows : intermediate / 32;
  }
  DSV4MX_HD int64_t tile_offset(int64_t tile) const {
    return (down() ? parts.w2 : parts.w13) + tile * Sm90TileBytes(k());
  }
  // The matrix's row that stands in slab row `row`; rows() or more for a padding row.
  DSV4MX_HD int64_t RowAt(int64_t row) const {
    int half;
    return down() ? Sm90W2Hidden(row) : Sm90W13Channel(intermediate, row, &half);
  }
  // The inverse.
  DSV4MX_HD int64_t SlabRow(int64_t row) const {
    return down() ? Sm90W2Row(row) : Sm90W13Row(intermediate, row, matrix);
  }
};

// A run of rows of a matrix, element (row, column) at data + (row - first_row) * row_stride + column * column_stride. A
// run begins at a multiple of kRowRun and ends at one, or at the last row; then it fills whole tiles.
inline constexpr int64_t kRowRun = 128;
struct RowsView {
  const uint8_t* data;                // any alignment
  int64_t row_stride, column_stride;  // bytes
  int64_t first_row, rows;
};

// The same matrix of `count` experts (at most 65,535) whose slabs and data lie in steps of so many bytes.
struct ExpertRun {
  int32_t count = 1;
  int64_t slab_step = 0, data_step = 0;
};

// Packed bytes of codes, column = two codes.
int LaunchPackCodes(const SlabMatrix& to, const RowsView& codes, const ExpertRun& run,
                    bool high_first, CUstream_st* stream);

// Scale elements. `bad` receives the smallest row * (K/32) + group whose scale is refused, by atomic minimum; its byte
// is written as 0. Numbers must be powers of two in 2^-127..2^127.
enum class ScaleType : int32_t { kBytes = 0, kBf16 = 1, kF16 = 2, kF32 = 3 };
inline constexpr uint64_t kNoBadScale = ~uint64_t{0};
int LaunchPackScales(const SlabMatrix& to, const RowsView& scales, ScaleType type, uint64_t* bad,
                     CUstream_st* stream);

// All rows of a bias, in row order, stride in bytes.
int LaunchPackBias(const SlabMatrix& to, const uint8_t* bias, int64_t stride, bool is_bf16,
                   CUstream_st* stream);

// Rows of a matrix in raw form, element (row, column) at data + (row - first_row) * row_stride + column * column_stride: bytes
// of codes or scales, bf16 weights, f32 biases (of any alignment). A run as in RowsView; rows of a bias may be any.
enum class RowForm : int32_t { kCodes = 0, kScales = 1, kBias = 2, kWeights = 3 };
struct RowsOut {
  uint8_t* data;
  int64_t row_stride, column_stride;  // bytes
  int64_t first_row, rows;
};
int LaunchUnpackRows(const SlabMatrix& from, const RowsOut& to, RowForm form, bool high_first,
                     CUstream_st* stream);

// The exponent bases of experts that follow each other (at most 65,535), and their census. The records are zero before; `low` is 255 - smallest scale.
struct CensusRecord {
  int32_t low, high, span, any;
};
int LaunchPrepareExperts(uint8_t* slabs, int32_t experts, const Sm90Slab& parts, int32_t hidden,
                         int32_t intermediate, CensusRecord* census, CUstream_st* stream);

// A rectangle of a Marlin tensor, itself in Marlin form with `rows` rows: padded rows first_row.. (a multiple of 64) and
// values of K first_k.. (a multiple of 128; k_length is one too, or ends the tensor). Rows are those of the padded
// tensor: w13 is [gate; up], each half `half` rows long; w2 has half = rows of the whole tensor.
struct MarlinPart {
  uint8_t* data;  // 4-byte aligned for codes, any alignment for scales and biases
  int64_t half;
  int64_t first_row, rows, first_k, k_length;
};
// w2 selects the tensor; `slab.matrix` is not looked at.
int LaunchMarlinImportCodes(const SlabMatrix& slab, bool w2, const MarlinPart& part,
                            CUstream_st* stream);
int LaunchMarlinImportScales(const SlabMatrix& slab, bool w2, const MarlinPart& part,
                             CUstream_st* stream);
int LaunchMarlinExportCodes(const SlabMatrix& slab, bool w2, const MarlinPart& part,
                            CUstream_st* stream);
int LaunchMarlinExportScales(const SlabMatrix& slab, bool w2, const MarlinPart& part,
                             CUstream_st* stream);
// Biases need first_row and rows only.
int LaunchMarlinImportBias(const SlabMatrix& slab, bool w2, const MarlinPart& part, bool is_bf16,
                           CUstream_st* stream);
int LaunchMarlinExportBias(const SlabMatrix& slab, bool w2, const MarlinPart& part, bool is_bf16,
                           CUstream_st* stream);
// `bad` receives, by atomic minimum, matrix << 48 | row * (K/32) + group of a scale that is 255.
int LaunchMarlinCheckScales(const SlabMatrix& slab, bool w2, const MarlinPart& part, uint64_t* bad,
                            CUstream_st* stream);

// Loads every kernel above into the current device.
int LoadWeightKernels();

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_LAUNCH_WEIGHTS_H_
