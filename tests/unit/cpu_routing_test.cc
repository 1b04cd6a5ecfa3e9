// Routing: pairs sorted by expert in token order, and only those of experts held here.
#include "lib/cpu/routing.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "tests/catch.h"
#include "tests/random.h"

namespace dsv4mx::test {
namespace {

TEST_CASE("[B1][H2] cpu routing: pairs of other ranks' experts cost no work and no place",
          "[cpu]") {
  LayerSpec spec;
  spec.hidden = spec.intermediate = 32;
  spec.experts = spec.placement.experts = 4;
  spec.placement.expert_first = spec.placement.id_first = 8;
  spec.placement.experts_global = spec.placement.id_count = 32;
  spec.top_k = 6;
  constexpr int64_t kTokens = 100;
  Rng rng(5);
  std::vector<int32_t> ids(kTokens * 6);
  for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(34)) - 1;  // -1 and 32 are nobody's

  Carver measure(nullptr);
  cpu::CarveRouting(spec, kTokens, &measure);
  std::vector<uint64_t> memory(measure.bytes() / 8 + 33);
  void* start = memory.data();
  size_t room = memory.size() * 8;
  Carver carver(std::align(256, measure.bytes(), start, room));
  cpu::Routing r = cpu::CarveRouting(spec, kTokens, &carver);
  cpu::Route(spec, {ids.data(), DSV4MX_DTYPE_I32, 6}, kTokens, &r);

  std::vector<std::vector<int32_t>> want(4);
  for (size_t p = 0; p < ids.size(); ++p) {
    if (ids[p] >= 8 && ids[p] < 12) {
      want[static_cast<size_t>(ids[p] - 8)].push_back(static_cast<int32_t>(p));
    } else {
      CHECK(r.place[p] < 0);
    }
  }
  int32_t place = 0;
  REQUIRE(r.hit == 4);
  for (int32_t e = 0; e < 4; ++e) {
    CHECK(r.experts[e] == e);
    CHECK(r.begin[e] == place);
    for (const int32_t pair : want[static_cast<size_t>(e)]) {
      CHECK(r.pair[place] == pair);
      CHECK(r.place[pair] == place);
      ++place;
    }
  }
  CHECK(r.pairs == place);
  CHECK(r.begin[4] == place);
  CHECK(place < kTokens);  // an eighth of 600

  std::fill(ids.begin(), ids.end(), 7);
  cpu::Route(spec, {ids.data(), DSV4MX_DTYPE_I32, 6}, kTokens, &r);
  CHECK(r.pairs == 0);
  CHECK(r.hit == 0);
}

}  // namespace
}  // namespace dsv4mx::test
