// NCCL itself in CUDA graphs: a graph, a thread and a stream for each rank, replayed with other rows, routes and counts in the same
// buffers.
#include <algorithm>
#include <numeric>

#include "tests/catch.h"
#include "tests/gpu/real_nccl.h"

namespace dsv4mx::test {
namespace {

constexpr int kBatches = 5;

// Of the rank's tokens in a batch so many count.
int32_t CountOf(int batch, int ep, int64_t share) {
  switch ((batch + ep) % 4) {
    case 0:
      return static_cast<int32_t>(share);
    case 1:
      return 0;
    case 2:
      return 1;
    default:
      return static_cast<int32_t>(share / 2);
  }
}

// Batches follow one another in the whole problem's tokens.
void WriteBatch(const Case& c, const Layout& l, int rank, int batch, GroupBuffers* buffers) {
  const int ep = rank / l.tp;
  const Share share = ShareOf(c.p, l, ep);
  const int64_t all = std::accumulate(l.tokens.begin(), l.tokens.end(), int64_t{0});
  std::vector<int64_t> rows(static_cast<size_t>(share.count));
  std::iota(rows.begin(), rows.end(), batch * all + share.first);
  const Inputs in = TakeRows(c.p, c.in, rows);
  const std::vector<uint8_t> ids = PackIds(c.p, in.ids),
                             weights = PackRouterWeights(c.p, in.weights);
  const int32_t count = CountOf(batch, ep, share.count);
  const dsv4mx_apply_args& a = buffers->args();
  const auto put = [&](const void* to, const void* from, size_t bytes) {
    if (bytes == 0) return;
    Must(dsv4mx_context_copy(ContextFor(c.p, l, rank), const_cast<void*>(to), from, bytes, nullptr),
         "copy");
    Must(dsv4mx_context_synchronize(ContextFor(c.p, l, rank), nullptr), "synchronize");
  };
  put(a.x, in.x.data(), in.x.size() * 2);
  put(a.topk_ids, ids.data(), ids.size());
  put(a.topk_weights, weights.data(), weights.size());
  put(a.tokens_device, &count, sizeof(count));
  buffers->Poison();
}

CallOptions OptionsOf(const Case& c, const Layout& l, int rank, dsv4mx_stream stream) {
  CallOptions o;
  o.stream = stream;
  o.tokens_device = ShareOf(c.p, l, rank / l.tp).count;
  return o;
}

// [batch][rank] rows, through the other transport on one device. What is behind a count stays as it was.
std::vector<std::vector<std::vector<uint8_t>>> Wanted(const Case& c, const Layout& layout) {
  const Layout l = One(layout);
  Joined g(c, l);
  std::vector<std::vector<std::vector<uint8_t>>> all(
      kBatches, std::vector<std::vector<uint8_t>>(static_cast<size_t>(l.size)));
  for (const auto& error : OnRanks(l.size, [&](int r) {
         GroupBuffers buffers(c, l, g.at(r), OptionsOf(c, l, r, nullptr));
         for (int batch = 0; batch < kBatches; ++batch) {
           WriteBatch(c, l, r, batch, &buffers);
           Must(buffers.Apply(), "apply");
           all[static_cast<size_t>(batch)][static_cast<size_t>(r)] = buffers.Rows();
         }
       })) {
    REQUIRE(error == "");
  }
  return all;
}

// One apply, captured; on the stand-in, whose calls cannot be captured on several streams, the apply itself.
class Captured {
 public:
  Captured(const GroupBuffers& buffers, const Stream& stream, cudaStreamCaptureMode mode, bool real)
      : buffers_(buffers) {
    if (!real) return;
    cudaGraph_t graph = nullptr;
    CUDA_MUST(cudaStreamBeginCapture(stream.get(), mode));
    const dsv4mx_status status = buffers.Apply();
    const std::string why = dsv4mx_last_error();
    const cudaError_t ended = cudaStreamEndCapture(stream.get(), &graph);
    if (status != DSV4MX_STATUS_OK) throw Refused("captured apply", status, why);
    CUDA_MUST(ended);
    CUDA_MUST(cudaGraphInstantiate(&executable_, graph, 0));
    CUDA_MUST(cudaGraphDestroy(graph));
  }
  ~Captured() {
    if (executable_ != nullptr) (void)cudaGraphExecDestroy(executable_);
  }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;
  void Launch(const Stream& stream) const {
    if (executable_ != nullptr) {
      CUDA_MUST(cudaGraphLaunch(executable_, stream.get()));
    } else {
      Must(buffers_.Apply(), "apply");
    }
  }

 private:
  const GroupBuffers& buffers_;
  cudaGraphExec_t executable_ = nullptr;
};

int Replays(bool real) {
  const char* wanted = std::getenv("DSV4MX_REPLAYS");
  return wanted != nullptr ? std::atoi(wanted) : real ? 200 : kBatches;
}

// `first`: nothing has been applied before the capture, so that NCCL connects inside it.
void CheckReplays(const RealNccl& nccl, const Case& c, const Layout& layout,
                  cudaStreamCaptureMode mode, bool first) {
  const auto wanted = Wanted(c, layout);
  Met g(c, Each(layout), false, 0, nccl.source());
  REQUIRE(g.said() == "");
  // All ranks' memory and graphs are there before the first kernel that waits for another rank.
  struct Replayed {
    Stream stream;
    std::unique_ptr<GroupBuffers> buffers;
    std::unique_ptr<Captured> graph;
  };
  std::vector<std::unique_ptr<Replayed>> all(static_cast<size_t>(g.layout.size));
  const Layout& l = g.layout;
  g.Each([&](int r) {
    auto one = std::make_unique<Replayed>();
    one->buffers =
        std::make_unique<GroupBuffers>(c, l, g.at(r), OptionsOf(c, l, r, one->stream.get()));
    all[static_cast<size_t>(r)] = std::move(one);
  });
  REQUIRE(g.said() == "");
  if (!first) {
    g.Each([&](int r) {
      const Trace trace(r, "first call");
      const GroupBuffers& buffers = *all[static_cast<size_t>(r)]->buffers;
      Must(buffers.Apply(), "apply");
      (void)buffers.Rows();
    });
    REQUIRE(g.said() == "");
  }
  g.Each([&](int r) {
    const Trace trace(r, "capture");
    Replayed& one = *all[static_cast<size_t>(r)];
    one.graph = std::make_unique<Captured>(*one.buffers, one.stream, mode, nccl.real());
  });
  REQUIRE(g.said() == "");
  g.Each([&](int r) {
    const Trace trace(r, "replays");
    const auto rank = static_cast<size_t>(r);
    GroupBuffers& buffers = *all[rank]->buffers;
    const Captured& graph = *all[rank]->graph;
    const Stream& stream = all[rank]->stream;
    // A rank that stopped at its first difference would keep the others waiting.
    std::string wrong;
    int batch = 0;
    for (int i = 0; i < Replays(nccl.real()); ++i) {
      batch = i % kBatches;
      WriteBatch(c, l, r, batch, &buffers);
      graph.Launch(stream);
      const std::string differs = Differs(buffers.Rows(), wanted[static_cast<size_t>(batch)][rank]);
      if (wrong.empty() && !differs.empty()) wrong = "replay " + std::to_string(i) + ": " + differs;
    }
    // Several in flight.
    for (int i = 0; i < 50 && nccl.real(); ++i) graph.Launch(stream);
    const std::string differs = Differs(buffers.Rows(), wanted[static_cast<size_t>(batch)][rank]);
    if (wrong.empty() && !differs.empty()) wrong = "in flight: " + differs;
    if (!wrong.empty()) throw std::runtime_error(wrong);
  });
  CHECK(g.said() == "");
  g.Each([&](int r) { all[static_cast<size_t>(r)].reset(); });
  for (int r = 0; r < g.layout.size; ++r) CHECK(FaultOf(g.at(r)).status == DSV4MX_STATUS_OK);
  // Calls without a graph go on from there.
  CHECK(g.Rows().size() == OneRank(c).size() / kBatches);
  CHECK(g.said() == "");
}

std::vector<Layout> Layouts() {
  Layout parts = Parts(2), sums = SumsOf(2), rounds = Parts(2), slices = Slices(2),
         tree = Slices(2);
  parts.tokens = sums.tokens = rounds.tokens = {12, 8};
  parts.max_tokens = sums.max_tokens = 12;
  rounds.max_tokens = 5;
  slices.tokens = tree.tokens = {20};
  slices.max_tokens = tree.max_tokens = 20;
  tree.tp_reduce = DSV4MX_TP_INVARIANT;
  return {parts, sums, rounds, slices, tree};
}

// A layer that the layout takes.
Case CaseOf(const Layout& l) {
  return GpuRanks(l.tp_reduce == DSV4MX_TP_INVARIANT ? "h=64 i=1024 e=8 k=2 m=100"
                  : l.tp > 1                         ? "h=64 i=256 e=8 k=2 m=100 invariant=1"
                             : "h=64 i=64 e=8 k=2 m=100 slot=bf16 invariant=1");
}

TEST_CASE("real NCCL: a graph for each rank, replayed with routes and counts that change",
          "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL(nccl);
  for (const Layout& l : Layouts()) {
    INFO("tp " << l.tp << ", combine " << l.ep_combine << ", reduce " << l.tp_reduce
               << ", max_tokens " << l.max_tokens);
    CheckReplays(nccl, CaseOf(l), l, cudaStreamCaptureModeRelaxed, false);
  }
}

TEST_CASE("real NCCL: graphs captured in the mode of a thread", "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL(nccl);
  for (const Layout& l : Layouts())
    CheckReplays(nccl, CaseOf(l), l, cudaStreamCaptureModeThreadLocal, false);
}

TEST_CASE("real NCCL: a capture that is the first call", "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL(nccl);
  for (const Layout& l : Layouts())
    CheckReplays(nccl, CaseOf(l), l, cudaStreamCaptureModeRelaxed, true);
}

}  // namespace
}  // namespace dsv4mx::test
