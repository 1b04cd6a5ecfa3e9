#include "lib/cuda/cuda_layer.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "lib/base/carver.h"
#include "lib/base/host_layout.h"
#include "lib/cuda/cuda_check.h"
#include "lib/cuda/cuda_store.h"
#include "lib/cuda/cuda_workspace.h"

namespace dsv4mx::cuda {

Status CudaLayer::Make(std::shared_ptr<const LayerSpec> spec,
                       std::shared_ptr<const PlanTable> table, const Device* device,
                       std::unique_ptr<LayerBackend>* out) {
  DSV4MX_RETURN_IF(spec->oracle != DSV4MX_ORACLE_NONE, DSV4MX_STATUS_UNSUPPORTED,
                   "oracle is %s, which only the CPU backend has; wanted none on CUDA",
                   spec->oracle == DSV4MX_ORACLE_TRUTH ? "TRUTH" : "SPEC");
  std::unique_ptr<CudaLayer> layer(new CudaLayer(std::move(spec), std::move(table), device));
  DSV4MX_TRY(layer->MakeTables());
  *out = std::move(layer);
  return kOk;
}

Status CudaLayer::MakeTables() {
  const bool mapped = MapBytes() != 0;
  if (!mapped && !spec_->checked_ids) return kOk;
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  // A stream of this thread's own, which neither waits for the legacy stream nor disturbs a capture there.
  const cudaStream_t stream = cudaStreamPerThread;
  DSV4MX_TRY(scope.Begin(stream));
  const Memory& memory = device_->memory();
  void* block = nullptr;
  if (spec_->checked_ids) {
    DSV4MX_TRY(memory.Alloc(sizeof(int64_t), 64, DSV4MX_MEMORY_PINNED, stream, &block));
    tables_.invalid_ids = static_cast<int64_t*>(block);
    *tables_.invalid_ids = 0;
  }
  if (!mapped) return kOk;
  DSV4MX_TRY(memory.Alloc(MapBytes(), 256, DSV4MX_MEMORY_DEVICE, stream, &block));
  tables_.id_map = static_cast<int32_t*>(block);
  DSV4MX_CUDA(cudaMemcpyAsync(block, spec_->placement.id_map.data(), MapBytes(),
                              cudaMemcpyHostToDevice, stream));
  DSV4MX_CUDA(cudaStreamSynchronize(stream));
  return kOk;
}

CudaLayer::~CudaLayer() {
  if (tables_.id_map == nullptr && tables_.invalid_ids == nullptr) return;
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  const Memory& memory = device_->memory();
  for (const MapUpdate& update : updates_) {
    if (update.copied != nullptr) {
      (void)cudaEventSynchronize(update.copied);
      (void)cudaEventDestroy(update.copied);
    }
    (void)memory.Free(update.map, MapBytes(), DSV4MX_MEMORY_PINNED);
  }
  (void)memory.Free(tables_.id_map, MapBytes(), DSV4MX_MEMORY_DEVICE);
  (void)memory.Free(tables_.invalid_ids, sizeof(int64_t), DSV4MX_MEMORY_PINNED);
}

// The map keeps its address, which captured graphs hold. Nothing is waited for: while copies are under way, each has memory
// of its own.
Status CudaLayer::SetPlacement(std::shared_ptr<const LayerSpec> spec, dsv4mx_stream stream) {
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(stream));
  DSV4MX_TRY(DeviceScope::NotCaptured(stream, "a layer is placed anew"));
  size_t index = 0;
  DSV4MX_TRY(FreeUpdate(&index, stream));
  const MapUpdate& update = updates_[index];
  std::memcpy(update.map, spec->placement.id_map.data(), MapBytes());
  // The last call's map stays, whatever the streams.
  if (last_update_ != nullptr) DSV4MX_CUDA(cudaStreamWaitEvent(stream, last_update_, 0));
  DSV4MX_CUDA(
      cudaMemcpyAsync(tables_.id_map, update.map, MapBytes(), cudaMemcpyHostToDevice, stream));
  DSV4MX_CUDA(cudaEventRecord(update.copied, stream));
  last_update_ = update.copied;
  return kOk;
}

Status CudaLayer::FreeUpdate(size_t* index, cudaStream_t stream) {
  for (*index = 0; *index < updates_.size(); ++*index) {
    const MapUpdate& update = updates_[*index];
    if (update.copied == nullptr) break;  // was made half-way
    const cudaError_t error = cudaEventQuery(update.copied);
    if (error == cudaSuccess) return kOk;
    if (error != cudaErrorNotReady) return FailCuda(error, "cudaEventQuery");
  }
  if (*index == updates_.size()) updates_.emplace_back();
  MapUpdate& update = updates_[*index];
  if (update.map == nullptr) {
    void* block = nullptr;
    DSV4MX_TRY(device_->memory().Alloc(MapBytes(), 64, DSV4MX_MEMORY_PINNED, stream, &block));
    update.map = static_cast<int32_t*>(block);
  }
  DSV4MX_CUDA(cudaEventCreateWithFlags(&update.copied, cudaEventDisableTiming));
  return kOk;
}

int64_t CudaLayer::InvalidIds() const {
  if (tables_.invalid_ids == nullptr) return 0;
  return __atomic_load_n(tables_.invalid_ids, __ATOMIC_RELAXED);
}

uint64_t CudaLayer::NumericsOfDevice() const {
  // Raised whenever a change of the kernels or of the built-in plan changes bits.
  constexpr uint64_t kKernels = 5;
  const PlanDevice& device = device_->plan_device();
  return table_->Hash() ^ (kKernels << 48 | static_cast<uint64_t>(DSV4MX_DEVICE_CUDA) << 40 |
                           static_cast<uint64_t>(device.multiprocessors) << 20 |
                           static_cast<uint64_t>(device.bandwidth));
}

int64_t CudaLayer::PreparedBytes() const {
  return Sm90SlabOf(*spec_).bytes * spec_->experts;
}

int64_t CudaLayer::PeakExtraBytes() const {
  return CudaStore::ExtraBytes(*spec_);
}

int64_t CudaLayer::PreparedAlignment() const {
  return 256;
}

size_t CudaLayer::WorkspaceBytes(int64_t max_tokens) const {
  if (max_tokens <= 0) return 0;
  const int64_t chunk = LargestChunk(*table_, *spec_, max_tokens, device_->plan_device());
  return CarveWorkspace(*spec_, *device_->plan_device().generation, chunk, nullptr).bytes;
}

size_t CudaLayer::MinimumWorkspaceBytes(int64_t max_tokens) const {
  constexpr int64_t kFewestTokens = 64;
  return WorkspaceBytes(std::min(max_tokens, kFewestTokens));
}

void CudaLayer::PlanText(int64_t tokens, const Census* census, char* text, size_t bytes) const {
  if (tokens == 0) {
    std::snprintf(text, bytes, "cuda %s: no launch, because there are 0 tokens",
                  device_->plan_device().generation->architecture);
    return;
  }
  const PlanDevice& device = device_->plan_device();
  PrintPlan(MakePlan(*table_, *spec_, census, tokens, device), census, tokens, device, text, bytes);
}

Status CudaLayer::CheckCensus(const Census& census) const {
  return CheckPlanCensus(*spec_, census);
}

Status CudaLayer::CheckNewcomer(const Census& prepared, const Census& expert,
                                const char* what) const {
  return CheckPlanNewcomer(*device_->plan_device().generation, prepared, expert, what);
}

Status CudaLayer::MakeStore(void* memory, std::unique_ptr<ExpertStore>* out) const {
  return CudaStore::Make(spec_, memory, device_, out);
}

Status CudaLayer::ForChunks(const LayerSpec& spec, const LayerTables& tables,
                            const ExpertStore& store, const Census& census, const ApplyCall& call,
                            int64_t first, int64_t tokens, EachChunk each) const {
  const auto& experts = static_cast<const CudaStore&>(store);
  // Path and widths are those of the whole call, however small the chunks are that the workspace holds.
  const Plan plan = MakePlan(*table_, spec, &census, tokens, device_->plan_device());
  const int64_t most = LargestFitting(plan.chunk_tokens, [&](int64_t chunk) {
    return CarveWorkspace(spec, *device_->plan_device().generation, chunk, nullptr).bytes <=
           call.workspace_bytes;
  });
  // Chunks follow each other on the stream and share the workspace: each begins when the one before is read.
  for (int64_t begin = 0; begin < tokens; begin += plan.chunk_tokens) {
    const TokenRange chunk{first + begin, std::min(plan.chunk_tokens, tokens - begin)};
    const int64_t parts = (chunk.count + most - 1) / most,
                  each_part = (chunk.count + parts - 1) / parts;
    for (int64_t at = 0; at < chunk.count; at += each_part) {
      const TokenRange part{chunk.begin + at, std::min(each_part, chunk.count - at)};
      const Pipeline pipeline(spec, plan, tables, experts, call, chunk, part,
                              device_->multiprocessors());
      DSV4MX_TRY(each(pipeline, begin + at, part.count));
    }
  }
  return kOk;
}

Status CudaLayer::Apply(const ExpertStore& store, const Census& census, const ApplyCall& call,
                        dsv4mx_stream stream) const {
  if (call.tokens == 0) return kOk;
  const DeviceScope scope(*device_, DeviceScope::Capture::kAsIs);
  DSV4MX_TRY(scope.Begin(stream));
  return ForChunks(
      *spec_, tables_, store, census, call, 0, call.tokens,
      [&](const Pipeline& pipeline, int64_t, int64_t) { return pipeline.Run(stream); });
}

}  // namespace dsv4mx::cuda
