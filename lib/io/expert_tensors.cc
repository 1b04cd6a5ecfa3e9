#include "lib/io/expert_tensors.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "lib/base/printable.h"
#include "lib/io/expert_format.h"

namespace dsv4mx::io {
namespace {

// A place that a tensor can fill: an expert's (or -1: all experts') codes, scales or bias in a family.
using Key = std::tuple<int64_t, const NameFamily*, TensorTarget, TensorKind>;
using Table = std::map<Key, const LayerNames::Entry*>;

constexpr int64_t kAll = -1;

// The families that a layer has anything of, in order of precedence; all where it has nothing.
std::vector<const NameFamily*> Families(const LayerNames& layer) {
  std::set<const NameFamily*> present;
  for (const LayerNames::Entry& entry : layer.entries) present.insert(entry.name.family);
  std::vector<const NameFamily*> families;
  TensorName row;
  for (int i = 0; TensorNameRow(i, &row); ++i) {
    if (!present.empty() && !present.contains(row.family)) continue;
    if (families.empty() || families.back() != row.family) families.push_back(row.family);
  }
  return families;
}

// The name that a missing tensor would have: the family's first.
std::string WantedName(const std::string& stem, const Key& key) {
  const auto& [expert, family, target, kind] = key;
  std::string name = family->bare ? stem : stem + "experts.";
  if (expert != kAll) name += std::to_string(expert) + ".";
  TensorName row;
  for (int i = 0; TensorNameRow(i, &row); ++i) {
    if (row.family == family && row.target == target && row.kind == kind) {
      return name + std::string(row.suffix);
    }
  }
  return name + CanonicalName(target, kind);
}

class Collector {
 public:
  Collector(const Checkpoint& checkpoint, const LayerNames& layer, LayerTensors* out)
      : checkpoint_(checkpoint), layer_(layer), out_(*out), families_(Families(layer)) {
    for (const LayerNames::Entry& entry : layer.entries) {
      const TensorName& name = entry.name;
      const LayerNames::Entry*& place =
          table_[{name.expert_id, name.family, name.target, name.kind}];
      // Of several spellings of one place the first row wins, as in dsv4mx_weights_set.
      if (place == nullptr || name.rank < place->name.rank) place = &entry;
    }
  }

  // Experts are in tensors of all of them, or each has its own.
  Status Run(const std::vector<int64_t>& ids) {
    out_.tensors.reserve(layer_.entries.size());
    const auto whole = [](const LayerNames::Entry& entry) { return entry.name.expert_id == kAll; };
    if (std::any_of(layer_.entries.begin(), layer_.entries.end(), whole)) {
      DSV4MX_TRY(Expert(kAll));
    } else {
      for (const int64_t id : ids) DSV4MX_TRY(Expert(id));
    }
    return CheckBiases();
  }

 private:
  Status Expert(int64_t expert) {
    DSV4MX_TRY(MatrixOf(expert, Matrix::kGate));
    DSV4MX_TRY(MatrixOf(expert, Matrix::kUp));
    DSV4MX_TRY(MatrixOf(expert, Matrix::kDown));
    return kOk;
  }

  // Codes, scales and perhaps a bias of one matrix, all of the first family that has the first two.
  Status MatrixOf(int64_t expert, Matrix m) {
    const LayerNames::Entry* lone = nullptr;  // codes or scales without the other
    Key missing = AbsentMatrix(expert, m);
    for (const NameFamily* family : families_) {
      for (const TensorTarget target :
           {TensorTarget::kW13, TensorTarget::kGate, TensorTarget::kUp, TensorTarget::kDown}) {
        if (!Covers(target, m)) continue;
        const auto* codes = Find({expert, family, target, TensorKind::kCodes});
        const auto* scales =
            family->blocks ? codes : Find({expert, family, target, TensorKind::kScales});
        if (codes != nullptr && scales != nullptr) {
          if (target == TensorTarget::kW13 && m == Matrix::kUp) return kOk;  // came with the gate
          return Add(expert, target, *codes, *scales,
                     Find({expert, family, target, TensorKind::kBias}));
        }
        if (lone != nullptr || (codes == nullptr && scales == nullptr)) continue;
        lone = codes != nullptr ? codes : scales;
        missing = {expert, family, target,
                   codes != nullptr ? TensorKind::kScales : TensorKind::kCodes};
      }
    }
    if (lone != nullptr && lone->name.kind == TensorKind::kCodes) {
      // What the codes are says more than a name that is not there.
      TensorPlace place;
      DSV4MX_TRY(checkpoint_.Locate(lone->index, &place));
      DSV4MX_TRY(CheckCodesDType(place.info));
    }
    return Fail(DSV4MX_STATUS_NOT_FOUND, "%s: tensor '%s' is missing%s",
                checkpoint_.label().c_str(), Printable(WantedName(layer_.stem, missing)).c_str(),
                checkpoint_.ShardHint().c_str());
  }

  // The place to name where no family has anything of a matrix: of the family that has other tensors.
  Key AbsentMatrix(int64_t expert, Matrix m) const {
    const NameFamily* family =
        layer_.entries.empty() ? families_.front() : layer_.entries.front().name.family;
    const bool fused = family->w13_order != DSV4MX_W13_ORDER_UNSET;
    const TensorTarget target = m == Matrix::kDown ? TensorTarget::kDown
                                : fused            ? TensorTarget::kW13
                                : m == Matrix::kUp ? TensorTarget::kUp
                                                   : TensorTarget::kGate;
    return {expert, family, target, TensorKind::kCodes};
  }

  const LayerNames::Entry* Find(const Key& key) const {
    const auto it = table_.find(key);
    return it == table_.end() ? nullptr : it->second;
  }

  Status Add(int64_t expert, TensorTarget target, const LayerNames::Entry& codes,
             const LayerNames::Entry& scales, const LayerNames::Entry* bias) {
    const bool all = expert == kAll;
    ExpertTensor c, s;
    MatrixSize size;
    DSV4MX_TRY(Locate(codes, &c));
    DSV4MX_TRY(Locate(scales, &s));
    c.blocks = c.name.family->blocks;
    DSV4MX_TRY(c.blocks ? MeasureBlocks(c.place.info, &size)
                        : MeasureMatrix(c.place.info, s.place.info, all, &size));
    DSV4MX_TRY(CheckSize(c, target, size, all));
    if (target == TensorTarget::kW13) out_.w13_order = c.name.family->w13_order;
    const bool blocks = c.blocks;
    Push(c, size);
    if (!blocks) Push(s, size);
    if (bias == nullptr) return kOk;
    ExpertTensor b;
    DSV4MX_TRY(Locate(*bias, &b));
    DSV4MX_TRY(CheckBias(b.place.info, all, size));
    (target == TensorTarget::kDown ? out_.w2_bias : out_.w13_bias) = AbiDType(b.place.info.dtype);
    Push(b, size);
    return kOk;
  }

  Status Locate(const LayerNames::Entry& entry, ExpertTensor* out) const {
    out->name = entry.name;
    return checkpoint_.Locate(entry.index, &out->place);
  }

  void Push(ExpertTensor tensor, const MatrixSize& size) {
    tensor.rows = size.rows;
    tensor.row_bytes = static_cast<int64_t>(tensor.place.info.bytes) / (size.experts * size.rows);
    out_.tensors.push_back(tensor);
  }

  // A bias that no matrix took would change the result without a word.
  Status CheckBiases() const {
    for (const LayerNames::Entry& entry : layer_.entries) {
      const bool down = entry.name.target == TensorTarget::kDown;
      DSV4MX_RETURN_IF(
          entry.name.kind == TensorKind::kBias && (down ? out_.w2_bias : out_.w13_bias) == 0,
          DSV4MX_STATUS_FORMAT_ERROR, "tensor '%s' is a bias without codes under names of its kind",
          Printable(checkpoint_.name(entry.index)).c_str());
    }
    return kOk;
  }

  // All matrices must have the sizes of the first, and all tensors the same number of experts.
  Status CheckSize(const ExpertTensor& codes, TensorTarget target, const MatrixSize& size,
                   bool all) {
    if (out_.tensors.empty()) {
      DSV4MX_RETURN_IF(target == TensorTarget::kW13 && size.rows % 2 != 0,
                       DSV4MX_STATUS_FORMAT_ERROR,
                       "tensor '%s' has %lld rows, expected an even number, gate and up",
                       Printable(codes.place.info.name).c_str(), static_cast<long long>(size.rows));
      const int64_t halves = target == TensorTarget::kW13 ? 2 : 1;
      out_.hidden = static_cast<int32_t>(size.k);
      out_.intermediate = static_cast<int32_t>(size.rows / halves);
      out_.all = all ? size.experts : 0;
    }
    const int64_t rows = target == TensorTarget::kDown  ? out_.hidden
                         : target == TensorTarget::kW13 ? 2 * int64_t{out_.intermediate}
                                                        : out_.intermediate;
    const int64_t k = target == TensorTarget::kDown ? out_.intermediate : out_.hidden;
    DSV4MX_RETURN_IF(size.rows != rows || size.k != k, DSV4MX_STATUS_FORMAT_ERROR,
                     "tensor '%s' has %lld rows of %lld values, expected %lld rows of %lld",
                     Printable(codes.place.info.name).c_str(), static_cast<long long>(size.rows),
                     static_cast<long long>(size.k), static_cast<long long>(rows),
                     static_cast<long long>(k));
    DSV4MX_RETURN_IF(all && size.experts != out_.all, DSV4MX_STATUS_FORMAT_ERROR,
                     "tensor '%s' has %lld experts, expected %lld as the others",
                     Printable(codes.place.info.name).c_str(), static_cast<long long>(size.experts),
                     static_cast<long long>(out_.all));
    return kOk;
  }

  const Checkpoint& checkpoint_;
  const LayerNames& layer_;
  LayerTensors& out_;
  const std::vector<const NameFamily*> families_;
  Table table_;
};

// Whether `rest`, behind the stem and the word "experts.", is the name and nothing more: "12.w1.weight"
// or "w13_weight".
bool IsPlain(std::string_view rest, const TensorName& name) {
  if (!name.has_expert) return rest == name.suffix;
  return rest == std::to_string(name.expert_id) + "." + std::string(name.suffix);
}

}  // namespace

Status FindLayer(const Checkpoint& checkpoint, const BlockName& block, LayerNames* out) {
  *out = LayerNames{};
  LayerNames result;
  DSV4MX_TRY(FindBlock(checkpoint, block, &result.stem));
  std::set<int64_t> ids;
  bool whole = false;
  const auto [first, last] = checkpoint.WithPrefix(result.stem);
  size_t unknown = checkpoint.size();
  result.entries.reserve(last - first);
  for (size_t i = first; i < last; ++i) {
    std::string_view stem, rest;
    const std::string_view full = checkpoint.name(i);
    if (!FindExpertsStem(full, &stem, &rest) || stem != result.stem) continue;
    LayerNames::Entry entry;
    entry.index = i;
    if (FindTensorName(full, &entry.name) && IsPlain(rest, entry.name)) {
      whole |= !entry.name.has_expert;
      if (entry.name.has_expert) ids.insert(entry.name.expert_id);
      result.entries.push_back(entry);
      continue;
    }
    TensorPlace place;
    DSV4MX_TRY(checkpoint.Locate(i, &place));
    DSV4MX_TRY(CheckForeignName(place.info, rest));
    // Matrices of another format say so by their type.
    if (place.info.rank > 1) DSV4MX_TRY(CheckCodesDType(place.info));
    if (unknown == checkpoint.size()) unknown = i;
  }
  DSV4MX_RETURN_IF(unknown < checkpoint.size(), DSV4MX_STATUS_FORMAT_ERROR,
                   "tensor '%s' is no part of an MXFP4 expert",
                   // Leaving it out could change the result without a word, a bias for example.
                   Printable(checkpoint.name(unknown)).c_str());
  // Tensors of all experts win over those of each.
  if (whole) {
    std::erase_if(result.entries, [](const auto& entry) { return entry.name.has_expert; });
    ids.clear();
  }
  result.ids.assign(ids.begin(), ids.end());
  *out = std::move(result);
  return kOk;
}

Status CollectTensors(const Checkpoint& checkpoint, const LayerNames& layer,
                      const std::vector<int64_t>& ids, LayerTensors* out) {
  *out = LayerTensors{};
  LayerTensors result;
  DSV4MX_TRY(Collector(checkpoint, layer, &result).Run(ids));
  *out = std::move(result);
  return kOk;
}

}  // namespace dsv4mx::io
