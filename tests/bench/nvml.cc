#include "tests/bench/nvml.h"

#include <dlfcn.h>

namespace dsv4mx::bench {
namespace {

constexpr int kClockSm = 1;  // NVML_CLOCK_SM
constexpr auto kPause = std::chrono::milliseconds(20);

template <typename F>
bool Find(void* library, const char* name, F* out) {
  *out = reinterpret_cast<F>(dlsym(library, name));
  return *out != nullptr;
}

}  // namespace

Nvml::Nvml(const char* pci_bus_id) {
  void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return;
  int (*init)() = nullptr;
  int (*by_bus)(const char*, Device*) = nullptr;
  if (!Find(library, "nvmlInit_v2", &init) ||
      !Find(library, "nvmlDeviceGetHandleByPciBusId_v2", &by_bus) ||
      !Find(library, "nvmlDeviceGetClockInfo", &clock_) ||
      !Find(library, "nvmlDeviceGetPowerUsage", &power_) ||
      !Find(library, "nvmlDeviceGetEnforcedPowerLimit", &limit_))
    return;
  if (init() != 0 || by_bus(pci_bus_id, &device_) != 0) device_ = nullptr;
}

// The library stays loaded: what it registered with the process would outlive it.
Nvml::~Nvml() {
  Stop();
}

double Nvml::PowerLimitWatts() const {
  unsigned milliwatts = 0;
  return found() && limit_(device_, &milliwatts) == 0 ? milliwatts / 1000.0 : 0;
}

void Nvml::Start() {
  samples_.clear();
  if (!found()) return;
  stop_ = false;
  thread_ = std::thread([this] {
    const auto begin = std::chrono::steady_clock::now();
    while (!stop_) {
      unsigned mhz = 0, milliwatts = 0;
      if (clock_(device_, kClockSm, &mhz) == 0) {
        if (power_(device_, &milliwatts) != 0) milliwatts = 0;
        const std::chrono::duration<double> now = std::chrono::steady_clock::now() - begin;
        samples_.push_back({now.count(), static_cast<double>(mhz), milliwatts / 1000.0});
      }
      std::this_thread::sleep_for(kPause);
    }
  });
}

std::vector<Nvml::Sample> Nvml::Stop() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
  return std::move(samples_);
}

}  // namespace dsv4mx::bench
