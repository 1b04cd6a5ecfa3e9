// Times on one CUDA device, in the two states that a chip under power limits has: burst (after a rest, a few replays)
// and sustained (back to back for most of a second), each with its clock. Only built with CUDA; failures are thrown as
// std::runtime_error.
#ifndef DSV4MX_TESTS_BENCH_GPU_TIMER_H_
#define DSV4MX_TESTS_BENCH_GPU_TIMER_H_

#include <functional>
#include <memory>
#include <string>

#include "dsv4mx.h"

namespace dsv4mx::bench {

struct GpuTime {
  double us = 0, us_min = 0;  // median and smallest time of one replay
  double spread = 0;          // (90th - 10th percentile) / median
  int runs = 0;               // measurements that these come from
  double sm_mhz = 0;          // of a kernel right behind the last replay
  double nvml_mhz = 0;        // median of NVML's samples; 0 = no NVML or no sample
  double watts = 0;
};

struct GpuTimes {
  GpuTime burst, sustained;
};

struct GpuCeilings {
  double read_burst = 0, read_sustained = 0;    // bytes a second from device memory
  double dense_burst = 0, dense_sustained = 0;  // bf16 operations a second; 0 = not measured
  double dense_mhz = 0, read_mhz = 0;           // sustained
  std::string reader;                           // which of the readers was faster
  std::string no_dense;                         // why dense_* are 0
};

class GpuTimer {
 public:
  explicit GpuTimer(int ordinal);
  ~GpuTimer();
  GpuTimer(const GpuTimer&) = delete;
  GpuTimer& operator=(const GpuTimer&) = delete;

  // Captures what `enqueue` puts on the stream into a graph and replays it; `seconds` is for the sustained state.
  GpuTimes Measure(const std::function<void(dsv4mx_stream)>& enqueue, double seconds);

  // `cublas`: file name of libcublas; empty = the usual ones.
  GpuCeilings MeasureCeilings(double seconds, const std::string& cublas);

  std::string Describe() const;  // driver and runtime version, power limit where NVML tells

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_GPU_TIMER_H_
