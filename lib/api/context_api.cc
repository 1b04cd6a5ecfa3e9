// Context: one device, and its memory.
#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

dsv4mx_status dsv4mx_context_create(const dsv4mx_context_desc* desc, dsv4mx_context** out) {
  if (out != nullptr) *out = nullptr;
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(out, "out"));
    dsv4mx_context_desc d;
    DSV4MX_TRY(ReadOptionalStruct(desc, "desc", &d));
    dsv4mx_context_experimental x;
    DSV4MX_TRY(ReadOptionalStruct(d.experimental, "experimental", &x));
    auto handle = std::make_unique<dsv4mx_context>();
    DSV4MX_TRY(Context::Create(BackendDesc{d, x}, &handle->impl));
    *out = handle.release();
    return kOk;
  });
}

void dsv4mx_context_destroy(dsv4mx_context* context) {
  GuardVoid([&] { delete context; });
}

dsv4mx_status dsv4mx_context_query(const dsv4mx_context* context, dsv4mx_context_info* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(context, "context"));
    dsv4mx_context_info info{};
    context->impl->backend().Query(&info);
    WriteStruct(info, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_context_alloc(const dsv4mx_context* context, size_t bytes, void** out) {
  if (out != nullptr) *out = nullptr;
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(out, "out"));
    DSV4MX_TRY(NotNull(context, "context"));
    return context->impl->Alloc(bytes, kDeviceAlignment, out);
  });
}

void dsv4mx_context_free(const dsv4mx_context* context, void* pointer) {
  if (context == nullptr) return;
  GuardVoid([&] { context->impl->Free(pointer); });
}

dsv4mx_status dsv4mx_context_copy(const dsv4mx_context* context, void* to, const void* from,
                                  size_t bytes, dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(context, "context"));
    if (bytes == 0) return kOk;
    DSV4MX_TRY(NotNull(to, "to"));
    DSV4MX_TRY(NotNull(from, "from"));
    return context->impl->backend().Copy(to, from, bytes, stream);
  });
}

dsv4mx_status dsv4mx_context_synchronize(const dsv4mx_context* context, dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(context, "context"));
    return context->impl->Synchronize(stream);
  });
}
