#include "lib/cuda/cuda_staging.h"

#include "lib/cuda/cuda_check.h"
#include "lib/cuda/cuda_wait.h"

namespace dsv4mx::cuda {
namespace {

constexpr size_t kAlignment = 256;

}  // namespace

Status Staging::Acquire(const ExpertStore::Call& call, Slot** out) {
  Slot& slot = slots_[next_];
  next_ = (next_ + 1) % kSlots;
  const auto bytes = static_cast<size_t>(bytes_);
  // Each part on its own, so that a slot which was made half-way is completed by the next try.
  if (slot.host == nullptr) {
    void* memory = nullptr;
    DSV4MX_TRY(memory_->Alloc(bytes, kAlignment, DSV4MX_MEMORY_PINNED, call.stream, &memory));
    slot.host = static_cast<uint8_t*>(memory);
  }
  if (slot.device == nullptr) {
    void* memory = nullptr;
    DSV4MX_TRY(memory_->Alloc(bytes, kAlignment, DSV4MX_MEMORY_DEVICE, call.stream, &memory));
    slot.device = static_cast<uint8_t*>(memory);
  }
  if (slot.idle == nullptr) {
    DSV4MX_CUDA(cudaEventCreateWithFlags(&slot.idle, cudaEventDisableTiming));
  }
  DSV4MX_TRY(Wait(slot, call.control));  // an event that was never recorded is done
  *out = &slot;
  return kOk;
}

Status Staging::Upload(const Slot& slot, int64_t bytes, cudaStream_t stream) {
  DSV4MX_CUDA(cudaMemcpyAsync(slot.device, slot.host, static_cast<size_t>(bytes),
                              cudaMemcpyHostToDevice, stream));
  return kOk;
}

Status Staging::Release(const Slot& slot, cudaStream_t stream) {
  DSV4MX_CUDA(cudaEventRecord(slot.idle, stream));
  return kOk;
}

Status Staging::Wait(const Slot& slot, const Control& control) {
  return WaitForEvent(slot.idle, control);
}

void Staging::Free() {
  for (Slot& slot : slots_) {
    if (slot.idle != nullptr) {
      (void)cudaEventSynchronize(slot.idle);
      (void)cudaEventDestroy(slot.idle);
    }
    (void)memory_->Free(slot.device, static_cast<size_t>(bytes_), DSV4MX_MEMORY_DEVICE);
    (void)memory_->Free(slot.host, static_cast<size_t>(bytes_), DSV4MX_MEMORY_PINNED);
    slot = Slot{};
  }
}

}  // namespace dsv4mx::cuda
