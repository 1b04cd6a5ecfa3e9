// The experts of a layer in the layout of cpu_layout.h, made tensor by tensor straight from the caller's memory, or from
// rows that threads read and pack, each in a block of its own.
#ifndef DSV4MX_LIB_CPU_CPU_STORE_H_
#define DSV4MX_LIB_CPU_CPU_STORE_H_

#include <memory>
#include <mutex>
#include <vector>

#include "lib/base/backend.h"
#include "lib/base/cpu_layout.h"
#include "lib/base/expert_rows.h"
#include "lib/base/thread_pool.h"
#include "lib/cpu/cpu_memory.h"

namespace dsv4mx::cpu {

class CpuStore final : public ExpertStore {
 public:
  // Throws std::bad_alloc. What is pointed to outlives the store.
  CpuStore(std::shared_ptr<const LayerSpec> spec, void* memory, ThreadPool* pool,
           const Memory* staging);
  ~CpuStore() override { (void)EndReading(); }
  // What reading on demand takes with so many threads, at most kMostReading unless one thread needs more.
  static int64_t ReadingBytes(const LayerSpec& spec, int threads);

  Status BeginReading(int64_t bytes, int threads, const Call&) override;
  Status EndReading() override;
  Status ReadRows(absl::Span<const RowsToRead> tensors, const Call& call,
                  ReadTimes* times) override;

  Status SetCodes(int32_t expert, Matrix m, const CodesView& v, const Call&) override;
  Status SetScales(int32_t expert, Matrix m, const ScalesView& v, const Call&) override;
  Status SetBias(int32_t expert, Matrix m, const BiasView& v, const Call&) override;
  Status PrepareExpert(int32_t expert, Census* census, const Call&) override;
  Status FinishPrepare(Census*, const Call&) override { return kOk; }
  Status ImportMarlin(int32_t expert, const dsv4mx_marlin& slab, const Call&) override;
  Status ExportMarlin(const dsv4mx_marlin& resolved, const Call& call) const override;
  SlabForm Form() const override { return CpuSlabForm(*spec_); }
  void ForSlab(SlabStretch f) const override { ForCpuSlab(*spec_, f); }
  dsv4mx_memory SlabMemory() const override { return DSV4MX_MEMORY_HOST; }
  const uint8_t* Slab(int32_t expert) const override {
    return memory_ + layout_.Codes(expert, Matrix::kGate);
  }
  Status ReadSlab(int32_t expert, void* to, const Call&) const override;
  Status WriteSlab(int32_t expert, const void* from, dsv4mx_memory, const Call&) override;
  Status MakeSlabCopies(int, const Call&, std::unique_ptr<SlabCopies>* out) const override {
    out->reset();
    return kOk;
  }
  uint8_t* HostSlab(int32_t expert) override { return At(layout_.Codes(expert, Matrix::kGate)); }
  Status ReplaceSlab(int32_t expert, const void* from, dsv4mx_memory, Allow allow,
                     const Call&) override;
  Status CopyExpert(int32_t expert, const ExpertStore& from, int32_t from_expert,
                    const Call&) override;
  Status Get(int32_t expert, Matrix m, const TensorSink& to, const Call&) const override;

  const LayerSpec& spec() const { return *spec_; }
  const uint8_t* Codes(int32_t e, Matrix m) const { return memory_ + layout_.Codes(e, m); }
  const uint8_t* Scales(int32_t e, Matrix m) const { return memory_ + layout_.Scales(e, m); }
  const float* Bias(int32_t e, Matrix m) const {
    return reinterpret_cast<const float*>(memory_ + layout_.Bias(e, m));
  }
  bool HasBias(Matrix m) const {
    return (m == Matrix::kDown ? spec_->w2_bias : spec_->w13_bias) != 0;
  }
  // GemmArgs::wide of the expert. Known once prepared.
  bool Wide(int32_t e) const { return wide_[static_cast<size_t>(e)] != 0; }

  // Raw form of one row (expert_rows.h).
  void ReadCodes(int32_t e, Matrix m, int64_t row, uint8_t* codes) const;
  void ReadScales(int32_t e, Matrix m, int64_t row, uint8_t* scales) const;

 private:
  class Rows;
  uint8_t* At(int64_t offset) { return memory_ + offset; }
  uint8_t* SlabOf(int32_t expert) { return At(layout_.Codes(expert, Matrix::kGate)); }
  // In cpu_store_slab.cc.
  void CopySlab(const uint8_t* from, uint8_t* to) const;
  // What prepare finds in a slab, wherever it is.
  void Inspect(const uint8_t* slab, Census* census, bool* wide) const;
  void SetDerived(int32_t expert, bool wide);
  // In cpu_store_read.cc: a run of rows of one of the tensors, `step` of them to a row of a matrix, whose data a thread read.
  struct Run;
  Status PackRun(const RowsToRead& tensor, const Run& run);
  Status PackRunFor(const RowsToRead& tensor, int32_t expert, Matrix m, const Run& run);

  std::shared_ptr<const LayerSpec> spec_;
  CpuLayout layout_;
  uint8_t* memory_;
  ThreadPool* pool_;
  const Memory* staging_;
  std::vector<uint8_t> wide_;
  uint8_t* reading_ = nullptr;  // between BeginReading and EndReading: a block for each reader
  int readers_ = 0;
};

}  // namespace dsv4mx::cpu

#endif  // DSV4MX_LIB_CPU_CPU_STORE_H_
