// The numbers of a problem: experts as a checkpoint holds them, tokens and routing. Everything follows from the seed,
// expert by expert, so that a layer of any size can be made without holding it.
#ifndef DSV4MX_TESTS_LAYER_DATA_H_
#define DSV4MX_TESTS_LAYER_DATA_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/problems.h"

namespace dsv4mx::test {

enum { kGate = 0, kUp = 1, kDown = 2 };

struct ExpertData {
  int64_t rows[3], k[3];           // gate and up [I, H], down [H, I]
  std::vector<uint8_t> codes[3];   // [rows, k/2], low nibble = even k
  std::vector<uint8_t> scales[3];  // [rows, k/32] E8M0 bytes
  std::vector<float> bias[3];      // [rows], exact in the problem's bias type; empty = none
};

// Local expert `e` of the problem.
ExpertData MakeExpert(const Problem& problem, int32_t e);

struct Inputs {
  std::vector<uint16_t> x;     // bf16 [tokens, hidden]
  std::vector<int64_t> ids;    // [tokens, top_k]
  std::vector<float> weights;  // [tokens, top_k], exact in the problem's router weight type
};

Inputs MakeInputs(const Problem& problem);

// A problem with its numbers, which a test may change before it runs.
struct Case {
  Problem p;
  std::vector<int32_t> placement;                    // of the layer; empty = in order
  std::vector<std::shared_ptr<ExpertData>> experts;  // empty = made on demand, never held
  Inputs in;

  std::shared_ptr<const ExpertData> Expert(int32_t e) const {
    if (experts.empty()) return std::make_shared<ExpertData>(MakeExpert(p, e));
    return experts[static_cast<size_t>(e)];
  }
  int32_t LocalExpert(int64_t id) const;  // -1 = skipped
};

Case MakeCase(const Problem& problem, bool hold_experts = true);
inline Case MakeCase(const std::string& text) {
  return MakeCase(Parse(text));
}

// [w1; w3] in the problem's order, whatever is stored per row: `bytes` bytes a row.
std::vector<uint8_t> FuseRows(const std::vector<uint8_t>& gate, const std::vector<uint8_t>& up,
                              int64_t bytes, dsv4mx_w13_order order);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_LAYER_DATA_H_
