#include "lib/core/model.h"

#include <algorithm>
#include <string>

#include "lib/core/layer.h"
#include "lib/core/load.h"
#include "lib/io/expert_tensors.h"
#include "lib/io/model_config.h"

namespace dsv4mx {
namespace {

constexpr int32_t kMostTopK = 16;
constexpr int64_t kDefaultTokens = 4096;

int32_t DivideUp(int32_t a, int32_t b) {
  return a / b + (a % b != 0 ? 1 : 0);
}

Status CheckOptions(ModelOptions* o) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  DSV4MX_RETURN_IF(o->tp_size < 0, kCode, "tp_size is %d, wanted 0 (1) or more", o->tp_size);
  DSV4MX_RETURN_IF(o->ep_size < 0, kCode, "ep_size is %d, wanted 0 (1) or more", o->ep_size);
  DSV4MX_RETURN_IF(o->max_tokens < 0 || o->max_tokens > kMaxTokens, kCode,
                   "max_tokens is %lld, wanted 0 (4096) to %lld",
                   static_cast<long long>(o->max_tokens), static_cast<long long>(kMaxTokens));
  o->tp_size = std::max(o->tp_size, 1);
  o->ep_size = std::max(o->ep_size, 1);
  if (o->max_tokens == 0) o->max_tokens = kDefaultTokens;
  return kOk;
}

// Experts per token of the whole model where the caller did not say: the most that are legal if nobody does.
Status FindTopK(const io::Checkpoint& checkpoint, int32_t* top_k) {
  if (*top_k != 0) return kOk;
  io::ModelConfig config;
  const KeepError keep;
  const Status status = io::ReadModelConfig(checkpoint.path(), &config);
  if (!status.ok() && status.code != DSV4MX_STATUS_NOT_FOUND) return status;
  if (!status.ok()) keep.Restore();
  *top_k = (config.filled & io::ModelConfig::kTopK) != 0 ? config.top_k : kMostTopK;
  return kOk;
}

// Rank 0's part of a block. Fields of the descriptor that say what is held, and where, are the block's.
Status DescribePart(const io::Checkpoint& checkpoint, const io::BlockName& block,
                    const ModelOptions& options, dsv4mx_layer_desc* out) {
  dsv4mx_layer_desc desc = options.layer;
  DSV4MX_TRY(QueryLayer(checkpoint, block, &desc));
  desc.placement = nullptr;
  desc.physical_first = desc.physical_global = 0;
  desc.flags &= ~uint32_t{DSV4MX_LAYER_PHYSICAL_IDS};
  desc.experts = DivideUp(desc.experts, options.ep_size);
  desc.top_k = std::min(desc.top_k, desc.experts_global);
  const int32_t groups = desc.intermediate / kGroupSize;
  DSV4MX_RETURN_IF(options.tp_size > groups, DSV4MX_STATUS_UNSUPPORTED_SHAPE,
                   "tp_size is %d, but intermediate %d has %d groups of 32, wanted at most %d",
                   options.tp_size, desc.intermediate, groups, groups);
  desc.tp_rank = 0;
  desc.tp_size = options.tp_size;
  desc.intermediate_first = 0;
  desc.intermediate_count = kGroupSize * DivideUp(groups, options.tp_size);
  *out = desc;
  return kOk;
}

// Bytes in the files of the tensors that a load of all experts reads.
Status SourceBytes(const io::Checkpoint& checkpoint, const io::BlockName& block, int64_t* bytes) {
  io::LayerNames names;
  io::LayerTensors found;
  DSV4MX_TRY(io::FindLayer(checkpoint, block, &names));
  DSV4MX_TRY(io::CollectTensors(checkpoint, names, names.ids, &found));
  for (const io::ExpertTensor& tensor : found.tensors) {
    *bytes += static_cast<int64_t>(tensor.place.info.bytes);
  }
  return kOk;
}

// Adds one block to the sums; its prepared bytes are kept for the count of those that fit.
Status AddBlock(const io::Checkpoint& checkpoint, const io::BlockName& block,
                const std::shared_ptr<const Context>& context, const ModelOptions& options,
                std::vector<int64_t>* prepared, dsv4mx_model_info* info) {
  dsv4mx_layer_desc desc;
  DSV4MX_TRY(DescribePart(checkpoint, block, options, &desc));
  DSV4MX_TRY(SourceBytes(checkpoint, block, &info->source_bytes));
  std::shared_ptr<Layer> layer;
  DSV4MX_TRY(Layer::Create(context, desc, options.experimental, &layer));
  dsv4mx_layer_info part{};
  dsv4mx_workspace_info workspace{};
  layer->Query(&part);
  DSV4MX_TRY(layer->QueryWorkspace(options.max_tokens, nullptr, &workspace));
  prepared->push_back(part.prepared_bytes);
  info->blocks += 1;
  info->prepared_bytes += part.prepared_bytes;
  info->largest_block_bytes = std::max(info->largest_block_bytes, part.prepared_bytes);
  info->peak_extra_bytes = std::max(info->peak_extra_bytes, part.peak_extra_bytes);
  info->workspace_bytes = std::max(info->workspace_bytes, static_cast<int64_t>(workspace.bytes));
  return kOk;
}

Status AddDevice(const Context& context, dsv4mx_model_info* info) {
  dsv4mx_context_info where{};
  dsv4mx_device_info device{};
  context.backend().Query(&where);
  if (where.device == DSV4MX_DEVICE_CUDA) {
    DSV4MX_TRY(QueryCudaDevice(where.device_ordinal, &device));
  } else {
    QueryCpuDevice(&device);
  }
  info->total_bytes = device.total_bytes;
  info->free_bytes = device.free_bytes;
  return kOk;
}

int32_t CountFitting(const dsv4mx_model_info& info, const std::vector<int64_t>& prepared) {
  if (info.free_bytes < 0) return -1;
  int64_t left = info.free_bytes - info.workspace_bytes - info.peak_extra_bytes;
  int32_t fitting = 0;
  for (const int64_t bytes : prepared) {
    left -= bytes;
    if (left < 0) break;
    ++fitting;
  }
  return fitting;
}

}  // namespace

Status QueryModel(const io::Checkpoint& checkpoint, const std::vector<io::BlockName>& blocks,
                  const std::shared_ptr<const Context>& context, const ModelOptions& given,
                  dsv4mx_model_info* out) {
  ModelOptions options = given;
  DSV4MX_TRY(CheckOptions(&options));
  DSV4MX_RETURN_IF(blocks.empty(), DSV4MX_STATUS_NOT_FOUND,
                   "%s: no tensor's name has 'experts.' in it, wanted a checkpoint of a model with "
                   "experts%s",
                   checkpoint.label().c_str(), checkpoint.ShardHint().c_str());
  DSV4MX_TRY(FindTopK(checkpoint, &options.layer.top_k));
  dsv4mx_model_info info{};
  std::vector<int64_t> prepared;
  for (const io::BlockName& block : blocks) {
    const Status status = AddBlock(checkpoint, block, context, options, &prepared, &info);
    if (status.ok()) continue;
    const std::string reason = LastError();  // Fail writes where it stands
    return Fail(status.code, "%s: %s", io::BlockText(block).c_str(), reason.c_str());
  }
  DSV4MX_TRY(AddDevice(*context, &info));
  info.blocks_fitting = CountFitting(info, prepared);
  *out = info;
  return kOk;
}

}  // namespace dsv4mx
