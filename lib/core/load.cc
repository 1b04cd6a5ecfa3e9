#include "lib/core/load.h"

#include <algorithm>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/printable.h"
#include "lib/base/text.h"
#include "lib/io/expert_tensors.h"
#include "lib/io/gguf.h"
#include "lib/io/gguf_config.h"
#include "lib/io/model_config.h"
#include "lib/io/tensor_rows.h"

namespace dsv4mx {
namespace {

// The local experts that hold an expert of the layer, by the number that files give it.
using Holders = std::map<int64_t, std::vector<int32_t>>;

Holders HoldersOf(const Placement& placement) {
  Holders holders;
  for (int32_t e = 0; e < placement.experts; ++e) holders[placement.ExpertAt(e)].push_back(e);
  return holders;
}

std::vector<int64_t> Ids(const Holders& holders) {
  std::vector<int64_t> ids;
  for (const auto& [id, locals] : holders) ids.push_back(id);
  return ids;
}

// Files count experts of the whole layer from 0, whichever of them they hold. `in_file` are theirs.
Status CheckNumbering(const LayerSpec& spec, const Holders& holders, const std::string& label,
                      const std::string& block, const std::vector<int64_t>& in_file) {
  const std::vector<int64_t> held = Ids(holders);
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
      label.c_str(), static_cast<long long>(missing.front()), holders.at(missing.front()).front(),
      block.c_str(), Ranges(in_file).c_str(), Ranges(held).c_str(), spec.placement.experts_global,
      renumbered ? "a file renumbered from 0 must be given its numbers in the whole layer, or set "
                   "tensor by tensor under local numbers"
                 : "wanted files that number experts as in the whole layer and hold these");
}

// One thing to set: the held rows of an expert's part of a tensor, and of each row the held columns. Gate and up of a fused
// tensor are two pieces, unless their rows alternate.
struct Piece {
  const io::ExpertTensor* tensor = nullptr;
  TensorTarget target = TensorTarget::kW13;  // that: gate and up alternately
  uint64_t expert = 0;                       // where the expert begins in the tensor, bytes
  const std::vector<int32_t>* locals = nullptr;
  int64_t first = 0, rows = 0;
  int64_t column = 0, row_bytes = 0;  // of a row, in bytes
  uint64_t Begin() const { return expert + static_cast<uint64_t>(first * tensor->row_bytes); }
};

// The order of a w13 tensor's rows: what its names say, or what the layer says of names that mean
// several, or what files mean by them.
dsv4mx_w13_order OrderOf(const LayerSpec& spec, const TensorName& name) {
  return name.family->fixed_order || spec.w13_order == DSV4MX_W13_ORDER_UNSET
             ? name.family->w13_order
             : spec.w13_order;
}

// The rows and columns of `tensor` that the layer holds, in the file's order.
std::vector<Piece> Slice(const LayerSpec& spec, const io::ExpertTensor& tensor) {
  using enum TensorTarget;
  const int64_t first = spec.intermediate_first, count = spec.intermediate;
  const int64_t all = spec.intermediate_global;
  Piece piece;
  piece.tensor = &tensor;
  piece.target = tensor.name.target;
  piece.first = first;
  piece.rows = count;
  piece.row_bytes = tensor.row_bytes;
  if (piece.target == kDown) {
    piece.first = 0;
    piece.rows = tensor.rows;
    if (tensor.name.kind != TensorKind::kBias) {
      piece.column = tensor.row_bytes * first / all;
      piece.row_bytes = tensor.row_bytes * count / all;
    }
  }
  if (piece.target != kW13) return {piece};
  const dsv4mx_w13_order order = OrderOf(spec, tensor.name);
  if (order == DSV4MX_W13_ORDER_INTERLEAVED) {
    piece.first *= 2;
    piece.rows *= 2;
    return {piece};
  }
  Piece second = piece;
  second.first += all;
  piece.target = order == DSV4MX_W13_ORDER_GATE_UP ? kGate : kUp;
  second.target = order == DSV4MX_W13_ORDER_GATE_UP ? kUp : kGate;
  return {piece, second};
}

std::vector<Piece> PiecesOf(const LayerSpec& spec, const io::LayerTensors& found,
                            const Holders& holders) {
  std::vector<Piece> pieces;
  pieces.reserve(2 * found.tensors.size());
  for (const io::ExpertTensor& tensor : found.tensors) {
    const TensorName& name = tensor.name;
    if (name.kind == TensorKind::kBias && name.target == TensorTarget::kDown &&
        spec.w2_bias_elsewhere) {
      continue;  // rank 0 adds it
    }
    const auto add = [&](int64_t index, const std::vector<int32_t>& locals) {
      for (Piece& piece : Slice(spec, tensor)) {
        piece.expert =
            static_cast<uint64_t>(index) * static_cast<uint64_t>(tensor.rows * tensor.row_bytes);
        piece.locals = &locals;
        pieces.push_back(piece);
      }
    };
    if (name.has_expert) {
      add(0, holders.at(name.expert_id));
    } else {
      for (const auto& [id, locals] : holders) add(id, locals);
    }
  }
  return pieces;
}

RowsToRead::Parts PartsOf(const io::ExpertTensor& tensor) {
  if (tensor.blocks) return RowsToRead::kCodesAndScales;
  switch (tensor.name.kind) {
    case TensorKind::kCodes:
      return RowsToRead::kCodes;
    case TensorKind::kScales:
      return RowsToRead::kScales;
    default:
      return RowsToRead::kBias;
  }
}

Status LoadPieces(Weights* weights, const std::vector<Piece>& pieces, const Weights::Call& call) {
  using Part = io::TensorRows::Part;
  std::vector<io::TensorRows> sources;
  std::vector<Weights::NamedRows> tensors;
  sources.reserve(pieces.size());  // they are pointed to
  tensors.reserve(pieces.size());
  for (const Piece& piece : pieces) {
    const io::ExpertTensor& tensor = *piece.tensor;
    sources.emplace_back(tensor.place, piece.Begin() + static_cast<uint64_t>(piece.column),
                         tensor.row_bytes, piece.row_bytes,
                         tensor.blocks ? Part::kBlocks : Part::kAll);
    TensorName name = tensor.name;
    name.target = piece.target;
    const bool high_first =
        !tensor.blocks && weights->layer().spec().nibble_order == DSV4MX_NIBBLE_ORDER_HIGH_FIRST;
    const dsv4mx_dtype dtype =
        tensor.blocks ? DSV4MX_DTYPE_E8M0 : AbiDType(tensor.place.info.dtype);
    tensors.push_back(
        {name, tensor.place.info.name,
         RowsToRead{&sources.back(), PartsOf(tensor), MatrixOf(piece.target),
                    piece.target == TensorTarget::kW13, high_first, dtype, *piece.locals}});
  }
  ReadTimes times;
  DSV4MX_TRY(weights->ReadRows(tensors, call, &times));
  const auto ms = [](double seconds) { return Text(1e3 * seconds, 1); };
  weights->layer().context().Log(
      DSV4MX_LOG_DEBUG,
      "loaded %lld bytes in %s ms, %s before the first read: %lld pieces by %d readers, of which "
      "one read for %s ms and waited for %s; copies and packing took %s to start",
      static_cast<long long>(times.bytes), ms(times.whole_s).text, ms(times.begin_s).text,
      static_cast<long long>(times.pieces), times.readers, ms(times.read_s).text,
      ms(times.wait_s).text, ms(times.send_s).text);
  return kOk;
}

// What reading takes is given back when the load ends, by a return or an exception. Where a callback ends the thread, nothing
// can be given back (LibraryScope), and the store keeps it until it reads again or goes.
class Reading {
 public:
  explicit Reading(Weights* weights) : weights_(weights), before_(std::uncaught_exceptions()) {}
  ~Reading() {
    if (std::uncaught_exceptions() > before_) (void)weights_->EndReading();
  }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;
  Status End(Status status) {
    const KeepError keep;
    const Status ended = weights_->EndReading();
    if (status.ok()) return ended;
    keep.Restore();
    return status;
  }

 private:
  Weights* weights_;
  int before_;
};

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
  desc->group_size = kGroupSize;
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
  const KeepError keep;
  const Status read = io::ReadModelConfig(checkpoint.path(), &config);
  const io::GgufKeys* keys = checkpoint.gguf_keys();
  if (read.code == DSV4MX_STATUS_NOT_FOUND && keys != nullptr) {
    keep.Restore();
    const int64_t layer = block.kind == io::BlockName::kLayer ? block.index : -1;
    DSV4MX_TRY(io::ConfigFromGguf(*keys, layer, checkpoint.label().c_str(), &config));
  } else {
    DSV4MX_TRY(read);
  }
  DSV4MX_TRY(QueryLayer(checkpoint, block, &tensors));
  const std::string text = io::BlockText(block);
  const auto contradicts = [&](Config::Field field, const char* name, int32_t says, int32_t has) {
    if ((config.filled & field) == 0 || says == has) return kOk;
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: %s says %s %d, but the tensors of %s have %d",
                checkpoint.label().c_str(), config.source, name, says, text.c_str(), has);
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
  const Holders holders = HoldersOf(*weights->layer().placement());
  if (!names.ids.empty()) {
    DSV4MX_TRY(CheckNumbering(spec, holders, checkpoint.label(), text, names.ids));
  }
  DSV4MX_TRY(io::CollectTensors(checkpoint, names, Ids(holders), &found));
  if (names.ids.empty()) {
    std::vector<int64_t> all(static_cast<size_t>(found.all));
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
    DSV4MX_TRY(CheckNumbering(spec, holders, checkpoint.label(), text, all));
  }
  DSV4MX_RETURN_IF(
      found.hidden != spec.hidden || found.intermediate != spec.intermediate_global,
      DSV4MX_STATUS_INVALID_TENSOR, "%s: %s has hidden %d and intermediate %d, wanted %d and %d",
      label, text.c_str(), found.hidden, found.intermediate, spec.hidden, spec.intermediate_global);
  const std::vector<Piece> pieces = PiecesOf(spec, found, holders);
  Reading reading(weights);
  const Status begun = weights->BeginReading(staging_bytes, checkpoint.threads(), call);
  return reading.End(begun.ok() ? LoadPieces(weights, pieces, call) : begun);
}

}  // namespace dsv4mx
