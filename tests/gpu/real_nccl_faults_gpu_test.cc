// NCCL itself where something goes wrong: late ranks, ranks out of step, ranks that do not come, aborts; and what stays.
#include <algorithm>

#include "tests/catch.h"
#include "tests/gpu/real_nccl.h"

namespace dsv4mx::test {
namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}
void Sleep(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

bool Ends(int device, const Stream& stream, double seconds) {
  CUDA_MUST(cudaSetDevice(device));
  const auto begin = Clock::now();
  while (Since(begin) < seconds) {
    const cudaError_t now = cudaStreamQuery(stream.get());
    if (now == cudaSuccess) return true;
    if (now != cudaErrorNotReady) CUDA_MUST(now);
    Sleep(0.001);
  }
  return false;
}

Case SmallCase() {
  return GpuRanks("h=64 i=256 e=8 k=2 m=16 slot=bf16 invariant=1");
}

// Every device still computes, alone and in a new group.
void CheckGoesOn(const RealNccl& nccl, const Case& c, const Layout& l,
                 const std::vector<uint8_t>& wanted) {
  Met g(c, l, false, 0, nccl.source());
  REQUIRE(g.said() == "");
  CHECK(Differs(g.Rows(2), wanted) == "");
  CHECK(g.said() == "");
  for (int r = 0; r < l.size; ++r) {
    CUDA_MUST(cudaSetDevice(g.DeviceOf(r)));
    CUDA_MUST(cudaDeviceSynchronize());
  }
}

// One rank's call on a stream of its own, which may wait for ever.
struct Waiting {
  Waiting(const Case& c, const Layout& l, Met* g, int r) : device(g->DeviceOf(r)) {
    CUDA_MUST(cudaSetDevice(device));
    stream = std::make_unique<Stream>();
    CallOptions o;
    o.stream = stream->get();
    buffers = std::make_unique<GroupBuffers>(c, l, g->at(r), o);
  }
  dsv4mx_status Apply() {
    CUDA_MUST(cudaSetDevice(device));
    return buffers->Apply();
  }
  // Ends the program if it does not come to an end; else the rows.
  std::vector<uint8_t> RowsAfterAbort(const char* what, Clock::time_point begin) {
    if (!Ends(device, *stream, 20)) Watchdog::End(what);
    std::printf("%s: ended after %.3f s\n", what, Since(begin));
    return buffers->Rows();
  }
  int device;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<GroupBuffers> buffers;
};

void CheckLost(const Rank& rank, int by) {
  const dsv4mx_comm_fault_info fault = FaultOf(rank);
  CHECK(fault.status == DSV4MX_STATUS_COMM_RANK_LOST);
  CHECK(fault.rank == by);
}

TEST_CASE("real NCCL: a late rank is waited for", "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL(nccl);
  const Case c = SmallCase();
  for (const Layout& layout : {Parts(2), SumsOf(2), Slices(2)}) {
    Met g(c, Each(layout), false, 0, nccl.source());
    REQUIRE(g.said() == "");
    const auto wanted = g.Rows();
    for (int late = 0; late < 2; ++late) {
      const auto rows = g.Calls(1, {}, nullptr, [&](int r) {
        if (r == late) Sleep(1.5);
      });
      CHECK(g.said() == "");
      auto all = rows[0];
      if (layout.tp == 1) all.insert(all.end(), rows[1].begin(), rows[1].end());
      CHECK(Differs(all, wanted) == "");
    }
  }
}

TEST_CASE("real NCCL: ranks out of step are told, and go on after a reset",
          "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL(nccl);
  const Case c = SmallCase();
  for (const Layout& layout : {Parts(2), SumsOf(2), Slices(2)}) {
    Met g(c, Each(layout), false, 0, nccl.source());
    REQUIRE(g.said() == "");
    const auto wanted = g.Rows();
    for (int again = 0; again < 2; ++again) {
      const auto rows =
          g.Calls(1, {}, [](int r, CallOptions* o) { o->tag = static_cast<uint32_t>(7 + r); });
      for (int r = 0; r < 2; ++r) {
        const dsv4mx_comm_fault_info fault = FaultOf(g.at(r));
        CHECK(fault.status == DSV4MX_STATUS_COMM_MISMATCH);
        CHECK(fault.rank == 1 - r);
        CHECK(fault.stage ==
              (layout.tp > 1 ? DSV4MX_COMM_STAGE_REDUCE : DSV4MX_COMM_STAGE_DISPATCH));
        CHECK(AllNaN(c.p, rows[static_cast<size_t>(r)]));
      }
      CHECK(AllNaN(c.p, g.Rows()));
      for (const auto& error : g.errors) CHECK(MissingWords(error, "COMM_MISMATCH") == "");
      g.Each([&](int r) { Must(dsv4mx_comm_reset(g.at(r).comm.get(), nullptr), "reset"); });
      CHECK(g.said() == "");
      CHECK(Differs(g.Rows(2), wanted) == "");
      CHECK(g.said() == "");
    }
  }
}

TEST_CASE("real NCCL: after an abort of all ranks a reset is refused, and a new group works",
          "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL(nccl);
  const Case c = SmallCase();
  for (const bool borrow : {false, true}) {
    const Layout l = Each(Parts(2));
    std::vector<uint8_t> wanted;
    {
      Met g(c, l, borrow, 0, nccl.source());
      REQUIRE(g.said() == "");
      wanted = g.Rows();
      for (int r = 0; r < 2; ++r) Must(dsv4mx_comm_abort(g.at(r).comm.get()), "abort");
      CHECK(AllNaN(c.p, g.Rows()));
      for (int r = 0; r < 2; ++r) {
        CheckLost(g.at(r), r);
        CHECK(MissingWords(g.errors[static_cast<size_t>(r)], "COMM_RANK_LOST") == "");
      }
      g.Each([&](int r) { Must(dsv4mx_comm_reset(g.at(r).comm.get(), nullptr), "reset"); });
      for (const auto& error : g.errors)
        CHECK(MissingWords(error, "wanted a new communicator") == "");
    }
    CheckGoesOn(nccl, c, l, wanted);
  }
}

// Rank 0 is there, rank 1 is not; rank 0's work is ended, then rank 1 comes and its work is ended likewise. What rank 0 had sent
// before may be all that rank 1 needs: then its rows are the right ones.
TEST_CASE("real NCCL: an abort of one rank ends its wait for the other", "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL_ITSELF(nccl);
  const Case c = SmallCase();
  for (const Layout& layout : {Parts(2), SumsOf(2), Slices(2)}) {
    for (const bool borrow : {false, true}) {
      INFO("tp " << layout.tp << ", combine " << layout.ep_combine << ", borrow " << borrow);
      const Layout l = Each(layout);
      std::vector<uint8_t> wanted;
      {
        Met g(c, l, borrow, 0, nccl.source());
        REQUIRE(g.said() == "");
        wanted = g.Rows();
        Waiting first(c, l, &g, 0), second(c, l, &g, 1);
        Must(first.Apply(), "apply");
        CHECK(!Ends(first.device, *first.stream, 0.5));
        CHECK(FaultOf(g.at(0)).status == DSV4MX_STATUS_OK);
        auto begin = Clock::now();
        Must(dsv4mx_comm_abort(g.at(0).comm.get()), "abort");
        CHECK(Since(begin) < 10);
        CHECK(AllNaN(c.p, first.RowsAfterAbort("rank 0, aborted while it waits", begin)));
        CheckLost(g.at(0), 0);
        CHECK(first.Apply() == DSV4MX_STATUS_COMM_RANK_LOST);
        CHECK(AllNaN(c.p, first.buffers->Rows()));
        CHECK(dsv4mx_comm_reset(g.at(0).comm.get(), nullptr) != DSV4MX_STATUS_OK);

        begin = Clock::now();
        const dsv4mx_status status = second.Apply();
        const bool ended = Ends(second.device, *second.stream, 0.5);
        CHECK(FaultOf(g.at(1)).status == status);
        std::printf("rank 1, whose peer has aborted: apply gives %s, its stream %s\n",
                    dsv4mx_status_name(status), ended ? "ends" : "waits");
        Must(dsv4mx_comm_abort(g.at(1).comm.get()), "abort");
        CHECK(Since(begin) < 20);
        const auto rows = second.RowsAfterAbort("rank 1, aborted while it waits", begin);
        const auto half = layout.tp > 1 ? 0 : static_cast<std::ptrdiff_t>(wanted.size() / 2);
        const int64_t none = NaNRows(c.p, rows, {wanted.begin() + half, wanted.end()});
        std::printf("rank 1: %lld rows of NaN, the others right\n", static_cast<long long>(none));
        CHECK(none >= 0);
        CheckLost(g.at(1), 1);
        CHECK(second.Apply() == DSV4MX_STATUS_COMM_RANK_LOST);
        CHECK(AllNaN(c.p, second.buffers->Rows()));
      }
      CheckGoesOn(nccl, c, l, wanted);
    }
  }
}

// Sends and receives connect when they are first enqueued: that takes the other rank, the timeout, or an abort from elsewhere.
void CheckFirstCallAlone(const RealNccl& nccl, const Case& c, Layout layout, bool abort_inside) {
  layout.timeout_ns = abort_inside ? 60'000'000'000 : 3'000'000'000;
  const Layout l = Each(layout);
  const auto wanted = RunGroup(c, One(layout));
  {
    Met g(c, l, false, 0, nccl.source());
    REQUIRE(g.said() == "");
    Waiting first(c, l, &g, 0);
    const auto begin = Clock::now();
    const auto abort = [&] { Must(dsv4mx_comm_abort(g.at(0).comm.get()), "abort"); };
    std::thread other;
    if (abort_inside) {
      other = std::thread([&] {
        Sleep(1);
        abort();
      });
    }
    const dsv4mx_status status = first.Apply();
    const std::string why = dsv4mx_last_error();
    std::printf("first call alone, combine %d, abort inside %d: apply gives %s after %.3f s: %s\n",
                layout.ep_combine, abort_inside, dsv4mx_status_name(status), Since(begin),
                status == DSV4MX_STATUS_OK ? "" : why.c_str());
    CHECK(Since(begin) < 15);
    if (abort_inside) {
      other.join();
    } else {
      abort();
    }
    CHECK(Since(begin) < 20);
    CHECK(AllNaN(c.p, first.RowsAfterAbort("first call alone, aborted", begin)));
    CHECK(FaultOf(g.at(0)).status != DSV4MX_STATUS_OK);
  }
  CheckGoesOn(nccl, c, l, wanted);
}

TEST_CASE("real NCCL: a rank that does not come to its first call", "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL_ITSELF(nccl);
  const Case c = SmallCase();
  for (const bool abort_inside : {false, true}) {
    CheckFirstCallAlone(nccl, c, Parts(2), abort_inside);
    CheckFirstCallAlone(nccl, c, SumsOf(2), abort_inside);
  }
}

TEST_CASE("real NCCL: a rank that has left does not keep the other", "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL_ITSELF(nccl);
  const Case c = SmallCase();
  const Layout l = Each(Parts(2));
  std::vector<uint8_t> wanted;
  {
    Met g(c, l, false, 0, nccl.source());
    REQUIRE(g.said() == "");
    wanted = g.Rows();
    auto begin = Clock::now();
    g.at(1).comm.reset();
    std::printf("a rank leaves alone: destroyed after %.3f s\n", Since(begin));
    CHECK(Since(begin) < 10);
    Waiting first(c, l, &g, 0);
    const dsv4mx_status status = first.Apply();
    std::printf("the other's apply gives %s\n", dsv4mx_status_name(status));
    begin = Clock::now();
    Must(dsv4mx_comm_abort(g.at(0).comm.get()), "abort");
    CHECK(AllNaN(c.p, first.RowsAfterAbort("rank 0, whose peer has left, aborted", begin)));
    CHECK(FaultOf(g.at(0)).status != DSV4MX_STATUS_OK);
  }
  CheckGoesOn(nccl, c, l, wanted);
}

// NCCL's abort of the last rank of a process waits for the graphs that captured the communicator: they go first, which for one
// that runs means when it has ended.
TEST_CASE("real NCCL: an abort ends a replay under way", "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL_ITSELF(nccl);
  const Case c = SmallCase();
  const Layout l = Each(Parts(2));
  std::vector<uint8_t> wanted;
  {
    Met g(c, l, false, 0, nccl.source());
    REQUIRE(g.said() == "");
    wanted = g.Rows();
    std::vector<std::unique_ptr<Waiting>> ranks(2);
    std::vector<cudaGraphExec_t> graphs(2);
    g.Each([&](int r) { ranks[static_cast<size_t>(r)] = std::make_unique<Waiting>(c, l, &g, r); });
    REQUIRE(g.said() == "");
    g.Each([&](int r) {
      const auto i = static_cast<size_t>(r);
      cudaGraph_t graph = nullptr;
      CUDA_MUST(cudaStreamBeginCapture(ranks[i]->stream->get(), cudaStreamCaptureModeRelaxed));
      const dsv4mx_status status = ranks[i]->buffers->Apply();
      CUDA_MUST(cudaStreamEndCapture(ranks[i]->stream->get(), &graph));
      Must(status, "captured apply");
      CUDA_MUST(cudaGraphInstantiate(&graphs[i], graph, 0));
      CUDA_MUST(cudaGraphDestroy(graph));
    });
    REQUIRE(g.said() == "");
    g.Each([&](int r) {
      const auto i = static_cast<size_t>(r);
      CUDA_MUST(cudaGraphLaunch(graphs[i], ranks[i]->stream->get()));
      (void)ranks[i]->buffers->Rows();
    });
    REQUIRE(g.said() == "");
    CUDA_MUST(cudaSetDevice(l.devices[0]));
    CUDA_MUST(cudaGraphLaunch(graphs[0], ranks[0]->stream->get()));
    CHECK(!Ends(l.devices[0], *ranks[0]->stream, 0.5));
    auto begin = Clock::now();
    for (size_t r = 0; r < 2; ++r) {
      CUDA_MUST(cudaSetDevice(l.devices[r]));
      CUDA_MUST(cudaGraphExecDestroy(graphs[r]));
    }
    std::printf("graphs, of which one runs, destroyed after %.3f s\n", Since(begin));
    CHECK(!Ends(l.devices[0], *ranks[0]->stream, 0.1));
    begin = Clock::now();
    Must(dsv4mx_comm_abort(g.at(0).comm.get()), "abort");
    CHECK(Since(begin) < 10);
    CHECK(AllNaN(c.p, ranks[0]->RowsAfterAbort("a replay, aborted", begin)));
    CheckLost(g.at(0), 0);
    begin = Clock::now();
    Must(dsv4mx_comm_abort(g.at(1).comm.get()), "abort");
    CHECK(Since(begin) < 10);
    CheckLost(g.at(1), 1);
  }
  CheckGoesOn(nccl, c, l, wanted);
}

TEST_CASE("real NCCL: groups made again and again leave nothing", "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL(nccl);
  const Case c = SmallCase();
  const Layout l = Each(Parts(2));
  std::vector<size_t> before(2);
  const auto free_of = [](int device) {
    size_t free = 0, total = 0;
    CUDA_MUST(cudaSetDevice(device));
    CUDA_MUST(cudaMemGetInfo(&free, &total));
    return free;
  };
  for (int round = 0; round < (nccl.real() ? 6 : 2); ++round) {
    Met g(c, l, round % 2 == 1, 0, nccl.source());
    REQUIRE(g.said() == "");
    CHECK(g.Rows().size() == OneRank(c).size());
    CHECK(g.said() == "");
    // On one thread, one after the other.
    if (round % 2 == 0) {
      for (int r = 0; r < 2; ++r) g.at(r).comm.reset();
    }
    if (round == 1) {
      for (int d = 0; d < 2; ++d) before[static_cast<size_t>(d)] = free_of(d);
    }
  }
  if (!nccl.real()) return;
  // Of round 1 everything was still there. NCCL clears up in a thread of its own.
  const auto begin = Clock::now();
  bool freed = false;
  while (!freed && Since(begin) < 10) {
    freed = free_of(0) >= before[0] && free_of(1) >= before[1];
    Sleep(0.05);
  }
  std::printf("free: %zu and %zu MiB in round 1, %zu and %zu MiB at the end\n", before[0] >> 20,
              before[1] >> 20, free_of(0) >> 20, free_of(1) >> 20);
  CHECK(freed);
}

}  // namespace
}  // namespace dsv4mx::test
