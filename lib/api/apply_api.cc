// Apply: the call that everything else prepares. Nothing here touches the heap.
#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

dsv4mx_status dsv4mx_layer_apply(const dsv4mx_layer* layer, const dsv4mx_weights* weights,
                                 const dsv4mx_apply_args* args, dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(layer, "layer"));
    DSV4MX_TRY(NotNull(weights, "weights"));
    dsv4mx_apply_args a;
    DSV4MX_TRY(ReadStruct(args, "args", &a));
    DSV4MX_RETURN_IF(a.reserved != 0, DSV4MX_STATUS_INVALID_ARGUMENT, "reserved is %u, wanted 0",
                     a.reserved);
    if (a.comm == nullptr) return layer->impl->Apply(*weights->impl, a, stream);
    DSV4MX_RETURN_IF(&a.comm->impl->context() != &layer->impl->context(),
                     DSV4MX_STATUS_INVALID_ARGUMENT,
                     "comm is of another context, wanted one of the layer's");
    return layer->impl->ApplyInGroup(layer->impl, &a.comm->impl->group(), *weights->impl, a,
                                     stream);
  });
}
