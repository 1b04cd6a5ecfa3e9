// The one table of tensor names. A name is any prefix, then one of the table's suffixes; "experts.M."
// in the prefix fixes the expert. Rows stand in order of precedence: of several names of one tensor
// the first row wins. What sets of rows have in common (who writes them so, how the rows of w13 are
// ordered) belongs to their family.
#ifndef DSV4MX_LIB_BASE_NAMES_H_
#define DSV4MX_LIB_BASE_NAMES_H_

#include <cstdint>
#include <string_view>

#include "lib/base/spec.h"
#include "lib/base/status.h"

namespace dsv4mx {

enum class TensorKind : int { kCodes = 0, kScales = 1, kBias = 2 };
enum class TensorTarget : int {
  kW13 = 0,
  kGate = 1,
  kUp = 2,
  kDown = 3
};  // kW13 = gate and up in one tensor

// Names that one kind of writer gives to all tensors of an expert. Codes and scales of a matrix come
// from one family.
struct NameFamily {
  const char* writer;  // for messages
  // The order of w13's rows in files of this family; UNSET where gate and up are apart.
  dsv4mx_w13_order w13_order;
  // The names say the order, whatever a layer's w13_order is; else it is only what files mean.
  bool fixed_order;
  bool blocks = false;  // codes come with their scales in one tensor, in files alone (GGUF)
};

struct TensorName {
  TensorTarget target = TensorTarget::kW13;
  TensorKind kind = TensorKind::kCodes;
  int rank = 0;                        // position in the table: smaller wins
  const NameFamily* family = nullptr;  // of the table; never null once found
  bool has_expert = false;             // the name holds "experts.M."
  int64_t expert_id = -1;              // M, as the checkpoint counts
  // Of a w13 tensor's rows where the reader knows it; UNSET = what family and layer say.
  dsv4mx_w13_order w13_order = DSV4MX_W13_ORDER_UNSET;
  std::string_view suffix;  // the table's own text, e.g. "w1.weight"
};

// NOT_FOUND for a name that no row matches, and for tensors of shared experts, which are the
// caller's.
Status ParseTensorName(std::string_view name, TensorName* out);

// The same without an error text.
bool FindTensorName(std::string_view name, TensorName* out);

// What stands before "experts." (or "switch_mlp.", as MLX says) in the name of a routed expert's
// tensor, whatever its format: "model.layers.3.mlp.". False for other tensors.
// *rest is what stands behind it: "12.w1.weight", "w13_weight", "ffn_gate_exps.weight".
bool FindExpertsStem(std::string_view name, std::string_view* stem, std::string_view* rest);

// The name used in messages, e.g. "w1.weight", "w13_bias".
const char* CanonicalName(TensorTarget target, TensorKind kind);

// The table, row by row, for tests: the suffix, and what a name of it is. False behind the last row.
bool TensorNameRow(int rank, TensorName* out);

// Whether a target covers a matrix.
inline bool Covers(TensorTarget t, Matrix m) {
  switch (t) {
    case TensorTarget::kW13:
      return m != Matrix::kDown;
    case TensorTarget::kGate:
      return m == Matrix::kGate;
    case TensorTarget::kUp:
      return m == Matrix::kUp;
    case TensorTarget::kDown:
      return m == Matrix::kDown;
  }
  return false;
}

// The matrix of a target that is one; gate for w13.
inline Matrix MatrixOf(TensorTarget t) {
  return t == TensorTarget::kUp     ? Matrix::kUp
         : t == TensorTarget::kDown ? Matrix::kDown
                                    : Matrix::kGate;
}

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_NAMES_H_
