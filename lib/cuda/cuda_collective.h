// One rank of a group whose devices do not reach each other's memory, or whose ranks met through NCCL: rows travel by all-gather
// and results by reduce-scatter, or sums of them from each to each, between kernels that pack and spread them
// (kernels/dist/launch_collect.h).
//
// Collectives know no timeout and no rank that is missing: apply has returned by then. Whoever has waited long enough aborts the
// communicator, from any thread; what is under way ends then, with NaN.
#ifndef DSV4MX_LIB_CUDA_CUDA_COLLECTIVE_H_
#define DSV4MX_LIB_CUDA_CUDA_COLLECTIVE_H_

#include <memory>
#include <vector>

#include "kernels/dist/launch_collect.h"
#include "lib/cuda/cuda_rank.h"

namespace dsv4mx::cuda {

class CudaCollective final : public CudaRank {
 public:
  // The collectives outlive it.
  static Status Make(const GroupShape& shape, Collectives* collectives,
                     std::shared_ptr<const Device> device, std::unique_ptr<RankGroup>* out);
  ~CudaCollective() override;

  Status MakeWindow(const std::vector<int32_t>& places) override;
  // On a stream of its own between two events where the caller's is cudaStreamPerThread, which means another one in NCCL's thread.
  Status Apply(const GroupCall& call, dist::FaultWord* fault) override;
  std::shared_ptr<GroupWindow> window() const override { return nullptr; }
  Status Connect(std::vector<std::shared_ptr<GroupWindow>>) override { return kOk; }
  int64_t bytes() const override { return static_cast<int64_t>(bytes_) + sums_bytes(); }
  const char* what() const override { return collectives_->what(); }

  dist::FaultWord Fault() const override;
  dist::FaultWord Break(const dist::FaultWord& fault) override;
  void Leave() override {}
  Status Reset() override;

 private:
  CudaCollective(const GroupShape& shape, Collectives* collectives,
                 std::shared_ptr<const Device> device)
      : CudaRank(shape, std::move(device)), collectives_(collectives) {}
  Status EpRound(const Round& r) override;
  Status ReduceSums(const Round& r) override;
  dist::GroupArgs Args(uint64_t tag) const override;
  int32_t IdFirst() const override { return Part() * dist::kPartIds; }
  int32_t IdCount() const override { return shape_.window.ep * dist::kPartIds; }
  int32_t Part() const { return shape_.rank / shape_.tp_size; }
  Status ComputeRows(const Round& r, const dist::RecordShape& record);
  // Results of the round to their homes.
  Status ReturnResults(const Round& r, const dist::RecordShape& record);
  Status ClearRecords();
  static Status Follow(cudaStream_t behind, cudaEvent_t event, cudaStream_t stream);
  int64_t RowBytes(const dist::RecordShape& record) const;  // of a row's results, or of its sum
  dist::CollectArgs CollectOf(Among among, uint64_t tag) const;
  bool SumsTravel() const { return shape_.window.rank_reduce; }

  Collectives* collectives_;
  void* block_ = nullptr;
  size_t bytes_ = 0;
  uint8_t* records_ = nullptr;  // [ep][max_tokens]
  uint8_t* results_ = nullptr;  // [ep][max_tokens][top_k][hidden], or sums [ep][max_tokens][hidden]
  uint8_t* home_ = nullptr;     // [max_tokens][top_k][hidden], or sums [ep][max_tokens][hidden]
  uint8_t* blocks_ = nullptr;   // [tp] a stamp and [reduce_tokens][hidden]
  uint64_t* told_ = nullptr;    // pinned
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begun_ = nullptr, ended_ = nullptr;
};

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_COLLECTIVE_H_
