// The blocks of a checkpoint, and what a whole model needs.
#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

int64_t dsv4mx_checkpoint_get_block_count(const dsv4mx_checkpoint*) {
  return 0;
}

dsv4mx_status dsv4mx_checkpoint_get_block(const dsv4mx_checkpoint*, int64_t, dsv4mx_block*) {
  return Guard([]() -> Status { return Fail(DSV4MX_STATUS_UNSUPPORTED, "not built yet"); });
}

dsv4mx_status dsv4mx_checkpoint_query_model(const dsv4mx_checkpoint*, const dsv4mx_context*,
                                            const dsv4mx_model_args*, dsv4mx_model_info*) {
  return Guard([]() -> Status { return Fail(DSV4MX_STATUS_UNSUPPORTED, "not built yet"); });
}
