// A few times as three numbers: tools print the same ones everywhere.
#ifndef DSV4MX_TESTS_BENCH_STATISTICS_H_
#define DSV4MX_TESTS_BENCH_STATISTICS_H_

#include <algorithm>
#include <cstddef>
#include <vector>

namespace dsv4mx::bench {

struct Summary {
  double median = 0, least = 0;
  double spread = 0;  // (90th - 10th percentile) / median
};

inline Summary Summarise(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto at = [&](double part) {
    return values[static_cast<size_t>(part * static_cast<double>(values.size() - 1) + 0.5)];
  };
  const double median = at(0.5);
  return {median, values.front(), median > 0 ? (at(0.9) - at(0.1)) / median : 0};
}

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_STATISTICS_H_
