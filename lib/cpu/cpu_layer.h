// A layer on the CPU: sizes, plan, and apply by the fast path or an oracle.
#ifndef DSV4MX_LIB_CPU_CPU_LAYER_H_
#define DSV4MX_LIB_CPU_CPU_LAYER_H_

#include <atomic>
#include <memory>

#include "lib/base/backend.h"
#include "lib/cpu/thread_pool.h"

namespace dsv4mx::cpu {

class CpuLayer final : public LayerBackend {
 public:
  // The pool outlives the layer.
  CpuLayer(std::shared_ptr<const LayerSpec> spec, dsv4mx_cpu_isa isa, ThreadPool* pool);

  int64_t PreparedBytes() const override;
  int64_t PeakExtraBytes() const override;
  int64_t PreparedAlignment() const override;
  size_t WorkspaceBytes(int64_t max_tokens) const override;
  size_t MinimumWorkspaceBytes(int64_t max_tokens) const override;
  uint64_t NumericsOfDevice() const override;
  int64_t InvalidIds() const override { return invalid_ids_.load(std::memory_order_relaxed); }
  void PlanText(int64_t tokens, const Census* census, char* text, size_t bytes) const override;
  Status CheckCensus(const Census&) const override { return kOk; }
  Status CheckNewcomer(const Census&, const Census&, const char*) const override {
    return kOk;  // no choice depends on the census, but the wide form of each expert
  }
  Status SetPlacement(std::shared_ptr<const LayerSpec> spec, dsv4mx_stream) override {
    placed_ = std::move(spec);
    return kOk;
  }
  Status MakeStore(void* memory, std::unique_ptr<ExpertStore>* out) const override;
  Status Apply(const ExpertStore& store, const Census& census, const ApplyCall& call,
               dsv4mx_stream stream) const override;

 private:
  bool IsOracle() const;

  std::shared_ptr<const LayerSpec> spec_;
  // With today's placement: for Apply alone, which no SetPlacement runs beside.
  std::shared_ptr<const LayerSpec> placed_;
  dsv4mx_cpu_isa isa_;
  ThreadPool* pool_;
  mutable std::atomic<int64_t> invalid_ids_{0};
};

}  // namespace dsv4mx::cpu

#endif  // DSV4MX_LIB_CPU_CPU_LAYER_H_
