#include "tests/gpu/few_multiprocessors.h"

#include <stdexcept>

#include "tests/gpu/cuda_must.h"
#include "tests/gpu/driver_function.h"

namespace dsv4mx::test {
namespace {

struct Driver {
  decltype(&cuDeviceGet) get_device = nullptr;
  decltype(&cuDeviceGetDevResource) get_resource = nullptr;
  decltype(&cuDevSmResourceSplitByCount) split = nullptr;
  decltype(&cuDevResourceGenerateDesc) describe = nullptr;
  decltype(&cuGreenCtxCreate) create = nullptr;
  decltype(&cuGreenCtxDestroy) destroy = nullptr;
  decltype(&cuGreenCtxStreamCreate) create_stream = nullptr;
  decltype(&cuCtxFromGreenCtx) convert = nullptr;
  std::string missing;  // the first that the driver lacks

  Driver() {
    Find("cuDeviceGet", &get_device);
    Find("cuDeviceGetDevResource", &get_resource);
    Find("cuDevSmResourceSplitByCount", &split);
    Find("cuDevResourceGenerateDesc", &describe);
    Find("cuGreenCtxCreate", &create);
    Find("cuGreenCtxDestroy", &destroy);
    Find("cuGreenCtxStreamCreate", &create_stream);
    Find("cuCtxFromGreenCtx", &convert);
  }

 private:
  template <class F>
  void Find(const char* name, F* function) {
    constexpr unsigned kVersion = 12050;  // the release that brought the last of them
    *function = FindDriverFunction<F>(name, kVersion);
    if (*function == nullptr && missing.empty()) missing = name;
  }
};

const Driver& TheDriver() {
  static const Driver driver;
  return driver;
}

void DriverMust(CUresult result, const char* call) {
  if (result != CUDA_SUCCESS)
    throw std::runtime_error(std::string(call) + ": CUresult " + std::to_string(result));
}

}  // namespace

std::string FewMultiprocessors::Make(unsigned count, std::unique_ptr<FewMultiprocessors>* out) {
  CUDA_MUST(cudaFree(nullptr));  // the primary context exists and is current
  const Driver& driver = TheDriver();
  if (!driver.missing.empty())
    return "needs a driver with green contexts (CUDA 12.5): no " + driver.missing;
  int ordinal = 0;
  CUDA_MUST(cudaGetDevice(&ordinal));
  CUdevice device = 0;
  DriverMust(driver.get_device(&device, ordinal), "cuDeviceGet");
  CUdevResource all{}, part{};
  CUresult result = driver.get_resource(device, &all, CU_DEV_RESOURCE_TYPE_SM);
  if (result == CUDA_ERROR_NOT_SUPPORTED) return "needs a device with green contexts";
  DriverMust(result, "cuDeviceGetDevResource");
  unsigned groups = 1;
  DriverMust(driver.split(&part, &groups, &all, nullptr, 0, count), "cuDevSmResourceSplitByCount");
  if (groups != 1) throw std::runtime_error("cuDevSmResourceSplitByCount: no group was made");
  CUdevResourceDesc description = nullptr;
  DriverMust(driver.describe(&description, &part, 1), "cuDevResourceGenerateDesc");
  std::unique_ptr<FewMultiprocessors> made(new FewMultiprocessors);
  result = driver.create(&made->green_, description, device, CU_GREEN_CTX_DEFAULT_STREAM);
  if (result == CUDA_ERROR_NOT_SUPPORTED) return "needs a device with green contexts";
  DriverMust(result, "cuGreenCtxCreate");
  DriverMust(driver.create_stream(&made->stream_, made->green_, CU_STREAM_NON_BLOCKING, 0),
             "cuGreenCtxStreamCreate");
  DriverMust(driver.convert(&made->context_, made->green_), "cuCtxFromGreenCtx");
  made->multiprocessors_ = part.sm.smCount;
  *out = std::move(made);
  return "";
}

FewMultiprocessors::~FewMultiprocessors() {
  if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  if (green_ != nullptr) (void)TheDriver().destroy(green_);
}

}  // namespace dsv4mx::test
