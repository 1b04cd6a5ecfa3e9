// Which GEMMs an apply launches: as many as its plan says, each with the experts of its part, and those of f16 once more.
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dsv4mx.h"
#include "lib/api/handles.h"
#include "lib/base/plan.h"
#include "lib/cuda/cuda_layer.h"
#include "tests/catch.h"
#include "tests/driver/fake_runtime.h"
#include "tests/safetensors_file.h"

namespace dsv4mx::test {
namespace {

constexpr int32_t kHidden = 160, kExperts = 3, kTopK = 2;

// Experts whose weights are 0.5 or more with one scale byte, under the built-in plan with these lines before it.
class Layer {
 public:
  Layer(uint8_t scale, const std::string& lines, float clamp = 0, dsv4mx_dtype slot = 0,
        int32_t intermediate = 96, const std::function<void(dsv4mx_layer_desc*)>& change = {})
      : intermediate_(intermediate) {
    fake = FakeRuntime{};
    fake.current = fake.host = &host_;
    dsv4mx_context_experimental experimental = DSV4MX_CONTEXT_EXPERIMENTAL_INIT;
    WriteFile(folder_ / "plan.csv", "dsv4mx-plan,1\n" + lines);
    const std::string file = folder_ / "plan.csv";
    experimental.plan_file = file.c_str();
    dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
    cd.device = DSV4MX_DEVICE_CUDA;
    cd.experimental = &experimental;
    REQUIRE_OK(dsv4mx_context_create(&cd, &context_));
    dsv4mx_layer_desc ld = DSV4MX_LAYER_DESC_INIT;
    ld.hidden = kHidden;
    ld.intermediate = intermediate_;
    ld.experts = kExperts;
    ld.top_k = kTopK;
    ld.clamp_limit = clamp;
    ld.slot_dtype = slot;
    if (change) change(&ld);
    REQUIRE_OK(dsv4mx_layer_create(context_, &ld, &layer_));
    REQUIRE_OK(dsv4mx_weights_create(layer_, nullptr, &weights_));
    const std::vector<uint8_t> codes(kHidden * intermediate_ / 2, 0x21),
        scales(kHidden * intermediate_ / 32, scale);
    for (int32_t e = 0; e < kExperts; ++e) {
      for (const std::string name : {"w1", "w2", "w3"}) {
        const bool down = name == "w2";
        const int64_t rows = down ? kHidden : intermediate_, k = down ? intermediate_ : kHidden;
        Set(name + ".weight", e, codes, DSV4MX_DTYPE_U8, rows, k / 2);
        Set(name + ".scale", e, scales, DSV4MX_DTYPE_E8M0, rows, k / 32);
      }
    }
    if (ld.w13_bias != 0) SetBias("w13_bias", 2 * intermediate_);
    if (ld.w2_bias != 0) SetBias("w2_bias", kHidden);
    REQUIRE_OK(dsv4mx_weights_prepare(weights_, nullptr, nullptr));
  }
  ~Layer() {
    dsv4mx_weights_destroy(weights_);
    dsv4mx_layer_destroy(layer_);
    dsv4mx_context_destroy(context_);
    CHECK(fake.live.empty());
  }
  Layer(const Layer&) = delete;

  std::string Plan(int64_t tokens) const {
    char text[1024];
    REQUIRE_OK(dsv4mx_layer_query_plan(layer_, weights_, tokens, text, sizeof text));
    return text;
  }
  // What was done before is forgotten; call `fail_at` of the apply fails.
  dsv4mx_status Apply(int64_t tokens, int fail_at = -1) const {
    return WithArgs(tokens, [&](const dsv4mx_apply_args& args) {
      fake.fail_at = fail_at;
      const dsv4mx_status status = dsv4mx_layer_apply(layer_, weights_, &args, nullptr);
      fake.fail_at = -1;
      return status;
    });
  }
  // The same without an output, as groups have it (lib/cuda/cuda_group.cc): `run` goes as far as they go.
  dsv4mx_status RunChunks(int64_t tokens,
                          const std::function<Status(const cuda::Pipeline& chunk)>& run) const {
    return WithArgs(tokens, [&](const dsv4mx_apply_args& args) {
      ApplyCall call{};
      call.x = args.x;
      call.x_stride = kHidden;
      call.topk_ids = args.topk_ids;
      call.topk_weights = args.topk_weights;
      call.topk_ids_stride = call.topk_weights_stride = kTopK;
      call.tokens = tokens;
      call.workspace = args.workspace;
      call.workspace_bytes = args.workspace_bytes;
      const auto& layer = static_cast<const cuda::CudaLayer&>(layer_->impl->backend());
      const Weights& weights = *weights_->impl;
      return layer
          .ForChunks(layer.spec(), cuda::LayerTables{}, weights.store(), *weights.census(), call, 0,
                     tokens,
                     [&](const cuda::Pipeline& chunk, int64_t, int64_t) { return run(chunk); })
          .code;
    });
  }

 private:
  template <class F>
  dsv4mx_status WithArgs(int64_t tokens, F&& call) const {
    dsv4mx_workspace_info info = DSV4MX_WORKSPACE_INFO_INIT;
    REQUIRE_OK(dsv4mx_layer_query_workspace(layer_, tokens, nullptr, &info));
    void* workspace = nullptr;
    REQUIRE_OK(dsv4mx_context_alloc(context_, info.bytes, &workspace));
    const size_t pairs = static_cast<size_t>(tokens) * kTopK;
    std::vector<uint16_t> x(static_cast<size_t>(tokens) * kHidden + 8), out(x.size());
    const std::vector<int32_t> ids(pairs);
    const std::vector<float> router(pairs);
    dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
    const auto aligned = [](std::vector<uint16_t>& v) {
      return v.data() + (16 - reinterpret_cast<uintptr_t>(v.data()) % 16) % 16 / 2;
    };
    args.x = aligned(x);
    args.out = aligned(out);
    args.topk_ids = ids.data();
    args.topk_weights = router.data();
    args.tokens = tokens;
    args.workspace = workspace;
    args.workspace_bytes = info.bytes;
    fake.calls = fake.launches = 0;
    fake.log.clear();
    fake.gemms.clear();
    const dsv4mx_status status = call(args);
    dsv4mx_context_free(context_, workspace);
    return status;
  }
  void Set(const std::string& name, int32_t expert, const std::vector<uint8_t>& bytes,
           dsv4mx_dtype dtype, int64_t rows, int64_t columns) {
    dsv4mx_tensor t = {};
    t.struct_size = sizeof t;
    t.data = const_cast<uint8_t*>(bytes.data());
    t.dtype = dtype;
    t.rank = 2;
    t.shape[0] = rows, t.shape[1] = columns;
    REQUIRE_OK(dsv4mx_weights_set(weights_, name.c_str(), expert, &t, nullptr, nullptr));
  }

  // Of all experts, in bf16.
  void SetBias(const char* name, int64_t rows) {
    const std::vector<uint16_t> values(static_cast<size_t>(kExperts * rows));
    dsv4mx_tensor t = {};
    t.struct_size = sizeof t;
    t.data = const_cast<uint16_t*>(values.data());
    t.dtype = DSV4MX_DTYPE_BF16;
    t.rank = 2;
    t.shape[0] = kExperts, t.shape[1] = rows;
    REQUIRE_OK(dsv4mx_weights_set(weights_, name, -1, &t, nullptr, nullptr));
  }

  int32_t intermediate_;
  int host_ = 0;
  TempFolder folder_;
  dsv4mx_context* context_ = nullptr;
  dsv4mx_layer* layer_ = nullptr;
  dsv4mx_weights* weights_ = nullptr;
};

// "1 f16 21.. / 1 planes 1..20 / 2 ...": number, path and tokens of an expert.
std::string Gemms() {
  std::string text;
  for (const auto& [number, path, a] : fake.gemms) {
    if (!text.empty()) text += " / ";
    text += std::to_string(number) + " " + PathName(path) + " " + std::to_string(a.least) + "..";
    if (a.most != kAnyCount) text += std::to_string(a.most);
    if (a.again != 0) text += " again";
  }
  return text;
}

// Launches of a call by a letter each.
std::string Order() {
  std::string order;
  for (const std::string& name : fake.log) {
    for (const auto& [launch, letter] :
         {std::pair("LaunchGather", 'g'), std::pair("LaunchGemm1", '1'),
          std::pair("LaunchLevel", 'l'), std::pair("LaunchGemm2", '2'),
          std::pair("LaunchCombine", 'c')}) {
      if (name == launch) order += letter;
    }
  }
  return order;
}

const char* const kOne = "*,*,*,mixed,0,1000000\n";
const std::string kThree =
    "*,*,*,path,0,planes_big\n*,*,*,hot,0,60\n*,*,*,cold,0,20\n*,*,*,mixed,0,0\n";
const std::string kMain = "*,*,*,path,0,f16\n*,*,*,cold,0,20\n*,*,*,mixed,0,0\n";

}  // namespace

TEST_CASE("cuda launches: those that the plan counts, of f16 once more behind GEMM2",
          "[launches]") {
  const struct {
    uint8_t scale;
    std::string lines;
    int64_t tokens;
    const char* gemms;
  } cases[] = {
      {110, kOne, 48, "1 f16 1.. / 2 f16 1.. / 1 f16 1.. again / 2 bf16 1.. again"},
      {102, kOne, 48, "1 f16 1.. / 2 f16 1.. / 1 f16 1.. again / 2 bf16 1.. again"},
      {128, kOne, 2100, "1 f16 1.. / 2 f16 1.. / 1 f16 1.. again / 2 bf16 1.. again"},
      {101, kOne, 48, "1 bf16 1.. / 2 bf16 1.."},
      {129, kOne, 48, "1 wide bf16 1.. / 2 wide bf16 1.."},
      {110, kThree, 2100,
       "1 f16 61.. / 1 planes_big 21..60 / 1 planes 1..20 / 2 f16 61.. / 2 planes_big 21..60 / "
       "2 planes 1..20 / 1 f16 61.. again / 2 bf16 61.. again"},
      {110, kMain + "*,*,*,hot,0,60\n*,*,*,f16,0,144\n*,*,*,f16,1000,64\n", 2100,
       "1 f16 61.. / 1 f16 21..60 / 1 planes 1..20 / 2 f16 61.. / 2 f16 21..60 / 2 planes 1..20 / "
       "1 f16 21.. again / 2 bf16 21.. again"},
      {101, kThree, 2100,
       "1 bf16 61.. / 1 planes_big 21..60 / 1 planes 1..20 / 2 bf16 61.. / 2 planes_big 21..60 / "
       "2 planes 1..20"},
      {110, kMain, 2100,
       "1 f16 21.. / 1 planes 1..20 / 2 f16 21.. / 2 planes 1..20 / 1 f16 21.. again / "
       "2 bf16 21.. again"},
  };
  for (const auto& c : cases) {
    const Layer layer(c.scale, c.lines);
    const std::string plan = layer.Plan(c.tokens);
    INFO(plan);
    REQUIRE_OK(layer.Apply(c.tokens));
    CHECK(Gemms() == c.gemms);
    // With so many pairs the gather is two, of which the fake knows nothing.
    const int launches = fake.launches + (c.tokens * kTopK > kCountedInPlace ? 1 : 0);
    CHECK(plan.find(" " + std::to_string(launches) + " launches") != std::string::npos);
    REQUIRE(!fake.gemms.empty());
    const GemmArgs first = fake.gemms[0].args;
    const FakeRuntime::Gemm* f16[2] = {};
    const int32_t* counter[2] = {};
    for (const auto& g : fake.gemms) {
      // What all GEMMs of a call have of one word behind the counters, which gather clears with them.
      CHECK(g.args.unfit == first.taken + kTakenCounters);
      CHECK(g.args.taken >= first.taken);
      CHECK(g.args.taken < first.taken + kTakenCounters);
      if (g.args.again == 0) {
        if (g.path != Path::kF16) continue;
        f16[g.number - 1] = &g;
        if (counter[g.number - 1] == nullptr) counter[g.number - 1] = g.args.taken;
        continue;
      }
      // The same work of the parts of f16, with the last one's width and the first one's counter.
      const FakeRuntime::Gemm* const before = f16[g.number - 1];
      REQUIRE(before != nullptr);
      const GemmArgs &a = g.args, &b = before->args;
      CHECK(a.taken == counter[g.number - 1]);
      CHECK(a.width == b.width);
      CHECK(a.panel == b.panel);
      CHECK(a.h == b.h);
      CHECK(a.slots == b.slots);
      CHECK(a.matrix == b.matrix);
      CHECK(a.counts == b.counts);
      CHECK(a.sizes == b.sizes);
      CHECK(a.extent == b.extent);
    }
  }
}

TEST_CASE("cuda launches: h as f16 has a power of two, which GEMM2 takes back", "[launches]") {
  // As large as the clamp allows, from 2^6 to 2^10.
  for (const auto& [clamp, wanted] : {std::pair(0.0f, 0x1p6f), std::pair(1.0f, 0x1p10f),
                                      std::pair(10.0f, 0x1p9f), std::pair(1e6f, 0x1p6f)}) {
    const Layer layer(110, kOne, clamp);
    REQUIRE_OK(layer.Apply(48));
    REQUIRE(fake.gemms.size() == 4);
    INFO("clamp " << clamp);
    CHECK(fake.gemms[0].args.h_factor == wanted);
    CHECK(fake.gemms[1].args.h_factor * wanted == 0x1p-12f * kHalfSlotFactor);
  }
}

// Who asked for a dtype has it, and so has whoever wants slots and no sums of them.
TEST_CASE("cuda launches: slots of f16 are those of f16's GEMM2, unless asked for otherwise",
          "[launches]") {
  const struct {
    std::string lines;
    dsv4mx_dtype slot;
    bool halves;
  } cases[] = {{kOne, 0, true},
               {kMain, 0, true},
               {kOne, DSV4MX_DTYPE_F32, false},
               {kOne, DSV4MX_DTYPE_BF16, false},
               {"*,*,*,path,0,bf16\n*,*,*,mixed,0,1000000\n", 0, false},
               {"*,*,*,path,0,planes\n*,*,*,mixed,0,1000000\n", 0, false}};
  for (const auto& c : cases) {
    const Layer layer(110, c.lines, 0, c.slot);
    INFO(layer.Plan(2100));
    REQUIRE_OK(layer.Apply(2100));
    CHECK((fake.gather.half_slots != 0) == c.halves);
    REQUIRE(!fake.gemms.empty());
    const int32_t* const unfit = fake.gemms[0].args.taken + kTakenCounters;
    CHECK(fake.combine.unfit == (c.halves ? unfit : nullptr));
    for (const auto& g : fake.gemms) {
      INFO("GEMM" << g.number << " " << static_cast<int>(g.path) << " again " << g.args.again);
      const bool halves = c.halves && g.number == 2 && g.args.again == 0;
      CHECK((g.args.half_slots != 0) == halves);
      if (g.number == 2 && g.path == Path::kF16)
        CHECK(g.args.h_factor == 0x1p-18f * (halves ? kHalfSlotFactor : 1.0f));
      CHECK(g.args.slots_are_bf16 == (g.number == 2 && c.slot == DSV4MX_DTYPE_BF16));
    }
  }
}

// What runs with a levelled h: one launch more, between the GEMMs of a chunk; then GEMM2 of planes and of E4M3 in another form, and
// sums in its units.
TEST_CASE("cuda launches: rows of h get their scale between the GEMMs", "[launches]") {
  const std::string by = "*,*,*,few,0,0\n*,*,*,level,0,1\n*,*,*,mixed,0,1000000\n";
  const auto w4a8 = [](dsv4mx_layer_desc* d) { d->compute = DSV4MX_COMPUTE_W4A8; };
  using Change = std::function<void(dsv4mx_layer_desc*)>;
  const struct {
    const char* what;
    std::string lines;
    Change change;
    int32_t intermediate;
    float unit;  // LevelFactor: 96 channels of at most 480 * 12 come to 2^19.1
  } cases[] = {
      {"planes", by + "*,*,*,path,0,planes\n", {}, 96, 0x1p-4f},
      {"planes, wide", by + "*,*,*,path,0,planes\n", {}, 2048, 0x1p-8f},
      {"e4m3", by + "*,*,*,w4a8,0,e4m3\n", w4a8, 96, 0x1p-4f},
      {"e4m3_big", by + "*,*,*,w4a8,0,e4m3_big\n", w4a8, 96, 0x1p-4f},
      {"e4m3_wide", by + "*,*,*,w4a8,0,e4m3_wide\n", w4a8, 544, 0x1p-6f},
      {"planes beside f16",
       "*,*,*,few,0,0\n*,*,*,level,0,1\n*,*,*,path,0,planes\n*,*,*,hot,0,60\n*,*,*,mixed,0,0\n",
       {},
       96,
       0x1p-4f},
      {"in chunks", by + "*,*,*,path,0,planes\n*,*,*,chunk,0,1056\n", {}, 96, 0x1p-4f},
      {"with a bias of w13", by + "*,*,*,path,0,planes\n",
       [](dsv4mx_layer_desc* d) {
         d->w13_bias = DSV4MX_DTYPE_BF16;
         d->w13_order = DSV4MX_W13_ORDER_GATE_UP;
       },
       96, 0x1p-4f},
  };
  for (const auto& c : cases) {
    const Layer layer(110, c.lines, 0, 0, c.intermediate, c.change);
    const std::string plan = layer.Plan(2112);
    INFO(c.what << ": " << plan);
    CHECK(plan.find(" with one scale a row of h: ") != std::string::npos);
    REQUIRE_OK(layer.Apply(2112));
    const std::string count =
        std::to_string(fake.launches + (plan.find("in 1 chunk") != std::string::npos ? 1 : 0));
    CHECK(plan.find(" " + count + " launches") != std::string::npos);

    // Behind each GEMM1 and before each GEMM2 of its chunk, but for those of f16 again.
    CHECK(Order() == (std::string(c.what) == "planes beside f16" ? "g11l2212c"
                      : std::string(c.what) == "in chunks"       ? "g1l2cg1l2c"
                                                                 : "g1l2c"));

    REQUIRE(fake.gemms.size() >= 2);
    const GemmArgs first = fake.gemms[0].args;
    const LevelArgs& level = fake.level;
    CHECK(LevelFactor(c.intermediate) == c.unit);
    CHECK(fake.gather.levelled != 0);
    CHECK(level.panel == first.h);
    CHECK(level.panel_row == fake.gather.panel_row);
    CHECK(level.panel_rows == first.panel_rows);
    CHECK(level.h_scale == first.h_scale);
    CHECK(level.row_scale == fake.combine.level_scale);
    CHECK(level.row_scale == fake.gather.row_scale);
    CHECK(level.row_scale != nullptr);
    CHECK(level.k == c.intermediate);
    CHECK(level.one_plane == (c.change && std::string(c.what)[0] == 'e'));
    CHECK(level.routing.ids == fake.gather.routing.ids);
    CHECK(level.routing.tokens == fake.gather.routing.tokens);
    CHECK(level.routing.top_k == kTopK);
    CHECK(fake.combine.level_unit * c.unit == 1.0f);
    for (const auto& g : fake.gemms) {
      INFO("GEMM" << g.number << " " << PathName(g.path) << " again " << g.args.again);
      const bool levelled = g.number == 2 && (IsPlanes(g.path) || IsE4m3(g.path));
      CHECK((g.args.levelled != 0) == levelled);
      if (levelled) CHECK(g.args.h_factor == c.unit);
      if (levelled) CHECK(g.args.half_slots == (std::string(c.what) == "planes beside f16"));
      if (levelled) CHECK(g.args.slots_are_bf16 == 0);
      if (levelled) CHECK(g.args.bias < 0);
      if (levelled) CHECK(g.args.targets == nullptr);
      if (g.number == 2 && g.path == Path::kF16)
        CHECK(g.args.h_factor == 0x1p-18f * kHalfSlotFactor);
      CHECK(g.args.panel == (g.number == 1 ? first.panel : level.panel));
    }
  }
}

TEST_CASE("cuda launches: nothing of it where rows of h keep their scales", "[launches]") {
  const std::string by =
      "*,*,*,few,0,0\n*,*,*,level,0,1\n*,*,*,path,0,planes\n*,*,*,mixed,0,1000000\n";
  const auto never = [](dsv4mx_layer_desc*) {};
  dsv4mx_layer_experimental planes = DSV4MX_LAYER_EXPERIMENTAL_INIT;
  planes.number_path = DSV4MX_NUMBER_PATH_PLANES;
  using Change = std::function<void(dsv4mx_layer_desc*)>;
  const struct {
    const char* what;
    uint8_t scale;
    std::string lines;
    Change change;
    bool levelled;
  } cases[] = {
      {"nothing", 110, by, never, true},
      {"the table", 110, by + "*,*,*,level,0,0\n", never, false},
      {"few pairs", 110, by + "*,*,*,few,0,1000000\n", never, false},
      {"planes_big", 110, by + "*,*,*,path,0,planes_big\n", never, false},
      {"f16", 110, by + "*,*,*,path,0,f16\n", never, false},
      {"scale bytes", 109, by, never, false},
      {"a dtype of slots", 110, by, [](dsv4mx_layer_desc* d) { d->slot_dtype = DSV4MX_DTYPE_F32; },
       false},
      {"another dtype of slots", 110, by,
       [](dsv4mx_layer_desc* d) { d->slot_dtype = DSV4MX_DTYPE_BF16; }, false},
      {"invariance", 110, by,
       [](dsv4mx_layer_desc* d) { d->flags |= DSV4MX_LAYER_BATCH_INVARIANT; }, false},
      {"a bias of w2", 110, by, [](dsv4mx_layer_desc* d) { d->w2_bias = DSV4MX_DTYPE_BF16; },
       false},
      {"a path", 110, by, [&](dsv4mx_layer_desc* d) { d->experimental = &planes; }, false},
  };
  for (const dsv4mx_compute compute : {DSV4MX_COMPUTE_W4A16, DSV4MX_COMPUTE_W4A8}) {
    for (const auto& c : cases) {
      const std::string what = c.what;
      // Paths that W4A8 has not.
      if (compute == DSV4MX_COMPUTE_W4A8 &&
          (what == "planes_big" || what == "f16" || what == "a path"))
        continue;
      const Layer layer(c.scale, c.lines, 0, 0, 96, [&](dsv4mx_layer_desc* d) {
        d->compute = compute;
        c.change(d);
      });
      const int64_t tokens = what == "few pairs" ? 2 : 48;
      const std::string plan = layer.Plan(tokens);
      INFO(what << ": " << plan);
      REQUIRE_OK(layer.Apply(tokens));
      CHECK((plan.find("one scale a row") != std::string::npos) == c.levelled);
      CHECK(plan.find(" " + std::to_string(fake.launches) + " launches") != std::string::npos);
      CHECK(std::count(fake.log.begin(), fake.log.end(), "LaunchLevel") == (c.levelled ? 1 : 0));
      if (what == "few pairs") {
        CHECK(plan.find(" for few pairs") != std::string::npos);
        continue;
      }
      CHECK((fake.gather.levelled != 0) == c.levelled);
      CHECK((fake.combine.level_scale != nullptr) == c.levelled);
      REQUIRE(fake.gemms.size() >= 2);
      for (const auto& g : fake.gemms)
        CHECK((g.args.levelled != 0) == (c.levelled && g.number == 2));
    }
  }
}

// Whoever wants slots and no sums of them, as groups do, knows nothing of units that a row or the layer has.
TEST_CASE("cuda launches: a call without an output has plain slots and no levels", "[launches]") {
  const std::string level = "*,*,*,few,0,0\n*,*,*,level,0,1\n";
  const auto none = [](dsv4mx_layer_desc*) {};
  const auto w4a8 = [](dsv4mx_layer_desc* d) { d->compute = DSV4MX_COMPUTE_W4A8; };
  using Change = std::function<void(dsv4mx_layer_desc*)>;
  const struct {
    std::string lines;
    Change change;
    const char* order;    // as above
    bool halves, levels;  // with an output
  } cases[] = {
      {kOne + std::string("*,*,*,path,0,f16\n"), none, "g1212", true, false},
      {kThree, none, "g11122212", true, false},
      {kMain, none, "g112212", true, false},
      {kOne + level + "*,*,*,path,0,planes\n", none, "g12", false, true},
      {kOne + level + "*,*,*,w4a8,0,e4m3\n", w4a8, "g12", false, true},
      {kOne + level + "*,*,*,w4a8,0,e4m3_big\n", w4a8, "g12", false, true},
      {kOne + level + "*,*,*,w4a8,0,e4m3_wide\n", w4a8, "g12", false, true},
      {level + "*,*,*,path,0,planes\n*,*,*,hot,0,60\n*,*,*,mixed,0,0\n", none, "g112212", true,
       true},
      {kOne + level + "*,*,*,path,0,planes\n*,*,*,chunk,0,1056\n", none, "g12g12", false, true},
  };
  // All the way, and from h on to rows elsewhere.
  static void* target = nullptr;
  const auto to_slots = [](const cuda::Pipeline& chunk) { return chunk.RunToSlots(nullptr); };
  const auto to_targets = [](const cuda::Pipeline& chunk) {
    const Status status = chunk.RunToHidden(nullptr);
    return status.ok() ? chunk.Gemm2To(&target, nullptr) : status;
  };
  for (const auto& c : cases) {
    const Layer layer(110, c.lines, 0, 0, 96, c.change);
    INFO(layer.Plan(2112));
    REQUIRE_OK(layer.Apply(2112));
    CHECK((fake.gather.half_slots != 0) == c.halves);
    CHECK((fake.gather.levelled != 0) == c.levels);
    CombineArgs combine{};
    for (const bool targets : {false, true}) {
      INFO("targets " << targets);
      REQUIRE_OK(layer.RunChunks(2112, [&](const cuda::Pipeline& chunk) {
        combine = chunk.CombineOf();
        return targets ? to_targets(chunk) : to_slots(chunk);
      }));
      CHECK(Order() == c.order);
      CHECK(fake.gather.half_slots == 0);
      CHECK(fake.gather.levelled == 0);
      REQUIRE(!fake.gemms.empty());
      for (const auto& g : fake.gemms) {
        INFO("GEMM" << g.number << " " << PathName(g.path) << " again " << g.args.again);
        CHECK(g.args.half_slots == 0);
        CHECK(g.args.levelled == 0);
        if (g.number == 2 && g.path == Path::kF16) CHECK(g.args.h_factor == 0x1p-18f);
        CHECK((g.args.targets == &target) == (targets && g.number == 2));
      }
      // Of who adds the slots up (kernels/dist/collect.cu).
      CHECK(combine.out == nullptr);
      CHECK(combine.unfit == nullptr);
      CHECK(combine.level_scale == nullptr);
      CHECK(combine.level_unit == 1.0f);
    }
  }
}

TEST_CASE("cuda launches: each of a levelled call that fails is told of", "[launches]") {
  const Layer layer(110, "*,*,*,few,0,0\n*,*,*,level,0,1\n*,*,*,path,0,planes\n");
  REQUIRE_OK(layer.Apply(48));
  const std::vector<std::string> log = fake.log;
  int failed = 0;
  for (size_t i = 0; i < log.size(); ++i) {
    if (log[i].find("Launch") != 0) continue;
    INFO(log[i]);
    CHECK(layer.Apply(48, static_cast<int>(i)) == DSV4MX_STATUS_CUDA_ERROR);
    CHECK(fake.launches == ++failed);
  }
  CHECK(failed == 5);
}

// Where GEMM1 goes through x for few channels; others have it copied for each pair.
TEST_CASE("cuda launches: narrow layers have x of f16 once a token", "[launches]") {
  for (const int32_t intermediate : {96, 512, 544}) {
    const Layer layer(110, kOne, 0, 0, intermediate);
    REQUIRE_OK(layer.Apply(48));
    REQUIRE(fake.gemms.size() == 4);
    INFO("intermediate " << intermediate);
    CHECK((fake.gather.source != nullptr) == (intermediate <= 512));
    CHECK(fake.gemms[0].args.source == fake.gather.source);
    CHECK(fake.gemms[2].args.source == fake.gather.source);
  }
  // Some experts' rows are of planes, and stand in the panel in their own places.
  const Layer mixed(110, kThree, 0, 0, 96);
  REQUIRE_OK(mixed.Apply(2100));
  REQUIRE(mixed.Plan(2100).find("planes") != std::string::npos);
  CHECK(fake.gather.source == nullptr);
  for (const auto& g : fake.gemms) CHECK(g.args.source == nullptr);
}

TEST_CASE("cuda launches: each GEMM that fails is told of", "[launches]") {
  for (const auto& [lines, gemms] :
       {std::pair(std::string(kOne), size_t{4}), std::pair(kThree, size_t{8})}) {
    const Layer layer(110, lines);
    REQUIRE_OK(layer.Apply(2100));
    const std::vector<std::string> log = fake.log;
    size_t seen = 0;
    for (size_t i = 0; i < log.size(); ++i) {
      if (log[i].find("LaunchGemm") != 0) continue;
      INFO("GEMM " << seen);
      CHECK(layer.Apply(2100, static_cast<int>(i)) == DSV4MX_STATUS_CUDA_ERROR);
      // Nothing is launched behind it.
      CHECK(fake.gemms.size() == ++seen);
    }
    CHECK(seen == gemms);
  }
}

}  // namespace dsv4mx::test
