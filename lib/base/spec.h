// The validated description of one layer: every default resolved, every size checked, nothing left to guess.
#ifndef DSV4MX_LIB_BASE_SPEC_H_
#define DSV4MX_LIB_BASE_SPEC_H_

#include <cstdint>
#include <vector>

#include "lib/base/status.h"

namespace dsv4mx {

inline constexpr int64_t kMaxTokens = 131072;
inline constexpr int32_t kMaxExperts = 4096, kMaxTopK = 16;
inline constexpr int kGroupSize = 32;  // values of K per E8M0 scale

// The three matrices of an expert. Gate and up are [intermediate, hidden], down is [hidden, intermediate].
enum class Matrix : int { kGate = 0, kUp = 1, kDown = 2 };
inline constexpr Matrix kMatrices[] = {Matrix::kGate, Matrix::kUp, Matrix::kDown};
const char* MatrixName(Matrix m);  // "gate (w1)", "up (w3)", "down (w2)"

// Which experts and which ids are held here. Experts are numbered in the whole layer, as checkpoints count them; ids are
// what apply is given: the same numbers, or those of physical experts (copies counted), which engines that balance load use.
struct Placement {
  int32_t experts = 0;          // held here, copies included
  int32_t expert_first = 0;     // without a list: local expert s holds expert_first + s
  int32_t experts_global = 0;   // of the whole layer
  std::vector<int32_t> expert;  // [experts] what each local expert holds; empty = in order
  int32_t id_first = 0;         // without a map: id p is local expert p - id_first
  int32_t id_count = 0;         // ids at or above it are of no expert
  std::vector<int32_t> id_map;  // [id_count] local expert or -1; empty = in order

  // The expert that local expert `local` holds.
  int32_t ExpertAt(int32_t local) const {
    return expert.empty() ? expert_first + local : expert[static_cast<size_t>(local)];
  }
  // The first local expert that holds `number`, or -1. Any int64 is legal.
  int32_t FirstCopy(int64_t number) const;
  // Local expert of an id, or -1 for what is not held here. Any int64 is legal.
  int32_t LocalExpert(int64_t id) const {
    if (id < 0 || id >= id_count) return -1;
    if (!id_map.empty()) return id_map[static_cast<size_t>(id)];
    const int64_t e = id - id_first;
    return e >= 0 && e < experts ? static_cast<int32_t>(e) : -1;
  }
  // Whether an id means something: -1 for "none", or an expert of some rank.
  bool IsId(int64_t id) const { return id >= -1 && id < id_count; }
};

struct LayerSpec {
  int32_t hidden = 0, top_k = 0;
  // Channels: of the whole layer, and what this rank holds of them. What is stored and computed here has `intermediate`.
  int32_t intermediate_global = 0, intermediate_first = 0, intermediate = 0;
  int32_t tp_rank = 0, tp_size = 1;
  int32_t experts = 0;  // as placement.experts
  Placement placement;
  dsv4mx_w13_order w13_order = DSV4MX_W13_ORDER_UNSET;
  dsv4mx_nibble_order nibble_order = DSV4MX_NIBBLE_ORDER_LOW_FIRST;
  float clamp_limit = 0.0f;         // 0 = off
  float alpha = 1.0f, beta = 0.0f;  // h = g' * sigmoid(alpha * g') * (u' + beta)
  // SiTU where situ_beta is not 0: h = b tanh(g / b) sigmoid(g) * l tanh(u / l).
  float situ_beta = 0.0f, situ_linear_beta = 0.0f;
  dsv4mx_dtype w13_bias = 0, w2_bias = 0;  // 0 = none
  bool w2_bias_elsewhere = false;          // the layer has one, which tensor-parallel rank 0 adds
  dsv4mx_router_weight_position router_weight_position = DSV4MX_ROUTER_WEIGHT_AFTER_W2;
  float routed_scaling_factor = 1.0f;
  dsv4mx_dtype out_dtype = DSV4MX_DTYPE_BF16, ids_dtype = DSV4MX_DTYPE_I32;
  dsv4mx_dtype router_weight_dtype = DSV4MX_DTYPE_F32, slot_dtype = DSV4MX_DTYPE_F32;
  bool plain_slots = false;  // slot_dtype was asked for: no slot is of f16
  dsv4mx_compute compute = DSV4MX_COMPUTE_W4A16;
  dsv4mx_oracle oracle = DSV4MX_ORACLE_NONE;
  dsv4mx_number_path number_path = DSV4MX_NUMBER_PATH_AUTO;
  bool batch_invariant = false, checked_ids = false;

  int64_t Rows(Matrix m) const { return m == Matrix::kDown ? hidden : intermediate; }
  int64_t K(Matrix m) const { return m == Matrix::kDown ? intermediate : hidden; }
  int32_t LocalExpert(int64_t id) const { return placement.LocalExpert(id); }
};

// Checks a descriptor and its extension (already brought to the current struct sizes) and resolves their defaults.
Status MakeSpec(const dsv4mx_layer_desc& desc, const dsv4mx_layer_experimental& experimental,
                LayerSpec* out);

// Makes the placement of a layer that was made with one hold `experts` ([placement->experts], host memory) instead.
// INVALID_STATE where it was made without a list, or for physical ids.
Status ChangePlacement(const int32_t* experts, Placement* placement);

// What decides the prepared form of a layer's weights, and what of a layer enters its arithmetic, as numbers: equal
// numbers, equal form or arithmetic, on one backend.
uint64_t PreparedForm(const LayerSpec& spec);
uint64_t Arithmetic(const LayerSpec& spec);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_SPEC_H_
