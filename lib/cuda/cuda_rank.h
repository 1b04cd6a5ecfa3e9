// One rank of a group on a GPU, whatever carries its rows: rounds of a call, the partial sums of tensor-parallel ranks, and what
// the kernels of kernels/dist are told of a call. All of a call is enqueued, so that it can be captured into a graph.
#ifndef DSV4MX_LIB_CUDA_CUDA_RANK_H_
#define DSV4MX_LIB_CUDA_CUDA_RANK_H_

#include <memory>

#include "kernels/dist/launch_exchange.h"
#include "lib/base/rank_group.h"
#include "lib/cuda/cuda_group_layer.h"

namespace dsv4mx::cuda {

class CudaRank : public RankGroup {
 public:
  ~CudaRank() override;
  int32_t place() const override { return device_->ordinal(); }
  Status MakeLayer(const LayerBackend& backend, const GroupRoutes& routes, bool weights_travel,
                   std::unique_ptr<GroupLayer>* out) override;
  Status Apply(const GroupCall& call, dist::FaultWord* fault) override;
  void Poison(const GroupCall& call) override;

 protected:
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
  CudaRank(const GroupShape& shape, std::shared_ptr<const Device> device)
      : shape_(shape), device_(std::move(device)) {}

  // Rows to their experts and back; leaves the rank's sums for ReduceSums where there are tensor-parallel ranks.
  virtual Status EpRound(const Round& r) = 0;
  // Tensor-parallel ranks add up the sums of a round and write the caller's rows.
  virtual Status ReduceSums(const Round& r) = 0;
  virtual dist::GroupArgs Args(uint64_t tag) const = 0;
  // Ids of rows that come, as CudaGroupLayer::Make takes them.
  virtual int32_t IdFirst() const { return 0; }
  virtual int32_t IdCount() const { return 0; }

  // Progress and sums. The device is current.
  Status MakeSums();
  int64_t sums_bytes() const { return sums_bytes_ + levels_bytes_; }
  dist::OwnTokens Own(const Round& r) const;
  dist::SumArgs SumOf(const Round& r) const;
  // One reduction of tokens [begin, begin + some) of the round, but for where the ranks' sums are.
  dist::ReduceArgs ReduceOf(const Round& r, int64_t begin) const;
  bool SumsAreBf16() const { return shape_.window.partial_bytes == 2; }
  bool Invariant() const { return shape_.tp_slices != 0; }

  GroupShape shape_;
  std::shared_ptr<const Device> device_;
  dist::Progress* progress_ = nullptr;

 private:
  Status TpRound(const Round& r);
  // A chunk of it in slices of channels, whose sums fold into a tree.
  Status RunSlices(const Pipeline& chunk, int64_t begin, cudaStream_t stream);
  int32_t Slices() const { return shape_.tp_slices / shape_.tp_size; }  // computed here
  void ToCaller(const Round& r, dist::SumArgs* a) const;

  void* sums_ = nullptr;  // [max_tokens][hidden] partial sums, of tensor-parallel ranks
  int64_t sums_bytes_ = 0;
  float* levels_ = nullptr;  // [log2 of Slices()][max_tokens][hidden] of the tree, of TP_INVARIANT
  int64_t levels_bytes_ = 0;
};

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_RANK_H_
