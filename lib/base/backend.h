// What a backend implements: memory, the layer's sizes and plan, the store of experts, and apply. The core and the API
// know nothing else of a backend; the CPU and the CUDA one are interchangeable behind these three classes.
#ifndef DSV4MX_LIB_BASE_BACKEND_H_
#define DSV4MX_LIB_BASE_BACKEND_H_

#include <absl/functional/function_ref.h>
#include <absl/types/span.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "lib/base/control.h"
#include "lib/base/memory_hook.h"
#include "lib/base/row_source.h"
#include "lib/base/slab.h"
#include "lib/base/spec.h"
#include "lib/base/status.h"
#include "lib/base/tensor_sink.h"

namespace dsv4mx {

// A tensor whose rows are read on demand, packed (RowSource), in the matrix' order. What lies together is read once: rows of
// gate and up alternately (`paired`, under the gate's name), codes with their scales behind them in each row, and what
// several copies of an expert want.
struct RowsToRead {
  enum Parts { kCodes, kScales, kCodesAndScales, kBias };
  const RowSource* source;
  Parts parts;
  Matrix matrix;
  bool paired;
  bool high_first;                    // of codes: high nibble is the even k
  dsv4mx_dtype dtype;                 // of scales and biases
  absl::Span<const int32_t> experts;  // that get them, at least one
};

// Where the time of reading rows went, seconds.
struct ReadTimes {
  int readers = 0;
  int64_t pieces = 0, bytes = 0;  // of files
  double whole_s = 0;
  double begin_s = 0;  // until the first read: memory
  double read_s = 0;   // of a reader on average, checks included; on the CPU packing too
  double wait_s = 0;   // of a reader on average, for a free buffer
  double send_s = 0;   // of the owner, who sends buffers to a device
};

// One expert's matrix of packed E2M1 codes as the caller holds it: element (row, byte) at data + row*row_stride +
// byte*byte_stride, K/2 bytes a row.
struct CodesView {
  const uint8_t* data;
  int64_t row_stride, byte_stride;  // bytes
  bool high_first;                  // high nibble is the even k
  bool device;                      // data is device memory
  // So many experts in one call, from the one that is named on, their data in steps of so many bytes.
  int32_t experts = 1;
  int64_t expert_stride = 0;
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
  void Add(const Census& other) {
    any = any || other.any;
    scale_min = std::min(scale_min, other.scale_min);
    scale_max = std::max(scale_max, other.scale_max);
    span_max = std::max(span_max, other.span_max);
  }
};
inline constexpr int kPromotionK = 512;

// Copies between slabs and host memory that the device reaches (Backend::AllocStaging), several under way at a time: each has a
// buffer by number, whose memory is the caller's again once Wait has returned for it. Scales are not judged. One thread at a
// time. What is under way is waited for before the object goes.
class SlabCopies {
 public:
  virtual ~SlabCopies() = default;
  // Starts a copy of bytes [first, first + bytes) of an expert.
  virtual Status Read(int buffer, int32_t expert, int64_t first, int64_t bytes, void* to) = 0;
  virtual Status Write(int buffer, int32_t expert, int64_t first, int64_t bytes,
                       const void* from) = 0;
  // At once where nothing was started.
  virtual Status Wait(int buffer) = 0;
  // The same without waiting.
  virtual Status IsDone(int buffer, bool* done) = 0;
  // Waits for all. Nothing may follow.
  virtual Status End() = 0;
};

// The experts of one layer in the backend's memory. Codes are stored in the prepared layout at once, expert by expert,
// so that two copies of a layer never exist; PrepareExpert finishes what needs all tensors of an expert.
// A call that waits for the stream asks its Call whether to go on; after a refusal the call may be repeated.
class ExpertStore {
 public:
  // What every call on a store goes by: the caller's stream and its control.
  struct Call {
    dsv4mx_stream stream;
    const Control& control;
  };
  virtual ~ExpertStore() = default;
  // Around calls with rows that are read on demand: takes what these need, at most `bytes` (0 = what PeakExtraBytes of the
  // layer says), and up to `threads` to read with (0 = a choice). INVALID_ARGUMENT with the least that is enough.
  virtual Status BeginReading(int64_t bytes, int threads, const Call& call) = 0;
  // Ends it, also where it did not begin; what it took is given back whatever is returned.
  virtual Status EndReading() = 0;
  // Reads and sets these tensors; threads share all of them as one piece of work. Tells of bytes of the files (LOAD). Refuses
  // scales as SetScales does: those of the first tensor and row that has any. After a failure nothing is known of any of them.
  virtual Status ReadRows(absl::Span<const RowsToRead> tensors, const Call& call,
                          ReadTimes* times) = 0;
  virtual Status SetCodes(int32_t expert, Matrix m, const CodesView& v, const Call& call) = 0;
  // Refuses byte 255 and numbers that are no power of two in 2^-127..2^127: names expert, matrix, row and group.
  virtual Status SetScales(int32_t expert, Matrix m, const ScalesView& v, const Call& call) = 0;
  virtual Status SetBias(int32_t expert, Matrix m, const BiasView& v, const Call& call) = 0;
  // Called once per expert after all its tensors are set, and again only if one of them was set anew after a prepare
  // that did not finish. The census given is a fresh one of this expert (it may be complete only after Finish).
  virtual Status PrepareExpert(int32_t expert, Census* census, const Call& call) = 0;
  // Completes the census of each expert ([experts], as PrepareExpert left them); may be called again if prepare did not
  // finish.
  virtual Status FinishPrepare(Census* of_experts, const Call& call) = 0;
  // Marlin form of one expert, padded sizes given; NULL tensors are left out. Pointers are of the expert's own slab
  // (MarlinSlab has added the offset).
  virtual Status ImportMarlin(int32_t expert, const dsv4mx_marlin& slab, const Call& call) = 0;
  // Marlin form of all experts of a resolved descriptor. What it takes beside is gone when it returns.
  virtual Status ExportMarlin(const dsv4mx_marlin& resolved, const Call& call) const = 0;

  // Experts as slabs (slab.h): their form, what is where in them, and one of them in place, in memory of the kind
  // SlabMemory.
  virtual SlabForm Form() const = 0;
  virtual void ForSlab(SlabStretch f) const = 0;
  virtual dsv4mx_memory SlabMemory() const = 0;
  virtual const uint8_t* Slab(int32_t expert) const = 0;
  // The bytes of a prepared expert in host memory. Threads: any. Waits for the stream.
  virtual Status ReadSlab(int32_t expert, void* to, const Call& call) const = 0;
  // An expert from the bytes of a slab in host memory of any alignment or in device memory. Refuses scale byte 255, and
  // then may have written; PrepareExpert has to follow, which makes what is derived.
  virtual Status WriteSlab(int32_t expert, const void* from, dsv4mx_memory memory,
                           const Call& call) = 0;
  // Copies of parts of slabs, where the host does not reach them (HostSlab); see SlabCopies. For a store that is const, reading
  // alone. What is pointed to outlives it.
  virtual Status MakeSlabCopies(int buffers, const Call& call,
                                std::unique_ptr<SlabCopies>* out) const = 0;
  // A slab that the host writes itself, any number of threads at a time, where SlabMemory is HOST; else null.
  virtual uint8_t* HostSlab(int32_t expert) = 0;
  // The same for an expert that applies may be using: nothing of it changes until `allow`, told the new expert's census,
  // agrees; then all of it does, at one point of the stream, derived bytes included. Waits for the stream.
  using Allow = absl::FunctionRef<Status(const Census&)>;
  virtual Status ReplaceSlab(int32_t expert, const void* from, dsv4mx_memory memory, Allow allow,
                             const Call& call) = 0;
  // Enqueues a copy of prepared expert `from_expert` of a store with the same form, on the same or another device.
  virtual Status CopyExpert(int32_t expert, const ExpertStore& from, int32_t from_expert,
                            const Call& call) = 0;
  // Writes one matrix of a prepared expert. Threads: any. Waits for the stream.
  virtual Status Get(int32_t expert, Matrix m, const TensorSink& to, const Call& call) const = 0;
};

// The arguments of one apply, checked and with their defaults resolved.
struct ApplyCall {
  const void* x;
  int64_t x_stride;
  const void* topk_ids;
  int64_t topk_ids_stride;
  const void* topk_weights;
  int64_t topk_weights_stride;
  void* out;
  int64_t out_stride;
  int64_t tokens;
  const int32_t* tokens_device;
  void* workspace;
  size_t workspace_bytes;
  int64_t* expert_counts;   // or null
  int32_t multiprocessors;  // 0 = all
  bool accumulate;
};

// A batch of rows in place of a caller's tokens: what a rank computes for its group. Every route's result stays by itself,
// before its router weight (where that comes after the second product), so that the rows' homes can add in slot order. Rows
// are given one by one: they lie in the caller's memory, in this rank's window and in those of others.
struct RowsCall {
  int64_t rows;
  const void* const* x;    // [rows] bf16, `hidden` each
  const int32_t* experts;  // [rows, top_k] local expert, or -1
  const float* weights;    // [rows, top_k]
  void* const*
      slots;  // [rows] slot j goes to slots[row] + j * slot_stride; skipped slots are left alone
  int64_t slot_stride;  // bytes
  dsv4mx_dtype slot_dtype;
  // A part of the channels held here, in units of 32 (W4A8: of 128): all of them, or a slice whose partial results are F32.
  int32_t channel_first, channel_count;
  void* workspace;  // as in ApplyCall
  size_t workspace_bytes;
  int32_t multiprocessors;
};

// A layer on a backend: immutable but for its placement, shared by threads.
class LayerBackend {
 public:
  virtual ~LayerBackend() = default;
  virtual int64_t PreparedBytes() const = 0;
  // Bound on what set and prepare, and an export while it runs, take beyond PreparedBytes.
  virtual int64_t PeakExtraBytes() const = 0;
  virtual int64_t PreparedAlignment() const = 0;
  virtual size_t WorkspaceBytes(int64_t max_tokens) const = 0;
  // The fewest bytes that calls of up to max_tokens tokens run with.
  virtual size_t MinimumWorkspaceBytes(int64_t max_tokens) const = 0;
  // What of the device and the kernels enters the bits of results, as a number.
  virtual uint64_t NumericsOfDevice() const = 0;
  // Ids outside the layer's range met so far, by layers that check them. No CUDA call.
  virtual int64_t InvalidIds() const = 0;
  // One line: path, tiles, launches, and why. census is null before the weights are prepared.
  virtual void PlanText(int64_t tokens, const Census* census, char* text, size_t bytes) const = 0;
  // Whether prepared weights with this census may run (a forced path may not be possible).
  virtual Status CheckCensus(const Census& census) const = 0;
  // Whether an expert with this census may take a place among weights whose census, as prepare found it, was `prepared`:
  // plans and captured graphs go by that. `what` names the expert in the message.
  virtual Status CheckNewcomer(const Census& prepared, const Census& expert,
                               const char* what) const = 0;
  // From this point of the stream on ids go by the placement of `spec`, which differs from the layer's own in that alone.
  virtual Status SetPlacement(std::shared_ptr<const LayerSpec> spec, dsv4mx_stream stream) = 0;
  // A store over `memory` (PreparedBytes long, aligned), which the caller owns and frees after the store is gone.
  virtual Status MakeStore(void* memory, std::unique_ptr<ExpertStore>* out) const = 0;
  virtual Status Apply(const ExpertStore& store, const Census& census, const ApplyCall& call,
                       dsv4mx_stream stream) const = 0;
  // The stages of Apply between its reading of ids and its combine. A row's results have the same bits in any batch where
  // the layer is batch-invariant.
  virtual Status ApplyRows(const ExpertStore& store, const Census& census, const RowsCall& call,
                           dsv4mx_stream stream) const = 0;
};

struct GroupShape;
class Collectives;
class RankGroup;

class Backend {
 public:
  virtual ~Backend() = default;
  virtual void Query(dsv4mx_context_info* info) const = 0;
  virtual void Name(char* text, size_t bytes) const = 0;  // "cpu avx2, 2 threads"
  // What the caller is to be warned of about this backend as it was made, one line; "" = nothing.
  virtual const char* Notice() const { return ""; }
  // Device memory, by the caller's hook if there is one.
  virtual Status Alloc(size_t bytes, size_t alignment, void** out) const = 0;
  virtual Status Free(void* pointer, size_t bytes) const = 0;
  // Host memory that the device copies from and to, by the caller's hook if there is one; aligned to 64.
  virtual Status AllocStaging(size_t bytes, void** out) const = 0;
  virtual Status FreeStaging(void* pointer, size_t bytes) const = 0;
  virtual Status Copy(void* to, const void* from, size_t bytes, dsv4mx_stream stream) const = 0;
  virtual Status Synchronize(dsv4mx_stream stream) const = 0;
  // Refuses what this backend cannot run.
  virtual Status MakeLayer(std::shared_ptr<const LayerSpec> spec,
                           std::unique_ptr<LayerBackend>* out) const = 0;
  // Runs work() with the device current.
  virtual Status OnDevice(absl::FunctionRef<Status()> work) const { return work(); }
  // A stream by itself, which means the same on every thread. The maker frees it.
  virtual Status MakeStream(dsv4mx_stream* out) const {
    *out = nullptr;
    return kOk;
  }
  virtual void FreeStream(dsv4mx_stream /*stream*/) const {}
  // Whether what was enqueued has ended.
  virtual Status QueryStream(dsv4mx_stream, bool* ended) const {
    *ended = true;
    return kOk;
  }
  // Of devices whose kernels exchange rows themselves (rank_group.h), by stores into each other's memory or, where `collectives`
  // are given, around those; others leave it null.
  virtual Status MakeRankGroup(const GroupShape&, Collectives* /*collectives*/,
                               std::unique_ptr<RankGroup>*) const {
    return kOk;
  }
};

// How to open a device: the caller's descriptor and its extension, brought to the current struct sizes.
struct BackendDesc {
  const dsv4mx_context_desc& desc;
  const dsv4mx_context_experimental& experimental;
};

// Makers; each checks its own fields of the descriptor.
Status MakeCpuBackend(const BackendDesc& desc, std::unique_ptr<Backend>* out);
Status MakeCudaBackend(const BackendDesc& desc, std::unique_ptr<Backend>* out);

// What there is before a context exists. Nothing here opens a CUDA context.
Status CountCudaDevices(int32_t* count);
Status QueryCudaDevice(int32_t ordinal, dsv4mx_device_info* info);
void QueryCpuDevice(dsv4mx_device_info* info);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_BACKEND_H_
