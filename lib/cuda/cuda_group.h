// One rank of a group of GPUs: enqueues the kernels of kernels/dist around the layer's own.
//
// It is no Carrier of lib/dist/exchange.h, whose rows the host moves one by one: here the host only enqueues, nothing of a
// call is known to it, and all of this can be captured into a graph. The protocol is the same, and its code is shared.
#ifndef DSV4MX_LIB_CUDA_CUDA_GROUP_H_
#define DSV4MX_LIB_CUDA_CUDA_GROUP_H_

#include <memory>
#include <string>
#include <vector>

#include "kernels/dist/launch_exchange.h"
#include "lib/base/rank_group.h"
#include "lib/cuda/cuda_device.h"
#include "lib/cuda/cuda_layer.h"
#include "lib/cuda/cuda_window.h"

namespace dsv4mx::cuda {

// Tables of a layer on the device, and its load as the host reads it.
class CudaGroupLayer final : public GroupLayer {
 public:
  static Status Make(const CudaLayer& layer, const GroupRoutes& routes, bool weights_travel,
                     std::shared_ptr<const Device> device, std::unique_ptr<GroupLayer>* out);
  ~CudaGroupLayer() override;
  void GetLoads(int64_t* pairs) const override;

  // The layer as it computes rows that came: ids are local experts, router weights fp32.
  const LayerSpec& rows() const { return rows_; }
  bool weights_travel() const { return weights_travel_; }
  dist::RouteArgs routes() const;
  int64_t* loads() const { return loads_; }
  int64_t* told() const { return told_; }

 private:
  explicit CudaGroupLayer(std::shared_ptr<const Device> device) : device_(std::move(device)) {}

  std::shared_ptr<const Device> device_;
  LayerSpec rows_;
  bool weights_travel_ = false;
  void* block_ = nullptr;  // ids, copies, loads
  size_t bytes_ = 0;
  int32_t id_count_ = 0;
  uint64_t* ids_ = nullptr;
  uint32_t* copies_ = nullptr;
  int64_t* loads_ = nullptr;
  int64_t* told_ = nullptr;  // pinned
};

class CudaGroup final : public RankGroup {
 public:
  static Status Make(const GroupShape& shape, std::shared_ptr<const Device> device,
                     std::unique_ptr<RankGroup>* out);
  ~CudaGroup() override;

  int32_t place() const override { return device_->ordinal(); }
  Status MakeWindow(const std::vector<int32_t>& places) override;
  std::shared_ptr<GroupWindow> window() const override { return own_; }
  Status Connect(std::vector<std::shared_ptr<GroupWindow>> windows) override;
  int64_t bytes() const override { return own_->bytes() + sums_bytes_; }
  const char* what() const override { return what_.c_str(); }

  Status MakeLayer(const LayerBackend& backend, const GroupRoutes& routes, bool weights_travel,
                   std::unique_ptr<GroupLayer>* out) override;
  Status Apply(const GroupCall& call, dist::FaultWord* fault) override;
  void Poison(const GroupCall& call) override;

  dist::FaultWord Fault() const override;
  dist::FaultWord Break(const dist::FaultWord& fault) override;
  void Leave() override;
  Status Reset() override;

 private:
  // One round of a call, as its launches need it.
  struct Round {
    const GroupCall& call;
    const CudaLayer& layer;
    const CudaGroupLayer& group;
    int64_t first, count;  // own tokens
    int64_t spacing;       // tokens of every part
    uint64_t tag;
    dist::FaultWord* fault;
  };
  CudaGroup(const GroupShape& shape, std::shared_ptr<const Device> device);

  Status EpRound(const Round& r);
  Status TpRound(const Round& r);
  // Tensor-parallel ranks add up the sums of a round and write the caller's rows.
  Status ReduceSums(const Round& r);
  Status ComputeRows(const Round& r, const dist::ExchangeSizes& sizes);
  dist::GroupArgs Args(uint64_t tag) const;
  dist::ExchangeSizes Sizes(const Round& r) const;
  dist::OwnTokens Own(const Round& r) const;
  dist::SumArgs SumOf(const Round& r) const;
  void ToCaller(const Round& r, dist::SumArgs* a) const;
  // Whether the kernel that returns results also adds up.
  bool Adds(const Round& r) const {
    return members_ == 1 && dist::IsSmallRound(r.spacing, r.layer.spec().hidden);
  }
  // Where ranks share a device: all of them have enqueued what this one is going to wait for.
  Status PassGate(const Round& r, dsv4mx_comm_stage stage);
  int32_t Parts() const { return members_ > 1 ? dist::kPush : dist::kPush | dist::kWait; }
  bool SumsAreBf16() const { return shape_.window.partial_bytes == 2; }
  Status Tell(uint64_t fault, bool gone);

  GroupShape shape_;
  dist::Window window_;
  std::shared_ptr<const Device> device_;
  std::shared_ptr<CudaWindow> own_;
  std::vector<std::shared_ptr<CudaWindow>> windows_;
  dist::GroupArgs args_{};
  std::string what_;
  dist::Progress* progress_ = nullptr;
  void* sums_ = nullptr;  // [max_tokens][hidden] partial sums, of tensor-parallel ranks
  int64_t sums_bytes_ = 0;
  cudaStream_t stream_ = nullptr;  // for what the host tells
  // Ranks on this device, this one's place among them, and theirs in the group.
  std::shared_ptr<Gate> gate_;
  int members_ = 1, member_ = 0;
  std::vector<int32_t> ranks_here_;
  cudaEvent_t pushed_ = nullptr;
  uint32_t gates_passed_ = 0;
};

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_GROUP_H_
