#include "lib/core/snapshot.h"

#include <cstdio>
#include <memory>

#include "lib/io/snapshot_reader.h"

namespace dsv4mx {

dsv4mx_layer_desc DescOf(const LayerSpec& s) {
  dsv4mx_layer_desc d = DSV4MX_LAYER_DESC_INIT;
  d.hidden = s.hidden;
  d.intermediate = s.intermediate_global;
  d.experts = s.experts;
  d.top_k = s.top_k;
  d.expert_first = s.placement.expert.empty() ? s.placement.expert_first : 0;
  d.experts_global = s.placement.experts_global;
  d.tp_rank = s.tp_rank;
  d.tp_size = s.tp_size;
  d.intermediate_first = s.intermediate_first;
  d.intermediate_count = s.intermediate;
  d.group_size = kGroupSize;
  d.w13_order = s.w13_order;
  d.nibble_order = s.nibble_order;
  d.clamp_limit = s.clamp_limit;
  if (s.situ_beta != 0) {
    d.activation = DSV4MX_ACTIVATION_SITU;
    d.situ_beta = s.situ_beta;
    d.situ_linear_beta = s.situ_linear_beta;
  } else if (s.alpha != 1.0f || s.beta != 0.0f) {
    // Of SWIGLU_GPTOSS a zero would mean its default.
    const bool gptoss = s.alpha == 1.702f && s.beta == 1.0f;
    d.activation = gptoss ? DSV4MX_ACTIVATION_SWIGLU_GPTOSS : DSV4MX_ACTIVATION_GATED;
    d.activation_alpha = s.alpha;
    d.activation_beta = s.beta;
  }
  d.w13_bias = s.w13_bias;
  d.w2_bias = s.w2_bias_elsewhere ? dsv4mx_dtype{DSV4MX_DTYPE_BF16} : s.w2_bias;
  d.router_weight_position = s.router_weight_position;
  d.routed_scaling_factor = s.routed_scaling_factor;
  d.out_dtype = s.out_dtype;
  d.ids_dtype = s.ids_dtype;
  d.router_weight_dtype = s.router_weight_dtype;
  d.slot_dtype = s.plain_slots ? s.slot_dtype : 0;
  d.compute = s.compute;
  if (s.batch_invariant) d.flags |= DSV4MX_LAYER_BATCH_INVARIANT;
  if (s.checked_ids) d.flags |= DSV4MX_LAYER_CHECKED_IDS;
  return d;
}

Status QuerySnapshot(const std::string& path, dsv4mx_snapshot_info* out, dsv4mx_layer_desc* desc) {
  std::unique_ptr<io::SnapshotReader> file;
  DSV4MX_TRY(io::SnapshotReader::Open(path, &file));
  const io::SnapshotHeader& h = file->header();
  // A descriptor that is handed on makes a layer.
  LayerSpec spec;
  const dsv4mx_layer_experimental experimental = DSV4MX_LAYER_EXPERIMENTAL_INIT;
  if (!MakeSpec(h.layer, experimental, &spec).ok()) {
    const std::string why = LastError();
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: the header describes no layer: %s",
                file->label().c_str(), why.c_str());
  }
  out->version = io::kSnapshotVersion;
  out->experts = static_cast<int32_t>(h.experts.size());
  out->expert_first = h.experts.front().id;
  out->experts_global = h.layer.experts_global;
  if (h.census.any) {
    out->scale_min = h.census.scale_min;
    out->scale_max = h.census.scale_max;
  }
  out->slab_id = h.slab_id;
  out->slab_bytes = static_cast<int64_t>(h.slab_bytes);
  out->file_bytes = static_cast<int64_t>(h.file_bytes);
  std::snprintf(out->layout, sizeof out->layout, "%s", h.layout.c_str());
  if (desc != nullptr) *desc = h.layer;
  return kOk;
}

}  // namespace dsv4mx
