// Communicators: this version has groups of one rank.
#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

namespace {

Status CheckComm(const dsv4mx_comm_desc& d) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  DSV4MX_RETURN_IF(d.kind < DSV4MX_COMM_SELF || d.kind > DSV4MX_COMM_CALLBACK, kCode,
                   "kind is %d, wanted 0..%d", d.kind, DSV4MX_COMM_CALLBACK);
  const int32_t size = d.size == 0 ? 1 : d.size;
  DSV4MX_RETURN_IF(size < 1 || d.rank < 0 || d.rank >= size, kCode,
                   "rank is %d of size %d, wanted 0..size-1", d.rank, d.size);
  DSV4MX_RETURN_IF(d.kind != DSV4MX_COMM_SELF, DSV4MX_STATUS_UNSUPPORTED,
                   "kind is %d, but this version has groups of one rank alone, wanted 0 (SELF)",
                   d.kind);
  DSV4MX_RETURN_IF(size != 1, kCode, "size is %d with kind SELF, wanted 1", size);
  return kOk;
}

}  // namespace

dsv4mx_status dsv4mx_comm_create(const dsv4mx_context* context, const dsv4mx_comm_desc* desc,
                                 dsv4mx_comm** out) {
  if (out != nullptr) *out = nullptr;
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(out, "out"));
    DSV4MX_TRY(NotNull(context, "context"));
    dsv4mx_comm_desc d;
    DSV4MX_TRY(ReadOptionalStruct(desc, "desc", &d));
    DSV4MX_TRY(CheckComm(d));
    auto handle = std::make_unique<dsv4mx_comm>();
    handle->context = context->impl;
    *out = handle.release();
    return kOk;
  });
}

void dsv4mx_comm_destroy(dsv4mx_comm* comm) {
  GuardVoid([&] { delete comm; });
}
