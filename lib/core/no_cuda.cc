// The CUDA backend of a build without CUDA: a refusal that says so.
#include "lib/base/backend.h"

#if !DSV4MX_HAVE_CUDA
namespace dsv4mx {

Status MakeCudaBackend(const BackendDesc&, std::unique_ptr<Backend>*) {
  return Fail(DSV4MX_STATUS_UNSUPPORTED,
              "this build has no CUDA backend, wanted device CPU or AUTO, or a build with CUDA");
}

Status CountCudaDevices(int32_t* count) {
  *count = 0;
  return kOk;
}

Status QueryCudaDevice(int32_t, dsv4mx_device_info*) {
  return Fail(DSV4MX_STATUS_UNSUPPORTED,
              "this build has no CUDA backend, wanted device CPU, or a build with CUDA");
}

}  // namespace dsv4mx
#endif
