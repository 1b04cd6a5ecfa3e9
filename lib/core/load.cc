#include "lib/core/load.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/printable.h"
#include "lib/io/expert_tensors.h"
#include "lib/io/gguf.h"
#include "lib/io/model_config.h"

namespace dsv4mx {
namespace {

// Where the experts of a layer stand: local slots by the number that files give an expert.
using Slots = std::map<int64_t, std::vector<int32_t>>;

Slots SlotsOf(const Placement& placement) {
  Slots slots;
  for (int32_t e = 0; e < placement.experts; ++e) slots[placement.ExpertAt(e)].push_back(e);
  return slots;
}

std::vector<int64_t> Ids(const Slots& slots) {
  std::vector<int64_t> ids;
  for (const auto& [id, locals] : slots) ids.push_back(id);
  return ids;
}

// Files count experts of the whole layer from 0, whichever of them they hold. `in_file` are theirs.
Status CheckNumbering(const LayerSpec& spec, const Slots& slots, const std::string& label,
                      const std::string& block, const std::vector<int64_t>& in_file) {
  const std::vector<int64_t> held = Ids(slots);
  DSV4MX_RETURN_IF(
      in_file.back() >= spec.placement.experts_global, DSV4MX_STATUS_INVALID_TENSOR,
      "%s: %s has experts %s, but the layer's experts_global is %d, wanted at least %lld",
      label.c_str(), block.c_str(), Ranges(in_file).c_str(), spec.placement.experts_global,
      static_cast<long long>(in_file.back() + 1));
  std::vector<int64_t> missing;
  std::set_difference(held.begin(), held.end(), in_file.begin(), in_file.end(),
                      std::back_inserter(missing));
  if (missing.empty()) return kOk;
  const bool renumbered =
      missing.size() == held.size() && in_file.size() == held.size() && in_file.front() == 0;
  return Fail(
      DSV4MX_STATUS_NOT_FOUND,
      "%s: expert %lld (local %d) is not in %s, which has experts %s; the layer holds %s of %d; %s",
      label.c_str(), static_cast<long long>(missing.front()), slots.at(missing.front()).front(),
      block.c_str(), Ranges(in_file).c_str(), Ranges(held).c_str(), spec.placement.experts_global,
      renumbered ? "a file renumbered from 0 must be given its numbers in the whole layer, or set "
                   "tensor by tensor under local numbers"
                 : "wanted files that number experts as in the whole layer and hold these");
}

// One read: the held channels of an expert's part of a tensor. Of gate and up they are rows, of each
// separately; of down they are columns, so that all rows are read and a view cuts them.
struct Piece {
  const io::ExpertTensor* tensor = nullptr;
  uint64_t offset = 0;  // of the expert, in the tensor
  const std::vector<int32_t>* locals = nullptr;
  struct {
    int64_t first = 0, count = 0;
  } rows[2];         // read one behind the other
  bool cut = false;  // of each row only the held columns are set
  int64_t Rows() const { return rows[0].count + rows[1].count; }
  size_t bytes() const { return static_cast<size_t>(Rows() * tensor->row_bytes); }
};

// The rows and columns of `tensor` that the layer holds.
Piece Slice(const LayerSpec& spec, const io::ExpertTensor& tensor, dsv4mx_w13_order order) {
  Piece piece;
  piece.tensor = &tensor;
  const int64_t first = spec.intermediate_first, count = spec.intermediate;
  switch (tensor.name.target) {
    case TensorTarget::kGate:
    case TensorTarget::kUp:
      piece.rows[0] = {first, count};
      break;
    case TensorTarget::kW13:
      if (order == DSV4MX_W13_ORDER_INTERLEAVED) {
        piece.rows[0] = {2 * first, 2 * count};
      } else {
        piece.rows[0] = {first, count};
        piece.rows[1] = {spec.intermediate_global + first, count};
      }
      break;
    case TensorTarget::kDown:
      piece.rows[0] = {0, tensor.rows};
      piece.cut = tensor.name.kind != TensorKind::kBias;
  }
  return piece;
}

// The order of a w13 tensor's rows: what its names say, or what the layer says of names that mean
// several, or what files mean by them.
dsv4mx_w13_order OrderOf(const LayerSpec& spec, const TensorName& name) {
  return name.family->fixed_order || spec.w13_order == DSV4MX_W13_ORDER_UNSET
             ? name.family->w13_order
             : spec.w13_order;
}

std::vector<Piece> PiecesOf(const LayerSpec& spec, const io::LayerTensors& found,
                            const Slots& slots) {
  std::vector<Piece> pieces;
  for (const io::ExpertTensor& tensor : found.tensors) {
    const TensorName& name = tensor.name;
    if (name.kind == TensorKind::kBias && name.target == TensorTarget::kDown &&
        spec.w2_bias_elsewhere) {
      continue;  // rank 0 adds it
    }
    Piece piece = Slice(spec, tensor, OrderOf(spec, name));
    if (name.has_expert) {
      piece.locals = &slots.at(name.expert_id);
      pieces.push_back(piece);
      continue;
    }
    for (const auto& [id, locals] : slots) {
      piece.offset =
          static_cast<uint64_t>(id) * static_cast<uint64_t>(tensor.rows * tensor.row_bytes);
      piece.locals = &locals;
      pieces.push_back(piece);
    }
  }
  return pieces;
}

Status ReadPiece(const Piece& piece, uint8_t* to) {
  for (const auto& run : piece.rows) {
    const auto bytes = static_cast<size_t>(run.count * piece.tensor->row_bytes);
    const auto offset = piece.offset + static_cast<uint64_t>(run.first * piece.tensor->row_bytes);
    DSV4MX_TRY(piece.tensor->place.Read(offset, bytes, to));
    to += bytes;
  }
  return kOk;
}

void PrefetchPiece(const Piece& piece) {
  for (const auto& run : piece.rows) {
    if (run.count == 0) continue;
    piece.tensor->place.Prefetch(
        piece.offset + static_cast<uint64_t>(run.first * piece.tensor->row_bytes),
        static_cast<size_t>(run.count * piece.tensor->row_bytes));
  }
}

// Rows of codes, scales or biases in memory, whole as in the file.
struct Rows {
  TensorKind kind;
  const uint8_t* data;
  int64_t row_bytes;
  dsv4mx_dtype dtype;  // codes are bytes, whatever form they have in the file
  int64_t item;        // bytes of one
};

// The held part of a piece as a tensor of one expert.
dsv4mx_tensor TensorOf(const LayerSpec& spec, const Piece& piece, const Rows& rows) {
  const int64_t all = piece.cut ? spec.intermediate_global : 1;
  const int64_t first = piece.cut ? spec.intermediate_first : 0;
  const int64_t count = piece.cut ? spec.intermediate : 1;
  dsv4mx_tensor t{};
  t.struct_size = sizeof t;
  t.data = rows.data + rows.row_bytes * first / all;
  t.memory = DSV4MX_MEMORY_HOST;
  t.dtype = rows.dtype;
  t.rank = 1;
  t.shape[0] = piece.Rows();
  if (rows.kind == TensorKind::kBias) return t;
  t.rank = 2;
  t.shape[1] = rows.row_bytes * count / all / rows.item;
  t.stride[0] = rows.row_bytes / rows.item;
  t.stride[1] = 1;
  return t;
}

// What a load holds in memory beside the weights.
struct Staging {
  std::unique_ptr<uint8_t[]> read, codes, scales;  // the latter two for blocks alone
};

// What was read of a piece, by kind: one tensor, or the two that blocks hold.
std::vector<Rows> RowsOf(const LayerSpec& spec, const Piece& piece, const Staging& staging) {
  const io::ExpertTensor& tensor = *piece.tensor;
  const TensorKind kind = tensor.name.kind;
  if (!tensor.blocks) {
    const bool codes = kind == TensorKind::kCodes;
    const DType dtype = tensor.place.info.dtype;
    return {{kind, staging.read.get(), tensor.row_bytes,
             codes ? dsv4mx_dtype{DSV4MX_DTYPE_U8} : AbiDType(dtype),
             codes ? 1 : DTypeBits(dtype) / 8}};
  }
  const int64_t row_blocks = tensor.row_bytes / io::kMxfp4BlockBytes;
  io::UnpackMxfp4Blocks(staging.read.get(), piece.Rows() * row_blocks,
                        spec.nibble_order == DSV4MX_NIBBLE_ORDER_HIGH_FIRST, staging.codes.get(),
                        staging.scales.get());
  return {{TensorKind::kCodes, staging.codes.get(), row_blocks * 16, DSV4MX_DTYPE_U8, 1},
          {TensorKind::kScales, staging.scales.get(), row_blocks, DSV4MX_DTYPE_E8M0, 1}};
}

// The system is asked to read this much ahead of what is being set.
constexpr size_t kAheadBytes = size_t{16} << 20;

Status LoadPieces(Weights* weights, const std::vector<Piece>& pieces, int64_t staging_bytes,
                  const Weights::Call& call) {
  size_t most = 0, blocks = 0;
  int64_t total = 0, done = 0;
  for (const Piece& piece : pieces) {
    most = std::max(most, piece.bytes());
    if (piece.tensor->blocks) blocks = std::max(blocks, piece.bytes() / io::kMxfp4BlockBytes);
    total += static_cast<int64_t>(piece.bytes());
  }
  DSV4MX_RETURN_IF(staging_bytes != 0 && static_cast<uint64_t>(staging_bytes) < most + blocks * 17,
                   DSV4MX_STATUS_INVALID_ARGUMENT,
                   "staging_bytes is %lld, wanted at least %zu: one expert's part of a tensor",
                   static_cast<long long>(staging_bytes), most + blocks * 17);
  const Staging staging = {std::make_unique_for_overwrite<uint8_t[]>(most),
                           std::make_unique_for_overwrite<uint8_t[]>(blocks * 16),
                           std::make_unique_for_overwrite<uint8_t[]>(blocks)};
  const LayerSpec& spec = weights->layer().spec();
  const Control part = call.control.Part();  // a tensor would count from 0 again
  const Weights::Call quiet{call.stream, part};
  size_t ahead = 0, ahead_bytes = 0;  // the next piece to ask for; asked for and not yet set
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    DSV4MX_TRY(call.control.Report(DSV4MX_STAGE_LOAD, done, total));
    for (; ahead < pieces.size() && (ahead <= i || ahead_bytes < kAheadBytes); ++ahead) {
      PrefetchPiece(pieces[ahead]);
      ahead_bytes += pieces[ahead].bytes();
    }
    DSV4MX_TRY(ReadPiece(piece, staging.read.get()));
    // The name is resolved: what is set is this expert's, in the order that is known.
    TensorName name = piece.tensor->name;
    name.has_expert = false;
    name.w13_order = OrderOf(spec, name);
    for (const Rows& rows : RowsOf(spec, piece, staging)) {
      name.kind = rows.kind;
      for (const int32_t local : *piece.locals) {
        DSV4MX_TRY(weights->SetParsed(name, piece.tensor->place.info.name, local,
                                      TensorOf(spec, piece, rows), quiet));
      }
    }
    ahead_bytes -= piece.bytes();
    done += static_cast<int64_t>(piece.bytes());
  }
  return call.control.Report(DSV4MX_STAGE_LOAD, done, total);
}

// Experts of the whole layer: at least those in the file, and as many as its router chooses from.
int64_t ExpertsGlobal(const io::Checkpoint& checkpoint, const std::string& stem, int64_t in_file) {
  const KeepError keep;  // a router that cannot be read says nothing
  int64_t experts = in_file;
  for (const char* router : {"gate.weight", "router.weight", "ffn_gate_inp.weight"}) {
    io::TensorPlace place;
    const size_t index = checkpoint.Find(stem + router);
    if (index == checkpoint.size()) continue;
    if (!checkpoint.Locate(index, &place).ok()) {
      keep.Restore();
    } else if (place.info.rank == 2 && place.info.shape[0] <= INT32_MAX) {
      experts = std::max(experts, place.info.shape[0]);
    }
  }
  return experts;
}

}  // namespace

Status QueryLayer(const io::Checkpoint& checkpoint, const io::BlockName& block,
                  dsv4mx_layer_desc* desc) {
  io::LayerNames names;
  io::LayerTensors found;
  DSV4MX_TRY(io::FindLayer(checkpoint, block, &names));
  // A file of one rank may begin anywhere, but a gap is a tensor that is missing.
  std::vector<int64_t> ids = names.ids;
  for (size_t i = 1; i < ids.size(); ++i) {
    if (ids[i] != ids[0] + static_cast<int64_t>(i)) ids[i] = ids[0] + static_cast<int64_t>(i);
  }
  DSV4MX_TRY(io::CollectTensors(checkpoint, names, ids, &found));
  const int64_t first = ids.empty() ? 0 : ids.front();
  const int64_t count = ids.empty() ? found.all : static_cast<int64_t>(ids.size());
  desc->hidden = found.hidden;
  desc->intermediate = found.intermediate;
  desc->experts = static_cast<int32_t>(count);
  desc->expert_first = static_cast<int32_t>(first);
  desc->experts_global = static_cast<int32_t>(ExpertsGlobal(checkpoint, names.stem, first + count));
  desc->w13_order = found.w13_order;
  desc->w13_bias = found.w13_bias;
  desc->w2_bias = found.w2_bias;
  desc->group_size = kGroup;
  return kOk;
}

Status QueryConfig(const io::Checkpoint& checkpoint, const io::BlockName& block, uint32_t wanted,
                   dsv4mx_layer_desc* desc, uint32_t* filled) {
  using Config = io::ModelConfig;
  constexpr uint32_t kAll = 2 * DSV4MX_CONFIG_FIELD_ROUTED_SCALING_FACTOR - 1;
  DSV4MX_RETURN_IF((wanted & ~kAll) != 0, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "wanted is 0x%x, wanted only bits of 0x%x", wanted, kAll);
  if (wanted == 0) wanted = kAll & ~unsigned{DSV4MX_CONFIG_FIELD_ROUTED_SCALING_FACTOR};
  Config config;
  dsv4mx_layer_desc tensors = *desc;
  DSV4MX_TRY(io::ReadModelConfig(checkpoint.path(), &config));
  DSV4MX_TRY(QueryLayer(checkpoint, block, &tensors));
  const std::string text = io::BlockText(block);
  const auto contradicts = [&](Config::Field field, const char* name, int32_t says, int32_t has) {
    if ((config.filled & field) == 0 || says == has) return kOk;
    return Fail(DSV4MX_STATUS_FORMAT_ERROR,
                "%s: config.json says %s %d, but the tensors of %s have %d",
                checkpoint.label().c_str(), name, says, text.c_str(), has);
  };
  DSV4MX_TRY(contradicts(Config::kHidden, "hidden", config.hidden, tensors.hidden));
  DSV4MX_TRY(contradicts(Config::kIntermediate, "intermediate", config.intermediate,
                         tensors.intermediate));
  // A file may hold a part of the experts; draft blocks may have others than the model's layers.
  const bool as_model =
      (config.filled & Config::kExperts) == 0 || tensors.experts_global <= config.experts;
  bool same_experts = true;
  if (block.kind == io::BlockName::kLayer) {
    if (!as_model) {
      DSV4MX_TRY(contradicts(Config::kExperts, "experts", config.experts, tensors.experts_global));
    }
    if ((config.filled & Config::kExperts) != 0) tensors.experts_global = config.experts;
  } else {
    same_experts =
        (config.filled & Config::kExperts) == 0 || tensors.experts_global == config.experts;
  }
  *filled = DSV4MX_CONFIG_FIELD_TENSORS & wanted;
  dsv4mx_layer_desc result = *filled != 0 ? tensors : *desc;
  const auto fill = [&](uint32_t bit, Config::Field field, auto&& set) {
    if ((wanted & bit) == 0 || (config.filled & field) == 0) return;
    set();
    *filled |= bit;
  };
  if (same_experts) {
    fill(DSV4MX_CONFIG_FIELD_TOP_K, Config::kTopK, [&] { result.top_k = config.top_k; });
  }
  fill(DSV4MX_CONFIG_FIELD_ACTIVATION, Config::kActivation, [&] {
    result.activation = config.activation;
    result.activation_alpha = config.alpha;
    result.activation_beta = config.beta;
    result.situ_beta = config.situ_beta;
    result.situ_linear_beta = config.situ_linear_beta;
  });
  fill(DSV4MX_CONFIG_FIELD_CLAMP_LIMIT, Config::kClampLimit,
       [&] { result.clamp_limit = config.clamp_limit; });
  fill(DSV4MX_CONFIG_FIELD_ROUTED_SCALING_FACTOR, Config::kRoutedScalingFactor,
       [&] { result.routed_scaling_factor = config.routed_scaling_factor; });
  *desc = result;
  return kOk;
}

Status LoadLayer(Weights* weights, const io::Checkpoint& checkpoint, const io::BlockName& block,
                 int64_t staging_bytes, const Weights::Call& call) {
  DSV4MX_TRY(weights->CheckOpen("a checkpoint was loaded"));
  const LayerSpec& spec = weights->layer().spec();
  const std::string text = io::BlockText(block);
  const char* label = checkpoint.label().c_str();
  io::LayerNames names;
  io::LayerTensors found;
  DSV4MX_TRY(io::FindLayer(checkpoint, block, &names));
  const Slots slots = SlotsOf(*weights->layer().placement());
  if (!names.ids.empty()) {
    DSV4MX_TRY(CheckNumbering(spec, slots, checkpoint.label(), text, names.ids));
  }
  DSV4MX_TRY(io::CollectTensors(checkpoint, names, Ids(slots), &found));
  if (names.ids.empty()) {
    std::vector<int64_t> all(static_cast<size_t>(found.all));
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
    DSV4MX_TRY(CheckNumbering(spec, slots, checkpoint.label(), text, all));
  }
  DSV4MX_RETURN_IF(
      found.hidden != spec.hidden || found.intermediate != spec.intermediate_global,
      DSV4MX_STATUS_INVALID_TENSOR, "%s: %s has hidden %d and intermediate %d, wanted %d and %d",
      label, text.c_str(), found.hidden, found.intermediate, spec.hidden, spec.intermediate_global);
  return LoadPieces(weights, PiecesOf(spec, found, slots), staging_bytes, call);
}

}  // namespace dsv4mx
