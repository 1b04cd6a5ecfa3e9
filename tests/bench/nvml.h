// Clock and power of one GPU through NVML, which is part of the driver: found at run time, never linked.
#ifndef DSV4MX_TESTS_BENCH_NVML_H_
#define DSV4MX_TESTS_BENCH_NVML_H_

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace dsv4mx::bench {

class Nvml {
 public:
  struct Sample {
    double seconds;  // since Start
    double mhz, watts;
  };

  // `pci_bus_id` as cudaDeviceGetPCIBusId gives it: ordinals of the two libraries need not agree.
  explicit Nvml(const char* pci_bus_id);
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  bool found() const { return device_ != nullptr; }
  double PowerLimitWatts() const;

  // Samples in a thread of its own until Stop.
  void Start();
  std::vector<Sample> Stop();

 private:
  using Device = void*;
  Device device_ = nullptr;
  int (*clock_)(Device, int, unsigned*) = nullptr;
  int (*power_)(Device, unsigned*) = nullptr;
  int (*limit_)(Device, unsigned*) = nullptr;
  std::atomic<bool> stop_{false};
  std::thread thread_;
  std::vector<Sample> samples_;
};

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_NVML_H_
