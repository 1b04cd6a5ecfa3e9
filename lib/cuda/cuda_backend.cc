// A GPU as a device: opening it, its memory, and its layers.
#include <cstdint>
#include <cstdio>

#include "kernels/launch.h"
#include "kernels/launch_weights.h"
#include "lib/base/backend.h"
#include "lib/base/plan.h"
#include "lib/cuda/cuda_check.h"
#include "lib/cuda/cuda_device.h"
#include "lib/cuda/cuda_layer.h"

namespace dsv4mx {
namespace cuda {
namespace {

using Capture = DeviceScope::Capture;

class CudaBackend final : public Backend {
 public:
  CudaBackend(std::unique_ptr<Device> device, std::shared_ptr<const PlanTable> table)
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
    info->compute_capability = 90;
    info->multiprocessors = device_->multiprocessors();
    info->l2_bytes = device_->l2_bytes();
    std::snprintf(info->name, sizeof info->name, "%s", device_->name());
  }

  void Name(char* text, size_t bytes) const override {
    std::snprintf(text, bytes, "cuda sm_90a, %d SMs", device_->multiprocessors());
  }

  Status Alloc(size_t bytes, size_t alignment, void** out) const override {
    *out = nullptr;
    if (bytes == 0) return kOk;
    const DeviceScope scope(*device_, Capture::kRelaxed);
    DSV4MX_TRY(scope.Begin(cudaStreamPerThread));
    void* memory = nullptr;
    if (const cudaError_t error = cudaMalloc(&memory, bytes); error != cudaSuccess) {
      DSV4MX_RETURN_IF(error == cudaErrorMemoryAllocation, DSV4MX_STATUS_OUT_OF_MEMORY,
                       "device %d has no memory for %zu bytes: %s (%d)", device_->ordinal(), bytes,
                       cudaGetErrorName(error), static_cast<int>(error));
      return FailCuda(error, "cudaMalloc");
    }
    if (reinterpret_cast<uintptr_t>(memory) % alignment != 0) {
      (void)cudaFree(memory);
      return Fail(DSV4MX_STATUS_INTERNAL, "cudaMalloc gave %p, wanted a multiple of %zu", memory,
                  alignment);
    }
    *out = memory;
    return kOk;
  }

  Status Free(void* pointer) const override {
    const DeviceScope scope(*device_, Capture::kRelaxed);
    // Freed in any case: nobody can ask again.
    const Status usable = scope.Begin(cudaStreamPerThread);
    const cudaError_t error = cudaFree(pointer);
    DSV4MX_TRY(usable);
    return Check(error, "cudaFree");
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

 private:
  std::unique_ptr<Device> device_;
  std::shared_ptr<const PlanTable> table_;
};

}  // namespace
}  // namespace cuda

Status MakeCudaBackend(const dsv4mx_context_desc& desc, std::unique_ptr<Backend>* out) {
  // First, so that a bad plan file is told even where there is no device.
  std::shared_ptr<const PlanTable> table;
  DSV4MX_TRY(PlanTable::Make(desc.plan_file, &table));
  std::unique_ptr<cuda::Device> device;
  DSV4MX_TRY(cuda::Device::Open(desc.device_ordinal, &device));
  auto backend = std::make_unique<cuda::CudaBackend>(std::move(device), std::move(table));
  DSV4MX_TRY(backend->Load());
  *out = std::move(backend);
  return kOk;
}

}  // namespace dsv4mx
