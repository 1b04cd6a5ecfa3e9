// One call on a store: the device is current, and the stream goes on behind everything that earlier calls enqueued,
// whatever streams they were given. What this call enqueues is behind the event again, also where it fails half-way.
#ifndef DSV4MX_LIB_CUDA_CUDA_ORDERED_H_
#define DSV4MX_LIB_CUDA_CUDA_ORDERED_H_

#include "lib/cuda/cuda_check.h"
#include "lib/cuda/cuda_store.h"

namespace dsv4mx::cuda {

class CudaStore::Ordered {
 public:
  // A stream that is captured is refused where `what` is given.
  Ordered(const CudaStore& store, cudaStream_t stream, const char* what = nullptr)
      : scope_(*store.device_, DeviceScope::Capture::kRelaxed),
        stream_(stream),
        written_(store.written_),
        what_(what) {}
  ~Ordered() {
    if (begun_) (void)cudaEventRecord(written_, stream_);
  }
  Ordered(const Ordered&) = delete;
  Ordered& operator=(const Ordered&) = delete;

  Status Begin() {
    DSV4MX_TRY(scope_.Begin(stream_));
    if (what_ != nullptr) DSV4MX_TRY(DeviceScope::NotCaptured(stream_, what_));
    DSV4MX_CUDA(cudaStreamWaitEvent(stream_, written_, 0));
    begun_ = true;
    return kOk;
  }

 private:
  DeviceScope scope_;
  cudaStream_t stream_;
  cudaEvent_t written_;
  const char* what_;
  bool begun_ = false;
};

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_ORDERED_H_
