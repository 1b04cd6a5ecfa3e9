// What a backend implements: memory, the layer's sizes and plan, the store of experts, and apply. The core and the API
// know nothing else of a backend; the CPU and the CUDA one are interchangeable behind these three classes.
#ifndef DSV4MX_LIB_BASE_BACKEND_H_
#define DSV4MX_LIB_BASE_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "lib/base/spec.h"
#include "lib/base/status.h"

namespace dsv4mx {

// One expert's matrix of packed E2M1 codes as the caller holds it: element (row, byte) at data + row*row_stride +
// byte*byte_stride, K/2 bytes a row.
struct CodesView {
  const uint8_t* data;
  int64_t row_stride, byte_stride;  // bytes
  bool high_first;                  // high nibble is the even k
  bool device;                      // data is device memory
};

// One expert's scales, [rows, K/32]: raw E8M0 bytes (E8M0, I8, U8) or numbers (F32, BF16, F16).
struct ScalesView {
  const uint8_t* data;
  int64_t row_stride, group_stride;  // bytes
  dsv4mx_dtype dtype;
  bool device;
};

// One expert's bias of one matrix, [rows], BF16 or F32.
struct BiasView {
  const uint8_t* data;
  int64_t stride;  // bytes
  dsv4mx_dtype dtype;
  bool device;
};

// What prepare learns about the scales of groups that are not all zero codes.
struct Census {
  int32_t scale_min = 255, scale_max = 0;
  int32_t span_max = 0;  // most binades inside one row's block of kPromotionK
  bool any = false;      // a group that is not all zero was seen
  bool planes_exact() const { return !any || (span_max <= 11 && scale_max <= 128); }
};
inline constexpr int kPromotionK = 512;

// The experts of one layer in the backend's memory. Codes are stored in the prepared layout at once, expert by expert,
// so that two copies of a layer never exist; PrepareExpert finishes what needs all tensors of an expert.
class ExpertStore {
 public:
  virtual ~ExpertStore() = default;
  virtual Status SetCodes(int32_t expert, Matrix m, const CodesView& v, dsv4mx_stream stream) = 0;
  // Refuses byte 255 and numbers that are no power of two in 2^-127..2^127: names expert, matrix, row and group.
  virtual Status SetScales(int32_t expert, Matrix m, const ScalesView& v, dsv4mx_stream stream) = 0;
  virtual Status SetBias(int32_t expert, Matrix m, const BiasView& v, dsv4mx_stream stream) = 0;
  // Called once per expert after all its tensors are set, and again only if one of them was set anew after a prepare
  // that did not finish. The census given is a fresh one of this expert (it may be complete only after Finish).
  virtual Status PrepareExpert(int32_t expert, Census* census, dsv4mx_stream stream) = 0;
  // The census of all experts; may be called again if prepare did not finish.
  virtual Status FinishPrepare(Census* census, dsv4mx_stream stream) = 0;
  // Marlin form of one expert, padded sizes given; NULL tensors are left out. Pointers are of the expert's own slab
  // (MarlinSlab has added the offset).
  virtual Status ImportMarlin(int32_t expert, const dsv4mx_marlin& slab, dsv4mx_stream stream) = 0;
  // Marlin form of all experts of a resolved descriptor. What it takes beside is gone when it returns.
  virtual Status ExportMarlin(const dsv4mx_marlin& resolved, dsv4mx_stream stream) const = 0;
};

struct ApplyCall {
  const void* x;
  int64_t x_stride;
  const void* topk_ids;
  const void* topk_weights;
  void* out;
  int64_t out_stride;
  int64_t tokens;
  const int32_t* tokens_device;
  void* workspace;
  size_t workspace_bytes;
};

// A layer on a backend: immutable, shared by threads.
class LayerBackend {
 public:
  virtual ~LayerBackend() = default;
  virtual int64_t PreparedBytes() const = 0;
  // Bound on what set and prepare, and an export while it runs, take beyond PreparedBytes.
  virtual int64_t PeakExtraBytes() const = 0;
  virtual int64_t PreparedAlignment() const = 0;
  virtual size_t WorkspaceBytes(int64_t max_tokens) const = 0;
  // One line: path, tiles, launches, and why. census is null before the weights are prepared.
  virtual void PlanText(int64_t tokens, const Census* census, char* text, size_t bytes) const = 0;
  // Whether prepared weights with this census may run (a forced path may not be possible).
  virtual Status CheckCensus(const Census& census) const = 0;
  // A store over `memory` (PreparedBytes long, aligned), which the caller owns and frees after the store is gone.
  virtual Status MakeStore(void* memory, std::unique_ptr<ExpertStore>* out) const = 0;
  virtual Status Apply(const ExpertStore& store, const Census& census, const ApplyCall& call,
                       dsv4mx_stream stream) const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual void Query(dsv4mx_context_info* info) const = 0;
  virtual void Name(char* text, size_t bytes) const = 0;  // "cpu avx2, 2 threads"
  virtual Status Alloc(size_t bytes, size_t alignment, void** out) const = 0;
  virtual Status Free(void* pointer) const = 0;
  virtual Status Copy(void* to, const void* from, size_t bytes, dsv4mx_stream stream) const = 0;
  virtual Status Synchronize(dsv4mx_stream stream) const = 0;
  // Refuses what this backend cannot run.
  virtual Status MakeLayer(std::shared_ptr<const LayerSpec> spec,
                           std::unique_ptr<LayerBackend>* out) const = 0;
};

// Makers; each checks its own fields of the descriptor. Allocator hooks are the Context's business (context.h).
Status MakeCpuBackend(const dsv4mx_context_desc& desc, std::unique_ptr<Backend>* out);
Status MakeCudaBackend(const dsv4mx_context_desc& desc, std::unique_ptr<Backend>* out);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_BACKEND_H_
