// Tensors of a prepared expert in raw form again, rows of one matrix: codes, scales, biases, or codes times scales as bf16. One
// thread takes what a lane holds of a row in a block of K (as in repack.cu), so that words are read in the order of the slab.
#include "kernels/launch_weights.h"
#include "kernels/mxfp4/words.h"
#include "kernels/weights.cuh"

namespace dsv4mx {
namespace {

__device__ __forceinline__ bool Holds(const RowsOut& to, int64_t row) {
  return row >= to.first_row && row < to.first_row + to.rows;
}
__device__ __forceinline__ uint8_t* RowOf(const RowsOut& to, int64_t row) {
  return to.data + (row - to.first_row) * to.row_stride;
}

// Without a rounding of its own: a code has two significant bits, and 2^-128 is a bf16 number as well.
__device__ __forceinline__ uint32_t WeightBits(uint32_t code, float scale) {
  constexpr uint32_t kTwice = 0xC8643210u;  // magnitudes, doubled, as nibbles
  const float magnitude = 0.5f * static_cast<float>(kTwice >> (4 * (code & 7u)) & 15u);
  return __float_as_uint(magnitude * scale) >> 16 | (code >> 3) << 15;
}

__device__ __forceinline__ float ScaleValue(uint32_t byte) {
  return __uint_as_float(byte == 0 ? 0x00400000u : byte << 23);
}

__global__ void UnpackCodesKernel(SlabMatrix from, RowsOut to, bool weights, bool high_first,
                                  int64_t first_tile, int64_t per_tile) {
  const int64_t index = ThreadIndex(), tile = first_tile + blockIdx.y, k_all = from.k();
  if (index >= per_tile) return;
  const int item = static_cast<int>(index % kLanesPerBlock), warp = item / 32, lane = item % 32;
  const Sm90Block block = BlockAt(k_all, index / kLanesPerBlock);
  const int words = block.length / 32;
  const int64_t k = block.first + lane % 4 * (block.length / 4);
  const uint8_t* tile_at = from.slab + from.tile_offset(tile);
  const uint32_t* at = reinterpret_cast<const uint32_t*>(tile_at + kSm90BytesPerK * block.first) +
                       warp * 2 * block.length + (words == 1 ? 2 * lane : 4 * lane);
  for (int half = 0; half < 2; ++half) {
    if (!from.down() && half != from.matrix) continue;
    const int in_tile = warp * 16 + half * 8 + lane / 4;
    const int64_t row = from.RowAt(tile * kSm90TileRows + in_tile);
    if (!Holds(to, row)) continue;
    float scale = 0;
    if (weights) scale = ScaleValue(tile_at[Sm90Scale(k_all, in_tile, k)]);
    for (int step = 0; step < words; ++step) {
      uint32_t raw = UnpackWord(at[step / 2 * 128 + step % 2 * 2 + half]);
      if (weights) {
        uint8_t* out = RowOf(to, row) + (k + 8 * step) * to.column_stride;
        for (int j = 0; j < 8; ++j, raw >>= 4, out += to.column_stride) {
          const uint32_t bits = WeightBits(raw & 15u, scale);
          out[0] = static_cast<uint8_t>(bits);
          out[1] = static_cast<uint8_t>(bits >> 8);
        }
        continue;
      }
      if (high_first) raw = (raw & 0x0F0F0F0Fu) << 4 | (raw >> 4 & 0x0F0F0F0Fu);
      uint8_t* out = RowOf(to, row) + (k / 2 + 4 * step) * to.column_stride;
      for (int j = 0; j < 4; ++j, raw >>= 8, out += to.column_stride) {
        *out = static_cast<uint8_t>(raw);
      }
    }
  }
}

__global__ void UnpackScalesKernel(SlabMatrix from, RowsOut to, int64_t first_tile,
                                   int64_t per_tile) {
  const int64_t index = ThreadIndex(), tile = first_tile + blockIdx.y;
  if (index >= per_tile) return;
  int in_tile;
  int64_t k;
  Sm90ScaleAt(from.k(), OwnElement(from, index), &in_tile, &k);
  const int64_t row = from.RowAt(tile * kSm90TileRows + in_tile);
  if (!Holds(to, row)) return;
  RowOf(to, row)[k / 32 * to.column_stride] =
      from.slab[from.tile_offset(tile) + Sm90Scale(from.k(), in_tile, k)];
}

__global__ void UnpackBiasKernel(SlabMatrix from, RowsOut to) {
  const int64_t row = to.first_row + ThreadIndex();
  if (!Holds(to, row)) return;
  const uint8_t* at =
      from.slab + (from.down() ? from.parts.w2_bias : from.parts.w13_bias) + 4 * from.SlabRow(row);
  for (int i = 0; i < 4; ++i) RowOf(to, row)[i] = at[i];
}

}  // namespace

int LaunchUnpackRows(const SlabMatrix& from, const RowsOut& to, RowForm form, bool high_first,
                     CUstream_st* stream) {
  if (form == RowForm::kBias) {
    return LaunchElements(UnpackBiasKernel, to.rows, 1, stream, from, to);
  }
  int64_t first, tiles;
  TilesOf(from, to.first_row, to.rows, &first, &tiles);
  if (form == RowForm::kScales) {
    const int64_t per_tile = (from.down() ? 2 : 1) * from.k();
    return LaunchElements(UnpackScalesKernel, per_tile, tiles, stream, from, to, first, per_tile);
  }
  const int64_t per_tile = BlocksOf(from.k()) * kLanesPerBlock;
  return LaunchElements(UnpackCodesKernel, per_tile, tiles, stream, from, to,
                        form == RowForm::kWeights, high_first, first, per_tile);
}

int LoadUnpackKernels() {
  return LoadAll(UnpackCodesKernel, UnpackScalesKernel, UnpackBiasKernel);
}

}  // namespace dsv4mx
