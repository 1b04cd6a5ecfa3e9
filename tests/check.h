// How an output is judged (architecture.md section 7): relative L2 of the whole and of the worst row against the truth, a
// bound for every element, closeness to the rounding that is promised, and nothing written outside. Each check gives ""
// or a text with the problem string and the first wrong token and column, so that a failing case can be run again.
#ifndef DSV4MX_TESTS_CHECK_H_
#define DSV4MX_TESTS_CHECK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tests/reference.h"
#include "tests/runner.h"

namespace dsv4mx::test {

// A relative L2 over n numbers scatters from case to case by about 1 / sqrt(n) of itself, so a limit for the whole output,
// which speaks of real sizes, is unfair to a few hundred numbers. This is the factor that makes it fair: four such
// deviations, less what is left of them at 2^14 numbers, so that from there on the limit is exactly the stated one.
double SamplingSpread(double numbers);
// Numbers that a relative L2 rests on, from the sums of their squares and of their fourth powers: all of them where they are
// normal, three where one outweighs the others. Zeros do not count.
double NumbersJudged(double squares, double fourths);

// For outputs of any size; SamplingSpread multiplies those of the whole output.
struct Limits {
  double truth = 3e-3;      // relative L2 of the whole output to the truth
  double truth_row = 6e-3;  // the same of any single row: small rows scatter
  double spec =
      1.2e-3;  // relative L2 to the promised rounding; one rounding too many gives 2e-3 or more
  // |y - truth| <= 2^-8 |truth| + c * 2^-8 * bound. The rounding of h alone can reach c = 0.5 if all products line up;
  // the other half is for fp32 sums and for h near zero.
  double c = 1.0;
};

// W4A8 is judged by what it promises, rounding included, and by this to the truth of W4A16: an E4M3 number is off by about
// 2.6e-2 of itself (uniform within half of 2^-3 to 2^-4), which x brings to gate and up, and with them to h twice, and h once
// more: 2.6e-2 * sqrt(3) = 4.6e-2.
inline constexpr double kQuantisedTruth = 6e-2;
double QuantisedTruth(const Problem& p);  // a few dozen values of K leave it to chance
// Limits to the promise. Tensor cores add E4M3 products with about 14 bits, so h is off by up to 4e-4 of itself before it is
// rounded; where that crosses the middle between two E4M3 numbers, a 2^-3..2^-4 step apart, it lands on the other one:
// a share of 4e-4 / 2^-3.4 of all h, off by 2^-3.4 each, is sqrt(4e-4 * 2^-3.4) = 6e-3. In fp32 sums hardly any cross.
struct Limits;
Limits QuantisedLimits(const Problem& p, int64_t rows);  // of the output that are judged

struct Score {
  double truth = 0, worst_row = 0, spec = 0;
  double rounding = 0, rounding_row = 0;  // what the promised rounding alone is away from the truth
  double numbers = 0;                     // NumbersJudged
};

// Relative L2 of the rows that the reference has, over elements whose truth is finite.
Score Judge(const Problem& p, const Output& got, const Reference& want);

// "" or what is wrong. Where the truth is NaN or Inf, the output must not be finite.
std::string CheckOutput(const Case& c, const Output& got, const Reference& want,
                        const Limits& limits = {});

// "" or the first byte that differs, as token and column.
std::string CheckSame(const Output& a, const Output& b);

// Runs the case on its device and judges it against the library's own oracles on the CPU, which `oracle_test.cc` judges
// in turn, and against the bound of the reference.
std::string RunAndCheck(const Case& c, const Limits& limits = {});
std::string RunAndCheck(const std::string& problem, dsv4mx_device device = DSV4MX_DEVICE_CPU);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_CHECK_H_
