// Weights: the experts of one layer.
#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

dsv4mx_status dsv4mx_weights_create(const dsv4mx_layer* layer, const dsv4mx_weights_desc* desc,
                                    dsv4mx_weights** out) {
  if (out != nullptr) *out = nullptr;
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(out, "out"));
    DSV4MX_TRY(NotNull(layer, "layer"));
    dsv4mx_weights_desc d;
    DSV4MX_TRY(ReadOptionalStruct(desc, "desc", &d));
    auto handle = std::make_unique<dsv4mx_weights>();
    DSV4MX_TRY(Weights::Create(layer->impl, d, &handle->impl));
    *out = handle.release();
    return kOk;
  });
}

void dsv4mx_weights_destroy(dsv4mx_weights* weights) {
  GuardVoid([&] { delete weights; });
}

dsv4mx_status dsv4mx_weights_set(dsv4mx_weights* weights, const char* name, int32_t expert,
                                 const dsv4mx_tensor* tensor, dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    DSV4MX_TRY(NotNull(name, "name"));
    dsv4mx_tensor t;
    DSV4MX_TRY(ReadStruct(tensor, "tensor", &t));
    return weights->impl->Set(name, expert, t, stream);
  });
}

dsv4mx_status dsv4mx_weights_prepare(dsv4mx_weights* weights, const dsv4mx_prepare_args* args,
                                     dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    dsv4mx_prepare_args a;
    DSV4MX_TRY(ReadOptionalStruct(args, "args", &a));
    return weights->impl->Prepare(a, stream);
  });
}

dsv4mx_status dsv4mx_weights_query(const dsv4mx_weights* weights, dsv4mx_weights_info* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(weights, "weights"));
    dsv4mx_weights_info info{};
    weights->impl->Query(&info);
    WriteStruct(info, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_weights_import_marlin(dsv4mx_weights* weights, const dsv4mx_marlin* marlin,
                                           dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    dsv4mx_marlin m;
    DSV4MX_TRY(ReadStruct(marlin, "marlin", &m));
    return weights->impl->ImportMarlin(m, stream);
  });
}

dsv4mx_status dsv4mx_weights_export_marlin(const dsv4mx_weights* weights,
                                           const dsv4mx_marlin* marlin, dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    dsv4mx_marlin m;
    DSV4MX_TRY(ReadStruct(marlin, "marlin", &m));
    return weights->impl->ExportMarlin(m, stream);
  });
}
