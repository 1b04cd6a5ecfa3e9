// Layer: creation and questions; apply is in apply_api.cc.
#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"
#include "lib/base/marlin.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

dsv4mx_status dsv4mx_layer_create(const dsv4mx_context* context, const dsv4mx_layer_desc* desc,
                                  dsv4mx_layer** out) {
  if (out != nullptr) *out = nullptr;
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(out, "out"));
    DSV4MX_TRY(NotNull(context, "context"));
    dsv4mx_layer_desc d;
    DSV4MX_TRY(ReadStruct(desc, "desc", &d));
    dsv4mx_layer_experimental x;
    DSV4MX_TRY(ReadOptionalStruct(d.experimental, "experimental", &x));
    auto handle = std::make_unique<dsv4mx_layer>();
    DSV4MX_TRY(Layer::Create(context->impl, d, x, &handle->impl));
    *out = handle.release();
    (*out)->impl->LogMade();
    return kOk;
  });
}

void dsv4mx_layer_destroy(dsv4mx_layer* layer) {
  GuardVoid([&] { delete layer; });
}

dsv4mx_status dsv4mx_layer_query(const dsv4mx_layer* layer, dsv4mx_layer_info* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(layer, "layer"));
    dsv4mx_layer_info info{};
    layer->impl->Query(&info);
    WriteStruct(info, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_layer_query_workspace(const dsv4mx_layer* layer, int64_t max_tokens,
                                           const dsv4mx_workspace_args* args,
                                           dsv4mx_workspace_info* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(layer, "layer"));
    dsv4mx_workspace_args a;
    DSV4MX_TRY(ReadOptionalStruct(args, "args", &a));
    DSV4MX_TRY(RequireNoFlags(a.flags, a.reserved));
    dsv4mx_workspace_info info{};
    DSV4MX_TRY(layer->impl->QueryWorkspace(
        max_tokens, a.comm == nullptr ? nullptr : &a.comm->impl->group(), &info));
    WriteStruct(info, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_layer_query_faults(const dsv4mx_layer* layer, dsv4mx_fault_info* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(layer, "layer"));
    dsv4mx_fault_info info{};
    layer->impl->QueryFaults(&info);
    WriteStruct(info, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_layer_query_plan(const dsv4mx_layer* layer, const dsv4mx_weights* weights,
                                      int64_t tokens, char* text, size_t bytes) {
  if (text != nullptr && bytes > 0) text[0] = '\0';
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(layer, "layer"));
    DSV4MX_TRY(NotNull(text, "text"));
    return layer->impl->PlanText(weights == nullptr ? nullptr : weights->impl.get(), tokens, text,
                                 bytes);
  });
}

dsv4mx_status dsv4mx_layer_query_marlin(const dsv4mx_layer* layer, dsv4mx_marlin* marlin) {
  return Guard([&]() -> Status {
    dsv4mx_marlin ignored;
    DSV4MX_TRY(ReadStruct(marlin, "marlin", &ignored));
    marlin->hidden_padded = marlin->intermediate_padded = 0;
    DSV4MX_TRY(NotNull(layer, "layer"));
    const MarlinShape shape = DefaultMarlinShape(layer->impl->spec());
    marlin->hidden_padded = static_cast<int32_t>(shape.hidden);
    marlin->intermediate_padded = static_cast<int32_t>(shape.intermediate);
    return kOk;
  });
}
