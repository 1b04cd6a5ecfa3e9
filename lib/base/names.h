// The one table of tensor names. A name is any prefix, then one of the table's suffixes;
// "experts.M." in the prefix fixes the expert. Rows stand in order of precedence: of several names
// of one tensor the first row wins.
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

struct TensorName {
  TensorTarget target = TensorTarget::kW13;
  TensorKind kind = TensorKind::kCodes;
  int rank = 0;             // position in the table: smaller wins
  bool has_expert = false;  // the name holds "experts.M."
  int64_t expert_id = -1;   // M, as the checkpoint counts
  std::string_view suffix;  // the table's own text, e.g. "w1.weight"
};

// NOT_FOUND for a name that no row matches, and for tensors of shared experts, which are the
// caller's.
Status ParseTensorName(std::string_view name, TensorName* out);

// The same without an error text.
bool FindTensorName(std::string_view name, TensorName* out);

// The name used in messages, e.g. "w1.weight", "w13_bias".
const char* CanonicalName(TensorTarget target, TensorKind kind);

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

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_NAMES_H_
