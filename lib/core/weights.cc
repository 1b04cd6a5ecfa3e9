#include "lib/core/weights.h"

#include <absl/cleanup/cleanup.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>

#include "lib/base/marlin.h"

namespace dsv4mx {
namespace {

// Imports and whole experts are sources as well.
constexpr NameFamily kMarlin = {"Marlin", DSV4MX_W13_ORDER_GATE_UP, true};

}  // namespace

Weights::PartName Weights::NameOf(Part part) {
  using enum TensorTarget;
  using enum TensorKind;
  constexpr PartName kNames[kParts] = {{kGate, kCodes},
                                       {kGate, kScales},
                                       {kUp, kCodes},
                                       {kUp, kScales},
                                       {kDown, kCodes},
                                       {kDown, kScales},
                                       {kGate, TensorKind::kBias},
                                       {kUp, TensorKind::kBias},
                                       {kDown, TensorKind::kBias}};
  return kNames[part];
}

Weights::Part Weights::PartOf(Matrix m, TensorKind kind) {
  if (kind == TensorKind::kBias) return static_cast<Part>(kGateBias + static_cast<int>(m));
  return static_cast<Part>(2 * static_cast<int>(m) + (kind == TensorKind::kScales ? 1 : 0));
}

bool Weights::Required(Part part) const {
  if (part == kGateBias || part == kUpBias) return layer_->spec().w13_bias != 0;
  if (part == kDownBias) return layer_->spec().w2_bias != 0;
  return true;
}

Status Weights::Create(std::shared_ptr<const Layer> layer, const dsv4mx_weights_desc& desc,
                       std::unique_ptr<Weights>* out) {
  const LayerBackend& backend = layer->backend();
  const auto bytes = static_cast<size_t>(backend.PreparedBytes());
  const auto alignment = static_cast<size_t>(backend.PreparedAlignment());
  std::unique_ptr<Weights> weights(new Weights);
  weights->layer_ = std::move(layer);

  weights->experts_.assign(static_cast<size_t>(weights->layer_->spec().experts), Expert{});

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

void Weights::LogMade() const {
  layer_->context().Log(DSV4MX_LOG_INFO, "weights of %d experts: %lld bytes%s",
                        layer_->spec().experts,
                        static_cast<long long>(layer_->backend().PreparedBytes()),
                        block_.get() == nullptr ? " in the caller's memory" : "");
}

Status Weights::CheckOpen(const char* what) const {
  DSV4MX_RETURN_IF(prepared_, DSV4MX_STATUS_INVALID_STATE,
                   "%s after prepare: prepared weights change by copy_experts, set_slab and reset "
                   "alone",
                   what);
  return kOk;
}

void Weights::Mark(int32_t expert, Part part, bool set) {
  Expert& e = experts_[static_cast<size_t>(expert)];
  e.set[part] = set;
  e.prepared = false;
}

bool Weights::Claim(int32_t expert, Matrix m, Source source) {
  Expert& e = experts_[static_cast<size_t>(expert)];
  Source& of_matrix = e.source[static_cast<int>(m)];
  if (of_matrix == source) return false;
  of_matrix = source;
  bool replaced = false;
  for (const TensorKind kind : {TensorKind::kCodes, TensorKind::kScales}) {
    replaced = replaced || e.set[PartOf(m, kind)];
    Mark(expert, PartOf(m, kind), false);
  }
  return replaced;
}

void Weights::WarnOfReplaced(const char* what) const {
  layer_->context().Log(DSV4MX_LOG_WARNING,
                        "%.200s comes from another source than the codes or scales that were set "
                        "before; those count as not set",
                        what);
}

// Which local experts a tensor covers: none where its expert is not held here, several where copies of it are.
Status Weights::FindTargets(const TensorName& name, std::string_view full_name, int32_t expert,
                            std::vector<Target>* targets) const {
  const LayerSpec& spec = layer_->spec();
  const int length = static_cast<int>(full_name.size() < 200 ? full_name.size() : 200);
  if (name.has_expert) {
    DSV4MX_RETURN_IF(expert != -1 && expert != name.expert_id, DSV4MX_STATUS_INVALID_ARGUMENT,
                     "expert is %d for %.*s, wanted -1 or %lld", expert, length, full_name.data(),
                     static_cast<long long>(name.expert_id));
    const std::shared_ptr<const Placement> placement = layer_->placement();
    const int32_t first = placement->FirstCopy(name.expert_id);
    if (first < 0) return kOk;
    targets->push_back({first, 0});
    if (placement->expert.empty()) return kOk;
    for (int32_t e = first + 1; e < spec.experts; ++e) {
      if (placement->ExpertAt(e) == name.expert_id) targets->push_back({e, 0});
    }
    return kOk;
  }
  DSV4MX_RETURN_IF(expert < -1 || expert >= spec.experts, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "expert is %d for %.*s, wanted -1 or 0..%d", expert, length, full_name.data(),
                   spec.experts - 1);
  if (expert >= 0) {
    targets->push_back({expert, 0});
    return kOk;
  }
  for (int32_t e = 0; e < spec.experts; ++e) targets->push_back({e, e});
  return kOk;
}

Status Weights::SetMatrix(TensorKind kind, const CheckedTensor& tensor, const Target& target,
                          Matrix m, const Call& call) {
  switch (kind) {
    case TensorKind::kCodes:
      return store_->SetCodes(target.local, m, tensor.Codes(target.index, m), call);
    case TensorKind::kScales:
      return store_->SetScales(target.local, m, tensor.Scales(target.index, m), call);
    case TensorKind::kBias:
      return store_->SetBias(target.local, m, tensor.Bias(target.index, m), call);
  }
  return Fail(DSV4MX_STATUS_INTERNAL, "tensor kind %d", static_cast<int>(kind));
}

Status Weights::Set(std::string_view name, int32_t expert, const dsv4mx_tensor& tensor,
                    const Call& call) {
  DSV4MX_TRY(CheckOpen("a tensor was set"));
  TensorName parsed;
  DSV4MX_TRY(ParseTensorName(name, &parsed));
  return SetParsed(parsed, name, expert, tensor, call);
}

Status Weights::CheckBias(const TensorName& parsed, const std::string& text, bool* ignored) const {
  *ignored = false;
  if (parsed.kind != TensorKind::kBias) return kOk;
  const bool of_down = parsed.target == TensorTarget::kDown;
  if (of_down && layer_->spec().w2_bias_elsewhere) {
    layer_->context().Log(DSV4MX_LOG_DEBUG, "%s is ignored: tensor-parallel rank 0 adds it",
                          text.c_str());
    *ignored = true;
    return kOk;
  }
  DSV4MX_RETURN_IF(!Required(of_down ? kDownBias : kGateBias), DSV4MX_STATUS_INVALID_ARGUMENT,
                   "%s is given, but the layer has no %s bias", text.c_str(),
                   of_down ? "w2" : "w13");
  return kOk;
}

template <class SetOne>
Status Weights::Fill(const TensorName& parsed, const std::string& text,
                     const std::vector<Target>& targets, Status fits, int64_t bytes,
                     const Call& call, SetOne&& set) {
  const Source source = parsed.family;
  const bool bias = parsed.kind == TensorKind::kBias;
  const auto for_each = [&](auto&& f) {
    for (const Target& t : targets) {
      for (const Matrix m : kMatrices) {
        if (Covers(parsed.target, m)) f(t, m, PartOf(m, parsed.kind));
      }
    }
  };
  // What is going to be written counts as not set until all of it is, so that a failure half-way cannot leave a mixture
  // that prepare takes. A tensor that is refused as such takes nothing from another source.
  bool replaced = false;
  for_each([&](const Target& t, Matrix m, Part part) {
    if (fits.ok() && !bias) replaced = Claim(t.local, m, source) || replaced;
    if (bias || experts_[static_cast<size_t>(t.local)].source[static_cast<int>(m)] == source) {
      Mark(t.local, part, false);
    }
  });
  DSV4MX_TRY(fits);
  if (replaced) WarnOfReplaced(text.c_str());
  filling_ = true;
  const int64_t total = bytes * static_cast<int64_t>(targets.size());
  int64_t done = 0;
  for (const Target& t : targets) {
    DSV4MX_TRY(call.control.Report(DSV4MX_STAGE_LOAD, done, total));
    const Control rest = call.control.Part(done, total);
    DSV4MX_TRY(set(t, Call{call.stream, rest}));
    done += bytes;
  }
  for_each([&](const Target& t, Matrix, Part part) { Mark(t.local, part, true); });
  layer_->context().Log(DSV4MX_LOG_DEBUG, "%s is set: %lld bytes", text.c_str(),
                        static_cast<long long>(total));
  return call.control.Report(DSV4MX_STAGE_LOAD, total, total);
}

Status Weights::SetParsed(const TensorName& parsed, std::string_view name, int32_t expert,
                          const dsv4mx_tensor& tensor, const Call& call) {
  std::vector<Target> targets;
  DSV4MX_TRY(FindTargets(parsed, name, expert, &targets));
  const std::string text(name.substr(0, 200));
  if (targets.empty()) {
    layer_->context().Log(DSV4MX_LOG_DEBUG, "%s is ignored: its expert is not held here",
                          text.c_str());
    return kOk;
  }
  bool ignored = false;
  DSV4MX_TRY(CheckBias(parsed, text, &ignored));
  if (ignored) return kOk;
  const bool whole = !parsed.has_expert && expert == -1;
  CheckedTensor checked;
  const Status fits = CheckTensor(layer_->spec(), parsed, name, whole, tensor, &checked);
  // Codes of all experts on the device are a few calls instead of some for each of them.
  const bool together = whole && checked.device && parsed.kind == TensorKind::kCodes;
  return Fill(parsed, text, targets, fits, checked.ExpertBytes(), call,
              [&](const Target& t, const Call& part) -> Status {
                for (const Matrix m : kMatrices) {
                  if (!Covers(parsed.target, m) || (together && t.index > 0)) continue;
                  if (together) {
                    CodesView codes = checked.Codes(0, m);
                    codes.experts = layer_->spec().experts;
                    codes.expert_stride = checked.expert_stride;
                    DSV4MX_TRY(store_->SetCodes(t.local, m, codes, part));
                    continue;
                  }
                  DSV4MX_TRY(SetMatrix(parsed.kind, checked, t, m, part));
                }
                return kOk;
              });
}

template <class F>
void Weights::ForParts(const NamedRows& tensor, F&& f) {
  for (const Matrix m : kMatrices) {
    if (!Covers(tensor.name.target, m)) continue;
    f(PartOf(m, tensor.name.kind), m);
    if (tensor.rows.parts == RowsToRead::kCodesAndScales) f(PartOf(m, TensorKind::kScales), m);
  }
}

Status Weights::ReadRows(absl::Span<const NamedRows> tensors, const Call& call, ReadTimes* times) {
  std::vector<const NamedRows*> taken;
  std::vector<RowsToRead> rows;
  taken.reserve(tensors.size());
  rows.reserve(tensors.size());
  for (const NamedRows& tensor : tensors) {
    bool ignored = false;
    DSV4MX_TRY(CheckBias(tensor.name, std::string(tensor.text.substr(0, 200)), &ignored));
    if (ignored) continue;
    taken.push_back(&tensor);
    rows.push_back(tensor.rows);
  }
  // As in Fill: what is going to be written counts as not set until all of it is.
  const NamedRows* replaced = nullptr;
  for (const NamedRows* tensor : taken) {
    for (const int32_t local : tensor->rows.experts) {
      ForParts(*tensor, [&](Part part, Matrix m) {
        if (tensor->name.kind != TensorKind::kBias && Claim(local, m, tensor->name.family)) {
          replaced = tensor;
        }
        Mark(local, part, false);
      });
    }
  }
  if (replaced != nullptr) WarnOfReplaced(std::string(replaced->text.substr(0, 200)).c_str());
  filling_ = true;
  DSV4MX_TRY(store_->ReadRows(rows, call, times));
  for (const NamedRows* tensor : taken) {
    for (const int32_t local : tensor->rows.experts) {
      ForParts(*tensor, [&](Part part, Matrix) { Mark(local, part, true); });
    }
  }
  return kOk;
}

int64_t Weights::CountMissing() const {
  int64_t missing = 0;
  for (const Expert& e : experts_) {
    for (int part = 0; part < kParts; ++part) {
      if (!e.set[part] && Required(static_cast<Part>(part))) ++missing;
    }
  }
  return missing;
}

Status Weights::CheckComplete() const {
  const LayerSpec& spec = layer_->spec();
  for (size_t e = 0; e < experts_.size(); ++e) {
    for (int i = 0; i < kParts; ++i) {
      const auto part = static_cast<Part>(i);
      if (experts_[e].set[part] || !Required(part)) continue;
      PartName name = NameOf(part);
      const Matrix m = MatrixOf(name.target);
      int64_t rows = spec.Rows(m);
      // Biases of gate and up mostly come in one tensor.
      if (part == kGateBias && !experts_[e].set[kUpBias]) {
        name.target = TensorTarget::kW13;
        rows *= 2;
      }
      char columns[24] = "";
      if (name.kind != TensorKind::kBias) {
        const int64_t per = name.kind == TensorKind::kCodes ? 2 : kGroupSize;
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

Status Weights::Prepare(const Call& call) {
  DSV4MX_RETURN_IF(prepared_, DSV4MX_STATUS_INVALID_STATE,
                   "the weights are prepared already, wanted one call of prepare");
  DSV4MX_TRY(CheckComplete());
  const auto count = static_cast<int32_t>(experts_.size());
  // Once per expert: the largest takes some milliseconds, so a callback is never a second away.
  for (int32_t e = 0; e < count; ++e) {
    DSV4MX_TRY(call.control.Report(DSV4MX_STAGE_PREPARE, e, count));
    Expert& expert = experts_[static_cast<size_t>(e)];
    if (expert.prepared) continue;  // done before a cancelled call ended
    Census census;
    DSV4MX_TRY(store_->PrepareExpert(e, &census, call));
    expert.census = census;
    expert.prepared = true;
  }
  DSV4MX_TRY(call.control.Report(DSV4MX_STAGE_PREPARE, count, count));
  std::vector<Census> of_experts;
  of_experts.reserve(experts_.size());
  for (const Expert& e : experts_) of_experts.push_back(e.census);
  DSV4MX_TRY(store_->FinishPrepare(of_experts.data(), call));
  for (size_t e = 0; e < experts_.size(); ++e) experts_[e].census = of_experts[e];
  const Census census = CensusOfAll();
  DSV4MX_TRY(layer_->backend().CheckCensus(census));
  census_ = census;
  prepared_ = true;
  return kOk;
}

void Weights::WriteCensus(const Census& census, dsv4mx_weights_census* out) {
  out->planes_exact = census.planes_exact() ? 1 : 0;
  out->span_max = census.any ? census.span_max : 0;
}

Census Weights::CensusOfAll() const {
  Census census;
  for (const Expert& e : experts_) census.Add(e.census);
  return census;
}

void Weights::Query(dsv4mx_weights_info* out) const {
  out->state = prepared_  ? DSV4MX_WEIGHTS_PREPARED
               : filling_ ? DSV4MX_WEIGHTS_FILLING
                          : DSV4MX_WEIGHTS_EMPTY;
  out->bytes = layer_->backend().PreparedBytes();
  out->tensors_missing = CountMissing();
  if (!prepared_) return;
  const Census census = CensusOfAll();
  if (!census.any) return;
  out->scale_min = census.scale_min;
  out->scale_max = census.scale_max;
}

Status Weights::QueryCensus(dsv4mx_weights_census* out) const {
  DSV4MX_RETURN_IF(!prepared_, DSV4MX_STATUS_INVALID_STATE,
                   "the weights are not prepared, wanted dsv4mx_weights_prepare before the census");
  WriteCensus(CensusOfAll(), out);
  return kOk;
}

Status Weights::CheckEmpty(const char* what) const {
  DSV4MX_RETURN_IF(prepared_ || filling_, DSV4MX_STATUS_INVALID_STATE,
                   "%s into weights that are %s, wanted empty ones", what,
                   prepared_ ? "prepared" : "being filled");
  return kOk;
}

Status Weights::Restore(absl::FunctionRef<Status(ExpertStore* store)> fill,
                        absl::FunctionRef<Status()> check, const Call& call) {
  absl::Cleanup clear = [this] { Reset(); };
  filling_ = true;
  DSV4MX_TRY(fill(store_.get()));
  for (size_t e = 0; e < experts_.size(); ++e) {
    ClaimExpert(static_cast<int32_t>(e));
    MarkExpert(static_cast<int32_t>(e), true);
  }
  DSV4MX_TRY(Prepare(call));
  DSV4MX_TRY(check());
  std::move(clear).Cancel();
  return kOk;
}

Status Weights::ImportMarlin(const dsv4mx_marlin& marlin, const Call& call) {
  DSV4MX_TRY(CheckOpen("experts were imported"));
  dsv4mx_marlin all = marlin;
  DSV4MX_TRY(ResolveMarlin(layer_->spec(), &all));
  const struct {
    const void* pointer;
    Part parts[2];
  } tensors[] = {
      {all.w13, {kGateCodes, kUpCodes}},          {all.w13_scale, {kGateScales, kUpScales}},
      {all.w13_bias, {kGateBias, kUpBias}},       {all.w2, {kDownCodes, kDownCodes}},
      {all.w2_scale, {kDownScales, kDownScales}}, {all.w2_bias, {kDownBias, kDownBias}}};
  const auto mark = [&](int32_t expert, bool set) {
    for (const auto& t : tensors) {
      if (t.pointer == nullptr) continue;
      for (const Part part : t.parts) Mark(expert, part, set);
    }
  };
  bool any = false;
  for (const auto& t : tensors) any = any || t.pointer != nullptr;
  DSV4MX_RETURN_IF(!any, DSV4MX_STATUS_INVALID_ARGUMENT, "no tensor is given, wanted at least one");

  const int32_t first = all.expert_first, end = first + all.expert_count;
  const bool w13 = all.w13 != nullptr || all.w13_scale != nullptr;
  const bool w2 = all.w2 != nullptr || all.w2_scale != nullptr;
  bool replaced = false;
  for (int32_t e = first; e < end; ++e) {
    for (const Matrix m : kMatrices) {
      if (m == Matrix::kDown ? w2 : w13) replaced = Claim(e, m, &kMarlin) || replaced;
    }
    mark(e, false);
  }
  if (replaced) WarnOfReplaced("the Marlin import");
  filling_ = true;
  for (int32_t e = first; e < end; ++e) {
    DSV4MX_TRY(call.control.Report(DSV4MX_STAGE_CONVERT, e - first, all.expert_count));
    DSV4MX_TRY(store_->ImportMarlin(e, MarlinSlab(all, e - first), call));
    mark(e, true);
  }
  return call.control.Report(DSV4MX_STAGE_CONVERT, all.expert_count, all.expert_count);
}

Status Weights::ExportMarlin(const dsv4mx_marlin& marlin, const Call& call) const {
  DSV4MX_RETURN_IF(!prepared_, DSV4MX_STATUS_INVALID_STATE,
                   "the weights are not prepared, wanted dsv4mx_weights_prepare before an export");
  dsv4mx_marlin all = marlin;
  DSV4MX_TRY(ResolveMarlin(layer_->spec(), &all));
  return store_->ExportMarlin(all, call);
}

}  // namespace dsv4mx
