#include "lib/cuda/cuda_support.h"

#include <algorithm>
#include <cstdio>

#include "lib/base/generation.h"
#include "lib/cuda/cuda_check.h"

namespace dsv4mx::cuda {
namespace {

constexpr int32_t kCapturesDependents = 12030;

// "CUDA 13.0 (driver 580) or later".
struct Wanted {
  char text[48];
  explicit Wanted(int32_t runtime) {
    const int32_t needed = NeededDriver(runtime);
    const char* branch = needed == kCapturesDependents ? " (driver 545)"
                         : needed == 13000             ? " (driver 580)"
                                                       : "";
    std::snprintf(text, sizeof text, "CUDA %d.%d%s or later", needed / 1000, needed % 1000 / 10,
                  branch);
  }
};

}  // namespace

int32_t NeededDriver(int32_t runtime) {
  return std::max(runtime / 1000 * 1000, kCapturesDependents);
}

Status CheckDriver(const DriverFacts& facts, int32_t ordinal) {
  constexpr auto kNone = DSV4MX_STATUS_NO_DEVICE, kUnfit = DSV4MX_STATUS_UNSUPPORTED_DEVICE;
  const Wanted wanted(facts.runtime);
  const int32_t major = facts.installed / 1000, minor = facts.installed % 1000 / 10;
  const bool failed = facts.error != cudaSuccess;
  const int number = static_cast<int>(facts.error);
  DSV4MX_RETURN_IF(facts.error == cudaErrorStubLibrary, kNone,
                   "the CUDA driver found is the toolkit's stub, wanted an installed one for %s",
                   wanted.text);
  DSV4MX_RETURN_IF(facts.error == cudaErrorInsufficientDriver && facts.installed == 0, kNone,
                   "no CUDA driver is installed, wanted one for %s", wanted.text);
  // Also where the runtime is content with less.
  DSV4MX_RETURN_IF(facts.error == cudaErrorInsufficientDriver ||
                       (facts.installed != 0 && facts.installed < NeededDriver(facts.runtime)),
                   kUnfit, "the CUDA driver is for CUDA %d.%d, wanted one for %s", major, minor,
                   wanted.text);
  DSV4MX_RETURN_IF(facts.error == cudaErrorSystemDriverMismatch, kUnfit,
                   "the CUDA driver for CUDA %d.%d differs from its kernel module: %s (%d), wanted "
                   "both of one version, for %s",
                   major, minor, cudaGetErrorName(facts.error), number, wanted.text);
  DSV4MX_RETURN_IF(facts.error == cudaErrorCompatNotSupportedOnDevice, kUnfit,
                   "the compatibility driver for CUDA %d.%d does not run on this device: %s (%d), "
                   "wanted an installed driver for %s",
                   major, minor, cudaGetErrorName(facts.error), number, wanted.text);
  DSV4MX_RETURN_IF(
      facts.error == cudaErrorNoDevice || (!failed && facts.devices == 0), kNone,
      "no CUDA device is visible to the driver for CUDA %d.%d, wanted one of compute capability "
      "9.0 (Hopper)",
      major, minor);
  if (failed) return FailBefore(facts.error, "cudaGetDeviceCount");
  DSV4MX_RETURN_IF(ordinal >= facts.devices, kNone,
                   "device_ordinal is %d, but %d CUDA device%s visible, wanted 0..%d", ordinal,
                   facts.devices, facts.devices == 1 ? " is" : "s are", facts.devices - 1);
  return kOk;
}

Status RefuseDriverWithout(const char* function, int32_t runtime) {
  return Fail(DSV4MX_STATUS_UNSUPPORTED_DEVICE, "the CUDA driver has no %s, wanted one for %s",
              function, Wanted(runtime).text);
}

Status CheckDevice(const DeviceFacts& facts) {
  DSV4MX_RETURN_IF(FindGeneration(10 * facts.major + facts.minor) == nullptr,
                   DSV4MX_STATUS_UNSUPPORTED_DEVICE,
                   "CUDA device %d (%s) has compute capability %d.%d, wanted 9.0 (Hopper)",
                   facts.ordinal, facts.name, facts.major, facts.minor);
  return kOk;
}

}  // namespace dsv4mx::cuda
