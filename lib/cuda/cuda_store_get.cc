// Prepared experts of the CUDA store read back tensor by tensor: the layout is undone on the device, straight into device memory,
// or into two blocks of staging in turn for the host, which puts the rows of one where they belong while the next is copied.
#include <absl/cleanup/cleanup.h>

#include <algorithm>

#include "lib/cuda/cuda_ordered.h"
#include "lib/cuda/cuda_store.h"
#include "lib/cuda/cuda_wait.h"

namespace dsv4mx::cuda {
namespace {

constexpr int64_t kBlockBytes = int64_t{1} << 20;

RowForm FormOf(TensorForm form) {
  switch (form) {
    case TensorForm::kCodes:
      return RowForm::kCodes;
    case TensorForm::kScales:
      return RowForm::kScales;
    case TensorForm::kBias:
      return RowForm::kBias;
    default:
      return RowForm::kWeights;
  }
}

}  // namespace

Status CudaStore::Get(int32_t expert, Matrix m, const TensorSink& to, const Call& call) const {
  const cudaStream_t stream = call.stream;
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(stream));
  if (to.device) {
    DSV4MX_TRY(device_->CheckPointer(to.data, "the tensor", DSV4MX_STATUS_INVALID_TENSOR));
  }
  DSV4MX_CUDA(cudaStreamWaitEvent(stream, written_, 0));
  // Before anything is enqueued: what is under way when this returns could write to memory that is no longer the caller's.
  DSV4MX_TRY(WaitForStream(stream, call.control));
  const SlabMatrix from = At(expert, m);
  if (!to.device) return GetToHost(from, to, call);
  const RowsOut all{to.data, to.row_stride, to.column_stride, 0, from.rows()};
  DSV4MX_CUDA(LaunchUnpackRows(from, all, FormOf(to.form), to.high_first, stream));
  DSV4MX_CUDA(cudaStreamSynchronize(stream));
  return kOk;
}

Status CudaStore::GetToHost(const SlabMatrix& from, const TensorSink& to, const Call& call) const {
  const cudaStream_t stream = call.stream;
  const int64_t row_bytes = to.RowBytes(from.k()), rows = from.rows();
  const int64_t run =
      std::min(std::max<int64_t>(kBlockBytes / row_bytes / kRowRun, 1) * kRowRun, rows);
  Staging staging(&device_->memory(), (run * row_bytes + 255) / 256 * 256, 2);
  absl::Cleanup settle = [&] { (void)cudaStreamSynchronize(stream); };  // before the blocks go
  struct Sent {
    const Staging::Buffer* buffer = nullptr;
    int64_t first = 0, rows = 0;
  } before;
  const auto put = [&](const Sent& sent) -> Status {
    if (sent.buffer == nullptr) return kOk;
    DSV4MX_TRY(Staging::Wait(*sent.buffer, Control()));
    for (int64_t i = 0; i < sent.rows; ++i) {
      to.PutRow(sent.buffer->host + i * row_bytes, from.k(), sent.first + i);
    }
    return kOk;
  };
  for (int64_t first = 0; first < rows; first += run) {
    Staging::Buffer* buffer = nullptr;
    DSV4MX_TRY(staging.Acquire(call, &buffer));
    const RowsOut out{buffer->device, row_bytes, to.ElementBytes(), first,
                      std::min(run, rows - first)};
    DSV4MX_CUDA(LaunchUnpackRows(from, out, FormOf(to.form), to.high_first, stream));
    DSV4MX_CUDA(cudaMemcpyAsync(buffer->host, buffer->device,
                                static_cast<size_t>(out.rows * row_bytes), cudaMemcpyDeviceToHost,
                                stream));
    DSV4MX_TRY(Staging::Release(*buffer, stream));
    DSV4MX_TRY(put(before));
    before = {buffer, first, out.rows};
  }
  DSV4MX_TRY(put(before));
  std::move(settle).Cancel();
  return kOk;
}

}  // namespace dsv4mx::cuda
