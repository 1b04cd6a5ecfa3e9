#include "tests/gpu/guard_pages.h"

#include <cuda.h>

#include "tests/gpu/cuda_must.h"
#include "tests/gpu/driver_function.h"
#include "tests/gpu/gpu_data.h"

namespace dsv4mx::test {
namespace {

constexpr uint8_t kPattern = 0xC5;
constexpr size_t kBand = 4096;

size_t RoundUp(size_t n, size_t to) {
  return (n + to - 1) / to * to;
}

// The virtual memory calls of the driver, asked for at run time: the test binary needs no libcuda to start.
struct Driver {
  decltype(&cuMemGetAllocationGranularity) granularity;
  decltype(&cuMemAddressReserve) reserve;
  decltype(&cuMemAddressFree) release_range;
  decltype(&cuMemCreate) create;
  decltype(&cuMemRelease) release;
  decltype(&cuMemMap) map;
  decltype(&cuMemUnmap) unmap;
  decltype(&cuMemSetAccess) set_access;

  Driver() {
    Find("cuMemGetAllocationGranularity", &granularity);
    Find("cuMemAddressReserve", &reserve);
    Find("cuMemAddressFree", &release_range);
    Find("cuMemCreate", &create);
    Find("cuMemRelease", &release);
    Find("cuMemMap", &map);
    Find("cuMemUnmap", &unmap);
    Find("cuMemSetAccess", &set_access);
  }

 private:
  template <class F>
  static void Find(const char* name, F* function) {
    constexpr unsigned kVersion = 10020;  // the release that brought them
    *function = FindDriverFunction<F>(name, kVersion);
    if (*function == nullptr)
      throw std::runtime_error(std::string(name) + ": the driver does not have it");
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

CUmemAllocationProp PropertiesOfDevice() {
  CUmemAllocationProp properties{};
  int device = 0;
  CUDA_MUST(cudaGetDevice(&device));
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  return properties;
}

}  // namespace

DeviceBuffer::DeviceBuffer(size_t bytes, size_t alignment, Guard guard)
    : bytes_(bytes), guard_(guard) {
  const size_t room = RoundUp(bytes, alignment);
  if (guard == Guard::kBands) {
    all_bytes_ = RoundUp(room, kBand) + 2 * kBand;
    CUDA_MUST(cudaMalloc(&all_, all_bytes_));
    data_ = all_ + kBand;
  } else {
    CUDA_MUST(cudaFree(nullptr));  // makes the context current: the calls below need one
    const Driver& driver = TheDriver();
    const CUmemAllocationProp properties = PropertiesOfDevice();
    DriverMust(driver.granularity(&page_, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
               "cuMemGetAllocationGranularity");
    all_bytes_ = RoundUp(room == 0 ? 1 : room, page_);
    CUdeviceptr base = 0;
    DriverMust(driver.reserve(&base, all_bytes_ + 2 * page_, 0, 0, 0), "cuMemAddressReserve");
    reserved_ = base;
    CUmemGenericAllocationHandle handle = 0;
    DriverMust(driver.create(&handle, all_bytes_, &properties, 0), "cuMemCreate");
    handle_ = handle;
    DriverMust(driver.map(base + page_, all_bytes_, 0, handle, 0), "cuMemMap");
    CUmemAccessDesc access{};
    access.location = properties.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    DriverMust(driver.set_access(base + page_, all_bytes_, &access, 1), "cuMemSetAccess");
    all_ = reinterpret_cast<uint8_t*>(base + page_);
    data_ = all_ + all_bytes_ - room;
  }
  // Only the surroundings: see the constructor's comment.
  const size_t before = static_cast<size_t>(data_ - all_);
  CUDA_MUST(cudaMemset(all_, kPattern, before));
  CUDA_MUST(cudaMemset(data_ + bytes_, kPattern, all_bytes_ - before - bytes_));
  CUDA_MUST(cudaDeviceSynchronize());
}

// After a fault every call fails: nothing is left to do then.
DeviceBuffer::~DeviceBuffer() {
  if (guard_ == Guard::kBands) {
    cudaFree(all_);
    return;
  }
  cudaDeviceSynchronize();
  const Driver& driver = TheDriver();
  driver.unmap(reserved_ + page_, all_bytes_);
  driver.release(handle_);
  driver.release_range(reserved_, all_bytes_ + 2 * page_);
}

void DeviceBuffer::Fill(int value) {
  CUDA_MUST(cudaMemset(data_, value, bytes_));
  CUDA_MUST(cudaDeviceSynchronize());
}

void DeviceBuffer::Upload(const void* from, size_t bytes) {
  if (bytes > bytes_) throw std::invalid_argument("DeviceBuffer::Upload: more than there is room");
  CUDA_MUST(cudaMemcpy(data_, from, bytes, cudaMemcpyHostToDevice));
  CUDA_MUST(cudaDeviceSynchronize());
}

std::vector<uint8_t> DeviceBuffer::Download(size_t first, size_t bytes) const {
  std::vector<uint8_t> out(bytes);
  CUDA_MUST(cudaMemcpy(out.data(), data_ + first, bytes, cudaMemcpyDeviceToHost));
  return out;
}

std::string DeviceBuffer::Damage() const {
  const int64_t before = data_ - all_, after = static_cast<int64_t>(all_bytes_ - bytes_) - before;
  int64_t at = FirstOtherByte(all_, before, kPattern);
  if (at < 0) {
    at = FirstOtherByte(data_ + bytes_, after, kPattern);
    if (at < 0) return "";
    at += before + static_cast<int64_t>(bytes_);
  }
  return "byte " + std::to_string(at - before) + " of a buffer of " + std::to_string(bytes_) +
         " was overwritten";
}

std::string WhyNoGuardPages() {
  try {
    const DeviceBuffer probe(100, 4, Guard::kPages);
    return probe.Damage() == "" ? "" : "needs guard pages that hold their pattern";
  } catch (const std::exception& e) {
    return std::string("needs guard pages: ") + e.what();
  }
}

}  // namespace dsv4mx::test
