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
  DSV4MX_TRY(MakeHost(i, call));
  DSV4MX_TRY(MakeRest(i, call));
  *out = &buffers_[i];
  return Wait(buffers_[i], call.control);  // an event that was never recorded is done
}

Status Staging::AcquireHost(int i, const ExpertStore::Call& call) {
  DSV4MX_TRY(MakeHost(i, call));
  return buffers_[i].idle == nullptr ? kOk : Wait(buffers_[i], call.control);
}

Status Staging::AcquireRest(int i, const ExpertStore::Call& call) {
  DSV4MX_TRY(MakeRest(i, call));
  return MakeCopies(&buffers_[i]);
}

// Each part on its own, so that what was made half-way is completed by the next try.
Status Staging::MakeHost(int i, const ExpertStore::Call& call) {
  Hosts& of = memory_of_[i / count_];
  if (of.memory == nullptr) {
    void* memory = nullptr;
    DSV4MX_TRY(memory_->AllocToPin(BytesOf(i / count_), kAlignment, call.stream, &memory));
    of.memory = static_cast<uint8_t*>(memory);
  }
  buffers_[i].host = of.memory + i % count_ * bytes_;
  return kOk;
}

Status Staging::MakeRest(int i, const ExpertStore::Call& call) {
  Hosts& of = memory_of_[i / count_];
  if (!of.pinned) memory_->Pin(of.memory, BytesOf(i / count_));
  of.pinned = true;
  if (device_ == nullptr) {
    void* memory = nullptr;
    DSV4MX_TRY(memory_->Alloc(static_cast<size_t>(count_ * bytes_), kAlignment,
                              DSV4MX_MEMORY_DEVICE, call.stream, &memory));
    device_ = static_cast<uint8_t*>(memory);
  }
  Buffer& buffer = buffers_[i];
  if (i < count_) buffer.device = device_ + i * bytes_;
  if (buffer.idle == nullptr) {
    DSV4MX_CUDA(cudaEventCreateWithFlags(&buffer.idle, cudaEventDisableTiming));
  }
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
    buffer = Buffer{};
  }
  (void)memory_->Free(device_, static_cast<size_t>(count_ * bytes_), DSV4MX_MEMORY_DEVICE);
  device_ = nullptr;
  for (int i = 0; i * count_ < hosts_; ++i) {
    (void)memory_->Free(memory_of_[i].memory, BytesOf(i), DSV4MX_MEMORY_PINNED);
    memory_of_[i] = Hosts{};
  }
  if (copies_ != nullptr) (void)cudaStreamDestroy(copies_);
  copies_ = nullptr;
}

}  // namespace dsv4mx::cuda
