#include "lib/cuda/cuda_workspace.h"

#include <algorithm>

#include "kernels/launch.h"
#include "lib/base/carver.h"

namespace dsv4mx::cuda {

Workspace CarveWorkspace(const LayerSpec& spec, const Generation& generation, int64_t tokens,
                         void* memory) {
  Workspace w{};
  if (tokens <= 0) return w;
  constexpr size_t kAlign = 256;
  Carver carver(memory, kAlign);
  const int64_t pairs = tokens * spec.top_k;
  w.panel_rows = MoePanelRows(pairs, spec.experts);
  w.sizes = carver.Take<int32_t>(spec.experts);
  w.extent = carver.Take<int32_t>(2);
  w.ids = carver.Take<int32_t>(pairs);
  w.router_weights = carver.Take<float>(pairs);
  w.counts = carver.Take<int32_t>(spec.experts);
  w.taken = carver.Take<int32_t>(kClearedWords);
  w.panel_row = carver.Take<int32_t>(pairs);
  w.source = carver.Take<int32_t>(w.panel_rows);
  w.row_scale = carver.Take<float>(w.panel_rows);
  if (spec.router_weight_position == DSV4MX_ROUTER_WEIGHT_BEFORE_W2) {
    w.hidden_weight = carver.Take<float>(w.panel_rows);
  }
  w.h_scale = carver.Take<float>(MoeBlocks(spec.intermediate) * w.panel_rows);
  w.x = carver.Take<uint8_t>(MoePanelBytes(w.panel_rows, spec.hidden));
  const int64_t few_pairs = std::min<int64_t>(pairs, generation.few_pairs);
  w.h = carver.Take<uint8_t>(
      std::max(MoePanelBytes(w.panel_rows, spec.intermediate), few_pairs * spec.intermediate * 4));
  const int64_t slot = spec.slot_dtype == DSV4MX_DTYPE_BF16 ? 2 : 4;
  w.slots = carver.Take<uint8_t>(w.panel_rows * spec.hidden * slot);
  w.bytes = carver.bytes();
  return w;
}

}  // namespace dsv4mx::cuda
