#include "lib/cuda/cuda_window.h"

#include <algorithm>

#include "lib/cuda/cuda_check.h"
#include "lib/cuda/cuda_driver.h"

namespace dsv4mx::cuda {
Status CheckReach(int32_t from, int32_t to) {
  if (from == to) return kOk;
  int reach = 0, atomics = 0;
  DSV4MX_CUDA(cudaDeviceCanAccessPeer(&reach, from, to));
  if (reach != 0)
    DSV4MX_CUDA(cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, from, to));
  DSV4MX_RETURN_IF(reach == 0 || atomics == 0, DSV4MX_STATUS_UNSUPPORTED,
                   "CUDA device %d %s of device %d, wanted devices joined by NVLink", from,
                   reach == 0 ? "does not reach memory" : "has no atomics in memory", to);
  return kOk;
}

Status CudaWindow::Make(std::shared_ptr<const Device> device, int64_t bytes,
                        const std::vector<int32_t>& places, bool shared,
                        std::shared_ptr<CudaWindow>* out) {
  std::shared_ptr<CudaWindow> window(new CudaWindow(std::move(device)));
  window->gate_ = std::make_shared<Gate>();
  const DeviceScope scope(*window->device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(cudaStreamPerThread));
  DSV4MX_TRY(window->Create(bytes, shared));
  DSV4MX_TRY(window->Map(places));
  void* told = nullptr;
  DSV4MX_CUDA(cudaHostAlloc(&told, sizeof(uint64_t), cudaHostAllocPortable | cudaHostAllocMapped));
  window->told_ = static_cast<uint64_t*>(told);
  *window->told_ = 0;
  DSV4MX_CUDA(cudaMemsetAsync(window->data_, 0, static_cast<size_t>(bytes), cudaStreamPerThread));
  DSV4MX_CUDA(cudaStreamSynchronize(cudaStreamPerThread));
  *out = std::move(window);
  return kOk;
}

Status CudaWindow::Open(std::shared_ptr<const Device> device, int64_t bytes, int file,
                        std::shared_ptr<CudaWindow>* out) {
  std::shared_ptr<CudaWindow> window(new CudaWindow(std::move(device)));
  const DeviceScope scope(*window->device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(cudaStreamPerThread));
  const CUmemAllocationProp prop = window->Properties(true);
  DSV4MX_TRY(window->Measure(bytes, prop));
  CUmemGenericAllocationHandle handle = 0;
  // The driver takes the number of the file in a pointer's place.
  void* number = reinterpret_cast<void*>(static_cast<intptr_t>(file));
  DSV4MX_TRY(
      CheckDriverCall(TheDriver().import(&handle, number, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
                      "cuMemImportFromShareableHandle"));
  window->handle_ = handle;
  DSV4MX_TRY(window->Map({window->device_->ordinal()}));
  *out = std::move(window);
  return kOk;
}

Status CudaWindow::Share(int* file) const {
  return CheckDriverCall(
      TheDriver().share(file, handle_, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
      "cuMemExportToShareableHandle");
}

CUmemAllocationProp_st CudaWindow::Properties(bool shared) const {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  prop.location.id = device_->ordinal();
  if (shared) prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  return prop;
}

Status CudaWindow::Measure(int64_t bytes, const CUmemAllocationProp_st& prop) {
  DSV4MX_TRY(
      CheckDriverCall(TheDriver().granularity(&unit_, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
                      "cuMemGetAllocationGranularity"));
  bytes_ = (static_cast<size_t>(bytes) + unit_ - 1) / unit_ * unit_;
  return kOk;
}

Status CudaWindow::Create(int64_t bytes, bool shared) {
  const CUmemAllocationProp prop = Properties(shared);
  DSV4MX_TRY(Measure(bytes, prop));
  CUmemGenericAllocationHandle handle = 0;
  const CUresult made = TheDriver().create(&handle, bytes_, &prop, 0);
  DSV4MX_RETURN_IF(
      made == CUDA_ERROR_OUT_OF_MEMORY, DSV4MX_STATUS_OUT_OF_MEMORY,
      "device %d has no memory for a window of %zu bytes, wanted a smaller max_tokens, "
      "or more free memory",
      device_->ordinal(), bytes_);
  DSV4MX_TRY(CheckDriverCall(made, "cuMemCreate"));
  handle_ = handle;
  return kOk;
}

Status CudaWindow::Map(const std::vector<int32_t>& places) {
  const Driver& driver = TheDriver();
  CUdeviceptr address = 0;
  DSV4MX_TRY(CheckDriverCall(driver.reserve(&address, bytes_, unit_, 0, 0), "cuMemAddressReserve"));
  address_ = address;
  DSV4MX_TRY(CheckDriverCall(driver.map(address_, bytes_, 0, handle_, 0), "cuMemMap"));
  mapped_ = true;
  std::vector<int32_t> devices = places;
  std::sort(devices.begin(), devices.end());
  devices.erase(std::unique(devices.begin(), devices.end()), devices.end());
  std::vector<CUmemAccessDesc> access;
  for (const int32_t device : devices) {
    CUmemAccessDesc one{};
    one.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    one.location.id = device;
    one.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    access.push_back(one);
  }
  DSV4MX_TRY(CheckDriverCall(driver.set_access(address_, bytes_, access.data(), access.size()),
                             "cuMemSetAccess"));
  data_ = reinterpret_cast<uint8_t*>(static_cast<uintptr_t>(address_));
  return kOk;
}

CudaWindow::~CudaWindow() {
  const Driver& driver = TheDriver();
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  if (mapped_) (void)driver.unmap(address_, bytes_);
  if (handle_ != 0) (void)driver.release(handle_);
  if (address_ != 0) (void)driver.free_address(address_, bytes_);
  if (told_ != nullptr) (void)cudaFreeHost(told_);
}

}  // namespace dsv4mx::cuda
