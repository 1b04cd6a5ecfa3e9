// Whole experts of the CUDA store as bytes: read, taken from bytes.
#include <algorithm>
#include <cstring>

#include "lib/cuda/cuda_ordered.h"
#include "lib/cuda/cuda_store.h"
#include "lib/cuda/cuda_wait.h"

namespace dsv4mx::cuda {

Status CudaStore::ReadSlab(int32_t expert, void* to, const Call& call) const {
  return ReadSlabPart(expert, 0, parts_.bytes, to, call);
}

// Reading is const and may be concurrent: it waits behind what the store's calls enqueued, and leaves their event alone.
Status CudaStore::ReadSlabPart(int32_t expert, int64_t first, int64_t bytes, void* to,
                               const Call& call) const {
  const cudaStream_t stream = call.stream;
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(stream));
  DSV4MX_CUDA(cudaStreamWaitEvent(stream, written_, 0));
  // First, because a copy to pageable memory waits where nobody can be asked.
  DSV4MX_TRY(WaitForStream(stream, call.control));
  DSV4MX_CUDA(cudaMemcpyAsync(to, Slab(expert) + first, static_cast<size_t>(bytes),
                              cudaMemcpyDeviceToHost, stream));
  DSV4MX_CUDA(cudaStreamSynchronize(stream));
  return kOk;
}

Status CudaStore::WriteSlabPart(int32_t expert, int64_t first, int64_t bytes, const void* from,
                                const Call& call) {
  const cudaStream_t stream = call.stream;
  Ordered ordered(*this, stream);
  DSV4MX_TRY(ordered.Begin());
  // Before the copy, which nobody may leave behind: its memory is the caller's again when this returns.
  DSV4MX_TRY(WaitForStream(stream, call.control));
  DSV4MX_CUDA(cudaMemcpyAsync(memory_ + expert * parts_.bytes + first, from,
                              static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream));
  DSV4MX_CUDA(cudaStreamSynchronize(stream));
  return kOk;
}

// Scales are checked on the host: those of host memory before anything is enqueued, those of device memory in pieces of
// what was copied. A kernel could do the latter without the way to the host, but it is no hot path.
Status CudaStore::WriteSlab(int32_t expert, const void* from, dsv4mx_memory memory,
                            const Call& call) {
  const cudaStream_t stream = call.stream;
  const auto* bytes = static_cast<const uint8_t*>(from);
  uint8_t* slab = memory_ + expert * parts_.bytes;
  const bool device = memory == DSV4MX_MEMORY_DEVICE;
  if (!device) DSV4MX_TRY(CheckSm90SlabScales(*spec_, expert, {bytes, 0, parts_.bytes}));
  Ordered ordered(*this, stream);
  DSV4MX_TRY(ordered.Begin());
  return device ? TakeDeviceSlab(expert, bytes, slab, &staging_, call)
                : Upload(bytes, slab, &staging_, call);
}

// Copies a slab to the device through staging.
Status CudaStore::Upload(const uint8_t* from, uint8_t* slab, Staging* staging, const Call& call) {
  const cudaStream_t stream = call.stream;
  for (int64_t at = 0; at < parts_.bytes; at += staging->bytes()) {
    const auto bytes = static_cast<size_t>(std::min(staging->bytes(), parts_.bytes - at));
    Staging::Slot* slot = nullptr;
    DSV4MX_TRY(staging->Acquire(call, &slot));
    std::memcpy(slot->host, from + at, bytes);
    DSV4MX_CUDA(cudaMemcpyAsync(slab + at, slot->host, bytes, cudaMemcpyHostToDevice, stream));
    DSV4MX_TRY(Staging::Release(*slot, stream));
  }
  return kOk;
}

// Copies a slab on the device, and checks the scales of the copy.
Status CudaStore::TakeDeviceSlab(int32_t expert, const uint8_t* from, uint8_t* slab,
                                 Staging* staging, const Call& call) {
  const cudaStream_t stream = call.stream;
  DSV4MX_TRY(device_->CheckPointer(from, "a slab", DSV4MX_STATUS_INVALID_TENSOR));
  if (from != slab) {
    DSV4MX_CUDA(cudaMemcpyAsync(slab, from, static_cast<size_t>(parts_.bytes),
                                cudaMemcpyDeviceToDevice, stream));
  }
  for (int64_t at = 0; at < parts_.bytes; at += staging->bytes()) {
    const int64_t bytes = std::min(staging->bytes(), parts_.bytes - at);
    Staging::Slot* slot = nullptr;
    DSV4MX_TRY(staging->Acquire(call, &slot));
    DSV4MX_CUDA(cudaMemcpyAsync(slot->host, slab + at, static_cast<size_t>(bytes),
                                cudaMemcpyDeviceToHost, stream));
    DSV4MX_TRY(Staging::Release(*slot, stream));
    DSV4MX_TRY(Staging::Wait(*slot, call.control));
    DSV4MX_TRY(CheckSm90SlabScales(*spec_, expert, {slot->host, at, bytes}));
  }
  return kOk;
}

}  // namespace dsv4mx::cuda
