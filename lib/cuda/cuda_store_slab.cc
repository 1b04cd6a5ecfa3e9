// Whole experts of the CUDA store: as bytes, and from other stores.
//
// Scales of bytes that come from elsewhere are checked on the host: those in host memory before anything is enqueued,
// those in device memory in pieces of what was copied. A kernel could spare the latter the way to the host, but no step of
// a model waits for it.
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "lib/cuda/cuda_ordered.h"
#include "lib/cuda/cuda_store.h"
#include "lib/cuda/cuda_wait.h"

namespace dsv4mx::cuda {
namespace {

// Device memory for one call. While it is busy, what uses it has to run before it goes.
class Scratch {
 public:
  Scratch(const Memory& memory, cudaStream_t stream) : memory_(memory), stream_(stream) {}
  ~Scratch() {
    if (busy) (void)cudaStreamSynchronize(stream_);
    (void)memory_.Free(block_, bytes_, DSV4MX_MEMORY_DEVICE);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  Status Alloc(int64_t bytes) {
    bytes_ = static_cast<size_t>(bytes);
    return memory_.Alloc(bytes_, 256, DSV4MX_MEMORY_DEVICE, stream_, &block_);
  }
  uint8_t* get() const { return static_cast<uint8_t*>(block_); }
  bool busy = false;

 private:
  const Memory& memory_;
  cudaStream_t stream_;
  void* block_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace

// Reading is const and may be concurrent: it waits behind what the store's calls enqueued, and leaves their event alone.
Status CudaStore::ReadSlab(int32_t expert, void* to, const Call& call) const {
  const cudaStream_t stream = call.stream;
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(stream));
  DSV4MX_CUDA(cudaStreamWaitEvent(stream, written_, 0));
  // First, because a copy to pageable memory waits where nobody can be asked.
  DSV4MX_TRY(WaitForStream(stream, call.control));
  DSV4MX_CUDA(cudaMemcpyAsync(to, Slab(expert), static_cast<size_t>(parts_.bytes),
                              cudaMemcpyDeviceToHost, stream));
  DSV4MX_CUDA(cudaStreamSynchronize(stream));
  return kOk;
}

// On the caller's stream; an event for each buffer.
class CudaStore::Copies final : public SlabCopies {
 public:
  Copies(const CudaStore& store, const Call& call) : store_(store), call_(call) {}
  ~Copies() override {
    if (!done_.empty()) (void)End();
  }
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;
  Status Open(int buffers) {
    const DeviceScope scope(*store_.device_, DeviceScope::Capture::kRelaxed);
    DSV4MX_TRY(scope.Begin(call_.stream));
    done_.reserve(static_cast<size_t>(buffers));
    for (int i = 0; i < buffers; ++i) {
      cudaEvent_t event = nullptr;
      DSV4MX_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
      done_.push_back(event);
    }
    return kOk;
  }

  Status Read(int buffer, int32_t expert, int64_t first, int64_t bytes, void* to) override {
    const DeviceScope scope(*store_.device_, DeviceScope::Capture::kRelaxed);
    DSV4MX_TRY(scope.Begin(call_.stream));
    DSV4MX_CUDA(cudaStreamWaitEvent(call_.stream, store_.written_, 0));
    return Copy(buffer, to, store_.Slab(expert) + first, bytes, cudaMemcpyDeviceToHost);
  }
  Status Write(int buffer, int32_t expert, int64_t first, int64_t bytes,
               const void* from) override {
    Ordered ordered(store_, call_.stream);
    DSV4MX_TRY(ordered.Begin());
    store_.Wrote(expert);
    uint8_t* to = store_.memory_ + expert * store_.parts_.bytes + first;
    return Copy(buffer, to, from, bytes, cudaMemcpyHostToDevice);
  }
  Status End() override {
    const DeviceScope scope(*store_.device_, DeviceScope::Capture::kRelaxed);
    const Status status = scope.Begin(call_.stream);
    for (const cudaEvent_t event : done_) {
      (void)cudaEventSynchronize(event);
      (void)cudaEventDestroy(event);
    }
    done_.clear();
    return status;
  }
  Status Wait(int buffer) override {
    const DeviceScope scope(*store_.device_, DeviceScope::Capture::kRelaxed);
    DSV4MX_TRY(scope.Begin(call_.stream));
    return WaitForEvent(done_[static_cast<size_t>(buffer)], call_.control);
  }
  Status IsDone(int buffer, bool* done) override {
    const DeviceScope scope(*store_.device_, DeviceScope::Capture::kRelaxed);
    DSV4MX_TRY(scope.Begin(call_.stream));
    const cudaError_t error = cudaEventQuery(done_[static_cast<size_t>(buffer)]);
    *done = error == cudaSuccess;
    return error == cudaErrorNotReady ? kOk : Check(error, "cudaEventQuery");
  }

 private:
  Status Copy(int buffer, void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) const {
    DSV4MX_CUDA(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, call_.stream));
    if (const cudaError_t error = cudaEventRecord(done_[static_cast<size_t>(buffer)], call_.stream);
        error != cudaSuccess) {
      (void)cudaStreamSynchronize(call_.stream);  // nothing else tells when the memory is free
      return FailCuda(error, "cudaEventRecord");
    }
    return kOk;
  }

  const CudaStore& store_;
  const Call& call_;
  std::vector<cudaEvent_t> done_;
};

Status CudaStore::MakeSlabCopies(int buffers, const Call& call,
                                 std::unique_ptr<SlabCopies>* out) const {
  auto copies = std::make_unique<Copies>(*this, call);
  DSV4MX_TRY(copies->Open(buffers));
  *out = std::move(copies);
  return kOk;
}

Status CudaStore::WriteSlab(int32_t expert, const void* from, dsv4mx_memory memory,
                            const Call& call) {
  Ordered ordered(*this, call.stream);
  DSV4MX_TRY(ordered.Begin());
  Wrote(expert);
  return TakeSlab(expert, static_cast<const uint8_t*>(from), memory,
                  memory_ + expert * parts_.bytes, &staging_, call);
}

// The census is the GPU's to take, which needs the new expert there while applies may still use the old one: in scratch.
Status CudaStore::ReplaceSlab(int32_t expert, const void* from, dsv4mx_memory memory, Allow allow,
                              const Call& call) {
  const cudaStream_t stream = call.stream;
  Ordered ordered(*this, stream, "an expert is replaced");
  DSV4MX_TRY(ordered.Begin());
  Scratch scratch(device_->memory(), stream);
  DSV4MX_TRY(scratch.Alloc(parts_.bytes + static_cast<int64_t>(sizeof(CensusRecord))));
  uint8_t* slab = scratch.get();
  auto* record = reinterpret_cast<CensusRecord*>(slab + parts_.bytes);
  scratch.busy = true;
  {
    Staging staging(&device_->memory(), staging_.bytes());
    DSV4MX_TRY(TakeSlab(expert, static_cast<const uint8_t*>(from), memory, slab, &staging, call));
  }
  DSV4MX_TRY(Derive(slab, 1, record, stream));
  CensusRecord found;
  DSV4MX_TRY(WaitForStream(stream, call.control));
  DSV4MX_CUDA(cudaMemcpyAsync(&found, record, sizeof found, cudaMemcpyDeviceToHost, stream));
  DSV4MX_CUDA(cudaStreamSynchronize(stream));
  scratch.busy = false;
  DSV4MX_TRY(allow(CensusOf(found)));
  scratch.busy = true;
  DSV4MX_CUDA(cudaMemcpyAsync(memory_ + expert * parts_.bytes, slab,
                              static_cast<size_t>(parts_.bytes), cudaMemcpyDeviceToDevice, stream));
  DSV4MX_CUDA(cudaStreamSynchronize(stream));
  scratch.busy = false;
  return kOk;
}

Status CudaStore::CopyExpert(int32_t expert, const ExpertStore& given, int32_t from_expert,
                             const Call& call) {
  const cudaStream_t stream = call.stream;
  const auto& from = static_cast<const CudaStore&>(given);
  Ordered ordered(*this, stream, "experts are copied");
  DSV4MX_TRY(ordered.Begin());
  if (&from != this) DSV4MX_CUDA(cudaStreamWaitEvent(stream, from.written_, 0));
  uint8_t* to = memory_ + expert * parts_.bytes;
  const uint8_t* slab = from.Slab(from_expert);
  const auto bytes = static_cast<size_t>(parts_.bytes);
  const int32_t device = device_->ordinal(), of_from = from.device_->ordinal();
  if (device == of_from) {
    DSV4MX_CUDA(cudaMemcpyAsync(to, slab, bytes, cudaMemcpyDeviceToDevice, stream));
  } else {
    DSV4MX_CUDA(cudaMemcpyPeerAsync(to, device, slab, of_from, bytes, stream));
  }
  return kOk;
}

Status CudaStore::TakeSlab(int32_t expert, const uint8_t* from, dsv4mx_memory memory, uint8_t* slab,
                           Staging* staging, const Call& call) {
  if (memory != DSV4MX_MEMORY_DEVICE) {
    DSV4MX_TRY(CheckSm90SlabScales(*spec_, expert, {from, 0, parts_.bytes}));
    return Upload(from, slab, staging, call);
  }
  DSV4MX_TRY(device_->CheckPointer(from, "the slab", DSV4MX_STATUS_INVALID_TENSOR));
  if (from != slab) {
    DSV4MX_CUDA(cudaMemcpyAsync(slab, from, static_cast<size_t>(parts_.bytes),
                                cudaMemcpyDeviceToDevice, call.stream));
  }
  return CheckOnDevice(expert, slab, staging, call);
}

// Copies a slab to the device through staging.
Status CudaStore::Upload(const uint8_t* from, uint8_t* slab, Staging* staging, const Call& call) {
  const cudaStream_t stream = call.stream;
  for (int64_t at = 0; at < parts_.bytes; at += staging->bytes()) {
    const auto bytes = static_cast<size_t>(std::min(staging->bytes(), parts_.bytes - at));
    Staging::Buffer* buffer = nullptr;
    DSV4MX_TRY(staging->Acquire(call, &buffer));
    std::memcpy(buffer->host, from + at, bytes);
    DSV4MX_CUDA(cudaMemcpyAsync(slab + at, buffer->host, bytes, cudaMemcpyHostToDevice, stream));
    DSV4MX_TRY(Staging::Release(*buffer, stream));
  }
  return kOk;
}

Status CudaStore::CheckOnDevice(int32_t expert, const uint8_t* slab, Staging* staging,
                                const Call& call) {
  const cudaStream_t stream = call.stream;
  for (int64_t at = 0; at < parts_.bytes; at += staging->bytes()) {
    const int64_t bytes = std::min(staging->bytes(), parts_.bytes - at);
    Staging::Buffer* buffer = nullptr;
    DSV4MX_TRY(staging->Acquire(call, &buffer));
    DSV4MX_CUDA(cudaMemcpyAsync(buffer->host, slab + at, static_cast<size_t>(bytes),
                                cudaMemcpyDeviceToHost, stream));
    DSV4MX_TRY(Staging::Release(*buffer, stream));
    DSV4MX_TRY(Staging::Wait(*buffer, call.control));
    DSV4MX_TRY(CheckSm90SlabScales(*spec_, expert, {buffer->host, at, bytes}));
  }
  return kOk;
}

}  // namespace dsv4mx::cuda
