// Waiting for the device under the caller's control: who wants progress or may cancel is asked while the stream still runs
// what the caller enqueued before.
#ifndef DSV4MX_LIB_CUDA_CUDA_WAIT_H_
#define DSV4MX_LIB_CUDA_CUDA_WAIT_H_

#include <cuda_runtime_api.h>

#include "lib/base/control.h"
#include "lib/base/status.h"

namespace dsv4mx::cuda {

Status WaitForEvent(cudaEvent_t event, const Control& control);
Status WaitForStream(cudaStream_t stream, const Control& control);

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_WAIT_H_
