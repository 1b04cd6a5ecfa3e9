// A kernel that faults breaks the CUDA context of its process for good. Later calls say so and do not take the blame. It
// happens in a process of its own.
#include <cstdint>

#include "tests/catch.h"
#include "tests/gpu/own_process.h"
#include "tests/runner.h"

namespace dsv4mx::test {

TEST_CASE("gpu sticky: a broken context is told as such, by every call and without a crash",
          "[gpu]") {
  REQUIRE_GPU();
  CHECK(RunInOwnProcess("[.sticky]") == "");
}

TEST_CASE("sticky: breaks the CUDA context of this process", "[.sticky]") {
  REQUIRE_GPU();
  const Case c = MakeCase("h=64 i=32 e=2 k=2 m=4 dev=cuda");
  const Runner run(c);
  const dsv4mx_context* context = run.context();
  REQUIRE(run.Apply().damage == "");
  const size_t bytes = WorkspaceBytes(run.layer(), 4);
  void *workspace = nullptr, *out = nullptr;
  REQUIRE_OK(dsv4mx_context_alloc(context, bytes, &workspace));
  REQUIRE_OK(dsv4mx_context_alloc(context, 4 * 64 * 4, &out));

  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  args.x = args.topk_ids = args.topk_weights = reinterpret_cast<const void*>(uintptr_t{1} << 12);
  args.out = out;
  args.tokens = 4;
  args.workspace = workspace;
  args.workspace_bytes = bytes;
  // The launch itself may succeed: the fault comes with the kernel, and whoever waits for it is told.
  (void)!dsv4mx_layer_apply(run.layer(), run.weights(), &args, nullptr);
  const dsv4mx_status waited = dsv4mx_context_synchronize(context, nullptr);
  INFO(dsv4mx_status_name(waited) << ": " << dsv4mx_last_error());
  REQUIRE((waited == DSV4MX_STATUS_CUDA_ERROR || waited == DSV4MX_STATUS_CUDA_STICKY));
  CHECK(MissingWords(dsv4mx_last_error(), "illegal") == "");

  constexpr const char* kWords = "before this call,illegal";
  void* more = nullptr;
  REQUIRE_REFUSED(dsv4mx_context_alloc(context, 64, &more), DSV4MX_STATUS_CUDA_STICKY, kWords);
  CHECK(more == nullptr);
  REQUIRE_REFUSED(dsv4mx_layer_apply(run.layer(), run.weights(), &args, nullptr),
                  DSV4MX_STATUS_CUDA_STICKY, kWords);
  REQUIRE_REFUSED(dsv4mx_context_synchronize(context, nullptr), DSV4MX_STATUS_CUDA_STICKY, kWords);
  REQUIRE_REFUSED(dsv4mx_context_copy(context, out, workspace, 64, nullptr),
                  DSV4MX_STATUS_CUDA_STICKY, kWords);
  dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
  d.device = DSV4MX_DEVICE_CUDA;
  dsv4mx_context* another = nullptr;
  REQUIRE_REFUSED(dsv4mx_context_create(&d, &another), DSV4MX_STATUS_CUDA_STICKY, kWords);
  d.device = DSV4MX_DEVICE_AUTO;  // not the CPU in silence: something is wrong that must be seen
  REQUIRE_REFUSED(dsv4mx_context_create(&d, &another), DSV4MX_STATUS_CUDA_STICKY, kWords);
}

}  // namespace dsv4mx::test
