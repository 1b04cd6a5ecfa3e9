// The gate that every layer passes: what comes out of MakeSpec needs no further check anywhere.
#include "lib/base/spec.h"

#include <algorithm>
#include <cmath>

namespace dsv4mx {
namespace {

constexpr int32_t kMaxSize = 65536;
constexpr int32_t kMaxExperts = 4096;
constexpr int32_t kMaxTopK = 16;
constexpr int32_t kMaxMap = 1 << 20;  // bounds what is read through the caller's pointer

Status CheckSize(const char* name, int32_t size) {
  if (size >= kGroup && size <= kMaxSize && size % kGroup == 0) return kOk;
  constexpr auto kCode = DSV4MX_STATUS_UNSUPPORTED_SHAPE;
  if (size < kGroup || size > kMaxSize) {
    return Fail(kCode, "%s is %d, wanted a multiple of 32 in 32..65536 (nearest: %d)", name, size,
                size < kGroup ? kGroup : kMaxSize);
  }
  // 144 = 4.5 groups: no rank may own half a scale, so an even cut of 2304 by 16 is not possible.
  const int32_t below = size / kGroup * kGroup, above = below + kGroup;
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
  return Fail(DSV4MX_STATUS_INVALID_ARGUMENT, "%s is %g, wanted a finite number", name,
              static_cast<double>(value));
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
  DSV4MX_RETURN_IF(d.group_size != 0 && d.group_size != kGroup, DSV4MX_STATUS_UNSUPPORTED_DTYPE,
                   "group_size is %d, wanted 32", d.group_size);
  DSV4MX_RETURN_IF(d.x_dtype == DSV4MX_DTYPE_F16, DSV4MX_STATUS_UNSUPPORTED_DTYPE,
                   "x_dtype is F16, wanted BF16: f16 cannot hold the range of MXFP4's scales");
  DSV4MX_RETURN_IF(d.x_dtype != DSV4MX_DTYPE_DEFAULT && d.x_dtype != DSV4MX_DTYPE_BF16,
                   DSV4MX_STATUS_UNSUPPORTED_DTYPE, "x_dtype is dtype %d, wanted BF16", d.x_dtype);
  DSV4MX_TRY(CheckEnum("w13_order", d.w13_order, DSV4MX_W13_ORDER_INTERLEAVED));
  DSV4MX_TRY(CheckEnum("nibble_order", d.nibble_order, DSV4MX_NIBBLE_ORDER_HIGH_FIRST));
  return kOk;
}

Status MakePartition(const dsv4mx_layer_desc& d, LayerSpec* s) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  DSV4MX_RETURN_IF(d.expert_first < 0, kCode, "expert_first is %d, wanted 0 or more",
                   d.expert_first);
  DSV4MX_RETURN_IF(d.experts_global < 0, kCode, "experts_global is %d, wanted 0 or more",
                   d.experts_global);
  s->expert_first = d.expert_first;
  s->experts_global = d.experts_global;
  if (d.expert_map == nullptr) {
    const int64_t end = static_cast<int64_t>(d.expert_first) + d.experts;
    DSV4MX_RETURN_IF(end > INT32_MAX, kCode,
                     "expert_first is %d, wanted expert_first + experts below 2^31",
                     d.expert_first);
    if (d.experts_global == 0) s->experts_global = static_cast<int32_t>(end);
    DSV4MX_RETURN_IF(s->experts_global < end, kCode,
                     "experts_global is %d, wanted at least expert_first + experts = %lld",
                     d.experts_global, static_cast<long long>(end));
    return kOk;
  }
  DSV4MX_RETURN_IF(d.expert_first != 0, kCode, "expert_first is %d beside an expert_map, wanted 0",
                   d.expert_first);
  DSV4MX_RETURN_IF(d.experts_global < 1 || d.experts_global > kMaxMap, kCode,
                   "experts_global is %d, wanted the number of entries of expert_map, 1..%d",
                   d.experts_global, kMaxMap);
  for (int32_t id = 0; id < d.experts_global; ++id) {
    const int32_t local = d.expert_map[id];
    DSV4MX_RETURN_IF(local < -1 || local >= d.experts, kCode, "expert_map[%d] is %d, wanted -1..%d",
                     id, local, d.experts - 1);
  }
  s->expert_map.assign(d.expert_map, d.expert_map + d.experts_global);
  return kOk;
}

Status MakeActivation(const dsv4mx_layer_desc& d, LayerSpec* s) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  DSV4MX_TRY(CheckEnum("activation", d.activation, DSV4MX_ACTIVATION_SWIGLU_GPTOSS));
  DSV4MX_RETURN_IF(!std::isfinite(d.clamp_limit) || d.clamp_limit < 0, kCode,
                   "clamp_limit is %g, wanted a finite number >= 0 (0 = no clamp)",
                   static_cast<double>(d.clamp_limit));
  DSV4MX_TRY(CheckFinite("activation_alpha", d.activation_alpha));
  DSV4MX_TRY(CheckFinite("activation_beta", d.activation_beta));
  s->activation = d.activation;
  s->clamp_limit = d.clamp_limit;
  if (d.activation == DSV4MX_ACTIVATION_SWIGLU_GPTOSS) {
    s->alpha = d.activation_alpha == 0 ? 1.702f : d.activation_alpha;
    s->beta = d.activation_beta == 0 ? 1.0f : d.activation_beta;
    return kOk;
  }
  DSV4MX_RETURN_IF(d.activation_alpha != 0, kCode,
                   "activation_alpha is %g, wanted 0 with activation SWIGLU",
                   static_cast<double>(d.activation_alpha));
  DSV4MX_RETURN_IF(d.activation_beta != 0, kCode,
                   "activation_beta is %g, wanted 0 with activation SWIGLU",
                   static_cast<double>(d.activation_beta));
  s->alpha = 1.0f;
  s->beta = 0.0f;
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

Status MakeCompute(const dsv4mx_layer_desc& d, LayerSpec* s) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  const bool oracle = IsOracleCompute(d.compute);
  DSV4MX_RETURN_IF(
      d.compute != DSV4MX_COMPUTE_W4A16 && d.compute != DSV4MX_COMPUTE_W4A8 && !oracle, kCode,
      "compute is %d, wanted 0 (W4A16), 1 (W4A8), 100, 101 or 102 (oracles)", d.compute);
  DSV4MX_TRY(CheckEnum("number_path", d.number_path, DSV4MX_NUMBER_PATH_PLANES));
  DSV4MX_RETURN_IF(oracle && d.number_path != DSV4MX_NUMBER_PATH_AUTO, kCode,
                   "number_path is %d with an oracle, wanted 0 (AUTO)", d.number_path);
  DSV4MX_RETURN_IF(
      d.compute == DSV4MX_COMPUTE_W4A8 && d.number_path == DSV4MX_NUMBER_PATH_PLANES, kCode,
      "number_path is PLANES with compute W4A8, wanted AUTO or BF16: W4A8 has one plane");
  constexpr uint32_t kKnown = DSV4MX_LAYER_BATCH_INVARIANT;
  DSV4MX_RETURN_IF((d.flags & ~kKnown) != 0, kCode, "flags is 0x%x, wanted only bits of 0x%x",
                   d.flags, kKnown);
  s->compute = d.compute;
  s->number_path = d.number_path;
  s->batch_invariant = (d.flags & DSV4MX_LAYER_BATCH_INVARIANT) != 0;
  return kOk;
}

}  // namespace

const char* MatrixName(Matrix m) {
  constexpr const char* kNames[] = {"gate (w1)", "up (w3)", "down (w2)"};
  return kNames[static_cast<int>(m)];
}

Status MakeSpec(const dsv4mx_layer_desc& d, LayerSpec* out) {
  LayerSpec s;
  DSV4MX_TRY(CheckSize("hidden", d.hidden));
  DSV4MX_TRY(CheckSize("intermediate", d.intermediate));
  DSV4MX_TRY(CheckCount("experts", d.experts, kMaxExperts));
  DSV4MX_TRY(CheckCount("top_k", d.top_k, kMaxTopK));
  s.hidden = d.hidden;
  s.intermediate = d.intermediate;
  s.experts = d.experts;
  s.top_k = d.top_k;
  DSV4MX_TRY(MakePartition(d, &s));
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
  DSV4MX_TRY(MakeCompute(d, &s));
  *out = std::move(s);
  return kOk;
}

}  // namespace dsv4mx
