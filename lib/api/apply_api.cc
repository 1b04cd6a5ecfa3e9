// Apply: the call that everything else prepares. Nothing here touches the heap.
//
// Arguments are checked outside the LibraryScope, which costs as much as the checks: a call without tokens does without.
#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

namespace {

Status Check(const dsv4mx_layer* layer, const dsv4mx_weights* weights,
             const dsv4mx_apply_args* args, dsv4mx_apply_args* a, ApplyCall* call) {
  DSV4MX_TRY(NotNull(layer, "layer"));
  DSV4MX_TRY(NotNull(weights, "weights"));
  DSV4MX_TRY(ReadStruct(args, "args", a));
  DSV4MX_RETURN_IF(a->reserved != 0, DSV4MX_STATUS_INVALID_ARGUMENT, "reserved is %u, wanted 0",
                   a->reserved);
  DSV4MX_RETURN_IF(a->comm != nullptr && &a->comm->impl->context() != &layer->impl->context(),
                   DSV4MX_STATUS_INVALID_ARGUMENT,
                   "comm is of another context, wanted one of the layer's");
  return layer->impl->CheckApply(*weights->impl, *a, call);
}

}  // namespace

dsv4mx_status dsv4mx_layer_apply(const dsv4mx_layer* layer, const dsv4mx_weights* weights,
                                 const dsv4mx_apply_args* args, dsv4mx_stream stream) {
  dsv4mx_apply_args a;
  ApplyCall call;
  const Status checked = Check(layer, weights, args, &a, &call);
  if (!checked.ok()) return checked.code;
  if (a.comm == nullptr) {
    if (call.tokens == 0) return DSV4MX_STATUS_OK;
    return Guard([&] { return layer->impl->Apply(*weights->impl, call, stream); });
  }
  return Guard([&] {
    return layer->impl->ApplyInGroup(layer->impl, &a.comm->impl->group(), *weights->impl, a, call,
                                     stream);
  });
}
