// Bounded staging between host memory of any kind and the device: buffers, each a pinned block with a device block, so that
// some are filled while others are copied and repacked: copies have a stream of their own, so that one runs beside the kernel
// that repacks the block before it. The caller's memory is never seen by the device, so it is free as
// soon as the call returns, whether it is pageable, pinned or a mapped file. Made on first use, since each allocation takes
// its time: device memory as one, host memory in as many as are needed, each for as many buffers as there are device blocks.
// Everything is called with the device current (DeviceScope) and by one thread at a time.
#ifndef DSV4MX_LIB_CUDA_CUDA_STAGING_H_
#define DSV4MX_LIB_CUDA_CUDA_STAGING_H_

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "lib/base/backend.h"
#include "lib/base/status.h"
#include "lib/cuda/cuda_memory.h"

namespace dsv4mx::cuda {

class Staging {
 public:
  static constexpr int kBuffers = 4;
  // And so many for threads that read into them, of host memory alone but for the first kBuffers.
  static constexpr int kMostHosts = 16;
  // Pinned host memory, and device memory of the same size.
  struct Buffer {
    uint8_t* host = nullptr;
    uint8_t* device = nullptr;
    cudaEvent_t copied = nullptr;  // recorded behind a copy to the device
    cudaEvent_t idle = nullptr;    // recorded behind the last work on the buffer
  };

  // So many buffers of so many bytes, and in all so many of host memory.
  Staging(const Memory* memory, int64_t bytes, int buffers = kBuffers, int hosts = 0)
      : memory_(memory),
        bytes_(bytes),
        count_(buffers),
        hosts_(hosts > buffers ? hosts : buffers) {}
  ~Staging() { Free(); }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  int64_t bytes() const { return bytes_; }  // of one block
  // Host and device memory of kBuffers buffers with so many of host memory.
  static int64_t TotalBytes(int64_t bytes, int hosts) { return (hosts + kBuffers) * bytes; }

  // The next buffer, once what used it has run.
  Status Acquire(const ExpertStore::Call& call, Buffer** out);
  // Buffer `i` of hosts(), likewise, for a user who lays them all out anew: its host memory, which any thread may write then,
  // and what copies of it need, which may be made later. Idle again when it was Released.
  Status AcquireHost(int i, const ExpertStore::Call& call);
  Status AcquireRest(int i, const ExpertStore::Call& call);
  Buffer& At(int i) { return buffers_[i]; }
  int count() const { return count_; }
  int hosts() const { return hosts_; }
  // The stream for copies; there is one once a buffer was acquired by AcquireRest or sent by Upload.
  cudaStream_t copies() const { return copies_; }
  // Copies the first `bytes` bytes to the device; `stream` goes on behind the copy.
  Status Upload(Buffer& buffer, int64_t bytes, cudaStream_t stream);
  // Behind the last work on the buffer.
  static Status Release(const Buffer& buffer, cudaStream_t stream);
  // Until a released buffer's work has run.
  static Status Wait(const Buffer& buffer, const Control& control);
  // Waits for what is under way. A later Acquire makes the buffers anew.
  void Free();
  // Blocks of another size from here on, or another number of them.
  void Resize(int64_t bytes, int hosts) {
    if (bytes != bytes_ || hosts != hosts_) Free();
    bytes_ = bytes;
    hosts_ = hosts;
  }

 private:
  // Host memory of count_ buffers, of the last ones of fewer.
  struct Hosts {
    uint8_t* memory = nullptr;
    bool pinned = false;
  };
  size_t BytesOf(int hosts) const {
    return static_cast<size_t>(bytes_) *
           static_cast<size_t>(std::min(count_, hosts_ - hosts * count_));
  }
  Status MakeHost(int i, const ExpertStore::Call& call);
  Status MakeRest(int i, const ExpertStore::Call& call);
  Status MakeCopies(Buffer* buffer);

  const Memory* memory_;
  int64_t bytes_;
  int count_, hosts_;
  cudaStream_t copies_ = nullptr;
  uint8_t* device_ = nullptr;  // of count_ buffers
  Hosts memory_of_[kMostHosts];
  Buffer buffers_[kMostHosts];
  int next_ = 0;
};

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_STAGING_H_
