// A layer on a GPU: sizes, plan, and the launches of apply.
#ifndef DSV4MX_LIB_CUDA_CUDA_LAYER_H_
#define DSV4MX_LIB_CUDA_CUDA_LAYER_H_

#include <absl/functional/function_ref.h>

#include <memory>
#include <vector>

#include "lib/base/backend.h"
#include "lib/base/plan.h"
#include "lib/cuda/cuda_device.h"
#include "lib/cuda/cuda_pipeline.h"

namespace dsv4mx::cuda {

class CudaLayer final : public LayerBackend {
 public:
  // The device outlives the layer.
  static Status Make(std::shared_ptr<const LayerSpec> spec, std::shared_ptr<const PlanTable> table,
                     const Device* device, std::unique_ptr<LayerBackend>* out);
  ~CudaLayer() override;

  int64_t PreparedBytes() const override;
  int64_t PeakExtraBytes() const override;
  int64_t PreparedAlignment() const override;
  size_t WorkspaceBytes(int64_t max_tokens) const override;
  size_t MinimumWorkspaceBytes(int64_t max_tokens) const override;
  uint64_t NumericsOfDevice() const override;
  int64_t InvalidIds() const override;
  void PlanText(int64_t tokens, const Census* census, char* text, size_t bytes) const override;
  Status CheckCensus(const Census& census) const override;
  Status CheckNewcomer(const Census& prepared, const Census& expert,
                       const char* what) const override;
  Status SetPlacement(std::shared_ptr<const LayerSpec> spec, dsv4mx_stream stream) override;
  Status MakeStore(void* memory, std::unique_ptr<ExpertStore>* out) const override;
  Status Apply(const ExpertStore& store, const Census& census, const ApplyCall& call,
               dsv4mx_stream stream) const override;
  // Of the host's exchange alone: a group of GPUs has kernels for it (cuda_group.h).
  Status ApplyRows(const ExpertStore&, const Census&, const RowsCall&,
                   dsv4mx_stream) const override {
    return Fail(DSV4MX_STATUS_INTERNAL, "rows of other ranks one by one, wanted a CPU context");
  }

  const LayerSpec& spec() const { return *spec_; }
  // Tokens first..first+tokens-1 of a call, chunk by chunk: `each` gets a pipeline, how many of them are behind it, and how
  // many it has. `spec` is the layer's own but for how ids, weights and outputs stand in memory and for the
  // number path; without `tables` ids are
  // local experts. The device is current.
  using EachChunk = absl::FunctionRef<Status(const Pipeline& chunk, int64_t begin, int64_t tokens)>;
  Status ForChunks(const LayerSpec& spec, const LayerTables& tables, const ExpertStore& store,
                   const Census& census, const ApplyCall& call, int64_t first, int64_t tokens,
                   EachChunk each) const;
  const LayerTables& tables() const { return tables_; }

 private:
  CudaLayer(std::shared_ptr<const LayerSpec> spec, std::shared_ptr<const PlanTable> table,
            const Device* device)
      : spec_(std::move(spec)), table_(std::move(table)), device_(device) {}
  // A new map on its way to the device: pinned memory that is used again once the copy has run.
  struct MapUpdate {
    int32_t* map = nullptr;
    cudaEvent_t copied = nullptr;
  };
  Status MakeTables();
  Status FreeUpdate(size_t* index, cudaStream_t stream);
  size_t MapBytes() const { return spec_->placement.id_map.size() * sizeof(int32_t); }

  std::shared_ptr<const LayerSpec> spec_;
  std::shared_ptr<const PlanTable> table_;
  const Device* device_;
  LayerTables tables_;
  std::vector<MapUpdate> updates_;
  cudaEvent_t last_update_ = nullptr;  // of updates_
};

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_LAYER_H_
