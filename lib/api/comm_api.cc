// Communicators.
#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

dsv4mx_status dsv4mx_comm_create(const dsv4mx_context* context, const dsv4mx_comm_desc* desc,
                                 dsv4mx_comm** out) {
  if (out != nullptr) *out = nullptr;
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(out, "out"));
    DSV4MX_TRY(NotNull(context, "context"));
    dsv4mx_comm_desc d;
    DSV4MX_TRY(ReadOptionalStruct(desc, "desc", &d));
    dsv4mx_nccl_source nccl;
    DSV4MX_TRY(ReadOptionalStruct(d.nccl, "nccl", &nccl));
    Control control;
    DSV4MX_TRY(ReadControl(d.control, "dsv4mx_comm_create", &control));
    auto handle = std::make_unique<dsv4mx_comm>();
    DSV4MX_TRY(Comm::Create(context->impl, d, nccl, control, &handle->impl));
    *out = handle.release();
    return kOk;
  });
}

void dsv4mx_comm_destroy(dsv4mx_comm* comm) {
  GuardVoid([&] { delete comm; });
}

dsv4mx_status dsv4mx_comm_prepare(dsv4mx_comm* comm, const dsv4mx_layer* layer,
                                  const dsv4mx_control* control) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(comm, "comm"));
    DSV4MX_TRY(NotNull(layer, "layer"));
    Control c;
    DSV4MX_TRY(ReadControl(control, "dsv4mx_comm_prepare", &c));
    DSV4MX_RETURN_IF(&comm->impl->context() != &layer->impl->context(),
                     DSV4MX_STATUS_INVALID_ARGUMENT,
                     "comm is of another context, wanted one of the layer's");
    return comm->impl->Prepare(layer->impl, c);
  });
}

dsv4mx_status dsv4mx_comm_query(const dsv4mx_comm* comm, dsv4mx_comm_info* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(comm, "comm"));
    dsv4mx_comm_info info{};
    comm->impl->group().Query(&info);
    WriteStruct(info, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_comm_query_faults(const dsv4mx_comm* comm, dsv4mx_comm_fault_info* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(comm, "comm"));
    dsv4mx_comm_fault_info info{};
    comm->impl->group().QueryFaults(&info);
    WriteStruct(info, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_comm_abort(const dsv4mx_comm* comm) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(comm, "comm"));
    comm->impl->group().Abort();
    return kOk;
  });
}

dsv4mx_status dsv4mx_comm_reset(dsv4mx_comm* comm, const dsv4mx_control* control) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(comm, "comm"));
    Control c;
    DSV4MX_TRY(ReadControl(control, "dsv4mx_comm_reset", &c));
    return comm->impl->group().Reset(c);
  });
}

dsv4mx_status dsv4mx_comm_get_loads(const dsv4mx_comm* comm, const dsv4mx_layer* layer,
                                    int64_t* pairs, int32_t count) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(comm, "comm"));
    DSV4MX_TRY(NotNull(layer, "layer"));
    DSV4MX_TRY(NotNull(pairs, "pairs"));
    return comm->impl->group().GetLoads(layer->impl, pairs, count);
  });
}

dsv4mx_status dsv4mx_nccl_query(const dsv4mx_nccl_source* source, dsv4mx_nccl_info* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    dsv4mx_nccl_source s;
    DSV4MX_TRY(ReadOptionalStruct(source, "source", &s));
    dsv4mx_nccl_info info{};
    DSV4MX_TRY(Comm::QueryNccl(s, &info));
    WriteStruct(info, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_nccl_get_unique_id(const dsv4mx_nccl_source* source, void* id) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(id, "id"));
    dsv4mx_nccl_source s;
    DSV4MX_TRY(ReadOptionalStruct(source, "source", &s));
    return Comm::GetNcclId(s, id);
  });
}
