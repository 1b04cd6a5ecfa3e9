// A problem string names a case everywhere: test, benchmark, bug report.
//
//     flash m=64        pro tp=8 m=1 dist=zipf        v41        h=2880 i=2880 e=128 k=4 m=16 act=gptoss bias=1
//
// A model name sets several keys, later words override earlier ones. Everything that a case needs (weights, tokens,
// routing) is made from the string alone, the seed included, so the printed string repeats the case.
#ifndef DSV4MX_TESTS_PROBLEMS_H_
#define DSV4MX_TESTS_PROBLEMS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "dsv4mx.h"

namespace dsv4mx::test {

enum class Dist {
  kUniform,  // k distinct experts
  kZipf,     // k distinct experts, expert r drawn with weight 1/(r+1)
  kOne,      // one expert in every token's list, the rest uniform
  kSix,      // six experts only
  kNone,     // every id -1
  kHalf,     // uniform, but about half of the ids -1
  kDup,      // drawn one by one, so ids repeat inside a row
};

struct Problem {
  // Of the whole model; tp and ep make it one rank's share.
  int32_t hidden = 256, intermediate = 128, experts = 4, top_k = 2;
  int64_t tokens = 4;
  int32_t tp = 1, ep = 1, ep_rank = 0;
  dsv4mx_activation activation = DSV4MX_ACTIVATION_SWIGLU;
  float clamp = 0, alpha = 0, beta = 0, situ_beta = 0, situ_linear_beta = 0;
  dsv4mx_dtype w13_bias = 0, w2_bias = 0;
  dsv4mx_w13_order order = DSV4MX_W13_ORDER_UNSET;
  dsv4mx_nibble_order nibble = DSV4MX_NIBBLE_ORDER_LOW_FIRST;
  dsv4mx_router_weight_position wpos = DSV4MX_ROUTER_WEIGHT_AFTER_W2;
  float rsf = 0;
  Dist dist = Dist::kUniform;
  dsv4mx_dtype out = 0, ids = 0, rw = 0, slot = 0;
  uint64_t seed = 1;
  int32_t scale_lo = 119, scale_hi = 127;  // bytes, uniform
  double amp = 0;  // standard deviation of x; 0 = so that gate and up have one of about 3
  dsv4mx_compute compute = DSV4MX_COMPUTE_W4A16;
  dsv4mx_oracle oracle = DSV4MX_ORACLE_NONE;
  dsv4mx_number_path path = DSV4MX_NUMBER_PATH_AUTO;
  uint32_t flags = 0;
  int64_t x_stride = 0, out_stride = 0;        // elements; 0 = hidden
  int64_t ids_stride = 0, weights_stride = 0;  // elements; 0 = top_k
  dsv4mx_device device = DSV4MX_DEVICE_CPU;
  dsv4mx_cpu_isa isa = 0;
  int32_t threads = 0;

  int32_t LocalIntermediate() const { return intermediate / tp; }
  int32_t LocalExperts() const { return experts / ep; }
  int32_t ExpertFirst() const { return LocalExperts() * ep_rank; }
  double Amplitude() const;
};

// Parses one problem. On failure false and a line that says what, got, wanted.
bool ParseProblem(const std::string& text, Problem* out, std::string* error);

// The same for literals in tests: throws std::invalid_argument.
Problem Parse(const std::string& text);

// The shortest string that parses to the same problem (model names are spelled out as sizes).
std::string ProblemText(const Problem& problem);

// "flash m=1,4,16" as three strings: any value may be a comma list.
std::vector<std::string> ExpandProblems(const std::string& text);

// One line per key and per model name, for --help.
std::string ProblemHelp();

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_PROBLEMS_H_
