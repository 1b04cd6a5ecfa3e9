// The experts of one layer on their way from empty to prepared: who set which tensor under which
// name, what is missing, and the steps of prepare.
#ifndef DSV4MX_LIB_CORE_WEIGHTS_H_
#define DSV4MX_LIB_CORE_WEIGHTS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "lib/base/backend.h"
#include "lib/core/context.h"
#include "lib/core/layer.h"
#include "lib/base/names.h"
#include "lib/base/status.h"
#include "lib/core/tensor.h"

namespace dsv4mx {

class Weights {
 public:
  static Status Create(std::shared_ptr<const Layer> layer, const dsv4mx_weights_desc& desc,
                       std::unique_ptr<Weights>* out);

  const Layer& layer() const { return *layer_; }
  const ExpertStore& store() const { return *store_; }
  // Null until the weights are prepared.
  const Census* census() const { return prepared_ ? &census_ : nullptr; }

  Status Set(std::string_view name, int32_t expert, const dsv4mx_tensor& tensor,
             dsv4mx_stream stream);
  Status Prepare(const dsv4mx_prepare_args& args, dsv4mx_stream stream);
  void Query(dsv4mx_weights_info* out) const;

  Status ImportMarlin(const dsv4mx_marlin& marlin, dsv4mx_stream stream);
  Status ExportMarlin(const dsv4mx_marlin& marlin, dsv4mx_stream stream) const;

 private:
  // What one name can fill: codes and scales per matrix, biases per tensor (w13's two halves always
  // come together).
  enum Slot {
    kGateCodes,
    kGateScales,
    kUpCodes,
    kUpScales,
    kDownCodes,
    kDownScales,
    kBias13,
    kBias2,
    kSlots
  };
  static constexpr uint8_t kUnset = 255;  // else the table rank of the name that filled the slot
  struct Expert {
    uint8_t rank[kSlots];
    bool prepared;
    Census census;
  };
  struct SlotName {
    TensorTarget target;
    TensorKind kind;
  };
  static SlotName NameOf(Slot slot);
  static Slot SlotOf(Matrix m, TensorKind kind);

  Weights() = default;
  Status CheckOpen(const char* what) const;
  bool Required(Slot slot) const;
  Status FindExperts(const TensorName& name, std::string_view full_name, int32_t expert,
                     int32_t* first, int32_t* count) const;
  Status SetMatrix(TensorKind kind, const CheckedTensor& tensor, int32_t index, int32_t expert,
                   Matrix m, dsv4mx_stream stream);
  // Marks a slot as set under a rank, or as not set; either way the expert must be prepared anew.
  void Mark(int32_t expert, Slot slot, uint8_t rank);
  int64_t CountMissing() const;
  Status CheckComplete() const;

  std::shared_ptr<const Layer> layer_;
  DeviceBlock block_;                   // unused where the caller gave the memory
  std::unique_ptr<ExpertStore> store_;  // over the block: goes before it
  std::vector<Expert> experts_;
  bool filling_ = false, prepared_ = false;
  Census census_;
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_CORE_WEIGHTS_H_
