// Weights: the experts of one layer.
#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/long_call.h"
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
    (*out)->impl->LogMade();
    return kOk;
  });
}

void dsv4mx_weights_destroy(dsv4mx_weights* weights) {
  GuardVoid([&] { delete weights; });
}

dsv4mx_status dsv4mx_weights_set(dsv4mx_weights* weights, const char* name, int32_t expert,
                                 const dsv4mx_tensor* tensor, const dsv4mx_set_args* args,
                                 dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    DSV4MX_TRY(NotNull(name, "name"));
    dsv4mx_tensor t;
    DSV4MX_TRY(ReadStruct(tensor, "tensor", &t));
    return LongCall(args, "set", stream, [&](const Weights::Call& call) {
      return weights->impl->Set(name, expert, t, call);
    });
  });
}

dsv4mx_status dsv4mx_weights_prepare(dsv4mx_weights* weights, const dsv4mx_prepare_args* args,
                                     dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    return LongCall(args, "prepare", stream,
                    [&](const Weights::Call& call) { return weights->impl->Prepare(call); });
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

dsv4mx_status dsv4mx_weights_query_census(const dsv4mx_weights* weights,
                                          dsv4mx_weights_census* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(weights, "weights"));
    dsv4mx_weights_census census{};
    DSV4MX_TRY(weights->impl->QueryCensus(&census));
    WriteStruct(census, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_weights_import_marlin(dsv4mx_weights* weights, const dsv4mx_marlin* marlin,
                                           const dsv4mx_marlin_args* args, dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    dsv4mx_marlin m;
    DSV4MX_TRY(ReadStruct(marlin, "marlin", &m));
    return LongCall(args, "import", stream, [&](const Weights::Call& call) {
      return weights->impl->ImportMarlin(m, call);
    });
  });
}

dsv4mx_status dsv4mx_weights_export_marlin(const dsv4mx_weights* weights,
                                           const dsv4mx_marlin* marlin,
                                           const dsv4mx_marlin_args* args, dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    dsv4mx_marlin m;
    DSV4MX_TRY(ReadStruct(marlin, "marlin", &m));
    return LongCall(args, "export", stream, [&](const Weights::Call& call) {
      return weights->impl->ExportMarlin(m, call);
    });
  });
}
