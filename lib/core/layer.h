// A layer on a context: the checked description, and the backend's view of it. Immutable but for its placement.
#ifndef DSV4MX_LIB_CORE_LAYER_H_
#define DSV4MX_LIB_CORE_LAYER_H_

#include <cstddef>
#include <memory>
#include <mutex>

#include "lib/base/backend.h"
#include "lib/base/spec.h"
#include "lib/base/status.h"
#include "lib/core/context.h"

namespace dsv4mx {

class Weights;
namespace dist {
class Communicator;
}

class Layer {
 public:
  static Status Create(std::shared_ptr<const Context> context, const dsv4mx_layer_desc& desc,
                       const dsv4mx_layer_experimental& experimental, std::shared_ptr<Layer>* out);
  ~Layer();
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  // To be called when the caller has it: a log may end the thread.
  void LogMade() const;

  const Context& context() const { return *context_; }
  // As the layer was made: where it has been placed anew, `expert` and `id_map` of its placement are the old ones.
  const LayerSpec& spec() const { return *spec_; }
  // Which expert of the layer each local expert is by now. Weights of the layer ask beside a change, which is another object's call.
  std::shared_ptr<const Placement> placement() const;
  const LayerBackend& backend() const { return *backend_; }

  Status SetPlacement(const int32_t* placement, dsv4mx_stream stream);

  void Query(dsv4mx_layer_info* out) const;
  // `group` may be null.
  Status QueryWorkspace(int64_t max_tokens, const dist::Communicator* group,
                        dsv4mx_workspace_info* out) const;
  void QueryFaults(dsv4mx_fault_info* out) const;
  // `weights` may be null: then the plan assumes that the weights allow every path.
  Status PlanText(const Weights* weights, int64_t tokens, char* text, size_t bytes) const;

  // Apply in two steps; neither allocates, on success or on failure. The first checks what needs no backend; it neither
  // waits nor calls out nor computes with floating-point numbers, so it may run outside a LibraryScope. The second, for
  // one token or more, checks the rest and enqueues.
  Status CheckApply(const Weights& weights, const dsv4mx_apply_args& args, ApplyCall* call) const;
  Status Apply(const Weights& weights, const ApplyCall& call, dsv4mx_stream stream) const;
  // The same over a group, with any number of tokens; `self` is the reference that the group knows this layer by.
  Status ApplyInGroup(const std::shared_ptr<const Layer>& self, dist::Communicator* group,
                      const Weights& weights, const dsv4mx_apply_args& args, const ApplyCall& call,
                      dsv4mx_stream stream) const;

 private:
  Layer() = default;
  // Refuses weights of another form: layers that differ in other things share them.
  Status CheckForm(const Weights& weights, dsv4mx_status code) const;
  Status CheckPointers(const ApplyCall& call) const;
  Status CheckWorkspace(const ApplyCall& call, int64_t tokens) const;

  std::shared_ptr<const Context> context_;
  std::shared_ptr<const LayerSpec> spec_;
  std::unique_ptr<LayerBackend> backend_;

  mutable std::mutex mutex_;
  std::shared_ptr<const Placement> placement_;
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_CORE_LAYER_H_
