// What the CUDA backend refuses to run on, over facts that no machine needs to have: every refusal names what was found
// and what is wanted. And which CUDA errors mean a broken context.
#if DSV4MX_HAVE_CUDA
#include "lib/cuda/cuda_support.h"

#include <set>
#include <string>

#include "lib/cuda/cuda_check.h"
#include "tests/catch.h"

using namespace dsv4mx;
using namespace dsv4mx::cuda;

namespace {

DriverFacts Driver(int32_t installed, int32_t runtime = 13000, cudaError_t error = cudaSuccess,
                   int32_t devices = 1) {
  return DriverFacts{installed, runtime, error, devices};
}

// "" if the status is `code` and its text one line with all `words`, else what is wrong.
std::string Refusal(Status status, dsv4mx_status code, const std::string& words) {
  if (status.code != code) {
    return std::string("got ") + dsv4mx_status_name(status.code) + ": " + LastError();
  }
  return test::MissingWords(LastError(), words);
}

}  // namespace

TEST_CASE("cuda support: only compute capability 9.0 runs the kernels", "[unit]") {
  CHECK(CheckDevice({0, "NVIDIA H100 80GB HBM3", 9, 0}).ok());
  CHECK(CheckDevice({7, "NVIDIA H20", 9, 0}).ok());
  const struct {
    DeviceFacts facts;
    const char* words;
  } refused[] = {
      {{0, "NVIDIA A100-SXM4-80GB", 8, 0}, "device 0,A100-SXM4-80GB,capability 8.0,wanted 9.0"},
      {{3, "NVIDIA L40S", 8, 9}, "device 3,L40S,capability 8.9,wanted 9.0,Hopper"},
      {{0, "NVIDIA B200", 10, 0}, "device 0,B200,capability 10.0,wanted 9.0"},
      {{1, "NVIDIA RTX PRO 6000", 12, 0}, "device 1,RTX PRO 6000,capability 12.0,wanted 9.0"},
      {{0, "Tesla V100", 7, 0}, "V100,capability 7.0,wanted 9.0"},
      {{0, "of the future", 9, 1}, "capability 9.1,wanted 9.0"},
  };
  for (const auto& r : refused) {
    INFO(r.facts.name);
    CHECK(Refusal(CheckDevice(r.facts), DSV4MX_STATUS_UNSUPPORTED_DEVICE, r.words) == "");
  }
}

TEST_CASE("cuda support: a driver of the runtime's major version, and one that captures dependents",
          "[unit]") {
  CHECK(NeededDriver(13000) == 13000);
  CHECK(NeededDriver(13020) == 13000);
  CHECK(NeededDriver(12080) == 12030);
  CHECK(NeededDriver(12090) == 12030);
  CHECK(NeededDriver(14010) == 14000);
  for (const int32_t runtime : {12080, 12090, 13000, 13020}) {
    for (const int32_t installed : {12030, 12080, 12090, 13000, 13010, 14000}) {
      INFO("driver " << installed << ", runtime " << runtime);
      CHECK(CheckDriver(Driver(installed, runtime), 0).ok() ==
            (installed >= runtime / 1000 * 1000));
    }
  }
  constexpr auto kUnfit = DSV4MX_STATUS_UNSUPPORTED_DEVICE;
  // The runtime 12.8 runs on the drivers of 12.0 to 12.2: it says nothing, and neither would this library until the first
  // capture.
  CHECK(Refusal(CheckDriver(Driver(12020, 12080), 0), kUnfit,
                "driver is for CUDA 12.2,wanted,CUDA 12.3,driver 545,or later") == "");
  CHECK(Refusal(CheckDriver(Driver(12000, 12090), 0), kUnfit, "CUDA 12.0,wanted,CUDA 12.3") == "");
  CHECK(Refusal(CheckDriver(Driver(11080, 12080, cudaErrorInsufficientDriver, 0), 0), kUnfit,
                "CUDA 11.8,wanted,CUDA 12.3") == "");
  CHECK(Refusal(CheckDriver(Driver(12090, 13000, cudaErrorInsufficientDriver, 0), 0), kUnfit,
                "CUDA 12.9,wanted,CUDA 13.0,driver 580,or later") == "");
  CHECK(Refusal(CheckDriver(Driver(12090), 0), kUnfit, "CUDA 12.9,wanted,CUDA 13.0") == "");
  CHECK(Refusal(CheckDriver(Driver(13010, 14020), 0), kUnfit,
                "CUDA 13.1,wanted,CUDA 14.0 or later") == "");
  CHECK(Refusal(RefuseDriverWithout("cuCtxGetCurrent", 12080), kUnfit,
                "cuCtxGetCurrent,wanted,CUDA 12.3") == "");
}

TEST_CASE("cuda support: no driver, no device, or not that many", "[unit]") {
  constexpr auto kNone = DSV4MX_STATUS_NO_DEVICE, kUnfit = DSV4MX_STATUS_UNSUPPORTED_DEVICE;
  CHECK(Refusal(CheckDriver(Driver(0, 13000, cudaErrorInsufficientDriver, 0), 0), kNone,
                "no CUDA driver,wanted,CUDA 13.0,driver 580") == "");
  CHECK(Refusal(CheckDriver(Driver(0, 12080, cudaErrorInsufficientDriver, 0), 0), kNone,
                "no CUDA driver,wanted,CUDA 12.3,driver 545") == "");
  CHECK(Refusal(CheckDriver(Driver(0, 13000, cudaErrorStubLibrary, 0), 0), kNone,
                "stub,wanted,installed,CUDA 13.0") == "");
  CHECK(Refusal(CheckDriver(Driver(13000, 13000, cudaErrorNoDevice, 0), 0), kNone,
                "no CUDA device,CUDA 13.0,wanted,9.0") == "");
  CHECK(Refusal(CheckDriver(Driver(13000, 13000, cudaSuccess, 0), 0), kNone,
                "no CUDA device,wanted") == "");
  CHECK(Refusal(CheckDriver(Driver(13000), 1), kNone,
                "device_ordinal is 1,1 CUDA device is visible,wanted 0..0") == "");
  CHECK(Refusal(CheckDriver(Driver(13000, 13000, cudaSuccess, 8), 8), kNone,
                "device_ordinal is 8,8 CUDA devices are,wanted 0..7") == "");
  CHECK(CheckDriver(Driver(13000, 13000, cudaSuccess, 8), 7).ok());
  CHECK(Refusal(CheckDriver(Driver(13000, 13000, cudaErrorSystemDriverMismatch, 0), 0), kUnfit,
                "CUDA 13.0,cudaErrorSystemDriverMismatch,803,kernel module,wanted,one "
                "version,driver 580") == "");
  CHECK(Refusal(CheckDriver(Driver(13000, 13000, cudaErrorCompatNotSupportedOnDevice, 0), 0),
                kUnfit,
                "cudaErrorCompatNotSupportedOnDevice,804,wanted,installed,CUDA 13.0") == "");
}

TEST_CASE("cuda support: faults of the system and of the process are no lack of a device",
          "[unit]") {
  // So that AUTO does not fall back to the CPU in silence.
  for (const cudaError_t error : {cudaErrorSystemNotReady, cudaErrorInitializationError,
                                  cudaErrorDevicesUnavailable, cudaErrorUnknown}) {
    CHECK(Refusal(CheckDriver(Driver(13000, 13000, error, 0), 0), DSV4MX_STATUS_CUDA_ERROR,
                  std::string("cudaGetDeviceCount,") + cudaGetErrorName(error)) == "");
  }
  CHECK(Refusal(CheckDriver(Driver(13000, 13000, cudaErrorMemoryAllocation, 0), 0),
                DSV4MX_STATUS_OUT_OF_MEMORY, "cudaGetDeviceCount") == "");
  CHECK(Refusal(CheckDriver(Driver(13000, 13000, cudaErrorIllegalAddress, 0), 0),
                DSV4MX_STATUS_CUDA_STICKY,
                "before this call,cudaErrorIllegalAddress,wanted") == "");
}

TEST_CASE("cuda support: sticky errors are those after which a process must end", "[unit]") {
  // Those of which driver_types.h says so, and those of a context that is gone or was taken down.
  const std::set<int> sticky = {214, 220, 226, 700, 702, 709, 710, 714,
                                715, 716, 717, 718, 719, 721, 810, 911};
  for (int error = 0; error < 1000; ++error) {
    INFO(error);
    const bool is = IsSticky(static_cast<cudaError_t>(error));
    if (is || sticky.count(error) != 0) CHECK(is == (sticky.count(error) != 0));
  }
  CHECK(Refusal(FailCuda(cudaErrorIllegalAddress, "cudaStreamSynchronize(stream)"),
                DSV4MX_STATUS_CUDA_ERROR,
                "cudaStreamSynchronize failed,700,broke its CUDA context") == "");
  CHECK(Refusal(FailCuda(cudaErrorInvalidValue, "LaunchGemm1(path, args)"),
                DSV4MX_STATUS_CUDA_ERROR, "LaunchGemm1 failed,cudaErrorInvalidValue,1") == "");
  // A host that resets its device is not told of kernels that never failed.
  CHECK(Refusal(FailBefore(cudaErrorContextIsDestroyed, "cudaStreamIsCapturing"),
                DSV4MX_STATUS_CUDA_STICKY, "destroyed,cudaDeviceReset,709,wanted") == "");
  CHECK(std::string(LastError()).find("kernels") == std::string::npos);
  CHECK(Refusal(FailCuda(cudaErrorMemoryAllocation, "cudaMalloc(&memory, bytes)"),
                DSV4MX_STATUS_OUT_OF_MEMORY, "cudaMalloc found no memory") == "");
}
#endif
