// Prepared experts of the CUDA store read back tensor by tensor: runs of tiles come to the host, where the layout is
// undone row by row, in bounded memory. Nobody reads weights back in a hurry.
#include <algorithm>
#include <cstring>

#include "lib/base/host_layout.h"
#include "lib/cuda/cuda_ordered.h"
#include "lib/cuda/cuda_store.h"
#include "lib/cuda/cuda_wait.h"

namespace dsv4mx::cuda {

// Pinned memory for one call: tiles as they come from the device, a row in raw form, and rows as they are wanted. Where
// these go back to the device there is room for a run of them.
class CudaStore::Rows {
 public:
  Rows(const CudaStore& store, const TensorSink& to, const Call& call)
      : store_(store), to_(to), call_(call) {}
  ~Rows() {
    if (busy_) (void)cudaStreamSynchronize(call_.stream);  // a failure left copies under way
    (void)store_.device_->memory().Free(block_, bytes_, DSV4MX_MEMORY_PINNED);
  }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  // `from` bytes at a time come from the device.
  Status Alloc(int64_t from, int64_t k) {
    k_ = k;
    const int64_t raw = k / 2 + k / kGroup, rows = to_.device ? kRowRun : 1;
    bytes_ = static_cast<size_t>(from + raw + rows * to_.RowBytes(k));
    DSV4MX_TRY(
        store_.device_->memory().Alloc(bytes_, 256, DSV4MX_MEMORY_PINNED, call_.stream, &block_));
    from_ = static_cast<uint8_t*>(block_);
    codes_ = from_ + from;
    rows_ = codes_ + raw;
    return kOk;
  }
  Status Read(const uint8_t* at, int64_t bytes) {
    const cudaStream_t stream = call_.stream;
    DSV4MX_TRY(WaitForStream(stream, call_.control));
    busy_ = true;
    DSV4MX_CUDA(
        cudaMemcpyAsync(from_, at, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream));
    return Settle();
  }
  const uint8_t* from() const { return from_; }

  // Row `number` of the matrix, row `index` of the run, from the tile that holds it.
  void Put(const uint8_t* tile, int in_tile, int64_t number, int64_t index) const {
    uint8_t* scales = codes_ + k_ / 2;
    Sm90ReadCodes(tile, k_, in_tile, codes_);
    Sm90ReadScales(tile, k_, in_tile, scales);
    uint8_t* row = Row(index);
    to_.MakeRow(codes_, scales, k_, row);
    if (!to_.device) to_.PutRow(row, k_, number);
  }
  void PutBias(float bias, int64_t number, int64_t index) const {
    std::memcpy(Row(index), &bias, sizeof bias);
    if (!to_.device) to_.PutRow(Row(index), k_, number);
  }
  // Sends the rows of a run to the device and waits, since the memory is used again.
  Status Send(int64_t first, int64_t count) {
    if (!to_.device) return kOk;
    busy_ = true;
    const cudaStream_t stream = call_.stream;
    const auto row = static_cast<size_t>(to_.RowBytes(k_)),
               pitch = static_cast<size_t>(to_.row_stride);
    const auto element = static_cast<size_t>(to_.ElementBytes()),
               step = static_cast<size_t>(to_.column_stride);
    if (step == element && pitch >= row && pitch < kLargestPitch) {
      DSV4MX_CUDA(cudaMemcpy2DAsync(to_.data + first * to_.row_stride, pitch, rows_, row, row,
                                    static_cast<size_t>(count), cudaMemcpyHostToDevice, stream));
    } else {
      for (int64_t i = 0; i < count; ++i) {
        uint8_t* at = to_.data + (first + i) * to_.row_stride;
        if (step == element) {
          DSV4MX_CUDA(cudaMemcpyAsync(at, Row(i), row, cudaMemcpyHostToDevice, stream));
        } else {
          DSV4MX_CUDA(cudaMemcpy2DAsync(at, step, Row(i), element, element, row / element,
                                        cudaMemcpyHostToDevice, stream));
        }
      }
    }
    return Settle();
  }

 private:
  Status Settle() {
    DSV4MX_CUDA(cudaStreamSynchronize(call_.stream));
    busy_ = false;
    return kOk;
  }
  static constexpr size_t kLargestPitch = size_t{1} << 31;
  uint8_t* Row(int64_t index) const { return rows_ + (to_.device ? index * to_.RowBytes(k_) : 0); }

  const CudaStore& store_;
  const TensorSink& to_;
  const Call& call_;
  void* block_ = nullptr;
  size_t bytes_ = 0;
  bool busy_ = false;
  int64_t k_ = 0;
  uint8_t *from_ = nullptr, *codes_ = nullptr, *rows_ = nullptr;
};

Status CudaStore::Get(int32_t expert, Matrix m, const TensorSink& to, const Call& call) const {
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(call.stream));
  if (to.device) {
    DSV4MX_TRY(device_->CheckPointer(to.data, "the tensor", DSV4MX_STATUS_INVALID_TENSOR));
  }
  DSV4MX_CUDA(cudaStreamWaitEvent(call.stream, written_, 0));
  if (to.form == TensorForm::kBias) return GetBias(expert, m, to, call);
  const SlabMatrix matrix = At(expert, m);
  // A run of rows fills whole tiles: 32 rows of gate or up each, 64 of down.
  const int64_t tile_bytes = Sm90TileBytes(matrix.k());
  const int64_t tile_rows = matrix.down() ? kSm90TileRows : kSm90TileRows / 2;
  const int64_t run_tiles = kRowRun / tile_rows;
  Rows rows(*this, to, call);
  DSV4MX_TRY(rows.Alloc(std::min(run_tiles, matrix.tiles()) * tile_bytes, matrix.k()));
  for (int64_t first = 0; first < matrix.rows(); first += kRowRun) {
    const int64_t count = std::min(kRowRun, matrix.rows() - first);
    const int64_t tile = first / tile_rows, tiles = std::min(run_tiles, matrix.tiles() - tile);
    DSV4MX_TRY(rows.Read(matrix.slab + matrix.tile_offset(tile), tiles * tile_bytes));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = matrix.SlabRow(first + i);
      rows.Put(rows.from() + (at / kSm90TileRows - tile) * tile_bytes,
               static_cast<int>(at % kSm90TileRows), first + i, i);
    }
    DSV4MX_TRY(rows.Send(first, count));
  }
  return kOk;
}

Status CudaStore::GetBias(int32_t expert, Matrix m, const TensorSink& to, const Call& call) const {
  const SlabMatrix matrix = At(expert, m);
  const int64_t bytes = matrix.tiles() * kSm90TileRows * static_cast<int64_t>(sizeof(float));
  Rows rows(*this, to, call);
  DSV4MX_TRY(rows.Alloc(bytes, matrix.k()));
  DSV4MX_TRY(rows.Read(matrix.slab + (matrix.down() ? parts_.w2_bias : parts_.w13_bias), bytes));
  for (int64_t first = 0; first < matrix.rows(); first += kRowRun) {
    const int64_t count = std::min(kRowRun, matrix.rows() - first);
    for (int64_t i = 0; i < count; ++i) {
      float bias;
      std::memcpy(&bias, rows.from() + 4 * matrix.SlabRow(first + i), sizeof bias);
      rows.PutBias(bias, first + i, i);
    }
    DSV4MX_TRY(rows.Send(first, count));
  }
  return kOk;
}

}  // namespace dsv4mx::cuda
