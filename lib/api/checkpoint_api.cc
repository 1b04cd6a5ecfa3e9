// Checkpoint: safetensors files.
#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"
#include "lib/base/printable.h"
#include "lib/core/load.h"
#include "lib/io/abi_tensor.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

namespace {

// A block's name; it points into the caller's struct.
Status ReadBlock(const dsv4mx_block* given, io::BlockName* out) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  dsv4mx_block block;
  DSV4MX_TRY(ReadStruct(given, "block", &block));
  DSV4MX_RETURN_IF(block.kind < DSV4MX_BLOCK_LAYER || block.kind > DSV4MX_BLOCK_PREFIX, kCode,
                   "kind of block is %d, wanted 0 (LAYER), 1 (MTP) or 2 (PREFIX)", block.kind);
  const bool named = block.kind == DSV4MX_BLOCK_PREFIX;
  DSV4MX_RETURN_IF(block.index < 0 || (named && block.index != 0), kCode,
                   "index of block is %d, wanted %s", block.index,
                   named ? "0 with PREFIX" : "0 or more");
  DSV4MX_RETURN_IF(named && block.prefix == nullptr, kCode,
                   "prefix of block is NULL, wanted one with PREFIX");
  *out = {named                            ? io::BlockName::kPrefix
          : block.kind == DSV4MX_BLOCK_MTP ? io::BlockName::kMtp
                                           : io::BlockName::kLayer,
          block.index, block.prefix == nullptr ? "" : block.prefix};
  return kOk;
}

Status Locate(const io::Checkpoint& checkpoint, const char* name, io::TensorPlace* out) {
  const size_t index = checkpoint.Find(name);
  DSV4MX_RETURN_IF(index == checkpoint.size(), DSV4MX_STATUS_NOT_FOUND, "'%s' has no tensor '%s'",
                   checkpoint.label().c_str(), Printable(name).c_str());
  return checkpoint.Locate(index, out);
}

// What a file tells: the whole layer, or the experts that a rank's file holds.
void ClearLayer(dsv4mx_layer_desc* out) {
  out->hidden = out->intermediate = out->experts = out->experts_global = out->group_size = 0;
  out->w13_order = DSV4MX_W13_ORDER_UNSET;
  out->expert_first = out->w13_bias = out->w2_bias = 0;
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
    io::Checkpoint::Options options;
    if (a.prefix != nullptr) options.prefix = a.prefix;
    options.control = &control;
    options.threads = a.threads;
    auto handle = std::make_unique<dsv4mx_checkpoint>();
    DSV4MX_TRY(io::Checkpoint::Open(path, options, &handle->impl));
    handle->blocks = io::ListBlocks(*handle->impl);
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
  return checkpoint->impl->name(static_cast<size_t>(index)).data();  // NUL-terminated
}

dsv4mx_status dsv4mx_checkpoint_get_tensor(const dsv4mx_checkpoint* checkpoint, const char* name,
                                           dsv4mx_tensor* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(checkpoint, "checkpoint"));
    DSV4MX_TRY(NotNull(name, "name"));
    io::TensorPlace place;
    DSV4MX_TRY(Locate(*checkpoint->impl, name, &place));
    dsv4mx_tensor tensor;
    DSV4MX_TRY(io::ToAbiTensor(place.info, nullptr, &tensor));
    const std::byte* data = nullptr;
    DSV4MX_TRY(place.Map(&data));
    tensor.data = data;
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
    io::TensorPlace place;
    DSV4MX_TRY(Locate(*checkpoint->impl, name, &place));
    const uint64_t size = place.info.bytes;
    DSV4MX_RETURN_IF(offset < 0 || static_cast<uint64_t>(offset) > size ||
                         bytes > size - static_cast<uint64_t>(offset),
                     DSV4MX_STATUS_INVALID_ARGUMENT,
                     "%zu bytes from offset %lld on are outside of '%s', which has %llu", bytes,
                     static_cast<long long>(offset), Printable(name).c_str(),
                     static_cast<unsigned long long>(size));
    return place.Read(static_cast<uint64_t>(offset), bytes, to);
  });
}

dsv4mx_status dsv4mx_checkpoint_query_layer(const dsv4mx_checkpoint* checkpoint,
                                            const dsv4mx_block* block, dsv4mx_layer_desc* out) {
  return Guard([&]() -> Status {
    dsv4mx_layer_desc desc;
    DSV4MX_TRY(ReadStruct(out, "out", &desc));
    ClearLayer(out);
    DSV4MX_TRY(NotNull(checkpoint, "checkpoint"));
    io::BlockName b;
    DSV4MX_TRY(ReadBlock(block, &b));
    return QueryLayer(*checkpoint->impl, b, out);
  });
}

dsv4mx_status dsv4mx_checkpoint_query_config(const dsv4mx_checkpoint* checkpoint,
                                             const dsv4mx_block* block, uint32_t wanted,
                                             dsv4mx_layer_desc* out, uint32_t* filled) {
  if (filled != nullptr) *filled = 0;
  return Guard([&]() -> Status {
    dsv4mx_layer_desc desc;
    DSV4MX_TRY(ReadStruct(out, "out", &desc));
    DSV4MX_TRY(NotNull(filled, "filled"));
    DSV4MX_TRY(NotNull(checkpoint, "checkpoint"));
    io::BlockName b;
    DSV4MX_TRY(ReadBlock(block, &b));
    DSV4MX_TRY(QueryConfig(*checkpoint->impl, b, wanted, &desc, filled));
    WriteStruct(desc, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_weights_load(dsv4mx_weights* weights, const dsv4mx_checkpoint* checkpoint,
                                  const dsv4mx_block* block, const dsv4mx_load_args* args,
                                  dsv4mx_stream stream) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(weights, "weights"));
    DSV4MX_TRY(NotNull(checkpoint, "checkpoint"));
    io::BlockName b;
    DSV4MX_TRY(ReadBlock(block, &b));
    dsv4mx_load_args a;
    DSV4MX_TRY(ReadOptionalStruct(args, "args", &a));
    DSV4MX_TRY(RequireNoFlags(a.flags, a.reserved));
    DSV4MX_RETURN_IF(a.staging_bytes < 0, DSV4MX_STATUS_INVALID_ARGUMENT,
                     "staging_bytes is %lld, wanted 0 or more",
                     static_cast<long long>(a.staging_bytes));
    Control control;
    DSV4MX_TRY(ReadControl(a.control, "load", &control));
    return LoadLayer(weights->impl.get(), *checkpoint->impl, b, a.staging_bytes,
                     Weights::Call{stream, control});
  });
}
