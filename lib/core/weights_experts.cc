// Operations on whole experts: copied and replaced, read back, moved as bytes.
//
// Prepared weights stay prepared: plans and captured graphs go by the census that prepare found, so that an expert with
// which they would choose another path is refused before anything is written.
#include <cstdio>
#include <string>

#include "lib/core/weights.h"

namespace dsv4mx {
namespace {

// Experts that come as one are a source as well.
constexpr NameFamily kSlab = {"slab", DSV4MX_W13_ORDER_UNSET, true};

struct FormText {
  char text[128];
};
FormText Text(const ExpertStore& store, const LayerSpec& spec) {
  FormText t;
  std::snprintf(t.text, sizeof t.text,
                "\"%s\", hidden %d, %d channels held, w13 bias %s, w2 bias %s", store.Form().layout,
                spec.hidden, spec.intermediate, spec.w13_bias != 0 ? "yes" : "no",
                spec.w2_bias != 0 ? "yes" : "no");
  return t;
}

}  // namespace

Status Weights::CheckPrepared(int32_t expert, const char* what) const {
  const auto count = static_cast<int32_t>(experts_.size());
  DSV4MX_RETURN_IF(!prepared_, DSV4MX_STATUS_INVALID_STATE,
                   "the weights are not prepared, wanted dsv4mx_weights_prepare before %s", what);
  DSV4MX_RETURN_IF(expert < 0 || expert >= count, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "expert is %d, wanted 0..%d", expert, count - 1);
  return kOk;
}

Status Weights::QueryExpert(int32_t expert, dsv4mx_expert_info* out) const {
  DSV4MX_TRY(CheckPrepared(expert, "an expert is described"));
  const Census& census = experts_[static_cast<size_t>(expert)].census;
  if (!census.any) return kOk;
  out->scale_min = census.scale_min;
  out->scale_max = census.scale_max;
  return kOk;
}

Status Weights::QueryExpertCensus(int32_t expert, dsv4mx_weights_census* out) const {
  DSV4MX_TRY(CheckPrepared(expert, "the census"));
  WriteCensus(experts_[static_cast<size_t>(expert)].census, out);
  return kOk;
}

bool Weights::ClaimExpert(int32_t expert) {
  bool replaced = false;
  for (const Matrix m : kMatrices) replaced = Claim(expert, m, &kSlab) || replaced;
  return replaced;
}

void Weights::MarkExpert(int32_t expert, bool set) {
  for (int part = 0; part < kParts; ++part) Mark(expert, static_cast<Part>(part), set);
}

Status Weights::CheckCopy(const Weights& from, const dsv4mx_copy_args& args) const {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  DSV4MX_RETURN_IF(args.count < 0, kCode, "count is %d, wanted 0 or more", args.count);
  const struct {
    const char* name;
    const int32_t* experts;
    size_t held;
  } lists[] = {{"to_experts", args.to_experts, experts_.size()},
               {"from_experts", args.from_experts, from.experts_.size()}};
  for (const auto& list : lists) {
    DSV4MX_RETURN_IF(list.experts == nullptr && args.count > 0, kCode,
                     "%s is NULL with count %d, wanted local experts", list.name, args.count);
    for (int32_t i = 0; i < args.count; ++i) {
      const int32_t e = list.experts[i];
      DSV4MX_RETURN_IF(e < 0 || static_cast<size_t>(e) >= list.held, kCode,
                       "%s[%d] is %d, wanted 0..%d", list.name, i, e,
                       static_cast<int32_t>(list.held) - 1);
    }
  }
  std::vector<bool> written(experts_.size());
  for (int32_t i = 0; i < args.count; ++i) {
    const auto e = static_cast<size_t>(args.to_experts[i]);
    DSV4MX_RETURN_IF(written[e], kCode,
                     "to_experts[%d] is %d a second time, wanted each expert once", i,
                     args.to_experts[i]);
    written[e] = true;
  }
  DSV4MX_RETURN_IF(!from.prepared_, DSV4MX_STATUS_INVALID_STATE,
                   "from is not prepared, wanted dsv4mx_weights_prepare before its experts are "
                   "copied");
  for (int32_t i = 0; i < args.count && &from == this; ++i) {
    const int32_t e = args.from_experts[i];
    DSV4MX_RETURN_IF(written[static_cast<size_t>(e)], kCode,
                     "from_experts[%d] is %d, which is written as well, wanted experts that are "
                     "either read or written",
                     i, e);
  }
  DSV4MX_RETURN_IF(from.store_->Form().id != store_->Form().id, DSV4MX_STATUS_UNSUPPORTED,
                   "experts of from are %s; wanted slabs as those of to: %s",
                   Text(*from.store_, from.layer_->spec()).text,
                   Text(*store_, layer_->spec()).text);
  for (int32_t i = 0; i < args.count && prepared_; ++i) {
    const int32_t e = args.from_experts[i];
    char what[32];
    std::snprintf(what, sizeof what, "expert %d of from", e);
    DSV4MX_TRY(layer_->backend().CheckNewcomer(census_,
                                               from.experts_[static_cast<size_t>(e)].census, what));
  }
  return kOk;
}

Status Weights::CopyExperts(const Weights& from, const dsv4mx_copy_args& args, const Call& call) {
  DSV4MX_TRY(CheckCopy(from, args));
  bool replaced = false;
  for (int32_t i = 0; i < args.count && !prepared_; ++i) {
    replaced = ClaimExpert(args.to_experts[i]) || replaced;
    MarkExpert(args.to_experts[i], false);
    filling_ = true;
  }
  if (replaced) WarnOfReplaced("an expert that is copied");
  for (int32_t i = 0; i < args.count; ++i) {
    const int32_t to = args.to_experts[i], e = args.from_experts[i];
    DSV4MX_TRY(call.control.Report(DSV4MX_STAGE_CONVERT, i, args.count));
    DSV4MX_TRY(store_->CopyExpert(to, *from.store_, e, call));
    if (prepared_) {
      experts_[static_cast<size_t>(to)].census = from.experts_[static_cast<size_t>(e)].census;
    } else {
      MarkExpert(to, true);
    }
  }
  return call.control.Report(DSV4MX_STAGE_CONVERT, args.count, args.count);
}

void Weights::Reset() {
  experts_.assign(experts_.size(), Expert{});
  filling_ = prepared_ = false;
  census_ = Census{};
}

Status Weights::Get(std::string_view name, int32_t expert, const dsv4mx_tensor& tensor,
                    const Call& call) const {
  const int length = static_cast<int>(name.size() < 200 ? name.size() : 200);
  constexpr auto kNotFound = DSV4MX_STATUS_NOT_FOUND;
  TensorName parsed;
  DSV4MX_TRY(ParseTensorName(name, &parsed));
  DSV4MX_RETURN_IF(
      parsed.target == TensorTarget::kW13, kNotFound,
      "%.*s holds gate and up, wanted names of w1, w2 and w3, or of gate_proj, up_proj "
      "and down_proj",
      length, name.data());
  if (prepared_ && parsed.has_expert) {
    std::vector<Target> targets;
    DSV4MX_TRY(FindTargets(parsed, name, expert, &targets));
    DSV4MX_RETURN_IF(targets.empty(), kNotFound, "the expert of %.*s is not held here", length,
                     name.data());
    expert = targets.front().local;
  }
  DSV4MX_TRY(CheckPrepared(expert, "a tensor is read back"));
  const Matrix m = MatrixOf(parsed.target);
  DSV4MX_RETURN_IF(!Required(PartOf(m, parsed.kind)), kNotFound,
                   "%.*s is asked for, but the weights hold no %s bias", length, name.data(),
                   m == Matrix::kDown ? "w2" : "w13");
  TensorSink sink;
  DSV4MX_TRY(CheckSink(layer_->spec(), parsed, name, tensor, &sink));
  DSV4MX_TRY(call.control.Report(DSV4MX_STAGE_CONVERT, 0, 1));
  return store_->Get(expert, m, sink, call);
}

Status Weights::GetSlab(int32_t expert, dsv4mx_slab* out) const {
  DSV4MX_TRY(CheckPrepared(expert, "a slab is given"));
  const SlabForm form = store_->Form();
  out->id = form.id;
  out->data = store_->Slab(expert);
  out->bytes = static_cast<size_t>(form.bytes);
  out->memory = store_->SlabMemory();
  return kOk;
}

Status Weights::SetSlab(int32_t expert, const dsv4mx_slab& slab, const Call& call) {
  const auto count = static_cast<int32_t>(experts_.size());
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  DSV4MX_RETURN_IF(expert < 0 || expert >= count, kCode, "expert is %d, wanted 0..%d", expert,
                   count - 1);
  DSV4MX_RETURN_IF(slab.memory < DSV4MX_MEMORY_HOST || slab.memory > DSV4MX_MEMORY_PINNED, kCode,
                   "memory of the slab is %d, wanted 0 (HOST), 1 (DEVICE) or 2 (PINNED)",
                   slab.memory);
  DSV4MX_RETURN_IF(slab.reserved != 0, kCode, "reserved of the slab is %d, wanted 0",
                   slab.reserved);
  const SlabForm form = store_->Form();
  DSV4MX_RETURN_IF(slab.id != form.id, DSV4MX_STATUS_UNSUPPORTED,
                   "id of the slab is 0x%016llx, wanted 0x%016llx: %s",
                   static_cast<unsigned long long>(slab.id),
                   static_cast<unsigned long long>(form.id), Text(*store_, layer_->spec()).text);
  DSV4MX_RETURN_IF(slab.data == nullptr, DSV4MX_STATUS_INVALID_TENSOR, "data of the slab is NULL");
  const auto bytes = static_cast<size_t>(form.bytes);
  DSV4MX_RETURN_IF(slab.bytes < bytes, DSV4MX_STATUS_BUFFER_TOO_SMALL,
                   "the slab has %zu bytes, wanted %zu", slab.bytes, bytes);
  DSV4MX_RETURN_IF(slab.bytes > bytes, DSV4MX_STATUS_INVALID_TENSOR,
                   "the slab has %zu bytes, wanted exactly %zu", slab.bytes, bytes);
  DSV4MX_TRY(call.control.Report(DSV4MX_STAGE_CONVERT, 0, 1));
  if (!prepared_) return WriteSlab(expert, slab.data, slab.memory, call);
  Census found;
  DSV4MX_TRY(store_->ReplaceSlab(
      expert, slab.data, slab.memory,
      [&](const Census& census) {
        found = census;
        return layer_->backend().CheckNewcomer(census_, census, "the slab");
      },
      call));
  experts_[static_cast<size_t>(expert)].census = found;
  return kOk;
}

Status Weights::WriteSlab(int32_t expert, const void* from, dsv4mx_memory memory,
                          const Call& call) {
  if (ClaimExpert(expert)) WarnOfReplaced("a slab");
  MarkExpert(expert, false);
  filling_ = true;
  DSV4MX_TRY(store_->WriteSlab(expert, from, memory, call));
  MarkExpert(expert, true);
  return kOk;
}

}  // namespace dsv4mx
