// The CUDA backend of a build without CUDA: a refusal that says so.
#include "lib/base/backend.h"

#if !DSV4MX_HAVE_CUDA
namespace dsv4mx {

Status MakeCudaBackend(const dsv4mx_context_desc&, std::unique_ptr<Backend>*) {
  return Fail(DSV4MX_STATUS_UNSUPPORTED,
              "this build has no CUDA backend, wanted device CPU or AUTO, or a build with CUDA");
}

}  // namespace dsv4mx
#endif
