// The CUDA backend's workspace: regions that do not overlap, one size for query and use, and no shrinking.
#if DSV4MX_HAVE_CUDA
#include "lib/cuda/cuda_workspace.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/launch.h"
#include "lib/base/plan.h"
#include "tests/catch.h"
#include "tests/layer_spec.h"

using namespace dsv4mx;
using namespace dsv4mx::cuda;

TEST_CASE("cuda workspace: regions follow each other and fill the bytes of the query", "[unit]") {
  for (LayerSpec spec : {test::SpecOf(32, 32, 1, 1), test::SpecOf(4096, 2048, 256, 6),
                         test::SpecOf(2880, 2880, 32, 4), test::SpecOf(160, 96, 1024, 16)}) {
    for (const auto position : {DSV4MX_ROUTER_WEIGHT_AFTER_W2, DSV4MX_ROUTER_WEIGHT_BEFORE_W2}) {
      for (const auto slot : {DSV4MX_DTYPE_F32, DSV4MX_DTYPE_BF16}) {
        for (const int64_t tokens : {1, 7, 64, 1000}) {
          spec.router_weight_position = position;
          spec.slot_dtype = slot;
          const auto memory = reinterpret_cast<void*>(uintptr_t{1} << 20);
          const Workspace w = CarveWorkspace(spec, kSm90, tokens, memory);
          CHECK(w.bytes == CarveWorkspace(spec, kSm90, tokens, nullptr).bytes);
          CHECK(CarveWorkspace(spec, kSm90, tokens, nullptr).x == nullptr);
          CHECK(w.panel_rows % 8 == 0);
          // What a chunk's parts leave to each other lies where it lay for the part before.
          CHECK(static_cast<void*>(w.sizes) == memory);
          CHECK((w.hidden_weight != nullptr) == (position == DSV4MX_ROUTER_WEIGHT_BEFORE_W2));
          const int64_t p = w.panel_rows;
          std::vector<std::pair<uintptr_t, int64_t>> regions = {
              {reinterpret_cast<uintptr_t>(w.sizes), 4 * spec.experts},
              {reinterpret_cast<uintptr_t>(w.extent), 8},
              {reinterpret_cast<uintptr_t>(w.ids), 4 * tokens * spec.top_k},
              {reinterpret_cast<uintptr_t>(w.router_weights), 4 * tokens * spec.top_k},
              {reinterpret_cast<uintptr_t>(w.counts), 4 * spec.experts},
              {reinterpret_cast<uintptr_t>(w.taken), 4 * kClearedWords},
              {reinterpret_cast<uintptr_t>(w.panel_row), 4 * tokens * spec.top_k},
              {reinterpret_cast<uintptr_t>(w.source), 4 * p},
              {reinterpret_cast<uintptr_t>(w.row_scale), 4 * p},
              {reinterpret_cast<uintptr_t>(w.h_scale), 4 * p * MoeBlocks(spec.intermediate)},
              {reinterpret_cast<uintptr_t>(w.x), MoePanelBytes(p, spec.hidden)},
              {reinterpret_cast<uintptr_t>(w.h), MoePanelBytes(p, spec.intermediate)},
              {reinterpret_cast<uintptr_t>(w.slots),
               p * spec.hidden * (slot == DSV4MX_DTYPE_BF16 ? 2 : 4)}};
          if (w.hidden_weight != nullptr) {
            regions.emplace_back(reinterpret_cast<uintptr_t>(w.hidden_weight), 4 * p);
          }
          std::sort(regions.begin(), regions.end());
          uintptr_t end = reinterpret_cast<uintptr_t>(memory);
          for (const auto& [at, bytes] : regions) {
            CHECK(at == (end + 255) / 256 * 256);  // no overlap, no gap but alignment
            end = at + static_cast<uintptr_t>(bytes);
          }
          CHECK((end + 255) / 256 * 256 == reinterpret_cast<uintptr_t>(memory) + w.bytes);
        }
      }
    }
  }
}

TEST_CASE("cuda workspace: does not shrink with tokens, and none for none", "[unit]") {
  for (const LayerSpec& spec : {test::SpecOf(4096, 2048, 256, 6), test::SpecOf(96, 32, 4096, 1)}) {
    CHECK(CarveWorkspace(spec, kSm90, 0, nullptr).bytes == 0);
    size_t before = 0;
    for (int64_t tokens = 1; tokens < 3000; ++tokens) {
      const size_t bytes = CarveWorkspace(spec, kSm90, tokens, nullptr).bytes;
      REQUIRE(bytes >= before);
      before = bytes;
    }
  }
}

TEST_CASE("cuda workspace: what the most demanding call of at most that many tokens takes",
          "[unit]") {
  const PlanDevice device{132, 3350};
  std::shared_ptr<const PlanTable> table;
  REQUIRE(PlanTable::Make(nullptr, device, &table).ok());
  // The last has slots of 4 MiB a token, so that its chunks are 1024 tokens.
  for (const LayerSpec& spec : {test::SpecOf(4096, 2048, 256, 6), test::SpecOf(7168, 3072, 384, 6),
                                test::SpecOf(65536, 64, 8, 16)}) {
    size_t most = 0;
    for (int64_t tokens = 1; tokens <= 40000; ++tokens) {
      const Plan plan = MakePlan(*table, spec, nullptr, tokens, device);
      most = std::max(most, CarveWorkspace(spec, kSm90, plan.chunk_tokens, nullptr).bytes);
      const int64_t largest = LargestChunk(*table, spec, tokens, device);
      REQUIRE(CarveWorkspace(spec, kSm90, largest, nullptr).bytes == most);
    }
  }
}
#endif
