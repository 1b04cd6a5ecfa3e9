// The gate that every layer passes: what comes out of MakeSpec needs no further check anywhere.
#include "lib/base/spec.h"

#include <algorithm>
#include <cmath>

#include "lib/base/hash.h"
#include "lib/base/text.h"

namespace dsv4mx {
namespace {

constexpr int32_t kMaxSize = 65536;
constexpr int32_t kMaxIds = 1 << 20;  // bounds the map of ids

Status CheckSize(const char* name, int32_t size) {
  if (size >= kGroupSize && size <= kMaxSize && size % kGroupSize == 0) return kOk;
  constexpr auto kCode = DSV4MX_STATUS_UNSUPPORTED_SHAPE;
  if (size < kGroupSize || size > kMaxSize) {
    return Fail(kCode, "%s is %d, wanted a multiple of 32 in 32..65536 (nearest: %d)", name, size,
                size < kGroupSize ? kGroupSize : kMaxSize);
  }
  // 144 = 4.5 groups: no rank may own half a scale, so an even cut of 2304 by 16 is not possible.
  const int32_t below = size / kGroupSize * kGroupSize, above = below + kGroupSize;
  if (size - below == above - size) {
    return Fail(kCode,
                "%s is %d, wanted a multiple of 32, the values under one scale (nearest: %d or %d)",
                name, size, below, above);
  }
  return Fail(kCode, "%s is %d, wanted a multiple of 32, the values under one scale (nearest: %d)",
              name, size, size - below < above - size ? below : above);
}

Status CheckCount(const char* name, int32_t count, int32_t most) {
  if (count >= 1 && count <= most) return kOk;
  return Fail(DSV4MX_STATUS_UNSUPPORTED_SHAPE, "%s is %d, wanted 1..%d (nearest: %d)", name, count,
              most, count < 1 ? 1 : most);
}

Status CheckEnum(const char* name, int32_t value, int32_t last) {
  if (value >= 0 && value <= last) return kOk;
  return Fail(DSV4MX_STATUS_INVALID_ARGUMENT, "%s is %d, wanted 0..%d", name, value, last);
}

Status CheckFinite(const char* name, float value) {
  if (std::isfinite(value)) return kOk;
  return Fail(DSV4MX_STATUS_INVALID_ARGUMENT, "%s is %s, wanted a finite number", name,
              Text(value).text);
}

// A dtype field with two legal values of which one is what 0 means.
Status ResolveDtype(const char* name, dsv4mx_dtype given, dsv4mx_dtype standard, dsv4mx_dtype other,
                    const char* wanted, dsv4mx_dtype* out) {
  if (given == DSV4MX_DTYPE_DEFAULT) given = standard;
  if (given != standard && given != other) {
    return Fail(DSV4MX_STATUS_UNSUPPORTED_DTYPE, "%s is dtype %d, wanted %s", name, given, wanted);
  }
  *out = given;
  return kOk;
}

Status CheckFormat(const dsv4mx_layer_desc& d) {
  DSV4MX_TRY(CheckEnum("weight_format", d.weight_format, DSV4MX_WEIGHT_FORMAT_MXFP4));
  DSV4MX_RETURN_IF(
      d.group_size == 16, DSV4MX_STATUS_UNSUPPORTED_DTYPE,
      "group_size is 16, wanted 32: groups of 16 are NVFP4, whose E4M3 group scales and global "
      "scale this version does not compute with");
  DSV4MX_RETURN_IF(d.group_size != 0 && d.group_size != kGroupSize, DSV4MX_STATUS_UNSUPPORTED_DTYPE,
                   "group_size is %d, wanted 32", d.group_size);
  DSV4MX_RETURN_IF(d.x_dtype == DSV4MX_DTYPE_F16, DSV4MX_STATUS_UNSUPPORTED_DTYPE,
                   "x_dtype is F16, wanted BF16: f16 cannot hold the range of MXFP4's scales");
  DSV4MX_RETURN_IF(d.x_dtype != DSV4MX_DTYPE_DEFAULT && d.x_dtype != DSV4MX_DTYPE_BF16,
                   DSV4MX_STATUS_UNSUPPORTED_DTYPE, "x_dtype is dtype %d, wanted BF16", d.x_dtype);
  DSV4MX_TRY(CheckEnum("w13_order", d.w13_order, DSV4MX_W13_ORDER_INTERLEAVED));
  DSV4MX_TRY(CheckEnum("nibble_order", d.nibble_order, DSV4MX_NIBBLE_ORDER_HIGH_FIRST));
  return kOk;
}

// The channels of a tensor-parallel rank: an even cut, or what the caller names.
Status MakeChannels(const dsv4mx_layer_desc& d, LayerSpec* s) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  constexpr int32_t kMaxRanks = 1024;
  DSV4MX_TRY(CheckSize("intermediate", d.intermediate));
  DSV4MX_RETURN_IF(d.tp_size < 0 || d.tp_size > kMaxRanks, kCode, "tp_size is %d, wanted 0..%d",
                   d.tp_size, kMaxRanks);
  s->tp_size = std::max(d.tp_size, 1);
  DSV4MX_RETURN_IF(d.tp_rank < 0 || d.tp_rank >= s->tp_size, kCode, "tp_rank is %d, wanted 0..%d",
                   d.tp_rank, s->tp_size - 1);
  s->tp_rank = d.tp_rank;
  s->intermediate_global = d.intermediate;
  if (d.intermediate_count == 0) {
    DSV4MX_RETURN_IF(d.intermediate_first != 0, kCode,
                     "intermediate_first is %d with intermediate_count 0, wanted 0: the even cut",
                     d.intermediate_first);
    DSV4MX_RETURN_IF(d.intermediate % (kGroupSize * s->tp_size) != 0,
                     DSV4MX_STATUS_UNSUPPORTED_SHAPE,
                     "intermediate is %d over tp_size %d, which cuts a group of 32, wanted "
                     "intermediate_first and intermediate_count of this rank, multiples of 32",
                     d.intermediate, s->tp_size);
    s->intermediate = d.intermediate / s->tp_size;
    s->intermediate_first = s->tp_rank * s->intermediate;
    return kOk;
  }
  DSV4MX_TRY(CheckSize("intermediate_count", d.intermediate_count));
  DSV4MX_RETURN_IF(d.intermediate_first < 0 || d.intermediate_first % kGroupSize != 0, kCode,
                   "intermediate_first is %d, wanted a multiple of 32, 0 or more",
                   d.intermediate_first);
  DSV4MX_RETURN_IF(d.intermediate_first > d.intermediate - d.intermediate_count, kCode,
                   "intermediate_first is %d and intermediate_count %d, wanted a part of "
                   "intermediate = %d",
                   d.intermediate_first, d.intermediate_count, d.intermediate);
  s->intermediate = d.intermediate_count;
  s->intermediate_first = d.intermediate_first;
  return kOk;
}

// Ids are the physical ones of an engine that places copies itself.
Status MakePhysicalIds(const dsv4mx_layer_desc& d, Placement* p) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  DSV4MX_RETURN_IF(d.placement == nullptr, kCode,
                   "placement is NULL with PHYSICAL_IDS, wanted the expert of each local expert");
  DSV4MX_RETURN_IF(d.physical_global < d.experts || d.physical_global > kMaxIds, kCode,
                   "physical_global is %d with PHYSICAL_IDS, wanted the physical experts of all "
                   "ranks, %d..%d",
                   d.physical_global, d.experts, kMaxIds);
  DSV4MX_RETURN_IF(d.physical_first < 0 || d.physical_first > d.physical_global - d.experts, kCode,
                   "physical_first is %d, wanted 0..%d", d.physical_first,
                   d.physical_global - d.experts);
  p->id_first = d.physical_first;
  p->id_count = d.physical_global;
  return kOk;
}

// Ids are experts; of several copies the first is meant.
Status MakeIds(Placement* p) {
  p->id_count = p->experts_global;
  p->id_first = p->expert_first;
  if (p->expert.empty()) return kOk;
  p->id_map.assign(static_cast<size_t>(p->experts_global), -1);
  for (int32_t local = p->experts - 1; local >= 0; --local) {
    p->id_map[static_cast<size_t>(p->expert[static_cast<size_t>(local)])] = local;
  }
  return kOk;
}

// Which expert each local one holds, for a placement whose sizes are known.
Status TakeList(const int32_t* experts, Placement* p) {
  p->expert.assign(experts, experts + p->experts);
  for (int32_t s = 0; s < p->experts; ++s) {
    const int32_t e = p->expert[static_cast<size_t>(s)];
    DSV4MX_RETURN_IF(e < 0 || e >= p->experts_global, DSV4MX_STATUS_INVALID_ARGUMENT,
                     "placement[%d] is %d, wanted 0..%d", s, e, p->experts_global - 1);
  }
  return kOk;
}

Status MakePlacement(const dsv4mx_layer_desc& d, Placement* p) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  DSV4MX_TRY(CheckCount("experts", d.experts, kMaxExperts));
  DSV4MX_RETURN_IF(d.expert_first < 0, kCode, "expert_first is %d, wanted 0 or more",
                   d.expert_first);
  DSV4MX_RETURN_IF(d.experts_global < 0 || d.experts_global > kMaxIds, kCode,
                   "experts_global is %d, wanted 0..%d", d.experts_global, kMaxIds);
  const bool physical = (d.flags & DSV4MX_LAYER_PHYSICAL_IDS) != 0;
  p->experts = d.experts;
  p->expert_first = d.expert_first;
  p->experts_global = d.experts_global;
  if (d.placement == nullptr) {
    // A rank that left it out would plan for another layer than its neighbours do.
    DSV4MX_RETURN_IF(d.experts_global == 0 && d.expert_first != 0, kCode,
                     "experts_global is 0 with expert_first %d, wanted the experts of the whole "
                     "layer: ranks plan by it",
                     d.expert_first);
    if (d.experts_global == 0) p->experts_global = d.experts;
    DSV4MX_RETURN_IF(p->experts_global - d.expert_first < d.experts, kCode,
                     "experts_global is %d, wanted at least expert_first + experts = %lld",
                     d.experts_global, static_cast<long long>(d.expert_first) + d.experts);
  } else {
    DSV4MX_RETURN_IF(d.expert_first != 0, kCode, "expert_first is %d beside a placement, wanted 0",
                     d.expert_first);
    DSV4MX_RETURN_IF(
        d.experts_global == 0, kCode,
        "experts_global is 0 beside a placement, wanted the experts of the whole layer");
    DSV4MX_TRY(TakeList(d.placement, p));
  }
  if (physical) return MakePhysicalIds(d, p);
  DSV4MX_RETURN_IF(d.physical_first != 0 || d.physical_global != 0, kCode,
                   "physical_first is %d and physical_global %d without PHYSICAL_IDS, wanted 0",
                   d.physical_first, d.physical_global);
  return MakeIds(p);
}

Status RequireZero(const char* name, float value, const char* activation) {
  if (value == 0) return kOk;
  return Fail(DSV4MX_STATUS_INVALID_ARGUMENT, "%s is %s, wanted 0 with activation %s", name,
              Text(value).text, activation);
}

Status MakeActivation(const dsv4mx_layer_desc& d, LayerSpec* s) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  constexpr const char* kNames[] = {"SWIGLU", "SWIGLU_GPTOSS", "GATED", "SITU"};
  DSV4MX_TRY(CheckEnum("activation", d.activation, DSV4MX_ACTIVATION_SITU));
  const char* name = kNames[d.activation];
  DSV4MX_RETURN_IF(!std::isfinite(d.clamp_limit) || d.clamp_limit < 0, kCode,
                   "clamp_limit is %s, wanted a finite number >= 0 (0 = no clamp)",
                   Text(d.clamp_limit).text);
  DSV4MX_TRY(CheckFinite("activation_alpha", d.activation_alpha));
  DSV4MX_TRY(CheckFinite("activation_beta", d.activation_beta));
  DSV4MX_TRY(CheckFinite("situ_beta", d.situ_beta));
  DSV4MX_TRY(CheckFinite("situ_linear_beta", d.situ_linear_beta));
  s->clamp_limit = d.clamp_limit;
  const bool takes_alpha =
      d.activation == DSV4MX_ACTIVATION_SWIGLU_GPTOSS || d.activation == DSV4MX_ACTIVATION_GATED;
  if (!takes_alpha) {
    DSV4MX_TRY(RequireZero("activation_alpha", d.activation_alpha, name));
    DSV4MX_TRY(RequireZero("activation_beta", d.activation_beta, name));
  }
  if (d.activation != DSV4MX_ACTIVATION_SITU) {
    DSV4MX_TRY(RequireZero("situ_beta", d.situ_beta, name));
    DSV4MX_TRY(RequireZero("situ_linear_beta", d.situ_linear_beta, name));
  }
  switch (d.activation) {
    case DSV4MX_ACTIVATION_SWIGLU_GPTOSS:
      s->alpha = d.activation_alpha == 0 ? 1.702f : d.activation_alpha;
      s->beta = d.activation_beta == 0 ? 1.0f : d.activation_beta;
      break;
    case DSV4MX_ACTIVATION_GATED:
      s->alpha = d.activation_alpha;
      s->beta = d.activation_beta;
      break;
    case DSV4MX_ACTIVATION_SITU:
      DSV4MX_RETURN_IF(d.clamp_limit != 0, kCode,
                       "clamp_limit is %s with activation SITU, wanted 0: its tanh bounds both",
                       Text(d.clamp_limit).text);
      DSV4MX_RETURN_IF(!(d.situ_beta > 0), kCode, "situ_beta is %s, wanted above 0 with SITU",
                       Text(d.situ_beta).text);
      DSV4MX_RETURN_IF(!(d.situ_linear_beta > 0), kCode,
                       "situ_linear_beta is %s, wanted above 0 with SITU",
                       Text(d.situ_linear_beta).text);
      s->situ_beta = d.situ_beta;
      s->situ_linear_beta = d.situ_linear_beta;
      break;
    default:
      break;
  }
  return kOk;
}

Status MakeRouter(const dsv4mx_layer_desc& d, LayerSpec* s) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  DSV4MX_TRY(
      CheckEnum("router_weight_position", d.router_weight_position, DSV4MX_ROUTER_WEIGHT_ON_INPUT));
  DSV4MX_RETURN_IF(d.router_weight_position == DSV4MX_ROUTER_WEIGHT_BEFORE_W2 && s->w2_bias != 0,
                   kCode,
                   "router_weight_position is BEFORE_W2 with a w2 bias, wanted AFTER_W2: the bias "
                   "is weighted too");
  DSV4MX_RETURN_IF(d.router_weight_position == DSV4MX_ROUTER_WEIGHT_ON_INPUT && d.top_k != 1, kCode,
                   "router_weight_position is ON_INPUT with top_k %d, wanted top_k 1", d.top_k);
  DSV4MX_TRY(CheckFinite("routed_scaling_factor", d.routed_scaling_factor));
  s->router_weight_position = d.router_weight_position;
  s->routed_scaling_factor = d.routed_scaling_factor == 0 ? 1.0f : d.routed_scaling_factor;
  return kOk;
}

Status MakeCompute(const dsv4mx_layer_desc& d, const dsv4mx_layer_experimental& x, LayerSpec* s) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  DSV4MX_RETURN_IF(
      d.compute == DSV4MX_COMPUTE_W4A8 && x.number_path == DSV4MX_NUMBER_PATH_PLANES, kCode,
      "number_path is PLANES with compute W4A8, wanted AUTO or BF16: W4A8 has one plane");
  DSV4MX_TRY(CheckEnum("compute", d.compute, DSV4MX_COMPUTE_W4A8));
  DSV4MX_TRY(CheckEnum("number_path", x.number_path, DSV4MX_NUMBER_PATH_PLANES));
  DSV4MX_TRY(CheckEnum("oracle", x.oracle, DSV4MX_ORACLE_SPEC));
  DSV4MX_RETURN_IF(x.oracle != DSV4MX_ORACLE_NONE && x.number_path != DSV4MX_NUMBER_PATH_AUTO,
                   kCode, "number_path is %d with an oracle, wanted 0 (AUTO)", x.number_path);
  constexpr uint32_t kKnown =
      DSV4MX_LAYER_BATCH_INVARIANT | DSV4MX_LAYER_CHECKED_IDS | DSV4MX_LAYER_PHYSICAL_IDS;
  DSV4MX_RETURN_IF((d.flags & ~kKnown) != 0, kCode, "flags is 0x%x, wanted only bits of 0x%x",
                   d.flags, kKnown);
  DSV4MX_RETURN_IF(d.reserved != 0, kCode, "reserved is %u, wanted 0", d.reserved);
  s->compute = d.compute;
  s->oracle = x.oracle;
  s->number_path = x.number_path;
  s->batch_invariant = (d.flags & DSV4MX_LAYER_BATCH_INVARIANT) != 0;
  s->checked_ids = (d.flags & DSV4MX_LAYER_CHECKED_IDS) != 0;
  return kOk;
}

}  // namespace

const char* MatrixName(Matrix m) {
  constexpr const char* kNames[] = {"gate (w1)", "up (w3)", "down (w2)"};
  return kNames[static_cast<int>(m)];
}

int32_t Placement::FirstCopy(int64_t number) const {
  if (number < 0 || number >= experts_global) return -1;
  if (expert.empty()) {
    const int64_t local = number - expert_first;
    return local >= 0 && local < experts ? static_cast<int32_t>(local) : -1;
  }
  const auto it = std::find(expert.begin(), expert.end(), static_cast<int32_t>(number));
  return it == expert.end() ? -1 : static_cast<int32_t>(it - expert.begin());
}

Status MakeSpec(const dsv4mx_layer_desc& d, const dsv4mx_layer_experimental& experimental,
                LayerSpec* out) {
  LayerSpec s;
  DSV4MX_TRY(CheckSize("hidden", d.hidden));
  DSV4MX_TRY(MakeChannels(d, &s));
  DSV4MX_TRY(MakePlacement(d, &s.placement));
  DSV4MX_TRY(CheckCount("top_k", d.top_k, kMaxTopK));
  s.hidden = d.hidden;
  s.experts = d.experts;
  s.top_k = d.top_k;
  DSV4MX_TRY(CheckFormat(d));
  s.w13_order = d.w13_order;
  s.nibble_order = d.nibble_order;
  DSV4MX_TRY(MakeActivation(d, &s));

  // For biases 0 means none, so both dtypes are given ones.
  constexpr dsv4mx_dtype kBf16 = DSV4MX_DTYPE_BF16, kF32 = DSV4MX_DTYPE_F32;
  if (d.w13_bias != 0) {
    DSV4MX_TRY(ResolveDtype("w13_bias", d.w13_bias, kBf16, kF32, "none, BF16 or F32", &s.w13_bias));
  }
  if (d.w2_bias != 0) {
    DSV4MX_TRY(ResolveDtype("w2_bias", d.w2_bias, kBf16, kF32, "none, BF16 or F32", &s.w2_bias));
  }
  DSV4MX_TRY(MakeRouter(d, &s));
  DSV4MX_TRY(ResolveDtype("out_dtype", d.out_dtype, kBf16, kF32, "BF16 or F32", &s.out_dtype));
  DSV4MX_TRY(ResolveDtype("ids_dtype", d.ids_dtype, DSV4MX_DTYPE_I32, DSV4MX_DTYPE_I64,
                          "I32 or I64", &s.ids_dtype));
  DSV4MX_TRY(ResolveDtype("router_weight_dtype", d.router_weight_dtype, kF32, kBf16, "F32 or BF16",
                          &s.router_weight_dtype));
  DSV4MX_TRY(ResolveDtype("slot_dtype", d.slot_dtype, kF32, kBf16, "F32 or BF16", &s.slot_dtype));
  s.plain_slots = d.slot_dtype != 0;
  DSV4MX_TRY(MakeCompute(d, experimental, &s));
  // A bias that every rank added would count tp_size times.
  s.w2_bias_elsewhere = s.w2_bias != 0 && s.tp_rank != 0;
  if (s.w2_bias_elsewhere) s.w2_bias = 0;
  *out = std::move(s);
  return kOk;
}

Status ChangePlacement(const int32_t* experts, Placement* p) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_STATE;
  DSV4MX_RETURN_IF(p->expert.empty(), kCode,
                   "the layer was made without a placement, wanted one in its descriptor");
  DSV4MX_RETURN_IF(p->id_map.empty(), kCode,
                   "the layer takes PHYSICAL_IDS, which mean slots and not experts, wanted a layer "
                   "without that flag");
  DSV4MX_TRY(TakeList(experts, p));
  return MakeIds(p);
}

uint64_t PreparedForm(const LayerSpec& s) {
  Hash h;
  h << int64_t{s.hidden} << int64_t{s.intermediate} << int64_t{s.experts};
  // Biases are stored as fp32, whatever they came as.
  h << int64_t{s.w13_bias != 0} << int64_t{s.w2_bias != 0};
  return h.sum();
}

uint64_t Arithmetic(const LayerSpec& s) {
  Hash h;
  // Rows per expert, and with them the path, follow from the whole layer.
  h << int64_t{s.hidden} << int64_t{s.intermediate_global} << int64_t{s.intermediate_first}
    << int64_t{s.intermediate} << int64_t{s.placement.experts_global} << int64_t{s.top_k};
  h << s.clamp_limit << s.alpha << s.beta << s.situ_beta << s.situ_linear_beta;
  h << int64_t{s.w13_bias != 0} << int64_t{s.w2_bias != 0} << int64_t{s.router_weight_position};
  h << s.routed_scaling_factor << int64_t{s.out_dtype} << int64_t{s.slot_dtype};
  h << int64_t{s.compute} << int64_t{s.oracle} << int64_t{s.number_path}
    << int64_t{s.batch_invariant} << int64_t{s.plain_slots};
  return h.sum();
}

}  // namespace dsv4mx
