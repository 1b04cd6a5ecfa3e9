// Makes an expert's slab from raw tensors: codes, scales, biases, exponent bases and the census.
//
// A word of the slab holds eight codes that are neighbours along K, so it is a permutation of the bits of four raw bytes of
// one row; and what a lane holds of a row in a block of K lies together there: one thread takes it, 16 bytes of a block of 128,
// threads in the order of the slab. Scales go byte by byte. What stands where is said by mxfp4/layout.h, as on the host.
#include "kernels/launch_weights.h"
#include "kernels/mxfp4/words.h"
#include "kernels/weights.cuh"

namespace dsv4mx {
namespace {

__device__ __forceinline__ uint32_t LoadRaw(const uint8_t* p, int64_t stride) {
  if (stride == 1 && reinterpret_cast<uintptr_t>(p) % 4 == 0) {
    return *reinterpret_cast<const uint32_t*>(p);
  }
  uint32_t raw = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) raw |= static_cast<uint32_t>(p[i * stride]) << (8 * i);
  return raw;
}

// A lane's codes of one row in a block, as packed words.
__device__ __forceinline__ void LoadPacked(const uint8_t* p, int64_t stride, int words,
                                           bool high_first, uint32_t (&out)[4]) {
  if (words == 4 && stride == 1 && reinterpret_cast<uintptr_t>(p) % 16 == 0) {
    const uint4 v = *reinterpret_cast<const uint4*>(p);
    out[0] = v.x, out[1] = v.y, out[2] = v.z, out[3] = v.w;
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < words) out[j] = LoadRaw(p + 4 * j * stride, stride);
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const uint32_t raw = out[j];
    out[j] = PackWord(high_first ? (raw & 0x0F0F0F0Fu) << 4 | (raw >> 4 & 0x0F0F0F0Fu) : raw);
  }
}

__global__ void PackCodesKernel(SlabMatrix to, RowsView codes, ExpertRun run, bool high_first,
                                int64_t first_tile, int64_t per_tile) {
  const int64_t index = ThreadIndex(), tile = first_tile + blockIdx.y, k_all = to.k();
  if (index >= per_tile) return;
  const int item = static_cast<int>(index % kLanesPerBlock), warp = item / 32, lane = item % 32;
  const Sm90Block block = BlockAt(k_all, index / kLanesPerBlock);
  const int words = block.length / 32;
  const uint8_t* from = codes.data + blockIdx.z * run.data_step +
                        (block.first + lane % 4 * (block.length / 4)) / 2 * codes.column_stride;
  uint32_t packed[2][4] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (!to.down() && half != to.matrix) continue;
    const int64_t row = to.RowAt(tile * kSm90TileRows + warp * 16 + half * 8 + lane / 4);
    if (row >= to.rows()) continue;
    LoadPacked(from + (row - codes.first_row) * codes.row_stride, codes.column_stride, words,
               high_first, packed[half]);
  }
  uint32_t* at = reinterpret_cast<uint32_t*>(to.slab + blockIdx.z * run.slab_step +
                                             to.tile_offset(tile) + kSm90BytesPerK * block.first) +
                 warp * 2 * block.length;
  if (to.down()) {
    if (words == 1) {
      *reinterpret_cast<uint2*>(at + 2 * lane) = make_uint2(packed[0][0], packed[1][0]);
      return;
    }
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      if (2 * pair >= words) break;
      *reinterpret_cast<uint4*>(at + 128 * pair + 4 * lane) =
          make_uint4(packed[0][2 * pair], packed[1][2 * pair], packed[0][2 * pair + 1],
                     packed[1][2 * pair + 1]);
    }
    return;
  }
  at += words == 1 ? 2 * lane : 4 * lane;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    if (step >= words) break;
    at[step / 2 * 128 + step % 2 * 2 + to.matrix] =
        to.matrix == 0 ? packed[0][step] : packed[1][step];
  }
}

__device__ __forceinline__ uint32_t LoadBytes(const uint8_t* p, int bytes) {
  uint32_t v = 0;
  for (int i = 0; i < bytes; ++i) v |= static_cast<uint32_t>(p[i]) << (8 * i);
  return v;
}

// Byte 0..254, or -1, by the bits alone: 2^e has an empty mantissa, and its exponent field is the byte.
__device__ __forceinline__ int ScaleOf(const uint8_t* p, ScaleType type) {
  uint32_t bits;
  switch (type) {
    case ScaleType::kBytes:
      return *p == 255 ? -1 : *p;
    case ScaleType::kBf16:
      bits = LoadBytes(p, 2) << 16;
      break;
    case ScaleType::kF16: {
      bits = LoadBytes(p, 2);
      const uint32_t exponent = bits >> 10, mantissa = bits & 1023u;  // with the sign: 32 and above
      if (exponent == 0) {  // a subnormal: 2^-24 times a power of two
        if (mantissa == 0 || (mantissa & (mantissa - 1)) != 0) return -1;
        return 127 - 24 + (31 - __clz(mantissa));
      }
      return exponent < 31 && mantissa == 0 ? static_cast<int>(exponent) + 127 - 15 : -1;
    }
    default:
      bits = LoadBytes(p, 4);
  }
  if (bits == 0x00400000u) return 0;  // 2^-127 is a subnormal of fp32
  const uint32_t exponent = bits >> 23;
  if ((bits & 0x007FFFFFu) != 0 || exponent == 0 || exponent >= 255) return -1;
  return static_cast<int>(exponent);
}

__global__ void PackScalesKernel(SlabMatrix to, RowsView scales, ScaleType type,
                                 unsigned long long* bad, int64_t first_tile, int64_t per_tile) {
  const int64_t index = ThreadIndex(), tile = first_tile + blockIdx.y;
  if (index >= per_tile) return;
  int in_tile;
  int64_t k;
  Sm90ScaleAt(to.k(), OwnElement(to, index), &in_tile, &k);
  const int64_t row = to.RowAt(tile * kSm90TileRows + in_tile), group = k / 32;
  int byte = 0;
  if (row < to.rows()) {
    byte = ScaleOf(
        scales.data + (row - scales.first_row) * scales.row_stride + group * scales.column_stride,
        type);
    if (byte < 0) {
      byte = 0;
      atomicMin(bad, static_cast<unsigned long long>(row * (to.k() / 32) + group));
    }
  }
  to.slab[to.tile_offset(tile) + Sm90Scale(to.k(), in_tile, k)] = static_cast<uint8_t>(byte);
}

// One thread per slab row that the matrix owns, padding included.
__global__ void PackBiasKernel(SlabMatrix to, const uint8_t* bias, int64_t stride, bool is_bf16,
                               int64_t own_rows) {
  const int64_t index = ThreadIndex();
  if (index >= own_rows) return;
  const int64_t slab_row =
      to.down() ? index : index / 8 * 16 + 8 * to.matrix + index % 8;  // gate and up by eights
  const int64_t row = to.RowAt(slab_row);
  uint32_t bits = 0;
  if (row < to.rows()) {
    const uint8_t* p = bias + row * stride;
    bits = is_bf16 ? LoadBytes(p, 2) << 16 : LoadBytes(p, 4);
  }
  uint8_t* at = to.slab + (to.down() ? to.parts.w2_bias : to.parts.w13_bias);
  reinterpret_cast<uint32_t*>(at)[slab_row] = bits;
}

// A block takes 64 rows of one tile and one block of 512 of K; an item is a row's group of 32. Rows of the same eight
// and neighbouring groups are neighbours in the slab.
constexpr int kBaseThreads = 256, kGroups = kSm90BaseK / 32;

__global__ void __launch_bounds__(kBaseThreads)
    BasesKernel(const uint8_t* codes, uint8_t* bases, int64_t slab_bytes, int64_t k, int64_t blocks,
                CensusRecord* census) {
  codes += blockIdx.z * slab_bytes;
  bases += blockIdx.z * slab_bytes;
  census += blockIdx.z;
  __shared__ int low[kSm90TileRows], high[kSm90TileRows];
  __shared__ CensusRecord sum;
  const int64_t tile = blockIdx.y, block = blockIdx.x;
  if (threadIdx.x < kSm90TileRows) low[threadIdx.x] = 256, high[threadIdx.x] = -1;
  if (threadIdx.x == 0) sum = CensusRecord{0, 0, 0, 0};
  __syncthreads();
  const uint8_t* at = codes + tile * Sm90TileBytes(k);
  for (int item = threadIdx.x; item < kSm90TileRows * kGroups; item += kBaseThreads) {
    const int row = item / 256 * 16 + item / 128 % 2 * 8 + item / 4 % 8;
    const int64_t first = block * kSm90BaseK + (item / 32 % 4 * 4 + item % 4) * 32;
    if (first >= k) continue;
    uint32_t any = 0;
#pragma unroll
    for (int j = 0; j < 32; j += 8) {
      any |= *reinterpret_cast<const uint32_t*>(at + Sm90Code(k, row, first + j).byte);
    }
    // The sign of a zero does not count.
    if ((Sm90UnpackWord(any) & 0x77777777u) == 0) continue;
    const int scale = at[Sm90Scale(k, row, first)];
    atomicMin(&low[row], scale);
    atomicMax(&high[row], scale);
  }
  __syncthreads();
  if (threadIdx.x < kSm90TileRows) {
    const int l = low[threadIdx.x], h = high[threadIdx.x];
    bases[(tile * blocks + block) * kSm90TileRows + threadIdx.x] =
        static_cast<uint8_t>(h < 0 ? 0 : l);
    if (h >= 0) {
      atomicMax(&sum.low, 255 - l);
      atomicMax(&sum.high, h);
      atomicMax(&sum.span, h - l);
      sum.any = 1;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0 && sum.any != 0) {
    atomicMax(&census->low, sum.low);
    atomicMax(&census->high, sum.high);
    atomicMax(&census->span, sum.span);
    atomicMax(&census->any, 1);
  }
}

}  // namespace

int LaunchPackCodes(const SlabMatrix& to, const RowsView& codes, const ExpertRun& run,
                    bool high_first, CUstream_st* stream) {
  int64_t first, tiles;
  TilesOf(to, codes.first_row, codes.rows, &first, &tiles);
  const int64_t per_tile = BlocksOf(to.k()) * kLanesPerBlock;
  if (per_tile <= 0 || tiles <= 0) return cudaSuccess;
  return LaunchGrid(PackCodesKernel, (per_tile + kElementThreads - 1) / kElementThreads, tiles,
                    run.count, kElementThreads, stream, to, codes, run, high_first, first,
                    per_tile);
}

int LaunchPackScales(const SlabMatrix& to, const RowsView& scales, ScaleType type, uint64_t* bad,
                     CUstream_st* stream) {
  int64_t first, tiles;
  TilesOf(to, scales.first_row, scales.rows, &first, &tiles);
  const int64_t per_tile = (to.down() ? 2 : 1) * to.k();
  return LaunchElements(PackScalesKernel, per_tile, tiles, stream, to, scales, type,
                        reinterpret_cast<unsigned long long*>(bad), first, per_tile);
}

int LaunchPackBias(const SlabMatrix& to, const uint8_t* bias, int64_t stride, bool is_bf16,
                   CUstream_st* stream) {
  const int64_t rows = to.down() ? Sm90PaddedRows(to.hidden) : to.intermediate;
  return LaunchElements(PackBiasKernel, rows, 1, stream, to, bias, stride, is_bf16, rows);
}

int LaunchPrepareExperts(uint8_t* slabs, int32_t experts, const Sm90Slab& parts, int32_t hidden,
                         int32_t intermediate, CensusRecord* census, CUstream_st* stream) {
  for (const bool w2 : {false, true}) {
    const int64_t k = w2 ? intermediate : hidden, blocks = Sm90BaseBlocks(k);
    const int64_t tiles = w2 ? Sm90PaddedRows(hidden) / kSm90TileRows : intermediate / 32;
    const uint8_t* codes = slabs + (w2 ? parts.w2 : parts.w13);
    uint8_t* bases = slabs + (w2 ? parts.w2_base : parts.w13_base);
    const cudaError_t error = LaunchGrid(BasesKernel, blocks, tiles, experts, kBaseThreads, stream,
                                         codes, bases, parts.bytes, k, blocks, census);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

int LoadMarlinKernels();
int LoadUnpackKernels();

int LoadWeightKernels() {
  int error = LoadAll(PackCodesKernel, PackScalesKernel, PackBiasKernel, BasesKernel);
  if (error == cudaSuccess) error = LoadMarlinKernels();
  return error == cudaSuccess ? LoadUnpackKernels() : error;
}

}  // namespace dsv4mx
