// The kernels for few pairs are chosen only where they fit. What a geometry has to hold is found here by going through what the kernels
// do (kernels/few), team by team, and not by the sums that make a geometry; what a multiprocessor has is a matter of the device.
#include "kernels/few/geometry.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "lib/base/plan.h"
#include "tests/catch.h"
#include "tests/layer_spec.h"

using namespace dsv4mx;
using namespace dsv4mx::test;

namespace {

// SM 9.0: shared memory of a multiprocessor, what the system keeps of it for each CTA, and the most that a CTA can have.
constexpr int64_t kMultiprocessor = 228 * 1024, kOfSystem = 1024, kMostOfCta = 227 * 1024;
constexpr int kLanes = 32, kBarrier = 8, kCluster = 2;
constexpr FewKind kKinds[] = {FewKind::kSplit1, FewKind::kWhole1, FewKind::kToken2, FewKind::kLong2,
                              FewKind::kWhole2};

struct Call {
  FewKind kind;
  int64_t k, experts, pairs, top_k;
  bool quantised;
  FewGeometry Geometry() const { return FewGeometryOf(kind, k, experts, pairs, top_k, quantised); }
  bool First() const { return kind == FewKind::kSplit1 || kind == FewKind::kWhole1; }
  int Teams() const { return kind == FewKind::kLong2 ? 4 : 2; }
  std::string Text() const {
    return "kind " + std::to_string(static_cast<int>(kind)) + ", k " + std::to_string(k) + ", " +
           std::to_string(experts) + " experts, " + std::to_string(pairs) + " pairs, top_k " +
           std::to_string(top_k) + (quantised ? ", W4A8" : "");
  }
};

// Bytes of the parts of a CTA's shared memory that it touches.
struct Use {
  int64_t panels = 0, scales = 0, sums = 0, tables = 0;
};

// few/gemm.cuh: beside what is asked for at the launch, barriers (full and empty of each team's stages, three of the exchange),
// four peaks, and the slots of four tokens.
int64_t Static(int teams) {
  return (int64_t{teams} * 2 * 8 + 3) * kBarrier + 4 * 4 + 4 * 4;
}
// few/pairs.cuh: of each pair its expert and a tile, of each expert its first pair and their count, two totals, a sum a warp.
int64_t Tables(const Call& c) {
  return 4 * (2 * c.pairs + 2 * c.experts + 2 + c.Teams() * (128 + 32) / 32);
}

// few/split_tiles.cuh: the units of a tile go round the teams of both CTAs. A unit is 512 of K, and its blocks stand side by side.
Use UseOfSplit(const Call& c, int64_t blocks) {
  Use use;
  const int64_t units = (blocks + 3) / 4;
  for (int64_t rank = 0; rank < kCluster; ++rank) {
    int64_t local = 0;
    for (int64_t unit = 0; unit < units; ++unit) {
      if (unit % 4 / 2 != rank) continue;  // teams 0 and 1 are of the first CTA
      use.panels =
          std::max(use.panels, (local * 4 + std::min<int64_t>(4, blocks - unit * 4)) * 1024);
      ++local;
    }
  }
  use.scales = 4 * 4;
  // Sums: of 512 of K each, or 256 in W4A8, up to the last whole 256 of it; then of each block.
  const int64_t joined = c.k / 256 * 2, shared = c.quantised ? 2 : 4;
  std::set<int64_t> ends;
  for (int64_t block = 0; block < blocks; ++block) {
    if (block >= joined - 1 || (block + 1) % shared == 0) ends.insert(block);
  }
  use.sums = static_cast<int64_t>(ends.size()) * (2 * 128 * 4 + 32 * 4);
  return use;
}

// few/whole_tokens.cuh: a token's computed slots go round the four teams, and each is a column of its team's panel.
Use UseOfToken(const Call& c, int64_t blocks, std::string* wrong) {
  if ((c.top_k + 3) / 4 > 4) *wrong = "more slots of a team than columns";
  return {2 * blocks * 1024, 2 * blocks * 4 * 4, c.top_k * 64 * 4, 0};
}

// few/shared_slots.cuh: the stages of all computed slots, however many these are, are shared out to eight teams; more slots than four
// only as a whole. A team's stages stand in four columns.
Use UseOfLong(const Call& c, const FewGeometry& g, int64_t blocks, std::string* wrong) {
  Use use;
  for (int64_t slots = 1; slots <= c.top_k; ++slots) {
    const bool whole = 2 * slots > 8;
    const int64_t units = whole ? slots : slots * g.tile_stages, unit = whole ? g.tile_stages : 1;
    for (int64_t team = 0; team < 8; ++team) {
      const int64_t count = ((team + 1) * units / 8 - team * units / 8) * unit;
      if (count > kLanes) *wrong = "more stages of a team than lanes";
      const int64_t deep = (count + 3) / 4 * g.stage_blocks;
      if (deep > g.panel_blocks) *wrong = "a team's panel reaches into the next one";
    }
    use.sums = std::max(use.sums, (whole ? slots : slots * blocks) * 64 * 4);
  }
  use.panels = int64_t{4} * g.panel_blocks * 1024;
  use.scales = int64_t{4} * g.panel_blocks * 4 * 4;
  return use;
}

// "" or what does not hold.
std::string Wrong(const Call& c, const FewGeometry& g) {
  std::string wrong;
  const int64_t blocks = (c.k + 127) / 128;
  Use use{blocks * 1024, c.First() ? 4 * 4 : blocks * 4 * 4, 0, 0};
  if (c.kind == FewKind::kSplit1) use = UseOfSplit(c, blocks);
  if (c.kind == FewKind::kToken2) use = UseOfToken(c, blocks, &wrong);
  if (c.kind == FewKind::kLong2) use = UseOfLong(c, g, blocks, &wrong);
  use.tables = Tables(c);
  if (!wrong.empty()) return wrong;

  // Stages: of one base each, and in GEMM1 of one sum; all of K and no more.
  const int64_t each = g.stage_blocks, shared = c.First() ? (c.quantised ? 2 : 4) : 4;
  if (each < 1 || each > 4) return "blocks of a stage";
  if (g.tile_stages * each < blocks || (g.tile_stages - 1) * each >= blocks)
    return "stages of a tile";
  for (int64_t first = 0; first < blocks; first += each) {
    const int64_t last = std::min(first + each, blocks) - 1;
    if (first / shared != last / shared) return "a stage of two sums or bases";
  }
  if (g.straight != 0) {
    if (c.k % 128 != 0 || blocks % each != 0 || g.straight != each) return "stages that differ";
    if (g.straight == 1 || (c.First() && (g.straight == 3 || c.k % 256 != 0)) ||
        (c.First() && c.quantised && g.straight == 4))
      return "no such kernel in straight-line code";
  }
  if (g.stages < 2 || g.stages > 8) return "stages of a ring";
  if (g.stage_bytes < each * 34 * 128 + 64 || g.stage_bytes % 128 != 0) return "bytes of a stage";

  // Parts follow each other, and end before the next.
  const int64_t ring = int64_t{c.Teams()} * g.stages * g.stage_bytes;
  if (use.panels > g.scales || g.scales % 4 != 0) return "panels";
  if (g.scales + use.scales > g.sums || g.sums % 8 != 0) return "scales";
  if (g.sums + use.sums > g.tables || g.tables % 4 != 0) return "sums";
  if (g.tables + use.tables > g.ring || g.ring % 128 != 0) return "tables";
  if (g.ring + ring > g.shared_bytes) return "ring";

  // Two CTAs share a multiprocessor, but for kLong2.
  const int64_t cta = g.shared_bytes + Static(c.Teams());
  if (cta > kMostOfCta) return "more than a CTA can have";
  if ((cta + kOfSystem) * (c.kind == FewKind::kLong2 ? 1 : 2) > kMultiprocessor)
    return "more than a multiprocessor has";
  return "";
}

// Sizes in multiples of 32: all small ones, then around the ends of stages, sums and bases.
std::vector<int64_t> Sizes() {
  std::vector<int64_t> sizes;
  for (int64_t k = 32; k <= 65536; k += 32) {
    const int64_t at = k % 512;
    if (k <= 1536 || (k <= 12288 && (at <= 32 || at == 96 || at >= 480 || at % 128 == 0)) ||
        k % 8192 == 0)
      sizes.push_back(k);
  }
  return sizes;
}

// The number of experts with which two stages a team end where `bytes` do.
int64_t ExpertsToFill(Call c, int64_t bytes) {
  for (c.experts = 1; c.experts <= kMostExperts; ++c.experts) {
    const FewGeometry g = c.Geometry();
    if (g.shared_bytes == bytes && g.stages == 2) return c.experts;
  }
  return 0;
}

}  // namespace

TEST_CASE(
    "few pairs: every geometry holds what its kernel puts there, and a multiprocessor the CTAs",
    "[unit]") {
  int64_t fit = 0, none = 0;
  for (const int64_t k : Sizes()) {
    for (const FewKind kind : kKinds) {
      for (const int64_t top_k : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 15, 16}) {
        for (const int64_t experts : {1, 7, 96, 384, 1000, 4096}) {
          for (const int64_t tokens : {int64_t{1}, int64_t{4}, 1024 / top_k}) {
            for (const bool quantised : {false, true}) {
              const Call c{kind, k, experts, tokens * top_k, top_k, quantised};
              const FewGeometry g = c.Geometry();
              ++(g.shared_bytes == 0 ? none : fit);
              if (g.shared_bytes == 0) continue;
              const std::string wrong = Wrong(c, g);
              // A hundred thousand times: an assertion costs more than what it looks at.
              if (!wrong.empty()) FAIL(c.Text() << ": " << wrong);
            }
          }
        }
      }
    }
  }
  CHECK(fit > 100000);
  CHECK(none > 10000);
}

// The tables grow by eight bytes for each expert, so that some number of experts takes the last 128 bytes with two stages a team.
TEST_CASE("few pairs: shared memory is used to the last bytes, and not beyond", "[unit]") {
  const struct {
    FewKind kind;
    int64_t k, top_k, limit;
    bool quantised, shortest;  // there are no shorter stages
  } cases[] = {{FewKind::kSplit1, 928, 16, 112 * 1024, false, false},
               {FewKind::kSplit1, 4768, 16, 112 * 1024, true, true},
               {FewKind::kWhole1, 1440, 6, 112 * 1024, false, false},
               {FewKind::kWhole1, 5888, 16, 112 * 1024, true, true},
               {FewKind::kToken2, 544, 16, 112 * 1024, false, false},
               {FewKind::kLong2, 2080, 16, 225 * 1024, false, false},
               {FewKind::kLong2, 4128, 1, 225 * 1024, true, false},
               {FewKind::kWhole2, 1312, 16, 112 * 1024, false, false},
               {FewKind::kWhole2, 5888, 1, 112 * 1024, false, true}};
  for (const auto& c : cases) {
    Call call{c.kind, c.k, 0, 4 * c.top_k, c.top_k, c.quantised};
    call.experts = ExpertsToFill(call, c.limit);
    INFO(call.Text());
    REQUIRE(call.experts > 0);
    CHECK(Wrong(call, call.Geometry()) == "");
    // 16 experts more are 128 bytes more.
    call.experts += 16;
    const FewGeometry next = call.Geometry();
    CHECK(next.shared_bytes < c.limit);
    CHECK((next.shared_bytes == 0) == c.shortest);
    if (next.shared_bytes > 0) CHECK(Wrong(call, next) == "");
  }
  // A kilobyte more than the limit would not do.
  CHECK((113 * 1024 + Static(2) + kOfSystem) * 2 > kMultiprocessor);
  CHECK((FewSharedLimit(FewKind::kWhole1) + Static(2) + kOfSystem) * 2 <= kMultiprocessor);
  CHECK(FewSharedLimit(FewKind::kLong2) + Static(4) <= kMostOfCta);
}

// Stages of a team's slots: a lane of a warp knows each (few/shared_slots.cuh).
TEST_CASE("few pairs: no team has more stages of long K than a warp has lanes", "[unit]") {
  const auto geometry = [](int64_t k, int64_t top_k, int64_t experts = 1) {
    return FewGeometryOf(FewKind::kLong2, k, experts, top_k, top_k, false);
  };
  // Up to eight slots, a team has one of them at most. 62 and 66 blocks of 128 are stages of two: 31 and 33.
  for (const int64_t top_k : {1, 2, 4, 8}) {
    INFO("top_k " << top_k);
    CHECK(geometry(62 * 128, top_k).tile_stages == 31);
    CHECK(geometry(62 * 128, top_k).shared_bytes > 0);
    CHECK(geometry(66 * 128, top_k).shared_bytes == 0);
  }
  // Shared memory would hold 33: nine deep in four columns of each team's panel, 64 sums of each block, two stages a team, tables.
  CHECK(4 * 9 * 2 * (1024 + 16) + 66 * 256 + 4 * 2 * (2 * 4352 + 128) + 1024 < 225 * 1024);
  // 32 is right: 64 blocks, where tables leave no room for rings of stages of four.
  CHECK(geometry(64 * 128, 1).tile_stages == 16);
  CHECK(geometry(64 * 128, 1, 2000).tile_stages == 32);
  CHECK(geometry(64 * 128, 1, 2000).shared_bytes > 0);
  // Nine to sixteen slots are two for some team.
  for (const int64_t top_k : {9, 16}) {
    INFO("top_k " << top_k);
    CHECK(geometry(30 * 128, top_k).shared_bytes > 0);
    CHECK(geometry(34 * 128, top_k).shared_bytes == 0);
    CHECK(geometry(34 * 128, 8).shared_bytes > 0);
  }
}

TEST_CASE("few pairs: a plan takes these kernels up to each of their bounds, and not beyond",
          "[unit]") {
  std::vector<PlanRow> rows;
  REQUIRE(PlanTable::Parse(kSm90.plan, "built-in plan", false, kSm90, &rows).ok());
  REQUIRE(PlanTable::Parse("dsv4mx-plan,1\n*,*,*,few,0,1000000\n*,*,*,path,0,planes\n", "rows.csv",
                           true, kSm90, &rows)
              .ok());
  const PlanTable table(rows);
  const auto few = [&](int32_t hidden, int32_t intermediate, int32_t experts, int32_t top_k,
                       int64_t tokens) {
    LayerSpec spec = SpecOf(hidden, intermediate, experts, top_k);
    spec.slot_dtype = DSV4MX_DTYPE_F32;
    return MakePlan(table, spec, nullptr, tokens, PlanDevice{132, 4800}).few;
  };
  // 1,024 pairs.
  CHECK(few(512, 256, 8, 1, 1024));
  CHECK_FALSE(few(512, 256, 8, 1, 1025));
  CHECK(few(512, 256, 64, 16, 64));
  CHECK_FALSE(few(512, 256, 64, 16, 65));
  CHECK(few(512, 256, 64, 15, 68));
  CHECK_FALSE(few(512, 256, 64, 15, 69));
  // One stage too many of long K, where all other kernels would fit.
  CHECK(few(512, 62 * 128, 1, 1, 1));
  CHECK(FewGeometryOf(FewKind::kWhole2, 66 * 128, 1, 1, 1, false).shared_bytes > 0);
  CHECK_FALSE(few(512, 66 * 128, 1, 1, 1));
  CHECK(few(512, 34 * 128, 32, 8, 4));
  CHECK(FewGeometryOf(FewKind::kWhole2, 34 * 128, 32, 64, 16, false).shared_bytes > 0);
  CHECK_FALSE(few(512, 34 * 128, 32, 9, 4));
  CHECK_FALSE(few(512, 34 * 128, 32, 16, 4));
  // Each kernel by itself: the longest K that it holds decides.
  for (const int32_t experts : {1, 384, 4096}) {
    const auto longest = [&](FewKind kind) {
      int32_t k = 512;
      while (FewGeometryOf(kind, k + 512, experts, 2, 2, false).shared_bytes > 0) k += 512;
      return k;
    };
    const int32_t hidden = std::min(longest(FewKind::kSplit1), longest(FewKind::kWhole1)),
                  intermediate = std::min(longest(FewKind::kLong2), longest(FewKind::kWhole2));
    INFO(experts << " experts, hidden " << hidden << ", intermediate " << intermediate);
    CHECK(few(hidden, intermediate, experts, 2, 1));
    CHECK_FALSE(few(hidden + 512, intermediate, experts, 2, 1));
    CHECK_FALSE(few(hidden, intermediate + 512, experts, 2, 1));
  }
}
