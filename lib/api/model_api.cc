// The blocks of a checkpoint, and what a whole model needs.
#include "lib/core/model.h"

#include "lib/api/guard.h"
#include "lib/api/handles.h"
#include "lib/api/structs.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

namespace {

dsv4mx_block_kind KindOf(const io::BlockName& block) {
  switch (block.kind) {
    case io::BlockName::kLayer:
      return DSV4MX_BLOCK_LAYER;
    case io::BlockName::kMtp:
      return DSV4MX_BLOCK_MTP;
    default:
      return DSV4MX_BLOCK_PREFIX;
  }
}

}  // namespace

int64_t dsv4mx_checkpoint_get_block_count(const dsv4mx_checkpoint* checkpoint) {
  return checkpoint == nullptr ? 0 : static_cast<int64_t>(checkpoint->blocks.size());
}

dsv4mx_status dsv4mx_checkpoint_get_block(const dsv4mx_checkpoint* checkpoint, int64_t index,
                                          dsv4mx_block* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(checkpoint, "checkpoint"));
    const int64_t count = dsv4mx_checkpoint_get_block_count(checkpoint);
    DSV4MX_RETURN_IF(index < 0 || index >= count, DSV4MX_STATUS_INVALID_ARGUMENT,
                     "index is %lld, but the checkpoint has %lld blocks with experts",
                     static_cast<long long>(index), static_cast<long long>(count));
    const io::BlockName& found = checkpoint->blocks[static_cast<size_t>(index)];
    dsv4mx_block block{};
    block.kind = KindOf(found);
    block.index = found.index;
    block.prefix = found.prefix.data();  // NUL-terminated
    WriteStruct(block, out);
    return kOk;
  });
}

dsv4mx_status dsv4mx_checkpoint_query_model(const dsv4mx_checkpoint* checkpoint,
                                            const dsv4mx_context* context,
                                            const dsv4mx_model_args* args, dsv4mx_model_info* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(NotNull(checkpoint, "checkpoint"));
    DSV4MX_TRY(NotNull(context, "context"));
    dsv4mx_model_args a;
    DSV4MX_TRY(ReadOptionalStruct(args, "args", &a));
    ModelOptions options;
    DSV4MX_TRY(ReadOptionalStruct(a.layer, "layer", &options.layer));
    DSV4MX_TRY(
        ReadOptionalStruct(options.layer.experimental, "experimental", &options.experimental));
    options.tp_size = a.tp_size;
    options.ep_size = a.ep_size;
    options.max_tokens = a.max_tokens;
    dsv4mx_model_info info{};
    DSV4MX_TRY(QueryModel(*checkpoint->impl, checkpoint->blocks, context->impl, options, &info));
    WriteStruct(info, out);
    return kOk;
  });
}
