// Prepared experts: copied, replaced, read back, moved between processes.
#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

dsv4mx_status dsv4mx_weights_query_expert(const dsv4mx_weights*, int32_t, dsv4mx_expert_info*) {
  return Guard([]() -> Status { return Fail(DSV4MX_STATUS_UNSUPPORTED, "not built yet"); });
}

dsv4mx_status dsv4mx_weights_query_expert_census(const dsv4mx_weights*, int32_t,
                                                 dsv4mx_weights_census*) {
  return Guard([]() -> Status { return Fail(DSV4MX_STATUS_UNSUPPORTED, "not built yet"); });
}

dsv4mx_status dsv4mx_weights_copy_experts(dsv4mx_weights*, const dsv4mx_weights*,
                                          const dsv4mx_copy_args*, dsv4mx_stream) {
  return Guard([]() -> Status { return Fail(DSV4MX_STATUS_UNSUPPORTED, "not built yet"); });
}

dsv4mx_status dsv4mx_weights_reset(dsv4mx_weights*) {
  return Guard([]() -> Status { return Fail(DSV4MX_STATUS_UNSUPPORTED, "not built yet"); });
}

dsv4mx_status dsv4mx_weights_get(const dsv4mx_weights*, const char*, int32_t, const dsv4mx_tensor*,
                                 const dsv4mx_expert_args*, dsv4mx_stream) {
  return Guard([]() -> Status { return Fail(DSV4MX_STATUS_UNSUPPORTED, "not built yet"); });
}

dsv4mx_status dsv4mx_weights_get_slab(const dsv4mx_weights*, int32_t, dsv4mx_slab*) {
  return Guard([]() -> Status { return Fail(DSV4MX_STATUS_UNSUPPORTED, "not built yet"); });
}

dsv4mx_status dsv4mx_weights_set_slab(dsv4mx_weights*, int32_t, const dsv4mx_slab*,
                                      const dsv4mx_expert_args*, dsv4mx_stream) {
  return Guard([]() -> Status { return Fail(DSV4MX_STATUS_UNSUPPORTED, "not built yet"); });
}

dsv4mx_status dsv4mx_layer_set_placement(dsv4mx_layer*, const int32_t*, dsv4mx_stream) {
  return Guard([]() -> Status { return Fail(DSV4MX_STATUS_UNSUPPORTED, "not built yet"); });
}
