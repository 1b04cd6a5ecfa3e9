// Times of an earlier run, from its JSON, to stand beside this one's.
#ifndef DSV4MX_TESTS_BENCH_BASELINE_H_
#define DSV4MX_TESTS_BENCH_BASELINE_H_

#include <map>
#include <string>
#include <utility>

namespace dsv4mx::bench {

class Baseline {
 public:
  // Throws std::runtime_error, one line, where the file is not what --json wrote.
  void Read(const std::string& file);
  const std::string& file() const { return file_; }
  // Microseconds of a problem (in full) in a state; 0 = the file has none.
  double Us(const std::string& problem, const std::string& state) const;

 private:
  std::string file_;
  std::map<std::pair<std::string, std::string>, double> us_;
};

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_BASELINE_H_
