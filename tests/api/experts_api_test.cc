// Prepared experts through the ABI: replaced, moved and copied between objects and contexts, described, and the placement
// of a layer. What comes out is compared bit by bit with layers made so from the beginning, and those with the oracle.
#include <atomic>
#include <thread>

#include "tests/catch.h"
#include "tests/check.h"

namespace dsv4mx::test {
namespace {

const char* const kLayer = "h=96 i=160 e=4 k=2 m=7 order=gate_up bias=1";

dsv4mx_status Copy(dsv4mx_weights* to, const std::vector<int32_t>& to_experts,
                   const dsv4mx_weights* from, const std::vector<int32_t>& from_experts) {
  dsv4mx_copy_args args = DSV4MX_COPY_ARGS_INIT;
  args.to_experts = to_experts.data();
  args.from_experts = from_experts.data();
  args.count = static_cast<int32_t>(to_experts.size());
  return dsv4mx_weights_copy_experts(to, from, &args, nullptr);
}

dsv4mx_weights_info Info(const dsv4mx_weights* w) {
  dsv4mx_weights_info info = DSV4MX_WEIGHTS_INFO_INIT;
  Must(dsv4mx_weights_query(w, &info), "weights_query");
  return info;
}

DEVICE_TEST_CASE(
    "experts: one is replaced, and applies see the old one before and the new one after",
    "[experts]") {
  for (const char* problem : {kLayer, "h=64 i=32 e=3 k=3 m=5", "h=224 i=96 e=5 k=4 m=33 out=f32"}) {
    Case c = MakeCase(problem), fresh = MakeCase(std::string(problem) + " seed=77");
    c.p.device = fresh.p.device = device;
    const Runner a(c), b(fresh);
    const Output before = a.Apply();
    CHECK(RunAndCheck(c) == "");
    REQUIRE_OK(Copy(a.weights(), {2}, b.weights(), {1}));
    Case changed = c;
    changed.experts[2] = fresh.experts[1];
    const Output after = a.Apply();
    CHECK(CheckSame(after, Runner(changed).Apply()) == "");
    CHECK(RunAndCheck(changed) == "");
    CHECK(CheckSame(before, after) != "");
    CHECK(Info(a.weights()).state == DSV4MX_WEIGHTS_PREPARED);
    // Back again.
    REQUIRE_OK(Copy(a.weights(), {2}, Runner(c).weights(), {2}));
    CHECK(CheckSame(before, a.Apply()) == "");
  }
}

DEVICE_TEST_CASE("experts: copies within one object", "[experts]") {
  Case c = MakeCase(kLayer);
  c.p.device = device;
  const Runner a(c);
  REQUIRE_OK(Copy(a.weights(), {0, 3}, a.weights(), {1, 1}));
  Case changed = c;
  changed.experts[0] = changed.experts[3] = c.experts[1];
  CHECK(CheckSame(a.Apply(), Runner(changed).Apply()) == "");
  REQUIRE_OK(Copy(a.weights(), {}, a.weights(), {}));  // none is legal
}

DEVICE_TEST_CASE("experts: what is copied into weights that are being filled counts as set",
                 "[experts]") {
  Case c = MakeCase(kLayer);
  c.p.device = device;
  const Runner a(c);
  const LayerPtr layer = MakeLayer(a.context(), DescOf(c));
  const WeightsPtr w = MakeWeights(layer.get());
  REQUIRE_OK(Copy(w.get(), {3, 0}, a.weights(), {3, 0}));
  CHECK(Info(w.get()).state == DSV4MX_WEIGHTS_FILLING);
  CHECK(Info(w.get()).tensors_missing == 2 * 9);
  SetExpert(w.get(), c.p, 1, *c.experts[1]);
  // A tensor takes the matrix that came as a slab out of it, as between any two sources.
  const std::vector<NamedTensor> tensors = TensorsOf(c.p, 3, *c.experts[3]);
  const dsv4mx_tensor view = tensors[0].View();
  REQUIRE_OK(dsv4mx_weights_set(w.get(), tensors[0].name.c_str(), 3, &view, nullptr, nullptr));
  CHECK(Info(w.get()).tensors_missing == 9 + 2);
  REQUIRE_REFUSED(dsv4mx_weights_prepare(w.get(), nullptr, nullptr), DSV4MX_STATUS_NOT_FOUND,
                  "expert 2");
  REQUIRE_OK(Copy(w.get(), {2, 3}, a.weights(), {2, 3}));
  REQUIRE_OK(dsv4mx_weights_prepare(w.get(), nullptr, nullptr));
  CHECK(CheckSame(a.Apply(), ApplyGuarded(a.context(), layer.get(), w.get(), c.p, c.in)) == "");
}

TEST_CASE("experts: between two contexts, and layers with other numbers of experts", "[experts]") {
  const Case c = MakeCase(kLayer), many = MakeCase("h=96 i=160 e=7 k=3 m=9 bias=1 seed=5");
  ContextPtr contexts[2];
  for (ContextPtr& context : contexts) {
    dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
    desc.device = DSV4MX_DEVICE_CPU;
    desc.threads = &context == contexts ? 1 : 3;
    dsv4mx_context* made = nullptr;
    REQUIRE_OK(dsv4mx_context_create(&desc, &made));
    context.reset(made);
  }
  const Runner to(c, contexts[0].get());
  {
    const Runner from(many, contexts[1].get());
    REQUIRE_OK(Copy(to.weights(), {3, 1}, from.weights(), {6, 0}));
  }
  contexts[1].reset();  // nothing of it is kept
  Case changed = c;
  changed.experts[3] = many.experts[6];
  changed.experts[1] = many.experts[0];
  CHECK(CheckSame(to.Apply(), Runner(changed).Apply()) == "");
}

TEST_CASE("experts: an expert that needs the wide form on the cpu brings it along", "[experts]") {
  const Case c = MakeCase("h=64 i=64 e=3 k=2 m=5 scales=118..122");
  Case wide = c;
  wide.experts[1] = std::make_shared<ExpertData>(*c.experts[1]);
  for (uint8_t& s : wide.experts[1]->scales[kDown]) s = 246;
  const Runner a(c), b(wide);
  REQUIRE_OK(Copy(a.weights(), {1}, b.weights(), {1}));
  CHECK(CheckSame(a.Apply(), b.Apply()) == "");
  CHECK(Info(a.weights()).scale_max == 246);
  REQUIRE_OK(Copy(a.weights(), {1}, Runner(c).weights(), {1}));
  CHECK(Info(a.weights()).scale_max <= 122);
}

TEST_CASE("experts: each is described by what prepare found in it", "[experts]") {
  Case c = MakeCase("h=64 i=32 e=3 k=2 m=4");
  for (int e = 0; e < 3; ++e) {
    c.experts[static_cast<size_t>(e)] = std::make_shared<ExpertData>(*c.experts[0]);
    for (int m = 0; m < 3; ++m) {
      auto& expert = *c.experts[static_cast<size_t>(e)];
      for (uint8_t& s : expert.scales[m]) s = static_cast<uint8_t>(100 + 10 * e);
      for (uint8_t& b : expert.codes[m]) b = 0x22;
    }
  }
  c.experts[2]->scales[kGate][0] = 99;  // 21 below its neighbour
  for (auto& codes : c.experts[1]->codes) std::fill(codes.begin(), codes.end(), uint8_t{0x80});
  const Runner a(c);
  const struct {
    int32_t min, max, exact, span;
  } want[] = {{100, 100, 1, 0}, {0, 0, 1, 0}, {99, 120, 0, 21}};
  for (int32_t e = 0; e < 3; ++e) {
    dsv4mx_expert_info info = DSV4MX_EXPERT_INFO_INIT;
    dsv4mx_weights_census census = DSV4MX_WEIGHTS_CENSUS_INIT;
    REQUIRE_OK(dsv4mx_weights_query_expert(a.weights(), e, &info));
    REQUIRE_OK(dsv4mx_weights_query_expert_census(a.weights(), e, &census));
    CHECK(info.scale_min == want[e].min);
    CHECK(info.scale_max == want[e].max);
    CHECK(census.planes_exact == want[e].exact);
    CHECK(census.span_max == want[e].span);
  }
  // The whole is that of the experts it has now.
  CHECK(FactsOf(a.weights()).census.planes_exact == 0);
  REQUIRE_OK(Copy(a.weights(), {2}, a.weights(), {0}));
  CHECK(FactsOf(a.weights()).census.planes_exact == 1);
  CHECK(FactsOf(a.weights()).census.span_max == 0);
  CHECK(FactsOf(a.weights()).info.scale_max == 100);
  dsv4mx_expert_info info = DSV4MX_EXPERT_INFO_INIT;
  REQUIRE_OK(dsv4mx_weights_query_expert(a.weights(), 2, &info));
  CHECK(info.scale_max == 100);
}

TEST_CASE("experts: what a copy refuses, before anything is written", "[experts]") {
  const Case c = MakeCase(kLayer), other = MakeCase("h=96 i=160 e=4 k=2 m=7 order=gate_up seed=3");
  const Runner a(c), b(other);
  const Output before = a.Apply();
  const LayerPtr layer = MakeLayer(CpuContext(), DescOf(c));
  const WeightsPtr empty = MakeWeights(layer.get());
  constexpr auto kArgument = DSV4MX_STATUS_INVALID_ARGUMENT;
  dsv4mx_weights* w = a.weights();
  const Runner same(c);
  REQUIRE_REFUSED(Copy(w, {4}, same.weights(), {0}), kArgument, "to_experts[0],4,0..3");
  REQUIRE_REFUSED(Copy(w, {0, -1}, same.weights(), {0, 1}), kArgument, "to_experts[1],-1,0..3");
  REQUIRE_REFUSED(Copy(w, {0, 1}, same.weights(), {0, 4}), kArgument, "from_experts[1],4,0..3");
  REQUIRE_REFUSED(Copy(w, {1, 2, 1}, same.weights(), {0, 1, 2}), kArgument, "to_experts[2],1,once");
  REQUIRE_REFUSED(Copy(w, {1, 2}, w, {0, 1}), kArgument, "from_experts[1],1,written");
  REQUIRE_REFUSED(Copy(w, {1}, w, {1}), kArgument, "from_experts[0],1,written");
  REQUIRE_REFUSED(Copy(w, {1}, empty.get(), {1}), DSV4MX_STATUS_INVALID_STATE,
                  "from,dsv4mx_weights_prepare");
  REQUIRE_REFUSED(Copy(w, {1}, b.weights(), {1}), DSV4MX_STATUS_UNSUPPORTED,
                  "from,cpu 1,hidden 96,160 channels,w13 bias no,w13 bias yes");
  const int32_t one = 1;
  dsv4mx_copy_args args = DSV4MX_COPY_ARGS_INIT;
  args.count = -1;
  REQUIRE_REFUSED(dsv4mx_weights_copy_experts(w, same.weights(), &args, nullptr), kArgument,
                  "count,-1");
  args.count = 1;
  REQUIRE_REFUSED(dsv4mx_weights_copy_experts(w, same.weights(), &args, nullptr), kArgument,
                  "to_experts,NULL");
  args.to_experts = &one;
  REQUIRE_REFUSED(dsv4mx_weights_copy_experts(w, same.weights(), &args, nullptr), kArgument,
                  "from_experts,NULL");
  args.from_experts = &one;
  args.flags = 4;
  REQUIRE_REFUSED(dsv4mx_weights_copy_experts(w, same.weights(), &args, nullptr), kArgument,
                  "flags,0x4");
  args.flags = 0;
  REQUIRE_REFUSED(dsv4mx_weights_copy_experts(w, same.weights(), nullptr, nullptr), kArgument,
                  "args,NULL");
  REQUIRE_REFUSED(dsv4mx_weights_copy_experts(nullptr, same.weights(), &args, nullptr), kArgument,
                  "to,NULL");
  REQUIRE_REFUSED(dsv4mx_weights_copy_experts(w, nullptr, &args, nullptr), kArgument, "from,NULL");
  args.struct_size = 12;
  REQUIRE_REFUSED(dsv4mx_weights_copy_experts(w, same.weights(), &args, nullptr),
                  DSV4MX_STATUS_INVALID_STRUCT, "args,12");
  CHECK(CheckSame(before, a.Apply()) == "");

  dsv4mx_expert_info info = DSV4MX_EXPERT_INFO_INIT;
  dsv4mx_weights_census census = DSV4MX_WEIGHTS_CENSUS_INIT;
  REQUIRE_REFUSED(dsv4mx_weights_query_expert(w, 4, &info), kArgument, "expert,4,0..3");
  REQUIRE_REFUSED(dsv4mx_weights_query_expert(empty.get(), 0, &info), DSV4MX_STATUS_INVALID_STATE,
                  "prepared,described");
  REQUIRE_REFUSED(dsv4mx_weights_query_expert_census(w, -1, &census), kArgument, "expert,-1,0..3");
  REQUIRE_REFUSED(dsv4mx_weights_query_expert_census(empty.get(), 0, &census),
                  DSV4MX_STATUS_INVALID_STATE, "prepared,census");
  REQUIRE_REFUSED(dsv4mx_weights_query_expert(nullptr, 0, &info), kArgument, "weights,NULL");
  REQUIRE_REFUSED(dsv4mx_weights_query_expert(w, 0, nullptr), kArgument, "out,NULL");
  REQUIRE_REFUSED(dsv4mx_weights_reset(nullptr), kArgument, "weights,NULL");
}

struct Progress {
  std::vector<int64_t> done;
  int64_t cancel_at = -1;
  static int32_t Callback(void* user, dsv4mx_stage stage, int64_t done, int64_t total) {
    auto* p = static_cast<Progress*>(user);
    p->done.push_back(stage == DSV4MX_STAGE_CONVERT && total == 3 ? done : -1);
    return done == p->cancel_at ? 1 : 0;
  }
};

TEST_CASE("experts: a copy tells its progress, and where it is cancelled whole experts are there",
          "[experts]") {
  const Case c = MakeCase(kLayer), fresh = MakeCase(std::string(kLayer) + " seed=77");
  const Runner b(fresh);
  const int32_t experts[] = {0, 1, 2};
  for (int64_t at = -1; at < 4; ++at) {
    const Runner a(c);
    Progress p;
    p.cancel_at = at;
    dsv4mx_control control = DSV4MX_CONTROL_INIT;
    control.progress = Progress::Callback;
    control.progress_user = &p;
    dsv4mx_copy_args args = DSV4MX_COPY_ARGS_INIT;
    args.to_experts = args.from_experts = experts;
    args.count = 3;
    args.control = &control;
    const dsv4mx_status status =
        dsv4mx_weights_copy_experts(a.weights(), b.weights(), &args, nullptr);
    if (at < 0) {
      REQUIRE_OK(status);
      CHECK(p.done == std::vector<int64_t>{0, 1, 2, 3});
    } else {
      REQUIRE_REFUSED(status, DSV4MX_STATUS_CANCELLED, "copy,cancelled,of 3 experts");
    }
    Case changed = c;
    for (size_t e = 0; e < static_cast<size_t>(at < 0 ? 3 : at); ++e) {
      changed.experts[e] = fresh.experts[e];
    }
    CHECK(CheckSame(a.Apply(), Runner(changed).Apply()) == "");
  }
}

DEVICE_TEST_CASE("experts: reset empties weights, which can then be filled anew", "[experts]") {
  Case c = MakeCase(kLayer), fresh = MakeCase(std::string(kLayer) + " seed=77");
  c.p.device = fresh.p.device = device;
  const Runner a(c);
  REQUIRE_OK(dsv4mx_weights_reset(a.weights()));
  CHECK(Info(a.weights()).state == DSV4MX_WEIGHTS_EMPTY);
  CHECK(Info(a.weights()).tensors_missing == 4 * 9);
  REQUIRE_REFUSED(Copy(Runner(c).weights(), {0}, a.weights(), {0}), DSV4MX_STATUS_INVALID_STATE,
                  "prepare");
  SetExpert(a.weights(), c.p, 0, *c.experts[0]);
  REQUIRE_OK(dsv4mx_weights_reset(a.weights()));  // in any state
  CHECK(Info(a.weights()).state == DSV4MX_WEIGHTS_EMPTY);
  for (int32_t e = 0; e < 4; ++e) {
    SetExpert(a.weights(), c.p, e, *fresh.experts[static_cast<size_t>(e)]);
  }
  REQUIRE_OK(dsv4mx_weights_prepare(a.weights(), nullptr, nullptr));
  Case changed = c;
  changed.experts = fresh.experts;
  CHECK(CheckSame(a.Apply(), Runner(changed).Apply()) == "");
}

TEST_CASE("experts: copies into one object run beside applies on others", "[experts]") {
  const Case c = MakeCase(kLayer), fresh = MakeCase(std::string(kLayer) + " seed=77");
  const Runner from(fresh), to(c), apart(c);
  const Output want_from = from.Apply(), want = apart.Apply();
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (const auto& [run, output] : {std::pair{&from, &want_from}, std::pair{&apart, &want}}) {
    threads.emplace_back([&stop, &wrong, run = run, output = output] {
      while (!stop) wrong += CheckSame(*output, run->Apply()) != "";
    });
  }
  for (int i = 0; i < 50; ++i) {
    wrong += Copy(to.weights(), {0, 1, 2, 3}, from.weights(), {0, 1, 2, 3}) != DSV4MX_STATUS_OK;
  }
  stop = true;
  for (std::thread& t : threads) t.join();
  CHECK(wrong == 0);
  Case changed = c;
  changed.experts = fresh.experts;
  CHECK(CheckSame(to.Apply(), Runner(changed).Apply()) == "");
}

// A layer whose placement may change.
struct Placed {
  Placed(const Case& c, std::vector<int32_t> at) : placed(c) {
    placed.placement = std::move(at);
    Arrange(c);
    layer = MakeLayer(ContextOf(c.p), DescOf(placed));
    weights = MakeWeights(layer.get());
    for (size_t e = 0; e < placed.experts.size(); ++e) {
      SetExpert(weights.get(), c.p, static_cast<int32_t>(e), *placed.experts[e]);
    }
    Must(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr), "prepare");
  }
  void Arrange(const Case& whole) {
    for (size_t s = 0; s < placed.placement.size(); ++s) {
      placed.experts[s] = whole.experts[static_cast<size_t>(placed.placement[s])];
    }
  }
  Output Apply() const {
    return ApplyGuarded(ContextOf(placed.p), layer.get(), weights.get(), placed.p, placed.in);
  }
  Case placed;
  LayerPtr layer;
  WeightsPtr weights;
};

DEVICE_TEST_CASE("experts: slots are moved and the placement swapped, as if made so", "[experts]") {
  Case whole = MakeCase("h=96 i=64 e=6 k=3 m=9");
  whole.p.device = device;
  const Runner source(whole);
  Placed p(whole, {0, 1, 2, 3, 4, 5});
  const Output want = p.Apply();
  // Expert 5 goes, 2 gets a copy: its pairs are this rank's no more.
  const std::vector<int32_t> moved = {4, 2, 0, 2, 1, 3};
  REQUIRE_OK(Copy(p.weights.get(), {0, 1, 2, 3, 4, 5}, source.weights(), moved));
  REQUIRE_OK(dsv4mx_layer_set_placement(p.layer.get(), moved.data(), nullptr));
  const Placed made(whole, moved);
  CHECK(CheckSame(p.Apply(), made.Apply()) == "");
  CHECK(CheckSame(p.Apply(), want) != "");
  // All experts in another order change no bit.
  const std::vector<int32_t> turned = {5, 4, 3, 2, 1, 0};
  REQUIRE_OK(Copy(p.weights.get(), {0, 1, 2, 3, 4, 5}, source.weights(), turned));
  REQUIRE_OK(dsv4mx_layer_set_placement(p.layer.get(), turned.data(), nullptr));
  CHECK(CheckSame(p.Apply(), want) == "");
}

TEST_CASE("experts: names of a checkpoint go by the placement of the moment", "[experts]") {
  const Case whole = MakeCase("h=64 i=32 e=4 k=2 m=6");
  Placed p(whole, {0, 1, 2, 3});
  const int32_t turned[] = {3, 2, 1, 0};
  REQUIRE_OK(dsv4mx_layer_set_placement(p.layer.get(), turned, nullptr));
  REQUIRE_OK(dsv4mx_weights_reset(p.weights.get()));
  for (int32_t id = 0; id < 4; ++id) {
    for (const NamedTensor& t : TensorsOf(whole.p, -1, *whole.experts[static_cast<size_t>(id)])) {
      const std::string name = "layers.7.ffn.experts." + std::to_string(id) + "." + t.name;
      const dsv4mx_tensor view = t.View();
      REQUIRE_OK(dsv4mx_weights_set(p.weights.get(), name.c_str(), -1, &view, nullptr, nullptr));
    }
  }
  REQUIRE_OK(dsv4mx_weights_prepare(p.weights.get(), nullptr, nullptr));
  CHECK(CheckSame(p.Apply(), Runner(whole).Apply()) == "");
}

TEST_CASE("experts: what a change of placement refuses, and that it then changes nothing",
          "[experts]") {
  const Case whole = MakeCase("h=64 i=32 e=4 k=2 m=6");
  Placed p(whole, {1, 0, 3, 2});
  const Output want = p.Apply();
  const int32_t bad[] = {0, 1, 4, 2}, good[] = {0, 1, 2, 3};
  REQUIRE_REFUSED(dsv4mx_layer_set_placement(p.layer.get(), bad, nullptr),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "placement[2],4,0..3");
  REQUIRE_REFUSED(dsv4mx_layer_set_placement(p.layer.get(), nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "placement,NULL");
  REQUIRE_REFUSED(dsv4mx_layer_set_placement(nullptr, good, nullptr),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "layer,NULL");
  CHECK(CheckSame(p.Apply(), want) == "");
  const LayerPtr plain = MakeLayer(CpuContext(), DescOf(whole));
  REQUIRE_REFUSED(dsv4mx_layer_set_placement(plain.get(), good, nullptr),
                  DSV4MX_STATUS_INVALID_STATE, "without a placement");
  Case physical = whole;
  physical.placement = {0, 1, 2, 3};
  dsv4mx_layer_desc desc = DescOf(physical);
  desc.flags = DSV4MX_LAYER_PHYSICAL_IDS;
  desc.physical_global = 4;
  const LayerPtr slots = MakeLayer(CpuContext(), desc);
  REQUIRE_REFUSED(dsv4mx_layer_set_placement(slots.get(), good, nullptr),
                  DSV4MX_STATUS_INVALID_STATE, "PHYSICAL_IDS");
}

TEST_CASE("experts: weights of a layer are filled while it is placed anew", "[experts]") {
  const Case whole = MakeCase("h=64 i=32 e=4 k=2 m=6");
  Placed p(whole, {0, 1, 2, 3});
  REQUIRE_OK(dsv4mx_weights_reset(p.weights.get()));
  std::atomic<bool> stop{false};
  std::atomic<int> failed{0};
  std::thread other([&] {
    const NamedTensor t = TensorsOf(whole.p, -1, *whole.experts[0])[0];
    const dsv4mx_tensor view = t.View();
    while (!stop) {
      failed += dsv4mx_weights_set(p.weights.get(), ("experts.2." + t.name).c_str(), -1, &view,
                                   nullptr, nullptr) != DSV4MX_STATUS_OK;
      (void)Info(p.weights.get());
    }
  });
  const int32_t a[] = {3, 2, 1, 0}, b[] = {0, 0, 2, 2};
  for (int i = 0; i < 200; ++i) {
    REQUIRE_OK(dsv4mx_layer_set_placement(p.layer.get(), i % 2 == 0 ? a : b, nullptr));
  }
  stop = true;
  other.join();
  CHECK(failed == 0);
}

}  // namespace
}  // namespace dsv4mx::test
