// Prepared experts: copied, replaced, read back, moved between processes.
#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/long_call.h"
#include "lib/api/structs.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

dsv4mx_status dsv4mx_weights_query_expert(const dsv4mx_weights* weights, int32_t expert,
                                          dsv4mx_expert_info* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(weights, "weights"));
    dsv4mx_expert_info info{};
    DSV4MX_TRY(weights->impl->QueryExpert(expert, &info));
    WriteStruct(info, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_weights_query_expert_census(const dsv4mx_weights* weights, int32_t expert,
                                                 dsv4mx_weights_census* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(weights, "weights"));
    dsv4mx_weights_census census{};
    DSV4MX_TRY(weights->impl->QueryExpertCensus(expert, &census));
    WriteStruct(census, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_weights_copy_experts(dsv4mx_weights* to, const dsv4mx_weights* from,
                                          const dsv4mx_copy_args* args, dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(to, "to"));
    DSV4MX_TRY(NotNull(from, "from"));
    dsv4mx_copy_args a;
    DSV4MX_TRY(ReadStruct(args, "args", &a));
    DSV4MX_TRY(RequireNoFlags(a.flags, 0));
    Control control;
    DSV4MX_TRY(ReadControl(a.control, "copy", &control));
    return to->impl->CopyExperts(*from->impl, a, Weights::Call{stream, control});
  });
}

dsv4mx_status dsv4mx_weights_reset(dsv4mx_weights* weights) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    weights->impl->Reset();
    return kOk;
  });
}

dsv4mx_status dsv4mx_weights_get(const dsv4mx_weights* weights, const char* name, int32_t expert,
                                 const dsv4mx_tensor* tensor, const dsv4mx_expert_args* args,
                                 dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    DSV4MX_TRY(NotNull(name, "name"));
    dsv4mx_tensor t;
    DSV4MX_TRY(ReadStruct(tensor, "tensor", &t));
    return LongCall(args, "get", stream, [&](const Weights::Call& call) {
      return weights->impl->Get(name, expert, t, call);
    });
  });
}

dsv4mx_status dsv4mx_weights_get_slab(const dsv4mx_weights* weights, int32_t expert,
                                      dsv4mx_slab* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(weights, "weights"));
    dsv4mx_slab slab{};
    DSV4MX_TRY(weights->impl->GetSlab(expert, &slab));
    WriteStruct(slab, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_weights_set_slab(dsv4mx_weights* weights, int32_t expert,
                                      const dsv4mx_slab* slab, const dsv4mx_expert_args* args,
                                      dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    dsv4mx_slab s;
    DSV4MX_TRY(ReadStruct(slab, "slab", &s));
    return LongCall(args, "set_slab", stream, [&](const Weights::Call& call) {
      return weights->impl->SetSlab(expert, s, call);
    });
  });
}

dsv4mx_status dsv4mx_layer_set_placement(dsv4mx_layer* layer, const int32_t* placement,
                                         dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(layer, "layer"));
    DSV4MX_TRY(NotNull(placement, "placement"));
    return layer->impl->SetPlacement(placement, stream);
  });
}
