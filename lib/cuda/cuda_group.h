// One rank of a group of GPUs that reach each other's memory: enqueues the kernels of kernels/dist around the layer's own.
//
// It is no Carrier of lib/dist/exchange.h, whose rows the host moves one by one: here the host only enqueues, nothing of a
// call is known to it, and all of this can be captured into a graph. The protocol is the same, and its code is shared.
#ifndef DSV4MX_LIB_CUDA_CUDA_GROUP_H_
#define DSV4MX_LIB_CUDA_CUDA_GROUP_H_

#include <memory>
#include <string>
#include <vector>

#include "kernels/dist/launch_exchange.h"
#include "lib/cuda/cuda_rank.h"
#include "lib/cuda/cuda_window.h"

namespace dsv4mx::cuda {

class CudaGroup final : public CudaRank, private WindowSharing {
 public:
  static Status Make(const GroupShape& shape, std::shared_ptr<const Device> device,
                     std::unique_ptr<RankGroup>* out);
  ~CudaGroup() override;

  Status MakeWindow(const std::vector<int32_t>& places) override;
  std::shared_ptr<GroupWindow> window() const override { return own_; }
  Status Connect(std::vector<std::shared_ptr<GroupWindow>> windows) override;
  const WindowSharing* sharing() const override { return this; }
  int64_t bytes() const override { return own_->bytes() + sums_bytes(); }
  const char* what() const override { return what_.c_str(); }

  dist::FaultWord Fault() const override;
  dist::FaultWord Break(const dist::FaultWord& fault) override;
  void Leave() override;
  Status Reset() override;

 private:
  CudaGroup(const GroupShape& shape, std::shared_ptr<const Device> device);

  Status Identify(DeviceIdentity* out) const override;
  Status FindPlace(const DeviceIdentity& identity, int32_t* place) const override;
  Status Share(int* file) const override { return own_->Share(file); }
  Status Open(int file, std::shared_ptr<GroupWindow>* out) const override;
  Status EpRound(const Round& r) override;
  Status ReduceSums(const Round& r) override;
  Status ComputeRows(const Round& r, const dist::ExchangeSizes& sizes);
  // The chunk's results into the windows of their homes.
  Status RunToTargets(const Round& r, const dist::ExchangeSizes& sizes, const Pipeline& chunk,
                      int64_t begin, int64_t count);
  dist::GroupArgs Args(uint64_t tag) const override;
  dist::ExchangeSizes Sizes(const Round& r) const;
  // Where ranks share a device: all of them have enqueued what this one is going to wait for.
  Status PassGate(const Round& r, dsv4mx_comm_stage stage);
  int32_t Parts() const { return members_ > 1 ? dist::kPush : dist::kPush | dist::kWait; }
  Status Tell(uint64_t fault, bool gone);

  dist::WindowShape device_shape_;  // of what ranks share in memory
  dist::Window window_;
  std::shared_ptr<CudaWindow> own_;
  std::vector<std::shared_ptr<CudaWindow>> windows_;
  dist::GroupArgs args_{};
  std::string what_;
  std::vector<int32_t> places_;    // devices of all ranks
  cudaStream_t stream_ = nullptr;  // for what the host tells
  // Ranks on this device, this one's place among them, and theirs in the group.
  std::shared_ptr<Gate> gate_;
  int members_ = 1, member_ = 0;
  bool alone_ = false;  // every rank of the group on its device
  std::vector<int32_t> ranks_here_;
  cudaEvent_t pushed_ = nullptr;
  uint32_t gates_passed_ = 0;
};

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_GROUP_H_
