// Routing: which ids are held, which are skipped, how many a token has, and how many tokens there are.
#include <algorithm>
#include <climits>

#include "tests/catch.h"
#include "tests/check.h"

namespace dsv4mx::test {
namespace {

TEST_CASE("[A16] router weights are used as given, not as scores", "[api]") {
  // The layer has no router: weights that do not sum to one, are negative or zero are multiplied as they are.
  Case c = MakeCase("h=64 i=64 e=4 k=4 m=3");
  c.in.weights = {8.08f, 8.08f, 8.08f, 8.08f, -1.0f, 0.0f, 2.0f, 1e-20f, 0, 0, 0, 0};
  CHECK(RunAndCheck(c) == "");
  const Output y = Runner(c).Apply();
  for (size_t j = 2 * 64; j < 3 * 64; ++j) REQUIRE(y.y[j] == 0.0f);
}

DEVICE_TEST_CASE("[B1] ids that are negative, foreign, huge are skipped and cost nothing",
                 "[api]") {
  Case c = MakeCase("h=96 i=64 e=8 k=4 m=9 ids=i64 ep=2 rank=1");  // holds 4..7
  c.p.device = device;
  c.in.ids = {4,
              5,
              6,
              7,
              0,
              1,
              2,
              3,
              -1,
              4,
              -1,
              7,
              8,
              9,
              100,
              5,
              INT64_MIN,
              INT64_MAX,
              INT32_MAX,
              6,
              INT64_C(1) << 32,
              (INT64_C(1) << 32) + 4,
              -(INT64_C(1) << 40),
              7,
              -1,
              -1,
              -1,
              -1,
              3,
              8,
              -7,
              INT64_MIN,
              7,
              3,
              4,
              8};
  CHECK(RunAndCheck(c) == "");
  const Output y = Runner(c).Apply();
  for (const size_t token : {1, 6, 7}) {
    for (size_t j = 0; j < 96; ++j) REQUIRE(y.y[token * 96 + j] == 0.0f);
  }
}

DEVICE_TEST_CASE("[B1] ids in int32: the same, and the extremes of the type", "[api]") {
  Case c = MakeCase("h=96 i=64 e=8 k=4 m=3 ep=2 rank=0");  // holds 0..3
  c.p.device = device;
  c.in.ids = {INT32_MIN, INT32_MAX, 3, -1, 4, 5, 6, 7, 0, 8, 1 << 20, 2};
  CHECK(RunAndCheck(c) == "");
}

DEVICE_TEST_CASE("[B1] none, half and all ids skipped; duplicates in a row", "[api]") {
  for (const char* dist : {"none", "half", "dup", "six", "one", "zipf"}) {
    CHECK(RunAndCheck(std::string("h=96 i=64 e=16 k=6 m=11 dist=") + dist, device) == "");
  }
}

DEVICE_TEST_CASE("[B1] random int32 ids over the whole range", "[api]") {
  Case c = MakeCase("h=64 i=64 e=3 k=8 m=64");
  c.p.device = device;
  uint32_t state = 12345;
  for (int64_t& id : c.in.ids) {
    state = state * 1664525u + 1013904223u;
    id = (state >> 28) == 0 ? static_cast<int64_t>(state % 3) : static_cast<int32_t>(state);
  }
  CHECK(RunAndCheck(c) == "");
}

DEVICE_TEST_CASE("duplicate ids in a row add", "[api]") {
  Case twice = MakeCase("h=64 i=64 e=3 k=2 m=2 out=f32");
  twice.p.device = device;
  twice.in.ids = {1, 1, 2, 2};
  twice.in.weights = {0.25f, 0.25f, 0.5f, 0.5f};
  const Output y2 = Runner(twice).Apply();
  Case once = twice;
  once.in.ids = {1, -1, -1, 2};
  once.in.weights = {0.5f, 9.0f, 9.0f, 1.0f};
  CHECK(CheckSame(y2, Runner(once).Apply()) == "");
}

DEVICE_TEST_CASE("[H1] a placement sends ids to local experts in any order", "[api]") {
  Case c = MakeCase("h=96 i=64 e=4 k=3 m=12");
  c.p.device = device;
  c.p.experts = 12;  // ids 0..11, four held here
  c.p.ep = 3;
  c.placement = {3, 6, 10, 1};
  c.in = MakeInputs(c.p);
  CHECK(RunAndCheck(c) == "");
  // Redundant copies: an id means the first; what the second holds does not matter.
  c.placement[3] = 6;
  CHECK(RunAndCheck(c) == "");
  // The list is copied: the caller's array may go.
  std::vector<int32_t> map = c.placement;
  dsv4mx_layer_desc d = DescOf(c);
  d.placement = map.data();
  const LayerPtr layer = MakeLayer(CpuContext(), d);
  std::fill(map.begin(), map.end(), 12345);
  const WeightsPtr weights = MakeWeights(layer.get());
  for (int32_t e = 0; e < 4; ++e)
    SetExpert(weights.get(), c.p, e, *c.experts[static_cast<size_t>(e)]);
  REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr));
}

DEVICE_TEST_CASE("[C4] top_k 1..16, also more slots than experts", "[api]") {
  for (int k = 1; k <= 16; ++k) {
    CHECK(RunAndCheck("h=64 i=32 e=20 m=3 k=" + std::to_string(k), device) == "");
  }
  CHECK(RunAndCheck("h=64 i=32 e=1 m=3 k=16", device) == "");
}

TEST_CASE("[C4] top_k 0 and 17 are refused with the range", "[api]") {
  for (const int k : {0, 17, -1}) {
    dsv4mx_layer_desc d = DescOf(MakeCase("h=64 i=32 m=0"));
    d.top_k = k;
    dsv4mx_layer* layer = nullptr;
    REQUIRE_REFUSED(dsv4mx_layer_create(CpuContext(), &d, &layer), DSV4MX_STATUS_UNSUPPORTED_SHAPE,
                    "top_k," + std::to_string(k) + ",16");
    CHECK(layer == nullptr);
  }
}

DEVICE_TEST_CASE("[C5] tokens 0, 1, odd and many; one hot expert; every expert empty but one",
                 "[api]") {
  for (const char* m : {"0", "1", "2", "3", "7", "17", "33", "65", "129"}) {
    CHECK(RunAndCheck(std::string("h=64 i=64 e=5 k=3 m=") + m, device) == "");
  }
  CHECK(RunAndCheck("h=64 i=32 e=8 k=2 m=300 dist=one", device) == "");
  CHECK(RunAndCheck("h=32 i=32 e=8 k=1 m=3000", device) == "");
  Case c = MakeCase("h=64 i=64 e=64 k=1 m=70");
  c.p.device = device;
  std::fill(c.in.ids.begin(), c.in.ids.end(), 63);
  CHECK(RunAndCheck(c) == "");
}

DEVICE_TEST_CASE("[C4][C6] numbers of experts 1, 144, 896, 1024, 4096", "[api]") {
  for (const char* e : {"1", "144 k=4", "896 k=16", "1024 k=6", "4096 k=6"}) {
    CHECK(RunAndCheck(std::string("h=32 i=32 m=40 e=") + e, device) == "");
  }
}

DEVICE_TEST_CASE("tokens_device: clamped to 0..tokens, rows beyond it are left alone", "[api]") {
  Case c = MakeCase("h=64 i=64 e=4 k=2 m=9");
  c.p.device = device;
  const Runner run(c);
  const Output all = run.Apply();
  for (const int64_t n : {0, 1, 5, 9, 10, 1000000}) {
    ApplyOptions options;
    options.tokens_device = n;
    const Output y = run.Apply(c.in, options);
    INFO("tokens_device " << n);
    REQUIRE(y.damage == "");
    const size_t live = static_cast<size_t>(std::min<int64_t>(n, 9)) * 64 * 2;
    CHECK(std::equal(y.raw.begin(), y.raw.begin() + static_cast<int64_t>(live), all.raw.begin()));
  }
}

TEST_CASE("tokens_device below zero means none", "[api]") {
  Case c = MakeCase("h=64 i=64 e=4 k=2 m=3");
  const Runner run(c);
  const int32_t minus = -5;
  std::vector<uint16_t> out(3 * 64 + 8, 0x1234);
  const size_t need = WorkspaceBytes(run.layer(), 3);
  const Guarded x(nullptr, c.in.x.data(), c.in.x.size() * 2, 16), y(nullptr, 3 * 64 * 2, 16),
      space(nullptr, need, 256);
  const std::vector<uint8_t> ids = PackIds(c.p, c.in.ids);
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  args.x = x.data();
  args.topk_ids = ids.data();
  args.topk_weights = c.in.weights.data();
  args.out = y.data();
  args.tokens = 3;
  args.tokens_device = &minus;
  args.workspace = space.data();
  args.workspace_bytes = need;
  REQUIRE_OK(dsv4mx_layer_apply(run.layer(), run.weights(), &args, nullptr));
  CHECK(y.Read() == std::vector<uint8_t>(3 * 64 * 2, 0xFF));
}

}  // namespace
}  // namespace dsv4mx::test
