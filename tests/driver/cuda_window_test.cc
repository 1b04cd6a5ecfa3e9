// The driver's functions and the windows of groups, which are made with them: every call fails once, and each text is caused.
#include "lib/cuda/cuda_window.h"

#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>

#include "dsv4mx.h"
#include "lib/cuda/cuda_driver.h"
#include "tests/catch.h"
#include "tests/driver/fake_runtime.h"

namespace dsv4mx::test {
namespace {

constexpr int64_t kBytes = 10000;  // no multiple of what the driver maps

// A fresh runtime on which device 0 was opened. Windows are destroyed before it.
std::shared_ptr<const cuda::Device> Open(int devices = 2) {
  fake = FakeRuntime{};
  fake.devices = devices;
  std::unique_ptr<cuda::Device> device;
  REQUIRE(cuda::Device::Open(0, MemoryHook(), &device).ok());
  fake.calls = 0;
  fake.log.clear();
  return device;
}

TEST_CASE("driver functions: one that is missing is named, and nothing is kept", "[window]") {
  for (const char* name :
       {"cuCtxGetCurrent", "cuCtxSetCurrent", "cuDeviceGet", "cuDevicePrimaryCtxRetain",
        "cuMemGetAllocationGranularity", "cuMemAddressReserve", "cuMemAddressFree", "cuMemCreate",
        "cuMemRelease", "cuMemMap", "cuMemUnmap", "cuMemSetAccess", "cuMemExportToShareableHandle",
        "cuMemImportFromShareableHandle"}) {
    INFO(name);
    fake = FakeRuntime{};
    fake.missing = name;
    cuda::Driver found;
    CHECK(cuda::Driver::Find(&found).code == DSV4MX_STATUS_UNSUPPORTED_DEVICE);
    CHECK(MissingWords(LastError(), std::string("the CUDA driver has no ") + name + ",wanted") ==
          "");
    CHECK(found.get_current == nullptr);
  }
  fake = FakeRuntime{};
  fake.fail_at = 3;
  cuda::Driver found;
  CHECK(cuda::Driver::Find(&found).code == DSV4MX_STATUS_CUDA_ERROR);
  CHECK(MissingWords(LastError(), "cudaGetDriverEntryPointByVersion failed") == "");
  CHECK(found.get_current == nullptr);
  fake = FakeRuntime{};
  REQUIRE(cuda::Driver::Find(&found).ok());
  CHECK(found.set_access != nullptr);
}

TEST_CASE("windows: mapped for every device of the group once, zeroed, and given back",
          "[window]") {
  const auto device = Open();
  {
    std::shared_ptr<cuda::CudaWindow> window;
    REQUIRE(cuda::CudaWindow::Make(device, kBytes, {1, 0, 1, 0}, false, &window).ok());
    CHECK(std::count(fake.log.begin(), fake.log.end(), "cuMemSetAccess 0 1") == 1);
    bool zero = *window->told() == 0;
    for (int64_t i = 0; i < kBytes; ++i) zero = zero && window->data()[i] == 0;
    CHECK(zero);
    CHECK(fake.live.size() == 3);  // range, memory, word
  }
  CHECK(fake.live.empty());
  CHECK(fake.misuse == "");
}

TEST_CASE("windows: each call fails once, is named, and nothing stays", "[window]") {
  std::set<std::string> named;
  for (const cudaError_t error : {cudaErrorUnknown, cudaErrorMemoryAllocation}) {
    for (int call = 0;; ++call) {
      const auto device = Open();
      fake.fail_at = call;
      fake.error = error;
      std::shared_ptr<cuda::CudaWindow> window;
      const Status made = cuda::CudaWindow::Make(device, kBytes, {0, 1}, false, &window);
      if (fake.failed.empty()) {
        REQUIRE(call > 9);
        break;
      }
      INFO("call " << call << ", " << fake.failed << ": " << LastError());
      const std::string failed = fake.failed;
      // What puts the thread back has nobody to tell.
      if (made.ok()) {
        CHECK(std::set<std::string>{"cuCtxSetCurrent", "cudaThreadExchangeStreamCaptureMode"}.count(
                  failed) == 1);
      } else {
        CHECK(window == nullptr);
        const bool memory = error == cudaErrorMemoryAllocation;
        CHECK(made.code == (memory ? DSV4MX_STATUS_OUT_OF_MEMORY : DSV4MX_STATUS_CUDA_ERROR));
        if (failed == "cuMemCreate" && memory) {
          CHECK(MissingWords(LastError(),
                             "device 0 has no memory for a window of 12288 bytes,wanted a smaller "
                             "max_tokens") == "");
        } else if (failed.rfind("cuCtx", 0) != 0) {
          CHECK(MissingWords(LastError(), failed) == "");
        }
        named.insert(failed);
      }
      window.reset();
      CHECK(fake.live.empty());
      CHECK(fake.misuse == "");
    }
  }
  for (const char* call :
       {"cuMemGetAllocationGranularity", "cuMemAddressReserve", "cuMemCreate", "cuMemMap",
        "cuMemSetAccess", "cudaHostAlloc", "cudaMemsetAsync", "cudaStreamSynchronize"}) {
    INFO(call);
    CHECK(named.count(call) == 1);
  }
}

TEST_CASE("windows: handed to another process as a file, and mapped there", "[window]") {
  const auto device = Open();
  for (int call = 0;; ++call) {
    std::shared_ptr<cuda::CudaWindow> own, theirs;
    REQUIRE(cuda::CudaWindow::Make(device, kBytes, {0}, true, &own).ok());
    fake.calls = 0;
    fake.failed.clear();
    fake.fail_at = call;
    int file = -1;
    Status status = own->Share(&file);
    if (status.ok()) status = cuda::CudaWindow::Open(device, kBytes, file, &theirs);
    if (file >= 0) close(file);
    const bool failed = !fake.failed.empty();
    INFO("call " << call << ", " << fake.failed << ": " << LastError());
    fake.fail_at = -1;
    if (status.ok()) {
      CHECK(theirs->data() != own->data());
    } else {
      CHECK(status.code == DSV4MX_STATUS_CUDA_ERROR);
      CHECK(theirs == nullptr);
    }
    theirs.reset();
    own.reset();
    CHECK(fake.live.empty());
    CHECK(fake.misuse == "");
    if (failed) continue;
    CHECK(call > 5);
    break;
  }
}

TEST_CASE("windows: devices that do not reach each other are refused by number", "[window]") {
  const auto device = Open();
  CHECK(cuda::CheckReach(0, 1).ok());
  fake.reach = 0;
  CHECK(cuda::CheckReach(0, 0).ok());
  CHECK(cuda::CheckReach(0, 1).code == DSV4MX_STATUS_UNSUPPORTED);
  CHECK(MissingWords(LastError(), "device 0 does not reach memory of device 1,wanted,NVLink") ==
        "");
  fake.reach = 1;
  CHECK(cuda::CheckReach(1, 0).code == DSV4MX_STATUS_UNSUPPORTED);
  CHECK(MissingWords(LastError(), "device 1 has no atomics in memory of device 0,wanted,NVLink") ==
        "");
}

}  // namespace
}  // namespace dsv4mx::test
