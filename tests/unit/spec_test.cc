// MakeSpec: every field of the layer's description, its defaults and its refusals.
#include "lib/base/spec.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "tests/catch.h"

using namespace dsv4mx;

namespace {

dsv4mx_layer_desc Desc() {
  dsv4mx_layer_desc d = DSV4MX_LAYER_DESC_INIT;
  d.hidden = 4096;
  d.intermediate = 2048;
  d.experts = 256;
  d.top_k = 6;
  return d;
}

// What the descriptor points to, or defaults.
dsv4mx_layer_experimental Extension(const dsv4mx_layer_desc& d) {
  if (d.experimental != nullptr) return *d.experimental;
  return DSV4MX_LAYER_EXPERIMENTAL_INIT;
}

using Change = std::function<void(dsv4mx_layer_desc*)>;

void Refused(dsv4mx_status code, const std::string& words, const Change& change) {
  dsv4mx_layer_desc d = Desc();
  change(&d);
  LayerSpec spec;
  spec.hidden = -7;
  const Status status = MakeSpec(d, Extension(d), &spec);
  INFO("wanted '" << words << "', got '" << LastError() << "'");
  CHECK(status.code == code);
  CHECK(std::string(LastError()).find(words) != std::string::npos);
  CHECK(spec.hidden == -7);  // a refusal leaves the output alone
}

LayerSpec Accepted(const Change& change) {
  dsv4mx_layer_desc d = Desc();
  change(&d);
  LayerSpec spec;
  const Status status = MakeSpec(d, Extension(d), &spec);
  INFO(LastError());
  CHECK(status.ok());
  return spec;
}

}  // namespace

TEST_CASE("spec: zero means default in every field", "[unit]") {
  const LayerSpec s = Accepted([](dsv4mx_layer_desc*) {});
  CHECK(s.placement.expert_first == 0);
  CHECK(s.placement.experts_global == 256);
  CHECK(s.intermediate_global == 2048);
  CHECK(s.tp_size == 1);
  CHECK(s.w13_order == DSV4MX_W13_ORDER_UNSET);
  CHECK(s.nibble_order == DSV4MX_NIBBLE_ORDER_LOW_FIRST);
  CHECK(s.situ_beta == 0.0f);
  CHECK(s.clamp_limit == 0.0f);
  CHECK(s.alpha == 1.0f);
  CHECK(s.beta == 0.0f);
  CHECK(s.w13_bias == 0);
  CHECK(s.w2_bias == 0);
  CHECK(s.routed_scaling_factor == 1.0f);
  CHECK(s.out_dtype == DSV4MX_DTYPE_BF16);
  CHECK(s.ids_dtype == DSV4MX_DTYPE_I32);
  CHECK(s.router_weight_dtype == DSV4MX_DTYPE_F32);
  CHECK(s.slot_dtype == DSV4MX_DTYPE_F32);
  CHECK_FALSE(s.plain_slots);
  CHECK(s.compute == DSV4MX_COMPUTE_W4A16);
  CHECK_FALSE(s.batch_invariant);
  CHECK(s.Rows(Matrix::kGate) == 2048);
  CHECK(s.K(Matrix::kUp) == 4096);
  CHECK(s.Rows(Matrix::kDown) == 4096);
  CHECK(s.K(Matrix::kDown) == 2048);
}

TEST_CASE("spec: every multiple of 32 is a size, nothing else is", "[unit]") {
  for (const int32_t size : {32, 96, 160, 192, 288, 384, 576, 2304, 2880, 5120, 65536}) {
    Accepted([&](auto* d) { d->hidden = d->intermediate = size; });
  }
  for (int32_t size = -3; size < 200; ++size) {
    dsv4mx_layer_desc d = Desc();
    d.intermediate = size;
    LayerSpec spec;
    CHECK(MakeSpec(d, Extension(d), &spec).ok() == (size > 0 && size % 32 == 0));
  }
  constexpr auto kShape = DSV4MX_STATUS_UNSUPPORTED_SHAPE;
  Refused(kShape, "hidden is 4100, wanted a multiple of 32", [](auto* d) { d->hidden = 4100; });
  Refused(kShape, "(nearest: 4096)", [](auto* d) { d->hidden = 4100; });
  Refused(kShape, "(nearest: 4128)", [](auto* d) { d->hidden = 4120; });
  Refused(kShape, "intermediate is 144", [](auto* d) { d->intermediate = 144; });
  Refused(kShape, "(nearest: 128 or 160)", [](auto* d) { d->intermediate = 144; });
  Refused(kShape, "(nearest: 32)", [](auto* d) { d->hidden = 0; });
  Refused(kShape, "(nearest: 65536)", [](auto* d) { d->hidden = 65568; });
  Refused(kShape, "(nearest: 65536)", [](auto* d) { d->hidden = INT32_MAX; });
  Refused(kShape, "(nearest: 32)", [](auto* d) { d->hidden = INT32_MIN; });
  Refused(kShape, "experts is 0, wanted 1..4096", [](auto* d) { d->experts = 0; });
  Refused(kShape, "experts is 4097", [](auto* d) { d->experts = 4097; });
  Refused(kShape, "top_k is 17, wanted 1..16 (nearest: 16)", [](auto* d) { d->top_k = 17; });
  Refused(kShape, "top_k is 0", [](auto* d) { d->top_k = 0; });
  Accepted([](auto* d) { d->experts = 4096; });
  Accepted([](auto* d) { d->top_k = 16; });
}

TEST_CASE("spec: which experts are held", "[unit]") {
  constexpr auto kArgument = DSV4MX_STATUS_INVALID_ARGUMENT;
  const LayerSpec range =
      Accepted([](auto* d) { d->expert_first = 64, d->experts = 32, d->experts_global = 100; });
  CHECK(range.LocalExpert(63) == -1);
  CHECK(range.LocalExpert(64) == 0);
  CHECK(range.LocalExpert(95) == 31);
  CHECK(range.LocalExpert(96) == -1);
  CHECK(range.LocalExpert(-1) == -1);
  CHECK(range.LocalExpert(INT64_MAX) == -1);
  CHECK(range.LocalExpert(INT64_MIN) == -1);
  CHECK(range.placement.FirstCopy(64) == 0);
  CHECK(range.placement.FirstCopy(96) == -1);
  CHECK(range.placement.ExpertAt(31) == 95);
  CHECK(range.placement.IsId(99));
  CHECK_FALSE(range.placement.IsId(100));
  CHECK(range.placement.IsId(-1));
  CHECK_FALSE(range.placement.IsId(-2));

  // Local expert s holds placement[s]; of copies the first is meant.
  std::vector<int32_t> placement = {5, 1, 5, 0};
  const auto placed = [&](auto* d) {
    d->experts = 4, d->experts_global = 6, d->placement = placement.data();
  };
  const LayerSpec copies = Accepted(placed);
  CHECK(copies.LocalExpert(5) == 0);
  CHECK(copies.LocalExpert(1) == 1);
  CHECK(copies.LocalExpert(0) == 3);
  CHECK(copies.LocalExpert(2) == -1);
  CHECK(copies.LocalExpert(6) == -1);
  CHECK(copies.placement.FirstCopy(5) == 0);
  const LayerSpec physical = Accepted([&](auto* d) {
    placed(d);
    d->flags = DSV4MX_LAYER_PHYSICAL_IDS, d->physical_first = 8, d->physical_global = 12;
  });
  CHECK(physical.LocalExpert(5) == -1);
  CHECK(physical.LocalExpert(8) == 0);
  CHECK(physical.LocalExpert(10) == 2);
  CHECK(physical.LocalExpert(12) == -1);
  CHECK(physical.placement.FirstCopy(5) == 0);  // files count experts
  CHECK(physical.placement.IsId(11));
  CHECK_FALSE(physical.placement.IsId(12));
  placement.assign(4, 77);  // it was copied
  CHECK(copies.placement.ExpertAt(2) == 5);

  Refused(kArgument, "expert_first is -1", [](auto* d) { d->expert_first = -1; });
  Refused(kArgument, "experts_global is 0 with expert_first 7",
          [](auto* d) { d->expert_first = 7; });
  Refused(kArgument, "wanted at least expert_first + experts",
          [](auto* d) { d->expert_first = INT32_MAX, d->experts_global = 256; });
  Refused(kArgument, "experts_global is -1", [](auto* d) { d->experts_global = -1; });
  Refused(kArgument, "experts_global is 255, wanted at least expert_first + experts = 256",
          [](auto* d) { d->experts_global = 255; });
  const int32_t high[] = {0, 4}, low[] = {-2, 0};
  const auto two = [](auto* d, const int32_t* p) {
    d->experts = 2, d->experts_global = 4, d->placement = p;
  };
  Refused(kArgument, "placement[1] is 4, wanted 0..3", [&](auto* d) { two(d, high); });
  Refused(kArgument, "placement[0] is -2", [&](auto* d) { two(d, low); });
  Refused(kArgument, "experts_global is 0 beside a placement",
          [&](auto* d) { two(d, low), d->experts_global = 0; });
  Refused(kArgument, "expert_first is 1 beside a placement",
          [&](auto* d) { two(d, low), d->expert_first = 1; });
  const int32_t good[] = {3, 1};
  Refused(kArgument, "placement is NULL with PHYSICAL_IDS",
          [](auto* d) { d->flags = DSV4MX_LAYER_PHYSICAL_IDS; });
  Refused(kArgument, "physical_global is 1 with PHYSICAL_IDS", [&](auto* d) {
    two(d, good), d->flags = DSV4MX_LAYER_PHYSICAL_IDS, d->physical_global = 1;
  });
  Refused(kArgument, "physical_first is 3, wanted 0..2", [&](auto* d) {
    two(d, good), d->flags = DSV4MX_LAYER_PHYSICAL_IDS;
    d->physical_global = 4, d->physical_first = 3;
  });
  Refused(kArgument, "without PHYSICAL_IDS", [](auto* d) { d->physical_global = 256; });
}

TEST_CASE("spec: the channels of a tensor-parallel rank", "[unit]") {
  constexpr auto kArgument = DSV4MX_STATUS_INVALID_ARGUMENT;
  const LayerSpec even =
      Accepted([](auto* d) { d->tp_size = 8, d->tp_rank = 3, d->w2_bias = DSV4MX_DTYPE_BF16; });
  CHECK(even.intermediate == 256);
  CHECK(even.intermediate_first == 768);
  CHECK(even.intermediate_global == 2048);
  CHECK(even.w2_bias == 0);
  CHECK(even.w2_bias_elsewhere);
  const LayerSpec first = Accepted([](auto* d) { d->tp_size = 8, d->w2_bias = DSV4MX_DTYPE_BF16; });
  CHECK(first.w2_bias == DSV4MX_DTYPE_BF16);
  CHECK_FALSE(first.w2_bias_elsewhere);
  const LayerSpec uneven = Accepted([](auto* d) {
    d->intermediate = 2304, d->tp_size = 16, d->tp_rank = 15;
    d->intermediate_first = 2176, d->intermediate_count = 128;
  });
  CHECK(uneven.intermediate == 128);
  CHECK(uneven.intermediate_first == 2176);
  Refused(DSV4MX_STATUS_UNSUPPORTED_SHAPE, "intermediate is 2304 over tp_size 16",
          [](auto* d) { d->intermediate = 2304, d->tp_size = 16; });
  Refused(kArgument, "tp_size is -1", [](auto* d) { d->tp_size = -1; });
  Refused(kArgument, "tp_rank is 2, wanted 0..1", [](auto* d) { d->tp_size = d->tp_rank = 2; });
  Refused(kArgument, "tp_rank is 1, wanted 0..0", [](auto* d) { d->tp_rank = 1; });
  Refused(kArgument, "intermediate_first is 32 with intermediate_count 0",
          [](auto* d) { d->intermediate_first = 32; });
  Refused(DSV4MX_STATUS_UNSUPPORTED_SHAPE, "intermediate_count is 48",
          [](auto* d) { d->intermediate_count = 48; });
  Refused(kArgument, "intermediate_first is 16",
          [](auto* d) { d->intermediate_count = 64, d->intermediate_first = 16; });
  Refused(kArgument, "wanted a part of intermediate = 2048",
          [](auto* d) { d->intermediate_count = 64, d->intermediate_first = 2016; });
}

TEST_CASE("spec: equal forms share weights, equal arithmetic shares bits", "[unit]") {
  const auto one = [](auto*) {};
  const uint64_t form = PreparedForm(Accepted(one)), bits = Arithmetic(Accepted(one));
  const auto same_form = [&](const Change& c) { return PreparedForm(Accepted(c)) == form; };
  const auto same_bits = [&](const Change& c) { return Arithmetic(Accepted(c)) == bits; };
  CHECK(same_form([](auto* d) { d->ids_dtype = DSV4MX_DTYPE_I64; }));
  CHECK(same_form([](auto* d) { d->clamp_limit = 10, d->top_k = 8; }));
  CHECK(same_form([](auto* d) { d->intermediate = 4096, d->tp_size = 2; }));
  CHECK_FALSE(same_form([](auto* d) { d->w13_bias = DSV4MX_DTYPE_BF16; }));
  CHECK_FALSE(same_form([](auto* d) { d->experts = 255; }));
  CHECK(same_bits([](auto* d) { d->ids_dtype = DSV4MX_DTYPE_I64; }));
  CHECK(same_bits([](auto* d) { d->w13_order = DSV4MX_W13_ORDER_GATE_UP; }));
  CHECK(
      same_bits([](auto* d) { d->activation = DSV4MX_ACTIVATION_GATED, d->activation_alpha = 1; }));
  CHECK_FALSE(same_bits([](auto* d) { d->clamp_limit = 10; }));
  CHECK_FALSE(same_bits([](auto* d) { d->out_dtype = DSV4MX_DTYPE_F32; }));
  CHECK_FALSE(same_bits([](auto* d) { d->routed_scaling_factor = 1.5f; }));
}

TEST_CASE("spec: formats that are not computed with are refused with a reason", "[unit]") {
  constexpr auto kDtype = DSV4MX_STATUS_UNSUPPORTED_DTYPE;
  Accepted([](auto* d) { d->group_size = 32; });
  Refused(kDtype, "NVFP4", [](auto* d) { d->group_size = 16; });
  Refused(kDtype, "group_size is 64, wanted 32", [](auto* d) { d->group_size = 64; });
  Refused(kDtype, "f16 cannot hold", [](auto* d) { d->x_dtype = DSV4MX_DTYPE_F16; });
  Refused(kDtype, "x_dtype", [](auto* d) { d->x_dtype = DSV4MX_DTYPE_F32; });
  Refused(kDtype, "out_dtype", [](auto* d) { d->out_dtype = DSV4MX_DTYPE_F16; });
  Refused(kDtype, "ids_dtype", [](auto* d) { d->ids_dtype = DSV4MX_DTYPE_F32; });
  Refused(kDtype, "router_weight_dtype", [](auto* d) { d->router_weight_dtype = -1; });
  Refused(kDtype, "slot_dtype", [](auto* d) { d->slot_dtype = DSV4MX_DTYPE_F16; });
  Refused(kDtype, "w13_bias", [](auto* d) { d->w13_bias = DSV4MX_DTYPE_F16; });
  Refused(kDtype, "w2_bias", [](auto* d) { d->w2_bias = 99; });
  const LayerSpec s = Accepted([](auto* d) {
    d->x_dtype = DSV4MX_DTYPE_BF16, d->out_dtype = DSV4MX_DTYPE_F32;
    d->ids_dtype = DSV4MX_DTYPE_I64, d->router_weight_dtype = DSV4MX_DTYPE_BF16;
    d->slot_dtype = DSV4MX_DTYPE_BF16, d->w13_bias = DSV4MX_DTYPE_BF16;
    d->w2_bias = DSV4MX_DTYPE_F32;
  });
  CHECK(s.out_dtype == DSV4MX_DTYPE_F32);
  CHECK(s.ids_dtype == DSV4MX_DTYPE_I64);
  CHECK(s.router_weight_dtype == DSV4MX_DTYPE_BF16);
  CHECK(s.slot_dtype == DSV4MX_DTYPE_BF16);
  CHECK(s.plain_slots);
  CHECK(Accepted([](auto* d) { d->slot_dtype = DSV4MX_DTYPE_F32; }).plain_slots);
  CHECK(s.w13_bias == DSV4MX_DTYPE_BF16);
  CHECK(s.w2_bias == DSV4MX_DTYPE_F32);
}

TEST_CASE("spec: activation and router parameters", "[unit]") {
  constexpr auto kArgument = DSV4MX_STATUS_INVALID_ARGUMENT;
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const LayerSpec oss = Accepted([](auto* d) { d->activation = DSV4MX_ACTIVATION_SWIGLU_GPTOSS; });
  CHECK(oss.alpha == 1.702f);
  CHECK(oss.beta == 1.0f);
  const LayerSpec own = Accepted([](auto* d) {
    d->activation = DSV4MX_ACTIVATION_SWIGLU_GPTOSS;
    d->activation_alpha = 2.0f, d->activation_beta = -0.5f, d->clamp_limit = 7.0f;
  });
  CHECK(own.alpha == 2.0f);
  CHECK(own.beta == -0.5f);
  CHECK(own.clamp_limit == 7.0f);
  for (const float bad : {-1.0f, kNan, kInf}) {
    Refused(kArgument, "clamp_limit", [&](auto* d) { d->clamp_limit = bad; });
  }
  for (const float bad : {kNan, kInf, -kInf}) {
    Refused(kArgument, "activation_alpha", [&](auto* d) { d->activation_alpha = bad; });
    Refused(kArgument, "activation_beta", [&](auto* d) { d->activation_beta = bad; });
    Refused(kArgument, "routed_scaling_factor", [&](auto* d) { d->routed_scaling_factor = bad; });
  }
  Refused(kArgument, "activation_alpha is 1.5, wanted 0 with activation SWIGLU",
          [](auto* d) { d->activation_alpha = 1.5f; });
  Refused(kArgument, "activation_beta", [](auto* d) { d->activation_beta = 1.0f; });
  CHECK(Accepted([](auto* d) { d->routed_scaling_factor = 2.5f; }).routed_scaling_factor == 2.5f);

  Accepted([](auto* d) { d->router_weight_position = DSV4MX_ROUTER_WEIGHT_BEFORE_W2; });
  Accepted([](auto* d) {
    d->router_weight_position = DSV4MX_ROUTER_WEIGHT_BEFORE_W2, d->w13_bias = DSV4MX_DTYPE_F32;
  });
  Refused(kArgument, "BEFORE_W2 with a w2 bias", [](auto* d) {
    d->router_weight_position = DSV4MX_ROUTER_WEIGHT_BEFORE_W2, d->w2_bias = DSV4MX_DTYPE_F32;
  });
  Accepted(
      [](auto* d) { d->router_weight_position = DSV4MX_ROUTER_WEIGHT_ON_INPUT, d->top_k = 1; });
  Refused(kArgument, "ON_INPUT with top_k 6, wanted top_k 1",
          [](auto* d) { d->router_weight_position = DSV4MX_ROUTER_WEIGHT_ON_INPUT; });
}

TEST_CASE("spec: enums, flags and compute modes", "[unit]") {
  constexpr auto kArgument = DSV4MX_STATUS_INVALID_ARGUMENT;
  for (const int32_t bad : {-1, 50, INT32_MAX}) {
    Refused(kArgument, "weight_format", [&](auto* d) { d->weight_format = bad; });
    Refused(kArgument, "w13_order", [&](auto* d) { d->w13_order = bad; });
    Refused(kArgument, "nibble_order", [&](auto* d) { d->nibble_order = bad; });
    Refused(kArgument, "activation", [&](auto* d) { d->activation = bad; });
    Refused(kArgument, "router_weight_position", [&](auto* d) { d->router_weight_position = bad; });
    Refused(kArgument, "compute", [&](auto* d) { d->compute = bad; });
    dsv4mx_layer_experimental x = DSV4MX_LAYER_EXPERIMENTAL_INIT;
    x.number_path = bad;
    Refused(kArgument, "number_path", [&](auto* d) { d->experimental = &x; });
    x.number_path = 0, x.oracle = bad;
    Refused(kArgument, "oracle", [&](auto* d) { d->experimental = &x; });
  }
  Refused(kArgument, "flags is 0x8", [](auto* d) { d->flags = 8; });
  Refused(kArgument, "reserved is 1", [](auto* d) { d->reserved = 1; });
  CHECK(Accepted([](auto* d) { d->flags = DSV4MX_LAYER_CHECKED_IDS; }).checked_ids);
  Refused(kArgument, "flags", [](auto* d) { d->flags = 1u << 31; });
  CHECK(Accepted([](auto* d) { d->flags = DSV4MX_LAYER_BATCH_INVARIANT; }).batch_invariant);
  Accepted([](auto* d) { d->compute = DSV4MX_COMPUTE_W4A8; });
  const dsv4mx_layer_experimental truth = {sizeof truth, 0, DSV4MX_ORACLE_TRUTH},
                                  bf16 = {sizeof bf16, DSV4MX_NUMBER_PATH_BF16, 0},
                                  planes = {sizeof planes, DSV4MX_NUMBER_PATH_PLANES, 0},
                                  both = {sizeof both, DSV4MX_NUMBER_PATH_PLANES, 2};
  CHECK(Accepted([&](auto* d) { d->experimental = &truth; }).oracle == DSV4MX_ORACLE_TRUTH);
  Accepted([&](auto* d) { d->experimental = &planes; });
  Accepted([&](auto* d) { d->compute = DSV4MX_COMPUTE_W4A8, d->experimental = &bf16; });
  Refused(kArgument, "number_path is PLANES with compute W4A8",
          [&](auto* d) { d->compute = DSV4MX_COMPUTE_W4A8, d->experimental = &planes; });
  Refused(kArgument, "number_path is 2 with an oracle", [&](auto* d) { d->experimental = &both; });
}
