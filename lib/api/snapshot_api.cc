// Snapshots: prepared experts in a file.
#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

dsv4mx_status dsv4mx_weights_save(const dsv4mx_weights*, const char*, const dsv4mx_snapshot_args*,
                                  dsv4mx_stream) {
  return Guard([]() -> Status { return Fail(DSV4MX_STATUS_UNSUPPORTED, "not built yet"); });
}

dsv4mx_status dsv4mx_snapshot_query(const char*, dsv4mx_snapshot_info*, dsv4mx_layer_desc*) {
  return Guard([]() -> Status { return Fail(DSV4MX_STATUS_UNSUPPORTED, "not built yet"); });
}

dsv4mx_status dsv4mx_weights_restore(dsv4mx_weights*, const char*, const dsv4mx_snapshot_args*,
                                     dsv4mx_stream) {
  return Guard([]() -> Status { return Fail(DSV4MX_STATUS_UNSUPPORTED, "not built yet"); });
}
