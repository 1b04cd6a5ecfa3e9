#include "lib/cuda/cuda_staging.h"

#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {

Status Staging::Acquire(Slot** out) {
  Slot& slot = slots_[next_];
  next_ = (next_ + 1) % kSlots;
  const auto bytes = static_cast<size_t>(bytes_);
  // Each part on its own, so that a slot which was made half-way is completed by the next try.
  if (slot.host == nullptr) {
    void* memory = nullptr;
    DSV4MX_CUDA(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault));
    slot.host = static_cast<uint8_t*>(memory);
  }
  if (slot.device == nullptr) {
    void* memory = nullptr;
    DSV4MX_CUDA(cudaMalloc(&memory, bytes));
    slot.device = static_cast<uint8_t*>(memory);
  }
  if (slot.idle == nullptr) {
    DSV4MX_CUDA(cudaEventCreateWithFlags(&slot.idle, cudaEventDisableTiming));
  }
  DSV4MX_TRY(Wait(slot));  // an event that was never recorded is done
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

Status Staging::Wait(const Slot& slot) {
  DSV4MX_CUDA(cudaEventSynchronize(slot.idle));
  return kOk;
}

void Staging::Free() {
  for (Slot& slot : slots_) {
    if (slot.idle != nullptr) {
      (void)cudaEventSynchronize(slot.idle);
      (void)cudaEventDestroy(slot.idle);
    }
    // Freeing nothing would still make the runtime open a device where none is current.
    if (slot.device != nullptr) (void)cudaFree(slot.device);
    if (slot.host != nullptr) (void)cudaFreeHost(slot.host);
    slot = Slot{};
  }
}

}  // namespace dsv4mx::cuda
