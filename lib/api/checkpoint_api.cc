// Checkpoint: safetensors files.
#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"
#include "lib/core/load.h"
#include "lib/io/abi_tensor.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

dsv4mx_status dsv4mx_checkpoint_create(const char* path, dsv4mx_checkpoint** out) {
  if (out != nullptr) *out = nullptr;
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(out, "out"));
    DSV4MX_TRY(NotNull(path, "path"));
    auto handle = std::make_unique<dsv4mx_checkpoint>();
    DSV4MX_TRY(io::Checkpoint::Open(path, &handle->impl));
    *out = handle.release();
    return kOk;
  });
}

void dsv4mx_checkpoint_destroy(dsv4mx_checkpoint* checkpoint) {
  GuardVoid([&] { delete checkpoint; });
}

int64_t dsv4mx_checkpoint_get_count(const dsv4mx_checkpoint* checkpoint) {
  return checkpoint == nullptr ? 0 : static_cast<int64_t>(checkpoint->impl->size());
}

const char* dsv4mx_checkpoint_get_name(const dsv4mx_checkpoint* checkpoint, int64_t index) {
  if (index < 0 || index >= dsv4mx_checkpoint_get_count(checkpoint)) return nullptr;
  return (*checkpoint->impl)[static_cast<size_t>(index)].name.data();  // NUL-terminated
}

dsv4mx_status dsv4mx_checkpoint_get_tensor(const dsv4mx_checkpoint* checkpoint, const char* name,
                                           dsv4mx_tensor* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(checkpoint, "checkpoint"));
    DSV4MX_TRY(NotNull(name, "name"));
    const io::TensorView* view = checkpoint->impl->Find(name);
    DSV4MX_RETURN_IF(view == nullptr, DSV4MX_STATUS_NOT_FOUND, "'%s' has no tensor '%.200s'",
                     checkpoint->impl->label().c_str(), name);
    dsv4mx_tensor tensor;
    DSV4MX_TRY(io::ToAbiTensor(*view, &tensor));
    WriteStruct(tensor, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_checkpoint_query_layer(const dsv4mx_checkpoint* checkpoint, int32_t layer,
                                            dsv4mx_layer_desc* out) {
  return Guard([&]() -> Status {
    dsv4mx_layer_desc desc;
    DSV4MX_TRY(ReadStruct(out, "out", &desc));
    out->hidden = out->intermediate = out->experts = out->experts_global = out->group_size = 0;
    out->w13_order = DSV4MX_W13_ORDER_UNSET;
    DSV4MX_TRY(NotNull(checkpoint, "checkpoint"));
    return QueryLayer(*checkpoint->impl, layer, out);
  });
}

dsv4mx_status dsv4mx_weights_load(dsv4mx_weights* weights, const dsv4mx_checkpoint* checkpoint,
                                  int32_t layer, const dsv4mx_prepare_args* args,
                                  dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    DSV4MX_TRY(NotNull(checkpoint, "checkpoint"));
    dsv4mx_prepare_args a;
    DSV4MX_TRY(ReadOptionalStruct(args, "args", &a));
    return LoadLayer(weights->impl.get(), *checkpoint->impl, layer, a, stream);
  });
}
