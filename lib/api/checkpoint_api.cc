// Checkpoint: safetensors files.
#include <cstring>

#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"
#include "lib/core/load.h"
#include "lib/io/abi_tensor.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

namespace {

// A block's name, brought to the current struct size.
Status ReadBlock(const dsv4mx_block* given, dsv4mx_block* out) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  DSV4MX_TRY(ReadStruct(given, "block", out));
  DSV4MX_RETURN_IF(out->kind < DSV4MX_BLOCK_LAYER || out->kind > DSV4MX_BLOCK_PREFIX, kCode,
                   "kind of block is %d, wanted 0 (LAYER), 1 (MTP) or 2 (PREFIX)", out->kind);
  const bool named = out->kind == DSV4MX_BLOCK_PREFIX;
  DSV4MX_RETURN_IF(out->index < 0 || (named && out->index != 0), kCode,
                   "index of block is %d, wanted %s", out->index,
                   named ? "0 with PREFIX" : "0 or more");
  DSV4MX_RETURN_IF(named != (out->prefix != nullptr), kCode, "prefix of block is %s, wanted %s",
                   named ? "NULL" : "given", named ? "one with PREFIX" : "NULL without PREFIX");
  return kOk;
}

// A file tells the whole layer, so what a rank holds of it is the caller's.
void ClearLayer(dsv4mx_layer_desc* out) {
  out->hidden = out->intermediate = out->experts = out->experts_global = out->group_size = 0;
  out->w13_order = DSV4MX_W13_ORDER_UNSET;
}

Status CheckArgs(const dsv4mx_checkpoint_args& a) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  DSV4MX_RETURN_IF(a.threads < 0 || a.threads > 64, kCode, "threads is %d, wanted 0..64",
                   a.threads);
  DSV4MX_RETURN_IF(a.read_policy != DSV4MX_READ_POLICY_DEFAULT, kCode,
                   "read_policy is %d, wanted 0 (DEFAULT)", a.read_policy);
  return RequireNoFlags(a.flags, a.reserved);
}

}  // namespace

dsv4mx_status dsv4mx_checkpoint_create(const char* path, const dsv4mx_checkpoint_args* args,
                                       dsv4mx_checkpoint** out) {
  if (out != nullptr) *out = nullptr;
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(out, "out"));
    DSV4MX_TRY(NotNull(path, "path"));
    dsv4mx_checkpoint_args a;
    DSV4MX_TRY(ReadOptionalStruct(args, "args", &a));
    DSV4MX_TRY(CheckArgs(a));
    Control control;
    DSV4MX_TRY(ReadControl(a.control, "opening the checkpoint", &control));
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

dsv4mx_status dsv4mx_checkpoint_read(const dsv4mx_checkpoint* checkpoint, const char* name,
                                     int64_t offset, void* to, size_t bytes) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(checkpoint, "checkpoint"));
    DSV4MX_TRY(NotNull(name, "name"));
    if (bytes != 0) DSV4MX_TRY(NotNull(to, "to"));
    const io::TensorView* view = checkpoint->impl->Find(name);
    DSV4MX_RETURN_IF(view == nullptr, DSV4MX_STATUS_NOT_FOUND, "'%s' has no tensor '%.200s'",
                     checkpoint->impl->label().c_str(), name);
    DSV4MX_RETURN_IF(offset < 0 || static_cast<uint64_t>(offset) > view->bytes ||
                         bytes > view->bytes - static_cast<uint64_t>(offset),
                     DSV4MX_STATUS_INVALID_ARGUMENT,
                     "%zu bytes from offset %lld on are outside of '%.200s', which has %llu", bytes,
                     static_cast<long long>(offset), name,
                     static_cast<unsigned long long>(view->bytes));
    if (bytes != 0) std::memcpy(to, view->data + offset, bytes);
    return kOk;
  });
}

dsv4mx_status dsv4mx_checkpoint_query_layer(const dsv4mx_checkpoint* checkpoint,
                                            const dsv4mx_block* block, dsv4mx_layer_desc* out) {
  return Guard([&]() -> Status {
    dsv4mx_layer_desc desc;
    DSV4MX_TRY(ReadStruct(out, "out", &desc));
    ClearLayer(out);
    DSV4MX_TRY(NotNull(checkpoint, "checkpoint"));
    dsv4mx_block b;
    DSV4MX_TRY(ReadBlock(block, &b));
    return QueryLayer(*checkpoint->impl, b, out);
  });
}

dsv4mx_status dsv4mx_weights_load(dsv4mx_weights* weights, const dsv4mx_checkpoint* checkpoint,
                                  const dsv4mx_block* block, const dsv4mx_load_args* args,
                                  dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    DSV4MX_TRY(NotNull(checkpoint, "checkpoint"));
    dsv4mx_block b;
    DSV4MX_TRY(ReadBlock(block, &b));
    dsv4mx_load_args a;
    DSV4MX_TRY(ReadOptionalStruct(args, "args", &a));
    DSV4MX_TRY(RequireNoFlags(a.flags, a.reserved));
    DSV4MX_RETURN_IF(a.staging_bytes < 0, DSV4MX_STATUS_INVALID_ARGUMENT,
                     "staging_bytes is %lld, wanted 0 (64 MiB) or more",
                     static_cast<long long>(a.staging_bytes));
    Control control;
    DSV4MX_TRY(ReadControl(a.control, "load", &control));
    return LoadLayer(weights->impl.get(), *checkpoint->impl, b, Weights::Call{stream, control});
  });
}
