#include "lib/cuda/cuda_staging.h"

#include "lib/cuda/cuda_check.h"
#include "lib/cuda/cuda_wait.h"

namespace dsv4mx::cuda {
namespace {

constexpr size_t kAlignment = 256;

}  // namespace

Status Staging::Acquire(const ExpertStore::Call& call, Buffer** out) {
  const int i = next_;
  next_ = (next_ + 1) % count_;
  return Make(i, call, out);
}

Status Staging::AcquireNth(int i, const ExpertStore::Call& call, Buffer** out) {
  DSV4MX_TRY(Make(i, call, out));
  return MakeCopies(*out);
}

Status Staging::Make(int i, const ExpertStore::Call& call, Buffer** out) {
  Buffer& buffer = buffers_[i];
  const auto bytes = static_cast<size_t>(bytes_);
  // Each part on its own, so that a buffer which was made half-way is completed by the next try.
  if (buffer.host == nullptr) {
    void* memory = nullptr;
    DSV4MX_TRY(memory_->Alloc(bytes, kAlignment, DSV4MX_MEMORY_PINNED, call.stream, &memory));
    buffer.host = static_cast<uint8_t*>(memory);
  }
  if (buffer.device == nullptr && i < count_) {
    void* memory = nullptr;
    DSV4MX_TRY(memory_->Alloc(bytes, kAlignment, DSV4MX_MEMORY_DEVICE, call.stream, &memory));
    buffer.device = static_cast<uint8_t*>(memory);
  }
  if (buffer.idle == nullptr) {
    DSV4MX_CUDA(cudaEventCreateWithFlags(&buffer.idle, cudaEventDisableTiming));
  }
  DSV4MX_TRY(Wait(buffer, call.control));  // an event that was never recorded is done
  *out = &buffer;
  return kOk;
}

Status Staging::MakeCopies(Buffer* buffer) {
  if (copies_ == nullptr) {
    DSV4MX_CUDA(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking));
  }
  if (buffer->copied == nullptr) {
    DSV4MX_CUDA(cudaEventCreateWithFlags(&buffer->copied, cudaEventDisableTiming));
  }
  return kOk;
}

Status Staging::Upload(Buffer& buffer, int64_t bytes, cudaStream_t stream) {
  DSV4MX_TRY(MakeCopies(&buffer));
  DSV4MX_CUDA(cudaMemcpyAsync(buffer.device, buffer.host, static_cast<size_t>(bytes),
                              cudaMemcpyHostToDevice, copies_));
  DSV4MX_CUDA(cudaEventRecord(buffer.copied, copies_));
  DSV4MX_CUDA(cudaStreamWaitEvent(stream, buffer.copied, 0));
  return kOk;
}

Status Staging::Release(const Buffer& buffer, cudaStream_t stream) {
  DSV4MX_CUDA(cudaEventRecord(buffer.idle, stream));
  return kOk;
}

Status Staging::Wait(const Buffer& buffer, const Control& control) {
  return WaitForEvent(buffer.idle, control);
}

void Staging::Free() {
  for (Buffer& buffer : buffers_) {
    if (buffer.idle != nullptr) {
      (void)cudaEventSynchronize(buffer.idle);
      (void)cudaEventDestroy(buffer.idle);
    }
    if (buffer.copied != nullptr) {
      (void)cudaEventSynchronize(buffer.copied);
      (void)cudaEventDestroy(buffer.copied);
    }
    (void)memory_->Free(buffer.device, static_cast<size_t>(bytes_), DSV4MX_MEMORY_DEVICE);
    (void)memory_->Free(buffer.host, static_cast<size_t>(bytes_), DSV4MX_MEMORY_PINNED);
    buffer = Buffer{};
  }
  if (copies_ != nullptr) (void)cudaStreamDestroy(copies_);
  copies_ = nullptr;
}

}  // namespace dsv4mx::cuda
