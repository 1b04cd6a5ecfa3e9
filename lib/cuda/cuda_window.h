// A rank's window in its device's memory, mapped for every device of the group, and the word in which its host reads faults.
#ifndef DSV4MX_LIB_CUDA_CUDA_WINDOW_H_
#define DSV4MX_LIB_CUDA_CUDA_WINDOW_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "lib/base/rank_group.h"
#include "lib/cuda/cuda_device.h"
#include "lib/cuda/cuda_gate.h"

struct CUmemAllocationProp_st;

namespace dsv4mx::cuda {

// The driver's virtual memory is used and not cudaMalloc with cudaDeviceEnablePeerAccess: it opens this memory alone to these
// devices alone, where peer access opens everything of a process to everything else in it, and whoever switched it on first
// decides for the others. The caller's allocator is not asked: its memory cannot be mapped so.
class CudaWindow final : public GroupWindow {
 public:
  // Zeroed. places: devices that reach it, by rank. `shared`: other processes map it.
  static Status Make(std::shared_ptr<const Device> device, int64_t bytes,
                     const std::vector<int32_t>& places, bool shared,
                     std::shared_ptr<CudaWindow>* out);
  // Another process's, as the device sees it. Its memory lasts as long as anybody maps it.
  static Status Open(std::shared_ptr<const Device> device, int64_t bytes, int file,
                     std::shared_ptr<CudaWindow>* out);
  ~CudaWindow() override;

  uint8_t* data() const { return data_; }
  // Null for another process's.
  uint64_t* told() const { return told_; }
  int64_t bytes() const { return static_cast<int64_t>(bytes_); }  // whole pages of the device
  int32_t place() const { return device_->ordinal(); }
  bool opened() const { return told_ == nullptr; }
  // An open file by which other processes map it; the caller closes it.
  Status Share(int* file) const;
  // The gate of ranks that share this device: that of the lowest one counts.
  const std::shared_ptr<Gate>& gate() const { return gate_; }

 private:
  explicit CudaWindow(std::shared_ptr<const Device> device) : device_(std::move(device)) {}
  CUmemAllocationProp_st Properties(bool shared) const;
  Status Measure(int64_t bytes, const CUmemAllocationProp_st& prop);
  Status Create(int64_t bytes, bool shared);
  Status Map(const std::vector<int32_t>& places);

  std::shared_ptr<const Device> device_;
  std::shared_ptr<Gate> gate_;
  uint8_t* data_ = nullptr;
  uint64_t* told_ = nullptr;
  size_t bytes_ = 0, unit_ = 0;                  // mapped, in multiples of
  unsigned long long address_ = 0, handle_ = 0;  // CUdeviceptr, CUmemGenericAllocationHandle
  bool mapped_ = false;
};

// Whether kernels of device `from` reach memory of device `to` by loads, stores and atomics.
Status CheckReach(int32_t from, int32_t to);

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_WINDOW_H_
