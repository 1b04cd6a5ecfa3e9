// The experts of one layer on their way from empty to prepared: who set which tensor under which
// name, what is missing, and the steps of prepare.
#ifndef DSV4MX_LIB_CORE_WEIGHTS_H_
#define DSV4MX_LIB_CORE_WEIGHTS_H_

#include <absl/functional/function_ref.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "lib/base/backend.h"
#include "lib/base/names.h"
#include "lib/base/status.h"
#include "lib/core/context.h"
#include "lib/core/layer.h"
#include "lib/core/tensor.h"

namespace dsv4mx {

class Weights {
 public:
  static Status Create(std::shared_ptr<const Layer> layer, const dsv4mx_weights_desc& desc,
                       std::unique_ptr<Weights>* out);
  using Call = ExpertStore::Call;

  // To be called when the caller has them: a log may end the thread.
  void LogMade() const;

  const Layer& layer() const { return *layer_; }
  const ExpertStore& store() const { return *store_; }
  // What plans go by: the census as prepare found it. Null until the weights are prepared.
  const Census* census() const { return prepared_ ? &census_ : nullptr; }

  Status Set(std::string_view name, int32_t expert, const dsv4mx_tensor& tensor, const Call& call);
  // The same for a name that is resolved already; `name` is for messages alone.
  Status SetParsed(const TensorName& parsed, std::string_view name, int32_t expert,
                   const dsv4mx_tensor& tensor, const Call& call);
  // The same of tensors whose rows are read on demand, in the shape that the layer wants, all together. Between BeginReading
  // and EndReading (ExpertStore). `text` is for messages alone.
  struct NamedRows {
    TensorName name;  // gate and up in one tensor are rows that alternate
    std::string_view text;
    RowsToRead rows;
  };
  Status ReadRows(absl::Span<const NamedRows> tensors, const Call& call, ReadTimes* times);
  Status BeginReading(int64_t bytes, int threads, const Call& call) {
    return store_->BeginReading(bytes, threads, call);
  }
  Status EndReading() { return store_->EndReading(); }
  Status Prepare(const Call& call);
  void Query(dsv4mx_weights_info* out) const;
  Status QueryCensus(dsv4mx_weights_census* out) const;
  // INVALID_STATE once they are prepared; `what` was tried.
  Status CheckOpen(const char* what) const;

  // Operations on whole experts, in weights_experts.cc.
  Status QueryExpert(int32_t expert, dsv4mx_expert_info* out) const;
  Status QueryExpertCensus(int32_t expert, dsv4mx_weights_census* out) const;
  Status CopyExperts(const Weights& from, const dsv4mx_copy_args& args, const Call& call);
  Status Get(std::string_view name, int32_t expert, const dsv4mx_tensor& tensor,
             const Call& call) const;
  Status GetSlab(int32_t expert, dsv4mx_slab* out) const;
  Status SetSlab(int32_t expert, const dsv4mx_slab& slab, const Call& call);
  void Reset();
  // SetSlab with bytes of the store's form, into weights that are not prepared: Prepare follows.
  Status WriteSlab(int32_t expert, const void* from, dsv4mx_memory memory, const Call& call);
  // INVALID_STATE unless nothing was set; `what` was tried.
  Status CheckEmpty(const char* what) const;
  // Fills empty weights by `fill`, which writes all slabs, and prepares them; `check` has the last word. After a failure, and
  // where a callback ends the thread, they are empty again.
  Status Restore(absl::FunctionRef<Status(ExpertStore* store)> fill,
                 absl::FunctionRef<Status()> check, const Call& call);
  // The census of a prepared local expert.
  const Census& expert_census(int32_t expert) const {
    return experts_[static_cast<size_t>(expert)].census;
  }

  Status ImportMarlin(const dsv4mx_marlin& marlin, const Call& call);
  Status ExportMarlin(const dsv4mx_marlin& marlin, const Call& call) const;

 private:
  // What a name can fill: codes, scales and bias per matrix.
  enum Part {
    kGateCodes,
    kGateScales,
    kUpCodes,
    kUpScales,
    kDownCodes,
    kDownScales,
    kGateBias,
    kUpBias,
    kDownBias,
    kParts
  };
  // Where the codes and scales of a matrix come from: parts of different origin never meet in one matrix of one expert.
  // null = from nowhere yet.
  using Source = const NameFamily*;
  static constexpr int kSources = 3;  // one per matrix
  struct Expert {
    bool set[kParts];
    Source source[kSources];
    bool prepared;
    Census census;
  };
  // Where a tensor's parts go: local expert and its index in the tensor.
  struct Target {
    int32_t local, index;
  };
  struct PartName {
    TensorTarget target;
    TensorKind kind;
  };
  static PartName NameOf(Part part);
  static Part PartOf(Matrix m, TensorKind kind);

  Weights() = default;
  bool Required(Part part) const;
  Status FindTargets(const TensorName& name, std::string_view full_name, int32_t expert,
                     std::vector<Target>* targets) const;
  Status CheckBias(const TensorName& parsed, const std::string& text, bool* ignored) const;
  // Sets a tensor's parts by set(target, call) with the bookkeeping that belongs to it. `bytes` are those of one target.
  // Calls f(part, matrix) for what a tensor fills of an expert.
  template <class F>
  static void ForParts(const NamedRows& tensor, F&& f);
  template <class SetOne>
  Status Fill(const TensorName& parsed, const std::string& text, const std::vector<Target>& targets,
              Status fits, int64_t bytes, const Call& call, SetOne&& set);
  Status SetMatrix(TensorKind kind, const CheckedTensor& tensor, const Target& target, Matrix m,
                   const Call& call);
  // Marks a part as set or not; either way the expert must be prepared anew.
  void Mark(int32_t expert, Part part, bool set);
  // From here on the matrix is of this source; true if parts of another one counted and no longer do.
  bool Claim(int32_t expert, Matrix m, Source source);
  void WarnOfReplaced(const char* what) const;
  // The same for all of an expert that comes as one.
  bool ClaimExpert(int32_t expert);
  void MarkExpert(int32_t expert, bool set);
  // Refuses a local expert of weights that are not prepared, or that there is not.
  Status CheckPrepared(int32_t expert, const char* what) const;
  Status CheckCopy(const Weights& from, const dsv4mx_copy_args& args) const;
  Census CensusOfAll() const;
  static void WriteCensus(const Census& census, dsv4mx_weights_census* out);
  int64_t CountMissing() const;
  Status CheckComplete() const;

  std::shared_ptr<const Layer> layer_;
  DeviceBlock block_;                   // unused where the caller gave the memory
  std::unique_ptr<ExpertStore> store_;  // over the block: goes before it
  std::vector<Expert> experts_;
  bool filling_ = false, prepared_ = false;
  Census census_;  // as prepare found it, whatever experts came since
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_CORE_WEIGHTS_H_
