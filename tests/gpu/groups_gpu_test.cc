// Groups of GPU ranks: what they promise about bits, faults, and graphs. Every case runs with all ranks on one device, in lock
// step, and where there are several with a device for each, or on two that ranks share.
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>
#include <thread>

#include "tests/catch.h"
#include "tests/dist/group.h"
#include "tests/gpu/cuda_must.h"
#include "tests/gpu/streams.h"
#include "tests/numbers.h"
#include "tests/reference.h"

namespace dsv4mx::test {
namespace {

int Devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// Where ranks lie: all on one device, each on its own, or dealt out over two, which some of them share.
enum class Spread { kOne, kEach, kTwo };

std::optional<Layout> On(Spread spread, Layout layout) {
  if (spread == Spread::kEach && Devices() < layout.size) return {};
  if (spread == Spread::kTwo && (Devices() < 2 || layout.size < 3)) return {};
  for (int r = 0; r < layout.size; ++r)
    layout.devices.push_back(spread == Spread::kEach ? r : spread == Spread::kTwo ? r % 2 : 0);
  return layout;
}

Layout Parts(int size) {
  Layout l;
  l.size = size;
  return l;
}
Layout Slices(int size) {
  Layout l;
  l.size = l.tp = size;
  return l;
}

std::string Differs(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  if (a.size() != b.size())
    return std::to_string(a.size()) + " bytes, wanted " + std::to_string(b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] != b[i]) return "byte " + std::to_string(i) + " of " + std::to_string(a.size());
  }
  return "";
}

float ValueAt(const Problem& p, const std::vector<uint8_t>& raw, size_t i) {
  if (p.out == DSV4MX_DTYPE_F32) {
    float y;
    std::memcpy(&y, raw.data() + 4 * i, 4);
    return y;
  }
  uint16_t narrow;
  std::memcpy(&narrow, raw.data() + 2 * i, 2);
  return FromBf16(narrow);
}

double Error(const Problem& p, const std::vector<uint8_t>& raw, const std::vector<double>& truth) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    const double y = ValueAt(p, raw, i);
    error += (y - truth[i]) * (y - truth[i]);
    norm += truth[i] * truth[i];
  }
  return std::sqrt(error / norm);
}

bool AllNaN(const Problem& p, const std::vector<uint8_t>& raw) {
  for (size_t i = 0; i < raw.size() / (p.out == DSV4MX_DTYPE_F32 ? 4 : 2); ++i) {
    if (!std::isnan(ValueAt(p, raw, i))) return false;
  }
  return true;
}

Case GpuRanks(const std::string& text) {
  return MakeCase(text + " dev=cuda");
}
std::vector<uint8_t> OneRank(const Case& c) {
  return Runner(c).Apply().raw;
}

// Runs body(layout) on one device, and on several where there are.
void OnDevices(const Layout& layout, const std::function<void(const Layout&)>& body) {
  for (const Spread spread : {Spread::kOne, Spread::kEach, Spread::kTwo}) {
    if (const auto placed = On(spread, layout)) {
      INFO((spread == Spread::kOne    ? "all on one device, "
            : spread == Spread::kEach ? "a device each, "
                                      : "on two devices, ")
           << layout.size << " ranks");
      body(*placed);
    }
  }
}

// ------------------------------------------------------------------------------------------------------------- bits --

// Few pairs and many, chunks of rows, every place of the router weight, ids and weights of all types.
const char* const kProblems[] = {
    "h=128 i=64 e=16 k=4 m=37 slot=bf16 invariant=1 clamp=10 rsf=2.5",
    "h=96 i=96 e=8 k=3 m=20 slot=bf16 invariant=1 out=f32 bias13=f32 bias2=f32",
    "h=64 i=32 e=8 k=6 m=24 slot=bf16 invariant=1 dist=dup ids=i64 rw=bf16",
    "h=64 i=128 e=8 k=2 m=16 slot=bf16 invariant=1 wpos=before compute=w4a8",
    "h=64 i=64 e=8 k=1 m=9 slot=bf16 invariant=1 wpos=input dist=half",
    "h=64 i=64 e=8 k=2 m=2 slot=bf16 invariant=1",
    "h=64 i=64 e=8 k=2 m=1 slot=bf16 invariant=1 path=planes",
    "h=128 i=96 e=16 k=4 m=160 slot=bf16 invariant=1 path=bf16",
};

TEST_CASE("[D1] route-exact expert parallel has the bits of one GPU", "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  for (const char* text : kProblems) {
    const Case c = GpuRanks(text);
    const auto one = OneRank(c);
    for (const int size : {2, 4, 8}) {
      INFO(text);
      OnDevices(Parts(size),
                [&](const Layout& l) { CHECK(Differs(RunGroup(c, l, 2), one) == ""); });
    }
  }
}

TEST_CASE("[D2] GPU ranks may have any number of tokens, none included, and take several rounds",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=40 slot=bf16 invariant=1");
  const auto one = OneRank(c);
  for (const auto& tokens :
       std::vector<std::vector<int64_t>>{{40, 0}, {0, 40}, {1, 39}, {17, 23}}) {
    for (const int64_t max_tokens : {0, 8, 17, 1}) {
      Layout layout = Parts(2);
      layout.tokens = tokens;
      layout.max_tokens = max_tokens;
      INFO("max_tokens " << max_tokens << ", first " << tokens[0]);
      OnDevices(layout, [&](const Layout& l) { CHECK(Differs(RunGroup(c, l, 3), one) == ""); });
    }
  }
}

TEST_CASE("[D3] redundant copies on GPU ranks change no bits", "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=6 k=3 m=30 slot=bf16 invariant=1");
  const auto one = OneRank(c);
  Layout layout = Parts(3);
  layout.placement = {{0, 1, 2, 5}, {3, 4, 0}, {5, 5, 0, 1, 3}};
  OnDevices(layout, [&](const Layout& l) { CHECK(Differs(RunGroup(c, l), one) == ""); });
  layout.size = 2;
  layout.placement = {{0, 1, 2, 5}, {3, 4, 0}};
  OnDevices(layout, [&](const Layout& l) { CHECK(Differs(RunGroup(c, l), one) == ""); });
}

TEST_CASE("[D4] rank-reduce on GPU ranks is right, and the same from run to run",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  for (const char* text :
       {"h=128 i=64 e=16 k=4 m=37 out=f32 rsf=2.5", "h=64 i=32 e=8 k=6 m=24 dist=dup",
        "h=64 i=32 e=8 k=2 m=9 wpos=before"}) {
    const Case c = GpuRanks(text);
    const Reference truth = Compute(c);
    for (const int size : {2, 4}) {
      for (const dsv4mx_dtype partial : {DSV4MX_DTYPE_F32, DSV4MX_DTYPE_BF16}) {
        Layout layout = Parts(size);
        layout.ep_combine = DSV4MX_EP_RANK_REDUCE;
        layout.partial = partial;
        INFO(text << ", partial " << partial);
        OnDevices(layout, [&](const Layout& l) {
          const auto first = RunGroup(c, l), second = RunGroup(c, l, 2);
          CHECK(Differs(first, second) == "");
          CHECK(Error(c.p, first, truth.truth) <= (partial == DSV4MX_DTYPE_F32 ? 3e-3 : 4e-3));
        });
      }
    }
  }
}

TEST_CASE("[D5] tensor parallel on GPUs: one result on every rank, right, from run to run",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  for (const char* text : {"h=128 i=256 e=4 k=2 m=300 out=f32 rsf=1.5 bias2=f32 bias13=f32",
                           "h=128 i=256 e=4 k=2 m=1", "h=96 i=256 e=4 k=3 m=21 rsf=2"}) {
    const Case c = GpuRanks(text);
    const Reference truth = Compute(c);
    for (const int size : {2, 4}) {
      for (const dsv4mx_dtype partial : {DSV4MX_DTYPE_F32, DSV4MX_DTYPE_BF16}) {
        Layout layout = Slices(size);
        layout.partial = partial;
        INFO(text << ", partial " << partial);
        OnDevices(layout, [&](const Layout& l) {
          const auto first = RunGroup(c, l, 1, 0);
          CHECK(Differs(RunGroup(c, l, 3, size - 1), first) == "");
          CHECK(Error(c.p, first, truth.truth) <= (partial == DSV4MX_DTYPE_F32 ? 3e-3 : 4e-3));
        });
      }
    }
  }
}

TEST_CASE("[D7] tensor parallel inside, expert parallel between GPUs: the bits of one part",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=128 e=8 k=3 m=26 slot=bf16 invariant=1 rsf=2");
  Layout both = Slices(4);
  both.tp = 2;
  both.tokens = {17, 9};
  OnDevices(Slices(2), [&](const Layout& alone) {
    const auto wanted = RunGroup(c, alone);
    OnDevices(both, [&](const Layout& l) { CHECK(Differs(RunGroup(c, l, 2, 1), wanted) == ""); });
  });
}

// ------------------------------------------------------------------------------------------------- ranks that joined --

struct Joined {
  Joined(const Case& whole, const Layout& l) : c(whole), layout(l) {
    for (int r = 0; r < l.size; ++r) (void)ContextFor(c.p, l, r);
    const uint64_t group = NewGroup();
    ranks.resize(static_cast<size_t>(l.size));
    for (const auto& error : OnRanks(l.size, [&](int r) {
           Rank& rank = at(r);
           rank.rank = r;
           MakePart(c, layout, &rank);
           JoinGroup(c, layout, group, &rank);
         })) {
      REQUIRE(error == "");
    }
  }
  Rank& at(int r) { return ranks[static_cast<size_t>(r)]; }
  // Every rank's call; what each was refused with.
  std::vector<std::string> Apply(const CallOptions& options = {}) {
    return OnRanks(layout.size, [&](int r) { (void)ApplyShare(c, layout, at(r), options); });
  }
  const Case& c;
  Layout layout;
  std::vector<Rank> ranks;
};

dsv4mx_comm_fault_info FaultOf(const Rank& rank) {
  dsv4mx_comm_fault_info f = DSV4MX_COMM_FAULT_INFO_INIT;
  Must(dsv4mx_comm_query_faults(rank.comm.get(), &f), "query_faults");
  return f;
}

void ResetAll(Joined* g) {
  for (const auto& error : OnRanks(g->layout.size, [&](int r) {
         Must(dsv4mx_comm_reset(g->at(r).comm.get(), nullptr), "reset");
       })) {
    REQUIRE(error == "");
  }
}

void CheckWorks(Joined* g) {
  for (const auto& error : g->Apply()) CHECK(error == "");
}

TEST_CASE("counts from device memory, loads of experts, and adding to what is there, on GPU ranks",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=20 slot=bf16 invariant=1 out=f32");
  const Output one = Runner(c).Apply();
  OnDevices(Parts(2), [&](const Layout& l) {
    Joined g(c, l);
    for (const int64_t live : {int64_t{3}, int64_t{0}, int64_t{10}}) {
      std::vector<std::vector<uint8_t>> rows(2);
      std::vector<std::vector<int64_t>> counts(2, std::vector<int64_t>(4, 100));
      const auto errors = OnRanks(2, [&](int r) {
        CallOptions o;
        o.tokens_device = live;
        o.expert_counts = &counts[static_cast<size_t>(r)];
        rows[static_cast<size_t>(r)] = ApplyShare(c, l, g.at(r), o);
      });
      for (const auto& error : errors) CHECK(error == "");
      int64_t counted = 0;
      for (const auto& of_rank : counts)
        for (const int64_t n : of_rank) counted += n - 100;
      CHECK(counted == 2 * live * c.p.top_k);
      const size_t row = static_cast<size_t>(c.p.hidden) * 4;
      for (size_t r = 0; r < 2; ++r) {
        const auto begin = one.raw.begin() + static_cast<std::ptrdiff_t>(r * 10 * row);
        std::vector<uint8_t> wanted(begin, begin + live * static_cast<std::ptrdiff_t>(row));
        wanted.resize(10 * row, 0xAB);
        CHECK(Differs(rows[r], wanted) == "");
      }
    }
    int64_t pairs = 0;
    for (int r = 0; r < 2; ++r) {
      std::vector<int64_t> loads(4);
      Must(dsv4mx_comm_get_loads(g.at(r).comm.get(), g.at(r).layer.get(), loads.data(), 4),
           "loads");
      for (const int64_t n : loads) pairs += n;
    }
    CHECK(pairs == 2 * 13 * c.p.top_k);
    std::vector<std::vector<uint8_t>> rows(2);
    const std::vector<uint8_t> zeros(10 * static_cast<size_t>(c.p.hidden) * 4);
    const auto errors = OnRanks(2, [&](int r) {
      CallOptions o;
      o.accumulate = &zeros;
      rows[static_cast<size_t>(r)] = ApplyShare(c, l, g.at(r), o);
    });
    for (const auto& error : errors) CHECK(error == "");
    rows[0].insert(rows[0].end(), rows[1].begin(), rows[1].end());
    CHECK(Differs(rows[0], one.raw) == "");
    dsv4mx_comm_info info = DSV4MX_COMM_INFO_INIT;
    Must(dsv4mx_comm_query(g.at(0).comm.get(), &info), "query");
    CHECK(info.transport == DSV4MX_COMM_TRANSPORT_PEER);
    CHECK(info.window_bytes > 0);
    CHECK(MissingWords(info.reason, "peer,CUDA") == "");
  });
}

// ----------------------------------------------------------------------------------------------------------- faults --

constexpr int64_t kShort = 300'000'000;

Layout Short(Layout l) {
  l.timeout_ns = kShort;
  return l;
}

TEST_CASE("a GPU rank that does not come: a status, NaN and a working group after a reset",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=16 slot=bf16 invariant=1");
  for (const bool tensor : {false, true}) {
    OnDevices(Short(tensor ? Slices(2) : Parts(2)), [&](const Layout& l) {
      Joined g(c, l);
      CheckWorks(&g);
      std::vector<uint8_t> rows;
      CallOptions o;
      o.rows = &rows;
      std::string first, second;
      try {
        (void)ApplyShare(c, l, g.at(0), o);
      } catch (const Refused& e) {
        first = e.what();
      }
      // In lock step the call itself says so; else the kernels do, and the next call.
      CHECK(AllNaN(c.p, rows));
      const dsv4mx_comm_fault_info fault = FaultOf(g.at(0));
      CHECK(fault.status == DSV4MX_STATUS_COMM_TIMEOUT);
      CHECK(fault.rank == 1);
      CHECK(fault.found_by == 0);
      CHECK(fault.stage == (tensor ? DSV4MX_COMM_STAGE_REDUCE : DSV4MX_COMM_STAGE_DISPATCH));
      CHECK(FaultOf(g.at(1)).status == DSV4MX_STATUS_COMM_TIMEOUT);
      for (int r = 0; r < 2; ++r) {
        try {
          (void)ApplyShare(c, l, g.at(r), o);
        } catch (const Refused& e) {
          second = e.what();
        }
        CHECK(MissingWords(second, "COMM_TIMEOUT,rank 1,0.300 s") == "");
        CHECK(AllNaN(c.p, rows));
      }
      ResetAll(&g);
      CheckWorks(&g);
    });
  }
}

TEST_CASE("ranks of one device that a fault of others ends all say why",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=16 slot=bf16 invariant=1");
  const Layout l = *On(Spread::kOne, Short(Parts(4)));
  Joined g(c, l);
  CheckWorks(&g);
  // One after the other, so that the first to give up ends the wait of the others.
  const auto errors = OnRanks(4, [&](int r) {
    if (r == 3) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(50 * r));
    std::vector<uint8_t> rows;
    CallOptions o;
    o.rows = &rows;
    (void)ApplyShare(c, l, g.at(r), o);
  });
  for (int r = 0; r < 3; ++r) {
    INFO("rank " << r << ": " << errors[static_cast<size_t>(r)]);
    CHECK(MissingWords(errors[static_cast<size_t>(r)], "COMM_TIMEOUT,rank 3,0.300 s") == "");
  }
  ResetAll(&g);
  CheckWorks(&g);
}

TEST_CASE("GPU ranks out of step, that left, or that aborted, are told",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=16 slot=bf16 invariant=1");
  for (const bool tensor : {false, true}) {
    OnDevices(Short(tensor ? Slices(2) : Parts(2)), [&](const Layout& l) {
      Joined g(c, l);
      CheckWorks(&g);
      std::vector<std::vector<uint8_t>> rows(2);
      (void)OnRanks(2, [&](int r) {
        CallOptions o;
        o.tag = static_cast<uint32_t>(7 + r);
        o.rows = &rows[static_cast<size_t>(r)];
        (void)ApplyShare(c, l, g.at(r), o);
      });
      for (int r = 0; r < 2; ++r) {
        CHECK(FaultOf(g.at(r)).status == DSV4MX_STATUS_COMM_MISMATCH);
        CHECK(AllNaN(c.p, rows[static_cast<size_t>(r)]));
      }
      ResetAll(&g);
      CheckWorks(&g);
      Must(dsv4mx_comm_abort(g.at(1).comm.get()), "abort");
      for (const auto& error : g.Apply())
        CHECK(MissingWords(error, "COMM_RANK_LOST,rank 1 aborted") == "");
      ResetAll(&g);
      CheckWorks(&g);
      g.at(1).comm.reset();
      CallOptions o;
      o.rows = &rows[0];
      try {
        (void)ApplyShare(c, l, g.at(0), o);
      } catch (const Refused&) {
      }
      CHECK(FaultOf(g.at(0)).status == DSV4MX_STATUS_COMM_RANK_LOST);
      CHECK(FaultOf(g.at(0)).rank == 1);
      CHECK(AllNaN(c.p, rows[0]));
    });
  }
  // The context and new groups work.
  CHECK(Differs(RunGroup(c, *On(Spread::kOne, Parts(2))), OneRank(c)) == "");
}

TEST_CASE("what groups of GPUs do not do yet is refused by all", "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=16 slot=bf16 invariant=1");
  Layout invariant = *On(Spread::kOne, Slices(2));
  invariant.tp_reduce = DSV4MX_TP_INVARIANT;
  Layout callback = *On(Spread::kOne, Parts(2));
  callback.kind = DSV4MX_COMM_CALLBACK;
  const struct {
    Layout layout;
    const char* words;
  } cases[] = {{invariant, "UNSUPPORTED,TP_INVARIANT on a CUDA context,wanted RANK_ORDER"},
               {callback, "UNSUPPORTED,of kind 4 on a CUDA context,wanted kind LOCAL"}};
  for (const auto& one : cases) {
    const uint64_t group = NewGroup();
    for (int r = 0; r < 2; ++r) (void)ContextFor(c.p, one.layout, r);
    for (const auto& error : OnRanks(2, [&](int r) {
           Rank rank;
           rank.rank = r;
           rank.context = ContextFor(c.p, one.layout, r);
           MakeComm(c, one.layout, group, &rank);
         })) {
      CHECK(MissingWords(error, one.words) == "");
    }
  }
}

// ----------------------------------------------------------------------------------------------------------- graphs --

// Ranks that share a device are captured into one graph, on one stream: each enqueues its stages when its turn has come.
TEST_CASE("a graph of all ranks of one device, replayed with other tokens",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=20 slot=bf16 invariant=1");
  for (const bool tensor : {false, true}) {
    const Layout l = *On(Spread::kOne, tensor ? Slices(2) : Parts(2));
    const auto wanted = RunGroup(c, l);
    Joined g(c, l);
    CheckWorks(&g);
    // Rows waits for the stream of its call, so that it must outlive the capture.
    const Stream stream;
    std::vector<std::unique_ptr<GroupBuffers>> buffers;
    for (int r = 0; r < 2; ++r) {
      CallOptions o;
      o.stream = stream.get();
      buffers.push_back(std::make_unique<GroupBuffers>(c, l, g.at(r), o));
    }
    cudaGraph_t captured = nullptr;
    cudaGraphExec_t graph = nullptr;
    CUDA_MUST(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeRelaxed));
    const auto errors =
        OnRanks(2, [&](int r) { Must(buffers[static_cast<size_t>(r)]->Apply(), "apply"); });
    CUDA_MUST(cudaStreamEndCapture(stream.get(), &captured));
    for (const auto& error : errors) REQUIRE(error == "");
    CUDA_MUST(cudaGraphInstantiate(&graph, captured, 0));
    for (int i = 0; i < 20; ++i) {
      for (auto& b : buffers) b->Poison();
      CUDA_MUST(cudaGraphLaunch(graph, stream.get()));
      stream.Wait();
      std::vector<uint8_t> all = buffers[0]->Rows();
      if (!tensor) {
        const auto other = buffers[1]->Rows();
        all.insert(all.end(), other.begin(), other.end());
      }
      REQUIRE(Differs(all, wanted) == "");
    }
    cudaGraphExecDestroy(graph);
    cudaGraphDestroy(captured);
    // Eager calls go on from there.
    CheckWorks(&g);
  }
}

// DSV4MX_REPLAYS: for a soak.
int Replays() {
  const char* wanted = std::getenv("DSV4MX_REPLAYS");
  return wanted == nullptr ? 200 : std::atoi(wanted);
}

TEST_CASE("graphs of ranks with a device each, replayed beside each other",
          "[gpu][gpu-quick][groups][two-gpus]") {
  REQUIRE_GPU();
  if (Devices() < 2) {
    Skip("fewer than two CUDA devices");
    return;
  }
  const Case c = GpuRanks("h=256 i=128 e=8 k=2 m=20 slot=bf16 invariant=1");
  for (const bool tensor : {false, true}) {
    const Layout l = *On(Spread::kEach, tensor ? Slices(2) : Parts(2));
    const auto wanted = RunGroup(c, l);
    Joined g(c, l);
    CheckWorks(&g);
    std::vector<std::vector<uint8_t>> rows(2);
    const auto errors = OnRanks(2, [&](int r) {
      CUDA_MUST(cudaSetDevice(r));
      const Stream stream;
      CallOptions o;
      std::unique_ptr<GroupBuffers> buffers;
      o.stream = stream.get();
      buffers = std::make_unique<GroupBuffers>(c, l, g.at(r), o);
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t exec = nullptr;
      CUDA_MUST(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
      const dsv4mx_status status = buffers->Apply();
      CUDA_MUST(cudaStreamEndCapture(stream.get(), &graph));
      Must(status, "apply");
      CUDA_MUST(cudaGraphInstantiate(&exec, graph, 0));
      // Many rounds in flight, as an engine's layers are, but not so many that a launch waits for a place in the queue: it may
      // hold what the other rank's thread needs to launch.
      for (int i = 0; i < Replays(); ++i) {
        CUDA_MUST(cudaGraphLaunch(exec, stream.get()));
        if (i % 50 == 49) stream.Wait();
      }
      rows[static_cast<size_t>(r)] = buffers->Rows();
      cudaGraphExecDestroy(exec);
      cudaGraphDestroy(graph);
    });
    for (const auto& error : errors) CHECK(error == "");
    if (!tensor) rows[0].insert(rows[0].end(), rows[1].begin(), rows[1].end());
    CHECK(Differs(rows[0], wanted) == "");
    for (int r = 0; r < 2; ++r) CHECK(FaultOf(g.at(r)).status == DSV4MX_STATUS_OK);
  }
}

}  // namespace
}  // namespace dsv4mx::test
