#include "lib/core/weights.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>

#include "lib/base/marlin.h"

namespace dsv4mx {
namespace {

Matrix MatrixOf(TensorTarget target) {
  switch (target) {
    case TensorTarget::kUp:
      return Matrix::kUp;
    case TensorTarget::kDown:
      return Matrix::kDown;
    default:
      return Matrix::kGate;
  }
}

void Merge(const Census& from, Census* into) {
  into->scale_min = std::min(into->scale_min, from.scale_min);
  into->scale_max = std::max(into->scale_max, from.scale_max);
  into->span_max = std::max(into->span_max, from.span_max);
  into->any = into->any || from.any;
}

}  // namespace

Weights::SlotName Weights::NameOf(Slot slot) {
  using enum TensorTarget;
  using enum TensorKind;
  constexpr SlotName kNames[kSlots] = {{kGate, kCodes},
                                       {kGate, kScales},
                                       {kUp, kCodes},
                                       {kUp, kScales},
                                       {kDown, kCodes},
                                       {kDown, kScales},
                                       {kW13, TensorKind::kBias},
                                       {kDown, TensorKind::kBias}};
  return kNames[slot];
}

Weights::Slot Weights::SlotOf(Matrix m, TensorKind kind) {
  if (kind == TensorKind::kBias) return m == Matrix::kDown ? kBias2 : kBias13;
  return static_cast<Slot>(2 * static_cast<int>(m) + (kind == TensorKind::kScales ? 1 : 0));
}

bool Weights::Required(Slot slot) const {
  if (slot == kBias13) return layer_->spec().w13_bias != 0;
  if (slot == kBias2) return layer_->spec().w2_bias != 0;
  return true;
}

Status Weights::Create(std::shared_ptr<const Layer> layer, const dsv4mx_weights_desc& desc,
                       std::unique_ptr<Weights>* out) {
  const LayerBackend& backend = layer->backend();
  const auto bytes = static_cast<size_t>(backend.PreparedBytes());
  const auto alignment = static_cast<size_t>(backend.PreparedAlignment());
  std::unique_ptr<Weights> weights(new Weights);
  weights->layer_ = std::move(layer);

  Expert empty{};
  std::fill(std::begin(empty.rank), std::end(empty.rank), kUnset);
  weights->experts_.assign(static_cast<size_t>(weights->layer_->spec().experts), empty);

  void* memory = desc.memory;
  if (memory == nullptr) {
    DSV4MX_RETURN_IF(desc.memory_bytes != 0, DSV4MX_STATUS_INVALID_ARGUMENT,
                     "memory is NULL with memory_bytes %zu, wanted 0", desc.memory_bytes);
    DSV4MX_TRY(weights->block_.Alloc(&weights->layer_->context(), bytes, alignment));
    memory = weights->block_.get();
  } else {
    DSV4MX_RETURN_IF(desc.memory_bytes < bytes, DSV4MX_STATUS_BUFFER_TOO_SMALL,
                     "memory has %zu bytes, wanted %zu", desc.memory_bytes, bytes);
    DSV4MX_RETURN_IF(reinterpret_cast<uintptr_t>(memory) % alignment != 0, DSV4MX_STATUS_MISALIGNED,
                     "memory is %p, wanted a multiple of %zu bytes", memory, alignment);
  }
  DSV4MX_TRY(backend.MakeStore(memory, &weights->store_));
  *out = std::move(weights);
  return kOk;
}

Status Weights::CheckOpen(const char* what) const {
  DSV4MX_RETURN_IF(prepared_, DSV4MX_STATUS_INVALID_STATE,
                   "%s after prepare: prepared weights do not change", what);
  return kOk;
}

void Weights::Mark(int32_t expert, Slot slot, uint8_t rank) {
  Expert& e = experts_[static_cast<size_t>(expert)];
  e.rank[slot] = rank;
  e.prepared = false;
}

// Which local experts a tensor covers: count experts from `first` on, or none for a foreign id.
Status Weights::FindExperts(const TensorName& name, std::string_view full_name, int32_t expert,
                            int32_t* first, int32_t* count) const {
  const LayerSpec& spec = layer_->spec();
  const int length = static_cast<int>(full_name.size() < 200 ? full_name.size() : 200);
  if (name.has_expert) {
    DSV4MX_RETURN_IF(expert != -1 && expert != name.expert_id, DSV4MX_STATUS_INVALID_ARGUMENT,
                     "expert is %d for %.*s, wanted -1 or %lld", expert, length, full_name.data(),
                     static_cast<long long>(name.expert_id));
    *first = spec.LocalExpert(name.expert_id);
    *count = *first < 0 ? 0 : 1;
    return kOk;
  }
  DSV4MX_RETURN_IF(expert < -1 || expert >= spec.experts, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "expert is %d for %.*s, wanted -1 or 0..%d", expert, length, full_name.data(),
                   spec.experts - 1);
  *first = expert < 0 ? 0 : expert;
  *count = expert < 0 ? spec.experts : 1;
  return kOk;
}

Status Weights::SetMatrix(TensorKind kind, const CheckedTensor& tensor, int32_t index,
                          int32_t expert, Matrix m, dsv4mx_stream stream) {
  switch (kind) {
    case TensorKind::kCodes:
      return store_->SetCodes(expert, m, tensor.Codes(index, m), stream);
    case TensorKind::kScales:
      return store_->SetScales(expert, m, tensor.Scales(index, m), stream);
    case TensorKind::kBias:
      return store_->SetBias(expert, m, tensor.Bias(index, m), stream);
  }
  return Fail(DSV4MX_STATUS_INTERNAL, "tensor kind %d", static_cast<int>(kind));
}

Status Weights::Set(std::string_view name, int32_t expert, const dsv4mx_tensor& tensor,
                    dsv4mx_stream stream) {
  DSV4MX_TRY(CheckOpen("a tensor was set"));
  TensorName parsed;
  DSV4MX_TRY(ParseTensorName(name, &parsed));
  int32_t first = 0, count = 0;
  DSV4MX_TRY(FindExperts(parsed, name, expert, &first, &count));
  if (count == 0) return kOk;  // an expert of another rank

  if (parsed.kind == TensorKind::kBias) {
    const bool of_down = parsed.target == TensorTarget::kDown;
    DSV4MX_RETURN_IF(!Required(of_down ? kBias2 : kBias13), DSV4MX_STATUS_INVALID_ARGUMENT,
                     "%.*s is given, but the layer has no %s bias",
                     static_cast<int>(std::min<size_t>(name.size(), 200)), name.data(),
                     of_down ? "w2" : "w13");
  }

  // Slots that a name of higher precedence filled are not touched; f(expert, matrix, slot) gets the
  // others.
  const auto rank = static_cast<uint8_t>(parsed.rank);
  const auto for_each = [&](auto&& f) -> Status {
    for (int32_t e = first; e < first + count; ++e) {
      for (const Matrix m : kMatrices) {
        const Slot slot = SlotOf(m, parsed.kind);
        if (!Covers(parsed.target, m) || experts_[static_cast<size_t>(e)].rank[slot] < rank)
          continue;
        DSV4MX_TRY(f(e, m, slot));
      }
    }
    return kOk;
  };
  // What is going to be written counts as not set until all of it is, so that a failure half-way
  // cannot leave a mixture that prepare takes.
  bool wanted = false;
  const auto mark_all = [&](uint8_t as) {
    return for_each([&](int32_t e, Matrix, Slot slot) {
      wanted = true;
      Mark(e, slot, as);
      return kOk;
    });
  };
  DSV4MX_TRY(mark_all(kUnset));
  if (!wanted) return kOk;

  const bool whole = !parsed.has_expert && expert == -1;
  CheckedTensor checked;
  DSV4MX_TRY(CheckTensor(layer_->spec(), parsed, name, whole, tensor, &checked));
  filling_ = true;
  DSV4MX_TRY(for_each([&](int32_t e, Matrix m, Slot) {
    return SetMatrix(parsed.kind, checked, e - first, e, m, stream);
  }));
  return mark_all(rank);
}

int64_t Weights::CountMissing() const {
  int64_t missing = 0;
  for (const Expert& e : experts_) {
    for (int slot = 0; slot < kSlots; ++slot) {
      if (e.rank[slot] == kUnset && Required(static_cast<Slot>(slot))) ++missing;
    }
  }
  return missing;
}

Status Weights::CheckComplete() const {
  const LayerSpec& spec = layer_->spec();
  for (size_t e = 0; e < experts_.size(); ++e) {
    for (int i = 0; i < kSlots; ++i) {
      const auto slot = static_cast<Slot>(i);
      if (experts_[e].rank[slot] != kUnset || !Required(slot)) continue;
      const SlotName name = NameOf(slot);
      const Matrix m = MatrixOf(name.target);
      const int64_t rows =
          slot == kBias13 ? 2 * static_cast<int64_t>(spec.intermediate) : spec.Rows(m);
      char columns[24] = "";
      if (name.kind != TensorKind::kBias) {
        const int64_t per = name.kind == TensorKind::kCodes ? 2 : kGroup;
        std::snprintf(columns, sizeof(columns), ", %lld", static_cast<long long>(spec.K(m) / per));
      }
      return Fail(DSV4MX_STATUS_NOT_FOUND,
                  "%s [%lld%s] of expert %zu is not set; tensors missing in all: %lld",
                  CanonicalName(name.target, name.kind), static_cast<long long>(rows), columns, e,
                  static_cast<long long>(CountMissing()));
    }
  }
  return kOk;
}

Status Weights::Prepare(const dsv4mx_prepare_args& args, dsv4mx_stream stream) {
  DSV4MX_RETURN_IF(prepared_, DSV4MX_STATUS_INVALID_STATE,
                   "the weights are prepared already, wanted one call of prepare");
  DSV4MX_TRY(CheckComplete());
  const auto count = static_cast<int32_t>(experts_.size());
  // Once per expert: the largest takes some milliseconds, so a callback is never a second away.
  const auto cancelled = [&](int32_t done) {
    return args.progress != nullptr &&
           args.progress(args.progress_user, static_cast<double>(done) / count) != 0;
  };
  for (int32_t e = 0; e <= count; ++e) {
    DSV4MX_RETURN_IF(cancelled(e), DSV4MX_STATUS_CANCELLED,
                     "prepare was cancelled by its progress callback after %d of %d experts", e,
                     count);
    if (e == count) break;
    Expert& expert = experts_[static_cast<size_t>(e)];
    if (expert.prepared) continue;  // done before a cancelled call ended
    Census census;
    DSV4MX_TRY(store_->PrepareExpert(e, &census, stream));
    expert.census = census;
    expert.prepared = true;
  }
  Census census;
  for (const Expert& e : experts_) Merge(e.census, &census);
  DSV4MX_TRY(store_->FinishPrepare(&census, stream));
  DSV4MX_TRY(layer_->backend().CheckCensus(census));
  census_ = census;
  prepared_ = true;
  return kOk;
}

void Weights::Query(dsv4mx_weights_info* out) const {
  out->state = prepared_  ? DSV4MX_WEIGHTS_PREPARED
               : filling_ ? DSV4MX_WEIGHTS_FILLING
                          : DSV4MX_WEIGHTS_EMPTY;
  out->bytes = layer_->backend().PreparedBytes();
  out->tensors_missing = CountMissing();
  if (!prepared_) return;
  out->planes_exact = census_.planes_exact() ? 1 : 0;
  if (!census_.any) return;
  out->scale_min = census_.scale_min;
  out->scale_max = census_.scale_max;
  out->span_max = census_.span_max;
}

Status Weights::ImportMarlin(const dsv4mx_marlin& marlin, dsv4mx_stream stream) {
  DSV4MX_TRY(CheckOpen("experts were imported"));
  dsv4mx_marlin all = marlin;
  DSV4MX_TRY(ResolveMarlin(layer_->spec(), &all));
  const struct {
    const void* pointer;
    Slot slots[2];
  } tensors[] = {
      {all.w13, {kGateCodes, kUpCodes}},          {all.w13_scale, {kGateScales, kUpScales}},
      {all.w13_bias, {kBias13, kBias13}},         {all.w2, {kDownCodes, kDownCodes}},
      {all.w2_scale, {kDownScales, kDownScales}}, {all.w2_bias, {kBias2, kBias2}}};
  const auto mark = [&](int32_t expert, uint8_t rank) {
    for (const auto& t : tensors) {
      if (t.pointer == nullptr) continue;
      for (const Slot slot : t.slots) Mark(expert, slot, rank);
    }
  };
  bool any = false;
  for (const auto& t : tensors) any = any || t.pointer != nullptr;
  DSV4MX_RETURN_IF(!any, DSV4MX_STATUS_INVALID_ARGUMENT, "no tensor is given, wanted at least one");

  const int32_t first = all.expert_first, end = first + all.expert_count;
  for (int32_t e = first; e < end; ++e) mark(e, kUnset);
  filling_ = true;
  for (int32_t e = first; e < end; ++e) {
    DSV4MX_TRY(store_->ImportMarlin(e, MarlinSlab(all, e - first), stream));
  }
  // As the first name of the table: nothing that comes later under another name replaces it.
  for (int32_t e = first; e < end; ++e) mark(e, 0);
  return kOk;
}

Status Weights::ExportMarlin(const dsv4mx_marlin& marlin, dsv4mx_stream stream) const {
  DSV4MX_RETURN_IF(!prepared_, DSV4MX_STATUS_INVALID_STATE,
                   "the weights are not prepared, wanted dsv4mx_weights_prepare before an export");
  dsv4mx_marlin all = marlin;
  DSV4MX_TRY(ResolveMarlin(layer_->spec(), &all));
  return store_->ExportMarlin(all, stream);
}

}  // namespace dsv4mx
