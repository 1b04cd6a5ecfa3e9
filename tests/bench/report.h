// What a run found, as a table and as JSON while it goes.
#ifndef DSV4MX_TESTS_BENCH_REPORT_H_
#define DSV4MX_TESTS_BENCH_REPORT_H_

#include <cstdio>
#include <string>
#include <vector>

#include "tests/bench/baseline.h"
#include "tests/bench/cpu_ceilings.h"
#include "tests/bench/gpu_timer.h"
#include "tests/bench/loaded_layer.h"
#include "tests/bench/peers.h"
#include "tests/check.h"

namespace dsv4mx::bench {

// Times of one state: "cpu", or "burst", "sustained" and "chained" on a GPU (bench.cc says what they are).
struct StateTime {
  std::string state;
  GpuTime time;  // clocks and watts are 0 on the CPU
  double floor_us =
      0;  // max(bytes / read rate, flop / compute rate) of the same run; 0 = nothing to do
};

// The ceilings of one device, measured in this run.
struct DeviceCeilings {
  std::string device;  // "cpu avx512, 2 threads"
  bool cuda = false;
  CpuCeilings cpu;
  GpuCeilings gpu;
};

struct Result {
  std::string given;  // as on the command line
  test::Problem problem;
  std::string backend, plan;
  Work work;
  int rotations = 0;
  std::vector<StateTime> times;
  bool judged = false;
  test::Score score;
  std::vector<int64_t> rows;  // tokens that were judged
  std::string error;          // one line; empty = right
};

class Report {
 public:
  // The table goes to `table` as results come in, beside what `baseline` has of them.
  Report(std::string mode, std::string command, Baseline baseline, std::FILE* table);
  void Add(const DeviceCeilings& ceilings);
  void Add(const Result& result);
  bool good() const { return good_; }
  size_t count() const { return results_.size(); }
  // What there is so far; `complete` says whether it is all. A file is replaced as a whole. Throws std::runtime_error where it
  // cannot be written.
  void WriteJson(const std::string& file, bool complete) const;

 private:
  std::string mode_, command_;
  Baseline baseline_;
  std::FILE* table_;
  bool good_ = true, header_ = false;
  std::vector<DeviceCeilings> ceilings_;
  std::vector<Result> results_;
};

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_REPORT_H_
