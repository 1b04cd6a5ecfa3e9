#include "lib/io/deepseek.h"

#include <algorithm>
#include <charconv>
#include <climits>
#include <set>
#include <tuple>
#include <utility>

#include "dsv4mx.h"
#include "lib/base/names.h"

namespace dsv4mx::io {
namespace {

// The six tensors of an expert in loading order; a fused layer has the first pair (w13) and the
// last.
enum Slot { kW1, kW1Scale, kW3, kW3Scale, kW2, kW2Scale, kSlots };

// What is told when a slot is missing.
constexpr const char* kWanted[kSlots] = {"w1.weight", "w1.scale",  "w3.weight",
                                         "w3.scale",  "w2.weight", "w2.scale"};
constexpr const char* kWantedFused[kSlots] = {"w13_weight", "w13_weight_scale", "",
                                              "",           "w2_weight",        "w2_weight_scale"};

// Parts of names that only other formats have.
struct Foreign {
  const char* part;
  const char* format;
};
constexpr Foreign kForeign[] = {
    {"weight_scale_2", "NVFP4 (groups of 16 with a second, global scale)"},
    {"weight_global_scale", "NVFP4 (groups of 16 with a second, global scale)"},
    {"input_scale", "static activation scales (an FP8 or NVFP4 repack)"},
    {"qweight", "an INT4 repack (GPTQ or AWQ)"},
    {"qzeros", "an INT4 repack (GPTQ or AWQ)"},
    {"weight_zero_point", "an INT4 repack"},
    {"weight_packed", "a compressed-tensors repack"},
    {"_blocks", "the GPT-OSS form (gate_up_proj_blocks)"},
    {"_scales", "the GPT-OSS form (gate_up_proj_scales)"},
};

// One tensor of the layer with its place in the loading order. Of several spellings of one place
// the smallest rank wins, as in dsv4mx_weights_set.
struct Found {
  int64_t expert = -1;  // -1 = fused, all experts
  Slot slot = kSlots;
  int rank = 0;
  const TensorView* tensor = nullptr;
};

// "12.w1.weight" -> 12, "w1.weight". False if the text does not start with a plain number.
bool SplitNumber(std::string_view text, int64_t* number, std::string_view* tail) {
  const size_t dot = text.find('.');
  if (dot == 0 || dot == std::string_view::npos || dot > 9) return false;
  if (dot > 1 && text[0] == '0') return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + dot, *number);
  if (error != std::errc() || end != text.data() + dot || text[0] == '-') return false;
  *tail = text.substr(dot + 1);
  return true;
}

// Places `tensor`, whose name is `rest` behind "experts.". False if it is no codes or scales of an
// expert, or spells its number in another way than plain digits.
bool Place(const TensorView& tensor, std::string_view rest, Found* found) {
  TensorName name;
  const std::string qualified = "experts." + std::string(rest);
  if (!FindTensorName(qualified, &name) || name.kind == TensorKind::kBias) return false;
  // A fused name is one word, an expert's own has its number and two.
  const bool fused = name.suffix.find('.') == std::string_view::npos;
  const std::string own = std::to_string(name.expert_id) + "." + std::string(name.suffix);
  if (fused ? rest != name.suffix : !name.has_expert || rest != own) return false;
  const int codes = name.target == TensorTarget::kUp     ? kW3
                    : name.target == TensorTarget::kDown ? kW2
                                                         : kW1;
  *found = {fused ? -1 : name.expert_id,
            static_cast<Slot>(codes + (name.kind == TensorKind::kScales ? 1 : 0)), name.rank,
            &tensor};
  return true;
}

std::string LayerText(int32_t layer) {
  return layer >= 0 ? "layers." + std::to_string(layer)
                    : "mtp." + std::to_string(-1 - static_cast<int64_t>(layer));
}

// "layers 0..42, mtp 0": what a user who asked for a wrong layer needs to know.
std::string LayersPresent(const Checkpoint& checkpoint) {
  std::set<int64_t> layers[2];
  constexpr std::string_view kKinds[2] = {"layers.", "mtp."};
  for (const TensorView& tensor : checkpoint) {
    std::string_view name = tensor.name;
    if (name.substr(0, 6) == "model.") name.remove_prefix(6);
    for (int kind = 0; kind < 2; ++kind) {
      if (name.substr(0, kKinds[kind].size()) != kKinds[kind]) continue;
      int64_t number = 0;
      std::string_view tail;
      if (SplitNumber(name.substr(kKinds[kind].size()), &number, &tail) &&
          (tail.substr(0, 12) == "ffn.experts." || tail.substr(0, 12) == "mlp.experts.")) {
        layers[kind].insert(number);
      }
    }
  }
  std::string text;
  for (int kind = 0; kind < 2; ++kind) {
    if (layers[kind].empty()) continue;
    if (!text.empty()) text += ", ";
    text += kKinds[kind].substr(0, kKinds[kind].size() - 1);
    text += ' ' + std::to_string(*layers[kind].begin());
    if (layers[kind].size() > 1) text += ".." + std::to_string(*layers[kind].rbegin());
  }
  return text.empty() ? "none at all" : text;
}

// The first prefix under which the layer has experts.
std::string FindPrefix(const Checkpoint& checkpoint, int32_t layer) {
  for (const char* model : {"", "model."}) {
    for (const char* block : {".ffn.", ".mlp."}) {
      std::string prefix = model + LayerText(layer) + block;
      const auto [first, last] = checkpoint.WithPrefix(prefix + "experts.");
      if (first != last) return prefix;
    }
  }
  return "";
}

Status FailForeign(const TensorView& tensor, const char* format) {
  return Fail(DSV4MX_STATUS_UNSUPPORTED_DTYPE,
              "experts are no MXFP4: tensor '%s' (%s %s) means %s; expected I8 codes with one E8M0 "
              "scale per 32 values",
              Printable(tensor.name).c_str(), DTypeName(tensor.dtype), ShapeText(tensor).c_str(),
              format);
}

// Codes: int8 pairs, or F4 whose shape counts values.
Status CheckCodesDType(const TensorView& codes) {
  switch (codes.dtype) {
    case DType::kI8:
    case DType::kU8:
    case DType::kF4:
      return Status{};
    case DType::kF8E4M3:
    case DType::kF8E5M2:
    case DType::kF8E4M3Fnuz:
    case DType::kF8E5M2Fnuz:
      return FailForeign(codes, "FP8 experts (a -Base release or an FP8 repack)");
    case DType::kI32:
    case DType::kU32:
    case DType::kI64:
      return FailForeign(codes, "an INT4 repack");
    case DType::kBF16:
    case DType::kF16:
    case DType::kF32:
    case DType::kF64:
      return FailForeign(codes, "experts that are not quantised");
    default:
      return FailForeign(codes, "an unknown format");
  }
}

Status CheckScalesDType(const TensorView& scales) {
  switch (scales.dtype) {
    case DType::kF8E8M0:
    case DType::kI8:
    case DType::kU8:
    case DType::kF32:
    case DType::kBF16:
    case DType::kF16:
      return Status{};
    case DType::kF8E4M3:
      return FailForeign(scales, "NVFP4 (E4M3 scales)");
    default:
      return FailForeign(scales, "an unknown format");
  }
}

// Rows and K of one matrix from its codes and scales, [experts,] rows, K. `experts` is 0 for one
// expert's own tensors.
Status CheckMatrix(const TensorView& codes, const TensorView& scales, int64_t experts,
                   int64_t* rows, int64_t* k) {
  DSV4MX_TRY(CheckCodesDType(codes));
  DSV4MX_TRY(CheckScalesDType(scales));
  const int rank = experts > 0 ? 3 : 2;
  const std::string codes_text = ShapeText(codes);
  const std::string scales_text = ShapeText(scales);
  if (codes.rank != rank || scales.rank != rank || (experts > 0 && codes.shape[0] != experts)) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR,
                "tensor '%s' is %s with scales %s, expected %d dimensions and equal expert counts",
                Printable(codes.name).c_str(), codes_text.c_str(), scales_text.c_str(), rank);
  }
  const size_t row_dim = static_cast<size_t>(rank - 2);
  const int64_t per_item = codes.dtype == DType::kF4 ? 1 : 2;
  *rows = codes.shape[row_dim];
  const int64_t row_items = codes.shape[row_dim + 1];
  const int64_t groups = scales.shape[row_dim + 1];
  if (*rows <= 0 || *rows > INT32_MAX || row_items <= 0 || row_items > INT32_MAX / 2) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "tensor '%s' is %s: no size of an expert",
                Printable(codes.name).c_str(), codes_text.c_str());
  }
  *k = row_items * per_item;
  const bool same_rows =
      scales.shape[row_dim] == *rows && (experts == 0 || scales.shape[0] == codes.shape[0]);
  if (same_rows && groups * 16 == *k) return FailForeign(scales, "groups of 16 values (NVFP4)");
  if (!same_rows || *k % 32 != 0 || groups != *k / 32) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR,
                "tensor '%s' is %s, expected rows of '%s' %s with one scale per 32 values",
                Printable(scales.name).c_str(), scales_text.c_str(), Printable(codes.name).c_str(),
                codes_text.c_str());
  }
  return Status{};
}

// All experts must have the sizes of the first.
Status SameSize(const TensorView& codes, int64_t rows, int64_t k, int64_t want_rows,
                int64_t want_k) {
  if (rows == want_rows && k == want_k) return Status{};
  return Fail(DSV4MX_STATUS_FORMAT_ERROR,
              "tensor '%s' has %lld rows of %lld values, expected %lld rows of %lld",
              Printable(codes.name).c_str(), static_cast<long long>(rows),
              static_cast<long long>(k), static_cast<long long>(want_rows),
              static_cast<long long>(want_k));
}

Status CheckExperts(LayerTensors* out) {
  const std::vector<const TensorView*>& t = out->tensors;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  if (out->fused) {
    int64_t rows13 = 0;
    int64_t rows2 = 0;
    int64_t k2 = 0;
    const int64_t experts = t[0]->rank == 3 ? t[0]->shape[0] : 1;
    if (experts > INT32_MAX) {
      return Fail(DSV4MX_STATUS_FORMAT_ERROR, "tensor '%s' is %s: no number of experts",
                  Printable(t[0]->name).c_str(), ShapeText(*t[0]).c_str());
    }
    DSV4MX_TRY(CheckMatrix(*t[0], *t[1], experts, &rows13, &hidden));
    DSV4MX_TRY(CheckMatrix(*t[2], *t[3], experts, &rows2, &k2));
    intermediate = rows13 / 2;
    DSV4MX_TRY(SameSize(*t[0], rows13, hidden, 2 * k2, rows2));
    out->experts = static_cast<int32_t>(experts);
  } else {
    for (size_t i = 0; i < t.size(); i += 2) {
      int64_t rows = 0;
      int64_t k = 0;
      DSV4MX_TRY(CheckMatrix(*t[i], *t[i + 1], 0, &rows, &k));
      if (i == 0) {
        intermediate = rows;
        hidden = k;
      }
      const bool down = i % kSlots == kW2;
      DSV4MX_TRY(
          SameSize(*t[i], rows, k, down ? hidden : intermediate, down ? intermediate : hidden));
    }
    out->experts = static_cast<int32_t>(t.size() / kSlots);
  }
  out->hidden = static_cast<int32_t>(hidden);
  out->intermediate = static_cast<int32_t>(intermediate);
  return Status{};
}

}  // namespace

Status FindLayer(const Checkpoint& checkpoint, int32_t layer, LayerTensors* out) {
  *out = LayerTensors{};
  const std::string prefix = FindPrefix(checkpoint, layer);
  if (prefix.empty()) {
    return Fail(DSV4MX_STATUS_NOT_FOUND,
                "%s: no tensors [model.]%s.{ffn,mlp}.experts.*; layers with experts: %s",
                checkpoint.label().c_str(), LayerText(layer).c_str(),
                LayersPresent(checkpoint).c_str());
  }
  const std::string stem = prefix + "experts.";
  const auto [first, last] = checkpoint.WithPrefix(stem);

  std::vector<Found> found;
  const TensorView* unknown = nullptr;
  bool fused = false;
  for (const TensorView* tensor = first; tensor != last; ++tensor) {
    const std::string_view rest = tensor->name.substr(stem.size());
    for (const Foreign& foreign : kForeign) {
      if (rest.find(foreign.part) == std::string_view::npos) continue;
      const bool int4 = tensor->dtype == DType::kI32;  // eight codes a word, whatever the name
      return FailForeign(*tensor, int4 ? "an INT4 repack" : foreign.format);
    }
    Found entry;
    if (Place(*tensor, rest, &entry)) {
      fused |= entry.expert < 0;
      found.push_back(entry);
    } else if (unknown == nullptr) {
      unknown = tensor;
    }
  }
  if (unknown != nullptr) {
    // Leaving it out could change the result without a word, a bias for example.
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "tensor '%s' is no part of an MXFP4 expert",
                Printable(unknown->name).c_str());
  }
  // Fused tensors carry expert -1, sort first and win over separate ones.
  std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) {
    return std::tie(a.expert, a.slot, a.rank) < std::tie(b.expert, b.slot, b.rank);
  });
  if (fused) std::erase_if(found, [](const Found& entry) { return entry.expert >= 0; });

  // Walk the places that must be filled; `at` stands on the next tensor that there is.
  LayerTensors result;
  result.prefix = prefix;
  result.fused = fused;
  size_t at = 0;
  for (int64_t expert = fused ? -1 : 0; at < found.size(); ++expert) {
    for (int i = 0; i < kSlots; ++i) {
      const Slot slot = static_cast<Slot>(i);
      if (fused && (slot == kW3 || slot == kW3Scale)) continue;
      if (at == found.size() || found[at].expert != expert || found[at].slot != slot) {
        // What the codes are says more than a name that is not there.
        if (i % 2 == 1) DSV4MX_TRY(CheckCodesDType(*result.tensors.back()));
        const std::string name =
            fused ? stem + kWantedFused[slot] : stem + std::to_string(expert) + "." + kWanted[slot];
        return Fail(DSV4MX_STATUS_NOT_FOUND, "%s: tensor '%s' is missing",
                    checkpoint.label().c_str(), Printable(name).c_str());
      }
      result.tensors.push_back(found[at].tensor);
      while (at < found.size() && found[at].expert == expert && found[at].slot == slot) ++at;
    }
  }
  DSV4MX_TRY(CheckExperts(&result));
  *out = std::move(result);
  return Status{};
}

}  // namespace dsv4mx::io
