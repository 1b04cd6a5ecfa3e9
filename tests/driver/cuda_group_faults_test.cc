// Every CUDA call of a group of one fails once: what makes, prepares, applies, resets and destroys a communicator on a GPU, with
// windows of this process, windows that other processes map, and NCCL's collectives. Kernels compute nothing here; groups of
// several ranks, which wait for each other, run on the emulator.
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "dsv4mx.h"
#include "tests/catch.h"
#include "tests/driver/fake_runtime.h"

namespace dsv4mx::test {
namespace {

constexpr int32_t kHidden = 64, kIntermediate = 256, kTokens = 3;

// NCCL of one rank.
int GetVersion(int* version) {
  *version = 22809;
  return 0;
}
int GetUniqueId(void* id) {
  std::memset(id, 1, 128);
  return 0;
}
struct Id {
  char bytes[128];
};
int live_nccl = 0;
int CommInit(void** comm, int, Id, int, void*) {
  ++live_nccl;
  *comm = &live_nccl;
  return 0;
}
int CommSplit(void*, int, int, void** comm, void*) {
  ++live_nccl;
  *comm = &live_nccl;
  return 0;
}
int GetAsyncError(void*, int* result) {
  *result = 0;
  return 0;
}
int CommCount(void*, int* count) {
  *count = 1;
  return 0;
}
int CommUserRank(void*, int* rank) {
  *rank = 0;
  return 0;
}
int CommFinalize(void*) {
  return 0;
}
int LeaveComm(void*) {
  --live_nccl;
  return 0;
}
int AllGather(const void* mine, void* all, size_t bytes, int, void*, void*) {
  std::memcpy(all, mine, bytes);
  return 0;
}
int ReduceScatter(const void*, void*, size_t, int, int, void*, void*) {
  return 0;
}
int Send(const void*, size_t, int, int, void*, void*) {
  return 0;
}
int Recv(void*, size_t, int, int, void*, void*) {
  return 0;
}
int Group() {
  return 0;
}
const char* Text(int) {
  return "text";
}
const dsv4mx_nccl_function kNccl[] = {
#define ENTRY(name, function) \
  { sizeof(dsv4mx_nccl_function), "nccl" name, reinterpret_cast<const void*>(&function) }
    ENTRY("GetVersion", GetVersion),
    ENTRY("GetUniqueId", GetUniqueId),
    ENTRY("CommInitRankConfig", CommInit),
    ENTRY("CommSplit", CommSplit),
    ENTRY("CommGetAsyncError", GetAsyncError),
    ENTRY("CommCount", CommCount),
    ENTRY("CommUserRank", CommUserRank),
    ENTRY("CommFinalize", CommFinalize),
    ENTRY("CommDestroy", LeaveComm),
    ENTRY("CommAbort", LeaveComm),
    ENTRY("AllGather", AllGather),
    ENTRY("ReduceScatter", ReduceScatter),
    ENTRY("Send", Send),
    ENTRY("Recv", Recv),
    ENTRY("GroupStart", Group),
    ENTRY("GroupEnd", Group),
    ENTRY("GetErrorString", Text),
    ENTRY("GetLastError", Text),
#undef ENTRY
};

int32_t GatherAlone(void*, const void* mine, void* all, size_t bytes) {
  if (bytes > 0) std::memcpy(all, mine, bytes);
  return 0;
}

// A life up to its first failure. Calls are counted from the communicator on.
class GroupLife {
 public:
  explicit GroupLife(dsv4mx_comm_kind kind, int fail_at, cudaError_t error, bool forever)
      : kind_(kind), fail_at_(fail_at), error_(error), forever_(forever) {
    fake = FakeRuntime{};
    fake.current = fake.host = &here_;
    fake.mode = cudaStreamCaptureModeThreadLocal;
    dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
    cd.device = DSV4MX_DEVICE_CUDA;
    dsv4mx_context* context = nullptr;
    REQUIRE(dsv4mx_context_create(&cd, &context) == DSV4MX_STATUS_OK);
    RunLayer(context);
    dsv4mx_context_destroy(context);
  }
  dsv4mx_status failure = DSV4MX_STATUS_OK;
  bool aborted = false;  // the call failed behind the abort
  std::string text;

 private:
  bool Call(dsv4mx_status status, const char* name) {
    INFO(name << " after " << fake.failed);
    if (fake.failed != "cuCtxSetCurrent") CHECK(fake.current == &here_);
    if (fake.failed != "cudaThreadExchangeStreamCaptureMode")
      CHECK(fake.mode == cudaStreamCaptureModeThreadLocal);
    if (status == DSV4MX_STATUS_OK) return true;
    if (failure == DSV4MX_STATUS_OK) {
      failure = status;
      text = std::string(name) + ": " + dsv4mx_last_error();
    }
    return false;
  }

  void RunLayer(const dsv4mx_context* context) {
    dsv4mx_layer_desc ld = DSV4MX_LAYER_DESC_INIT;
    ld.hidden = kHidden;
    ld.intermediate = kIntermediate;
    ld.experts = ld.experts_global = 1;
    ld.top_k = 1;
    ld.w13_order = DSV4MX_W13_ORDER_GATE_UP;
    dsv4mx_layer* layer = nullptr;
    dsv4mx_weights* weights = nullptr;
    REQUIRE(dsv4mx_layer_create(context, &ld, &layer) == DSV4MX_STATUS_OK);
    REQUIRE(dsv4mx_weights_create(layer, nullptr, &weights) == DSV4MX_STATUS_OK);
    Set(weights, "w13_weight", 2 * kIntermediate, kHidden / 2, 0);
    Set(weights, "w13_weight_scale", 2 * kIntermediate, kHidden / 32, 127);
    Set(weights, "w2_weight", kHidden, kIntermediate / 2, 0);
    Set(weights, "w2_weight_scale", kHidden, kIntermediate / 32, 127);
    REQUIRE(dsv4mx_weights_prepare(weights, nullptr, nullptr) == DSV4MX_STATUS_OK);
    std::vector<void*> blocks;
    for (int i = 0; i < 5; ++i) {
      void* block = nullptr;
      REQUIRE(dsv4mx_context_alloc(context, 1 << 20, &block) == DSV4MX_STATUS_OK);
      blocks.push_back(block);
    }
    fake.calls = 0;
    fake.fail_at = fail_at_;
    fake.error = error_;
    fake.forever = forever_;
    RunGroup(context, layer, weights, blocks);
    fake.fail_at = -1;
    for (void* block : blocks) dsv4mx_context_free(context, block);
    dsv4mx_weights_destroy(weights);
    dsv4mx_layer_destroy(layer);
  }

  static void Set(dsv4mx_weights* weights, const char* name, int64_t rows, int64_t columns,
                  uint8_t value) {
    const std::vector<uint8_t> bytes(static_cast<size_t>(rows * columns), value);
    dsv4mx_tensor t = {};
    t.struct_size = sizeof t;
    t.dtype = value == 0 ? DSV4MX_DTYPE_U8 : DSV4MX_DTYPE_E8M0;
    t.memory = DSV4MX_MEMORY_HOST;
    t.rank = 3;
    t.shape[0] = 1;
    t.shape[1] = rows;
    t.shape[2] = columns;
    t.data = bytes.data();
    REQUIRE(dsv4mx_weights_set(weights, name, -1, &t, nullptr, nullptr) == DSV4MX_STATUS_OK);
  }

  void RunGroup(const dsv4mx_context* context, const dsv4mx_layer* layer,
                const dsv4mx_weights* weights, const std::vector<void*>& blocks) {
    dsv4mx_nccl_source nccl = DSV4MX_NCCL_SOURCE_INIT;
    nccl.functions = kNccl;
    nccl.function_count = std::size(kNccl);
    const char id[128] = {};
    dsv4mx_comm_desc d = DSV4MX_COMM_DESC_INIT;
    d.kind = kind_;
    d.size = 1;
    d.tp_reduce = DSV4MX_TP_INVARIANT;
    d.tp_slices = 2;
    d.max_tokens = 4;
    d.max_hidden = kHidden;
    d.max_top_k = 1;
    d.all_gather = GatherAlone;
    d.nccl = &nccl;
    d.nccl_id = id;
    dsv4mx_comm* comm = nullptr;
    if (Call(dsv4mx_comm_create(context, &d, &comm), "comm_create") &&
        Call(dsv4mx_comm_prepare(comm, layer, nullptr), "comm_prepare")) {
      dsv4mx_apply_args a = DSV4MX_APPLY_ARGS_INIT;
      a.x = blocks[0];
      a.topk_ids = blocks[1];
      a.topk_weights = blocks[2];
      a.out = blocks[3];
      a.tokens = kTokens;
      a.workspace = blocks[4];
      a.workspace_bytes = 1 << 20;
      a.comm = comm;
      (void)Call(dsv4mx_layer_apply(layer, weights, &a, nullptr), "apply");
      aborted = fake.failed.empty();
      (void)Call(dsv4mx_comm_abort(comm), "abort");
      if (dsv4mx_layer_apply(layer, weights, &a, nullptr) != DSV4MX_STATUS_OK &&
          kind_ != DSV4MX_COMM_NCCL_ID)
        (void)Call(dsv4mx_comm_reset(comm, nullptr), "reset");
    }
    fake.destroying = true;
    dsv4mx_comm_destroy(comm);
    fake.destroying = false;
    (void)Call(DSV4MX_STATUS_OK, "destroy");
  }

  const dsv4mx_comm_kind kind_;
  const int fail_at_;
  const cudaError_t error_;
  const bool forever_;
  int here_ = 0;
};

constexpr dsv4mx_comm_kind kKinds[] = {DSV4MX_COMM_SELF, DSV4MX_COMM_CALLBACK, DSV4MX_COMM_NCCL_ID};

TEST_CASE("cuda group faults: none", "[faults]") {
  for (const auto kind : kKinds) {
    const GroupLife life(kind, -1, cudaErrorUnknown, false);
    INFO("kind " << kind << ", " << life.text);
    CHECK(life.failure == DSV4MX_STATUS_OK);
    CHECK(fake.live.empty());
    CHECK(fake.misuse == "");
    CHECK(live_nccl == 0);
  }
}

TEST_CASE("cuda group faults: each call fails once, and for good", "[faults]") {
  std::set<std::string> seen;
  for (const auto kind : kKinds) {
    for (const bool forever : {false, true}) {
      for (int call = 0;; ++call) {
        const GroupLife life(kind, call, cudaErrorUnknown, forever);
        if (fake.failed.empty()) {
          REQUIRE(call > 20);
          break;
        }
        INFO("kind " << kind << ", call " << call << ", " << fake.failed << ": " << life.text);
        CHECK(fake.live.empty());
        CHECK(fake.misuse == "");
        CHECK(live_nccl == 0);
        // What ends an object or undoes a step has nobody to tell; nor, behind an abort, who would not hear of that.
        if (fake.told && fake.failed.find("cuCtxSetCurrent") == std::string::npos &&
            fake.failed.find("cudaThread") == std::string::npos && !life.aborted)
          CHECK(life.failure != DSV4MX_STATUS_OK);
        seen.insert(fake.failed);
      }
    }
  }
  for (const char* call :
       {"cuMemGetAllocationGranularity", "cuMemAddressReserve", "cuMemCreate", "cuMemMap",
        "cuMemSetAccess", "cuMemExportToShareableHandle", "cuMemUnmap", "cuMemRelease",
        "cuMemAddressFree", "LaunchSliceGemm2", "LaunchSliceSum", "LaunchTell", "LaunchFinish"}) {
    INFO(call);
    CHECK(seen.count(call) == 1);
  }
}

TEST_CASE("cuda group faults: a device without memory for the window says so", "[faults]") {
  bool met = false;
  for (int call = 0; !met; ++call) {
    const GroupLife life(DSV4MX_COMM_SELF, call, cudaErrorMemoryAllocation, false);
    REQUIRE(!fake.failed.empty());
    if (fake.failed != "cuMemCreate") continue;
    met = true;
    INFO(life.text);
    CHECK(life.failure == DSV4MX_STATUS_OUT_OF_MEMORY);
    CHECK(MissingWords(life.text, "device 0 has no memory for a window,smaller max_tokens") == "");
    CHECK(fake.live.empty());
  }
}

}  // namespace
}  // namespace dsv4mx::test
