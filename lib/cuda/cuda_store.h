// The experts of a layer in the sm90 layout on a GPU, made tensor by tensor by the kernels of launch_weights.h. Tensors
// in device memory are read where they are, in stream order; tensors in host memory go through bounded staging.
//
// Everything is enqueued on the caller's stream, behind an event that orders calls on different streams; only what must
// be known at once is waited for: whether scales or Marlin scales in device memory are legal, and the census.
#ifndef DSV4MX_LIB_CUDA_CUDA_STORE_H_
#define DSV4MX_LIB_CUDA_CUDA_STORE_H_

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/launch_weights.h"
#include "lib/base/backend.h"
#include "lib/cuda/cuda_device.h"
#include "lib/cuda/cuda_staging.h"

namespace dsv4mx::cuda {

Census CensusOf(const CensusRecord& record);

class CudaStore final : public ExpertStore {
 public:
  // The memory and the device outlive the store.
  static Status Make(std::shared_ptr<const LayerSpec> spec, void* memory, const Device* device,
                     std::unique_ptr<ExpertStore>* out);
  ~CudaStore() override;
  // What a store takes beyond the slabs, host and device: until prepare has finished, and again while an export to host
  // memory runs. Some bytes an expert of it stay.
  static int64_t ExtraBytes(const LayerSpec& spec);

  Status BeginReading(int64_t bytes, int threads, const Call& call) override;
  Status EndReading() override;
  Status ReadRows(absl::Span<const RowsToRead> tensors, const Call& call,
                  ReadTimes* times) override;
  Status SetCodes(int32_t expert, Matrix m, const CodesView& v, const Call& call) override;
  Status SetScales(int32_t expert, Matrix m, const ScalesView& v, const Call& call) override;
  Status SetBias(int32_t expert, Matrix m, const BiasView& v, const Call& call) override;
  Status PrepareExpert(int32_t expert, Census* census, const Call& call) override;
  Status FinishPrepare(Census* of_experts, const Call& call) override;
  Status ImportMarlin(int32_t expert, const dsv4mx_marlin& slab, const Call& call) override;
  Status ExportMarlin(const dsv4mx_marlin& resolved, const Call& call) const override;
  SlabForm Form() const override { return Sm90SlabForm(*spec_); }
  void ForSlab(SlabStretch f) const override { ForSm90Slab(*spec_, f); }
  dsv4mx_memory SlabMemory() const override { return DSV4MX_MEMORY_DEVICE; }
  const uint8_t* Slab(int32_t expert) const override { return memory_ + expert * parts_.bytes; }
  Status ReadSlab(int32_t expert, void* to, const Call& call) const override;
  Status WriteSlab(int32_t expert, const void* from, dsv4mx_memory memory,
                   const Call& call) override;
  Status MakeSlabCopies(int buffers, const Call& call,
                        std::unique_ptr<SlabCopies>* out) const override;
  uint8_t* HostSlab(int32_t) override { return nullptr; }
  Status ReplaceSlab(int32_t expert, const void* from, dsv4mx_memory memory, Allow allow,
                     const Call& call) override;
  Status CopyExpert(int32_t expert, const ExpertStore& from, int32_t from_expert,
                    const Call& call) override;
  Status Get(int32_t expert, Matrix m, const TensorSink& to, const Call& call) const override;

  const uint8_t* memory() const { return memory_; }
  const Sm90Slab& parts() const { return parts_; }

 private:
  class Ordered;
  class Copies;
  CudaStore(std::shared_ptr<const LayerSpec> spec, void* memory, const Device* device);
  Status Open();
  // What staging is made of, within `most` bytes (0 = a choice); not enough for anything where there are fewer than kBuffers
  // hosts.
  struct StagingShape {
    int64_t block;
    int hosts;
  };
  static StagingShape ShapeOf(const LayerSpec& spec, int64_t most);
  SlabMatrix At(int32_t expert, Matrix m) const;
  // Waits for `bad_`, which a kernel before it on the stream may have written.
  Status ReadBad(const Call& call, uint64_t* bad) const;

  // In cuda_store_read.cc.
  class Deriving;
  class Reading;
  Status SetHostScales(int32_t expert, Matrix m, const ScalesView& v, const Call& call);
  Status SetDeviceScales(int32_t expert, Matrix m, const ScalesView& v, const Call& call);
  Status ExportExpert(int32_t expert, const dsv4mx_marlin& slab, Staging* staging,
                      const Call& call) const;
  Status CheckMarlinOnDevice(int32_t expert, const dsv4mx_marlin& slab, const Call& call);
  // In cuda_store_slab.cc. TakeSlab checks what is in host memory before it enqueues anything.
  Status TakeSlab(int32_t expert, const uint8_t* from, dsv4mx_memory memory, uint8_t* slab,
                  Staging* staging, const Call& call);
  Status Upload(const uint8_t* from, uint8_t* slab, Staging* staging, const Call& call);
  Status CheckOnDevice(int32_t expert, const uint8_t* slab, Staging* staging, const Call& call);
  // Makes what is derived in slabs that follow each other, and the census of each in `records`.
  Status Derive(uint8_t* slabs, int32_t experts, CensusRecord* records, cudaStream_t stream) const;
  void Wrote(int32_t expert, int32_t experts = 1) const {
    std::fill_n(derived_.begin() + expert, experts, uint8_t{0});
  }
  // In cuda_store_get.cc.
  Status GetToHost(const SlabMatrix& from, const TensorSink& to, const Call& call) const;

  std::shared_ptr<const LayerSpec> spec_;
  Sm90Slab parts_;
  uint8_t* memory_;
  const Device* device_;
  CensusRecord* records_ = nullptr;  // [experts], on the device
  uint64_t* bad_ = nullptr;          // on the device
  cudaEvent_t written_ = nullptr;    // behind everything enqueued so far
  std::vector<uint8_t> pending_;     // experts that the next FinishPrepare prepares
  // Experts of which a load has made what is derived; whatever writes codes or scales says so by Wrote.
  mutable std::vector<uint8_t> derived_;
  Staging staging_;  // until prepare has finished
  int readers_ = 0;  // threads; between BeginReading and EndReading
};

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_STORE_H_
