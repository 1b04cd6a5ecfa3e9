#include "lib/cuda/cuda_group_layer.h"

#include <algorithm>

#include "lib/base/carver.h"
#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {

Status CudaGroupLayer::Make(const CudaLayer& layer, const GroupRoutes& routes, bool weights_travel,
                            int32_t id_first, int32_t id_count,
                            std::shared_ptr<const Device> device,
                            std::unique_ptr<GroupLayer>* out) {
  std::unique_ptr<CudaGroupLayer> l(new CudaGroupLayer(std::move(device)));
  l->rows_ = layer.spec();
  l->rows_.ids_dtype = DSV4MX_DTYPE_I32;
  l->rows_.router_weight_dtype = DSV4MX_DTYPE_F32;
  Placement& p = l->rows_.placement;
  p.id_map.clear();
  p.id_first = id_first;
  p.id_count = id_count == 0 ? p.experts : id_count;
  l->weights_travel_ = weights_travel;
  const auto ids = static_cast<int64_t>(routes.begin.size()) - 1;
  const auto copies = static_cast<int64_t>(routes.copies.size());
  l->id_count_ = static_cast<int32_t>(ids);
  const auto carve = [&](uint8_t* memory) {
    Carver c(memory, 256);
    l->ids_ = c.Take<uint64_t>(ids);
    l->copies_ = c.Take<uint32_t>(copies);
    l->loads_ = c.Take<int64_t>(p.experts);
    return c.bytes();
  };
  l->bytes_ = carve(nullptr);
  const DeviceScope scope(*l->device_, DeviceScope::Capture::kRelaxed);
  const cudaStream_t stream = cudaStreamPerThread;
  DSV4MX_TRY(scope.Begin(stream));
  const Memory& memory = l->device_->memory();
  DSV4MX_TRY(memory.Alloc(l->bytes_, 256, DSV4MX_MEMORY_DEVICE, stream, &l->block_));
  carve(static_cast<uint8_t*>(l->block_));
  void* told = nullptr;
  DSV4MX_TRY(memory.Alloc(static_cast<size_t>(p.experts) * sizeof(int64_t), 64,
                          DSV4MX_MEMORY_PINNED, stream, &told));
  l->told_ = static_cast<int64_t*>(told);
  std::fill_n(l->told_, p.experts, int64_t{0});
  std::vector<uint64_t> ways(static_cast<size_t>(ids));
  for (size_t id = 0; id < ways.size(); ++id) {
    const auto begin = static_cast<uint32_t>(routes.begin[id]);
    const auto count = static_cast<uint32_t>(routes.begin[id + 1]) - begin;
    ways[id] = uint64_t{count} << 32 | (count == 1 ? routes.copies[begin] : begin);
  }
  DSV4MX_CUDA(cudaMemsetAsync(l->block_, 0, l->bytes_, stream));
  DSV4MX_CUDA(cudaMemcpyAsync(l->ids_, ways.data(), ways.size() * sizeof(uint64_t),
                              cudaMemcpyHostToDevice, stream));
  DSV4MX_CUDA(cudaMemcpyAsync(l->copies_, routes.copies.data(),
                              routes.copies.size() * sizeof(uint32_t), cudaMemcpyHostToDevice,
                              stream));
  DSV4MX_CUDA(cudaStreamSynchronize(stream));
  *out = std::move(l);
  return kOk;
}

CudaGroupLayer::~CudaGroupLayer() {
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  const Memory& memory = device_->memory();
  (void)memory.Free(block_, bytes_, DSV4MX_MEMORY_DEVICE);
  (void)memory.Free(told_, static_cast<size_t>(rows_.experts) * sizeof(int64_t),
                    DSV4MX_MEMORY_PINNED);
}

void CudaGroupLayer::GetLoads(int64_t* pairs) const {
  for (int32_t e = 0; e < rows_.experts; ++e)
    pairs[e] = __atomic_load_n(told_ + e, __ATOMIC_RELAXED);
}

dist::RouteArgs CudaGroupLayer::routes() const {
  return {ids_, copies_, id_count_};
}

}  // namespace dsv4mx::cuda
