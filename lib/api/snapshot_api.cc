// Snapshots: prepared experts in a file.
#include "lib/core/snapshot.h"

#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

namespace {

// What saving and restoring have in their args. `what` names the call in messages.
template <class Body>
Status SnapshotCall(const char* path, const dsv4mx_snapshot_args* args, const char* what,
                    dsv4mx_stream stream, const Body& body) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  DSV4MX_TRY(NotNull(path, "path"));
  dsv4mx_snapshot_args a;
  DSV4MX_TRY(ReadOptionalStruct(args, "args", &a));
  DSV4MX_RETURN_IF(a.threads < 0 || a.threads > 64, kCode, "threads is %d, wanted 0..64",
                   a.threads);
  DSV4MX_RETURN_IF(a.level < -1 || a.level > 19, kCode, "level is %d, wanted -1..19", a.level);
  DSV4MX_TRY(RequireNoFlags(a.flags, a.reserved));
  Control control;
  DSV4MX_TRY(ReadControl(a.control, what, &control));
  return body(SnapshotOptions{a.threads, a.level}, Weights::Call{stream, control});
}

}  // namespace

dsv4mx_status dsv4mx_weights_save(const dsv4mx_weights* weights, const char* path,
                                  const dsv4mx_snapshot_args* args, dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    return SnapshotCall(path, args, "save", stream,
                        [&](const SnapshotOptions& options, const Weights::Call& call) {
                          return SaveSnapshot(*weights->impl, path, options, call);
                        });
  });
}

dsv4mx_status dsv4mx_snapshot_query(const char* path, dsv4mx_snapshot_info* out,
                                    dsv4mx_layer_desc* desc) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    if (desc != nullptr) DSV4MX_TRY(BeginStruct(desc, "desc"));
    DSV4MX_TRY(NotNull(path, "path"));
    dsv4mx_snapshot_info info{};
    dsv4mx_layer_desc layer{};
    DSV4MX_TRY(QuerySnapshot(path, &info, &layer));
    WriteStruct(info, out);
    if (desc != nullptr) WriteStruct(layer, desc);
    return kOk;
  });
}

dsv4mx_status dsv4mx_weights_restore(dsv4mx_weights* weights, const char* path,
                                     const dsv4mx_snapshot_args* args, dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    return SnapshotCall(path, args, "restore", stream,
                        [&](const SnapshotOptions& options, const Weights::Call& call) {
                          return RestoreSnapshot(weights->impl.get(), path, options, call);
                        });
  });
}
