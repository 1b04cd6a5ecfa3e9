// Arguments of apply that share memory: what would be overwritten is refused, columns of one matrix are not.
#include <cstdint>
#include <cstring>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

// Every buffer of one apply, in memory of the device.
class Buffers {
 public:
  explicit Buffers(const Case& c) : run_(c), p_(c.p) {
    args_.struct_size = sizeof args_;
    args_.tokens = p_.tokens;
    args_.topk_ids = Upload(PackIds(p_, c.in.ids));
    args_.topk_weights = Upload(PackRouterWeights(p_, c.in.weights));
    const size_t bytes = WorkspaceBytes(run_.layer(), p_.tokens);
    args_.workspace = Alloc(bytes);
    args_.workspace_bytes = bytes;
  }
  ~Buffers() {
    for (void* p : blocks_) dsv4mx_context_free(run_.context(), p);
  }
  uint8_t* Alloc(size_t bytes) {
    void* p = nullptr;
    REQUIRE_OK(dsv4mx_context_alloc(run_.context(), bytes, &p));
    blocks_.push_back(p);
    return static_cast<uint8_t*>(p);
  }
  void Copy(void* to, const void* from, size_t bytes) {
    REQUIRE_OK(dsv4mx_context_copy(run_.context(), to, from, bytes, nullptr));
    REQUIRE_OK(dsv4mx_context_synchronize(run_.context(), nullptr));
  }
  uint8_t* Upload(const std::vector<uint8_t>& bytes) {
    uint8_t* p = Alloc(bytes.size());
    Copy(p, bytes.data(), bytes.size());
    return p;
  }
  dsv4mx_status Apply(const dsv4mx_apply_args& args) {
    return dsv4mx_layer_apply(run_.layer(), run_.weights(), &args, nullptr);
  }
  const Runner& run() const { return run_; }
  const dsv4mx_apply_args& args() const { return args_; }

 private:
  Runner run_;
  Problem p_;
  dsv4mx_apply_args args_{};
  std::vector<void*> blocks_;
};

DEVICE_TEST_CASE("[J6] apply refuses outputs that overlap an argument, and names both",
                 "[overlap]") {
  Case c = MakeCase("h=64 i=32 e=3 k=2 m=33");
  c.p.device = device;
  Buffers b(c);
  constexpr size_t kRow = 64 * 2;
  uint8_t* matrix = b.Alloc(100 * kRow);
  dsv4mx_apply_args good = b.args();
  good.x = matrix;
  good.out = matrix + 40 * kRow;
  const auto refuse = [&](const dsv4mx_apply_args& args, const char* words) {
    REQUIRE_REFUSED(b.Apply(args), DSV4MX_STATUS_INVALID_ARGUMENT, words);
  };
  for (const size_t first_row : {0, 1, 8, 32}) {
    dsv4mx_apply_args args = good;
    args.out = matrix + first_row * kRow;
    refuse(args, "out at,overlaps x at,memory of its own");
    args.x = args.out;
    args.out = matrix;
    refuse(args, "out at,overlaps x at");
  }
  {
    dsv4mx_apply_args args = good;
    args.out = static_cast<uint8_t*>(args.workspace);
    refuse(args, "out at,overlaps workspace at");
    args.out = static_cast<uint8_t*>(args.workspace) + args.workspace_bytes - 16;
    refuse(args, "out at,overlaps workspace at");
  }
  {
    dsv4mx_apply_args args = good;
    args.topk_ids = static_cast<uint8_t*>(args.out) + 33 * kRow - 8;
    refuse(args, "out at,overlaps topk_ids at");
    args.topk_ids = static_cast<uint8_t*>(args.workspace) + 64;
    refuse(args, "workspace at,overlaps topk_ids at");
  }
  {
    dsv4mx_apply_args args = good;
    args.topk_weights = args.out;
    refuse(args, "out at,overlaps topk_weights at");
    args.topk_weights = args.workspace;
    refuse(args, "workspace at,overlaps topk_weights at");
  }
  {
    dsv4mx_apply_args args = good;
    args.tokens_device = reinterpret_cast<const int32_t*>(args.out);
    refuse(args, "out at,overlaps tokens_device at");
    args.tokens_device = static_cast<const int32_t*>(args.workspace);
    refuse(args, "workspace at,overlaps tokens_device at");
  }
  {
    dsv4mx_apply_args args = good;
    args.expert_counts = static_cast<int64_t*>(args.out);
    refuse(args, "out at,overlaps expert_counts at");
    args.expert_counts = reinterpret_cast<int64_t*>(const_cast<void*>(args.topk_ids));
    refuse(args, "expert_counts at,overlaps topk_ids at");
  }
  {
    dsv4mx_apply_args args = good;
    args.x = args.workspace;
    refuse(args, "workspace at,overlaps x at");
    args.x_stride = 128;  // rows of two strides among each other
    args.x = matrix + 32;
    args.out = matrix;
    args.out_stride = 64;
    refuse(args, "out at,overlaps x at");
  }
  // Inputs may share memory with each other, and what lies behind the workspace's needed bytes is the caller's.
  dsv4mx_apply_args shared = good;
  shared.topk_ids = shared.x;
  std::vector<uint8_t> zeros(33 * kRow, 0);
  b.Copy(matrix, zeros.data(), zeros.size());
  REQUIRE_OK(b.Apply(shared));
  REQUIRE_OK(dsv4mx_context_synchronize(b.run().context(), nullptr));
  uint8_t* room = b.Alloc(shared.workspace_bytes + 64 * kRow);
  shared.workspace = room;
  shared.out = room + (shared.workspace_bytes + 255) / 256 * 256;
  shared.workspace_bytes += 64 * kRow;
  REQUIRE_OK(b.Apply(shared));
  REQUIRE_OK(dsv4mx_context_synchronize(b.run().context(), nullptr));
}

DEVICE_TEST_CASE("[J6] halves of one matrix serve as x and out, of any height", "[overlap]") {
  for (const int tokens : {1, 2, 33, 200}) {
    Case c = MakeCase("h=64 i=32 e=3 k=2 m=" + std::to_string(tokens));
    c.p.device = device;
    Buffers b(c);
    const Output want = b.run().Apply();
    constexpr size_t kWide = 2 * 64;  // elements
    for (const size_t x_at : {0, 64}) {
      std::vector<uint16_t> matrix(static_cast<size_t>(tokens) * kWide, 0x7FC1);
      for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
        std::memcpy(matrix.data() + t * kWide + x_at, c.in.x.data() + t * 64, 64 * 2);
      }
      uint8_t* on_device = b.Alloc(matrix.size() * 2);
      b.Copy(on_device, matrix.data(), matrix.size() * 2);
      dsv4mx_apply_args args = b.args();
      args.x = on_device + x_at * 2;
      args.out = on_device + (64 - x_at) * 2;
      args.x_stride = args.out_stride = kWide;
      REQUIRE_OK(b.Apply(args));
      b.Copy(matrix.data(), on_device, matrix.size() * 2);
      for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
        REQUIRE(std::memcmp(matrix.data() + t * kWide + x_at, c.in.x.data() + t * 64, 128) == 0);
        REQUIRE(std::memcmp(matrix.data() + t * kWide + 64 - x_at, want.raw.data() + t * 128,
                            128) == 0);
      }
    }
  }
}

}  // namespace
}  // namespace dsv4mx::test
