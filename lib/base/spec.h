// The validated description of one layer: every default resolved, every size checked, nothing left to guess.
#ifndef DSV4MX_LIB_BASE_SPEC_H_
#define DSV4MX_LIB_BASE_SPEC_H_

#include <cstdint>
#include <vector>

#include "lib/base/status.h"

namespace dsv4mx {

inline constexpr int64_t kMaxTokens = 131072;
inline constexpr int kGroup = 32;  // values of K per E8M0 scale

// The three matrices of an expert. Gate and up are [intermediate, hidden], down is [hidden, intermediate].
enum class Matrix : int { kGate = 0, kUp = 1, kDown = 2 };
inline constexpr Matrix kMatrices[] = {Matrix::kGate, Matrix::kUp, Matrix::kDown};
const char* MatrixName(Matrix m);  // "gate (w1)", "up (w3)", "down (w2)"

struct LayerSpec {
  int32_t hidden = 0, intermediate = 0, experts = 0, top_k = 0;
  int32_t expert_first = 0, experts_global = 0;
  std::vector<int32_t> expert_map;  // empty = contiguous range
  dsv4mx_w13_order w13_order = DSV4MX_W13_ORDER_UNSET;
  dsv4mx_nibble_order nibble_order = DSV4MX_NIBBLE_ORDER_LOW_FIRST;
  dsv4mx_activation activation = DSV4MX_ACTIVATION_SWIGLU;
  float clamp_limit = 0.0f;                // 0 = off
  float alpha = 1.0f, beta = 0.0f;         // h = g' * sigmoid(alpha * g') * (u' + beta)
  dsv4mx_dtype w13_bias = 0, w2_bias = 0;  // 0 = none
  dsv4mx_router_weight_position router_weight_position = DSV4MX_ROUTER_WEIGHT_AFTER_W2;
  float routed_scaling_factor = 1.0f;
  dsv4mx_dtype out_dtype = DSV4MX_DTYPE_BF16, ids_dtype = DSV4MX_DTYPE_I32;
  dsv4mx_dtype router_weight_dtype = DSV4MX_DTYPE_F32, slot_dtype = DSV4MX_DTYPE_F32;
  dsv4mx_compute compute = DSV4MX_COMPUTE_W4A16;
  dsv4mx_number_path number_path = DSV4MX_NUMBER_PATH_AUTO;
  bool batch_invariant = false;

  int64_t Rows(Matrix m) const { return m == Matrix::kDown ? hidden : intermediate; }
  int64_t K(Matrix m) const { return m == Matrix::kDown ? intermediate : hidden; }
  // Local expert of a global id, or -1 for what is not held here. Any int64 is legal.
  int32_t LocalExpert(int64_t id) const {
    if (id < 0 || id >= experts_global) return -1;
    if (!expert_map.empty()) return expert_map[static_cast<size_t>(id)];
    const int64_t e = id - expert_first;
    return e >= 0 && e < experts ? static_cast<int32_t>(e) : -1;
  }
};

inline bool IsOracleCompute(dsv4mx_compute compute) {
  return compute >= DSV4MX_COMPUTE_ORACLE_TRUTH && compute <= DSV4MX_COMPUTE_ORACLE_W4A8;
}

// Checks a descriptor (already brought to the current struct size) and resolves its defaults.
Status MakeSpec(const dsv4mx_layer_desc& desc, LayerSpec* out);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_SPEC_H_
