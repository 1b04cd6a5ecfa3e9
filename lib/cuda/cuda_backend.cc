// A GPU as a device: opening it, its memory, and its layers.
#include <cstdio>

#include "kernels/launch.h"
#include "kernels/launch_weights.h"
#include "lib/base/backend.h"
#include "lib/base/plan.h"
#include "lib/cuda/cuda_check.h"
#include "lib/cuda/cuda_collective.h"
#include "lib/cuda/cuda_device.h"
#include "lib/cuda/cuda_group.h"
#include "lib/cuda/cuda_layer.h"

namespace dsv4mx {
namespace cuda {
namespace {

using Capture = DeviceScope::Capture;

class CudaBackend final : public Backend {
 public:
  CudaBackend(std::shared_ptr<const Device> device, std::shared_ptr<const PlanTable> table)
      : device_(std::move(device)), table_(std::move(table)) {}

  Status Load() const {
    const DeviceScope scope(*device_, Capture::kRelaxed);
    DSV4MX_TRY(scope.Begin(cudaStreamPerThread));
    DSV4MX_CUDA(LoadKernels());
    DSV4MX_CUDA(LoadWeightKernels());
    return kOk;
  }

  void Query(dsv4mx_context_info* info) const override {
    info->device = DSV4MX_DEVICE_CUDA;
    info->device_ordinal = device_->ordinal();
    info->threads = 0;
    info->cpu_isa = DSV4MX_CPU_ISA_DEFAULT;
    info->compute_capability = device_->plan_device().generation->compute_capability;
    info->multiprocessors = device_->multiprocessors();
    info->l2_bytes = device_->l2_bytes();
    std::snprintf(info->name, sizeof info->name, "%s", device_->name());
  }

  void Name(char* text, size_t bytes) const override {
    std::snprintf(text, bytes, "cuda %s, %d SMs", device_->plan_device().generation->architecture,
                  device_->multiprocessors());
  }

  Status Alloc(size_t bytes, size_t alignment, void** out) const override {
    *out = nullptr;
    if (bytes == 0) return kOk;
    const DeviceScope scope(*device_, Capture::kRelaxed);
    DSV4MX_TRY(scope.Begin(cudaStreamPerThread));
    return device_->memory().Alloc(bytes, alignment, DSV4MX_MEMORY_DEVICE, nullptr, out);
  }

  Status Free(void* pointer, size_t bytes) const override {
    const DeviceScope scope(*device_, Capture::kRelaxed);
    // Freed in any case: nobody can ask again.
    const Status usable = scope.Begin(cudaStreamPerThread);
    const Status freed = device_->memory().Free(pointer, bytes, DSV4MX_MEMORY_DEVICE);
    DSV4MX_TRY(usable);
    return freed;
  }

  Status AllocStaging(size_t bytes, void** out) const override {
    *out = nullptr;
    const DeviceScope scope(*device_, Capture::kRelaxed);
    DSV4MX_TRY(scope.Begin(cudaStreamPerThread));
    return device_->memory().Alloc(bytes, 64, DSV4MX_MEMORY_PINNED, nullptr, out);
  }

  Status FreeStaging(void* pointer, size_t bytes) const override {
    const DeviceScope scope(*device_, Capture::kRelaxed);
    const Status usable = scope.Begin(cudaStreamPerThread);  // freed in any case
    const Status freed = device_->memory().Free(pointer, bytes, DSV4MX_MEMORY_PINNED);
    DSV4MX_TRY(usable);
    return freed;
  }

  Status Copy(void* to, const void* from, size_t bytes, dsv4mx_stream stream) const override {
    if (bytes == 0) return kOk;
    const DeviceScope scope(*device_, Capture::kRelaxed);
    DSV4MX_TRY(scope.Begin(stream));
    DSV4MX_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream));
    return kOk;
  }

  Status Synchronize(dsv4mx_stream stream) const override {
    const DeviceScope scope(*device_, Capture::kRelaxed);
    DSV4MX_TRY(scope.Begin(stream));
    DSV4MX_CUDA(cudaStreamSynchronize(stream));
    return kOk;
  }

  Status MakeLayer(std::shared_ptr<const LayerSpec> spec,
                   std::unique_ptr<LayerBackend>* out) const override {
    return CudaLayer::Make(std::move(spec), table_, device_.get(), out);
  }

  Status OnDevice(absl::FunctionRef<Status()> work) const override {
    const DeviceScope scope(*device_, Capture::kRelaxed);
    DSV4MX_TRY(scope.Begin(cudaStreamPerThread));
    return work();
  }

  Status MakeStream(dsv4mx_stream* out) const override {
    *out = nullptr;
    const DeviceScope scope(*device_, Capture::kRelaxed);
    DSV4MX_TRY(scope.Begin(cudaStreamPerThread));
    DSV4MX_CUDA(cudaStreamCreateWithFlags(out, cudaStreamNonBlocking));
    return kOk;
  }

  void FreeStream(dsv4mx_stream stream) const override {
    if (stream == nullptr) return;
    const DeviceScope scope(*device_, Capture::kRelaxed);
    (void)cudaStreamDestroy(stream);
  }

  Status QueryStream(dsv4mx_stream stream, bool* ended) const override {
    const DeviceScope scope(*device_, Capture::kRelaxed);
    DSV4MX_TRY(scope.Begin(stream));
    const cudaError_t error = cudaStreamQuery(stream);
    *ended = error == cudaSuccess;
    return error == cudaErrorNotReady ? kOk : Check(error, "cudaStreamQuery");
  }

  Status MakeRankGroup(const GroupShape& shape, Collectives* collectives,
                       std::unique_ptr<RankGroup>* out) const override {
    return collectives == nullptr ? CudaGroup::Make(shape, device_, out)
                                  : CudaCollective::Make(shape, collectives, device_, out);
  }

 private:
  std::shared_ptr<const Device> device_;  // windows of a group outlive a context
  std::shared_ptr<const PlanTable> table_;
};

}  // namespace
}  // namespace cuda

Status MakeCudaBackend(const BackendDesc& given, std::unique_ptr<Backend>* out) {
  std::unique_ptr<cuda::Device> device;
  const Status opened =
      cuda::Device::Open(given.desc.device_ordinal, MemoryHook(given.desc), &device);
  // A bad plan file is told even where there is no device.
  std::shared_ptr<const PlanTable> table;
  DSV4MX_TRY(PlanTable::Make(given.experimental.plan_file,
                             opened.ok() ? device->plan_device() : PlanDevice{}, &table));
  DSV4MX_TRY(opened);
  auto backend = std::make_unique<cuda::CudaBackend>(std::move(device), std::move(table));
  DSV4MX_TRY(backend->Load());
  *out = std::move(backend);
  return kOk;
}

}  // namespace dsv4mx
