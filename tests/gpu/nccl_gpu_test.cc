// Groups of GPUs over NCCL's collectives, on a stand-in for it that copies in stream order: the bits of the other transport and
// of one GPU, graphs, and what is said where something goes wrong. Real NCCL, which wants a device for each rank, is met by
// the last case as far as one device lets it.
#include <chrono>
#include <cstdlib>
#include <thread>

#include "tests/catch.h"
#include "tests/gpu/device_nccl.h"
#include "tests/gpu/nccl_groups.h"
#include "tests/reference.h"

namespace dsv4mx::test {
namespace {

// The stand-in adds what lies on other devices only where they all are the host's memory.
void OnStandIns(const Layout& layout, const std::function<void(const Layout&)>& body) {
  if (std::getenv("DSV4MX_EMULATED_DEVICES") != nullptr) return OnDevices(layout, body);
  body(*On(Spread::kOne, layout));
}

TEST_CASE("[D42] expert parallel over NCCL has the bits of one GPU",
          "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  const int live = LiveDeviceNccl();
  bool first = true;
  for (const char* text :
       {"h=128 i=64 e=16 k=4 m=37 slot=bf16 invariant=1 clamp=10 rsf=2.5",
        "h=96 i=96 e=8 k=3 m=20 slot=bf16 invariant=1 out=f32 bias13=f32 bias2=f32",
        "h=64 i=32 e=8 k=6 m=24 slot=bf16 invariant=1 dist=dup ids=i64 rw=bf16",
        "h=64 i=128 e=8 k=2 m=16 slot=bf16 invariant=1 wpos=before compute=w4a8",
        "h=64 i=64 e=8 k=1 m=9 slot=bf16 invariant=1 wpos=input dist=half",
        "h=64 i=64 e=8 k=2 m=1 slot=bf16 invariant=1",
        "h=128 i=96 e=16 k=4 m=160 slot=bf16 invariant=1 path=bf16"}) {
    const Case c = GpuRanks(text);
    const auto one = OneRank(c);
    for (const int size : RankCounts(std::exchange(first, false))) {
      INFO(text << ", " << size << " ranks");
      OnStandIns(Parts(size), [&](const Layout& l) {
        Met g(c, l, size == 4);
        REQUIRE(g.said() == "");
        CHECK(Differs(g.Rows(2), one) == "");
        CHECK(g.said() == "");
      });
    }
  }
  CHECK(LiveDeviceNccl() == live);
}

TEST_CASE("[D43] over NCCL any number of tokens, several rounds, counts and loads",
          "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=40 slot=bf16 invariant=1");
  const auto one = OneRank(c);
  for (const auto& tokens : std::vector<std::vector<int64_t>>{{40, 0}, {1, 39}, {17, 23}}) {
    for (const int64_t max_tokens : {0, 17, 1}) {
      Layout layout = Parts(2);
      layout.tokens = tokens;
      layout.max_tokens = max_tokens;
      INFO("max_tokens " << max_tokens << ", first " << tokens[0]);
      OnStandIns(layout, [&](const Layout& l) {
        Met g(c, l);
        REQUIRE(g.said() == "");
        CHECK(Differs(g.Rows(2), one) == "");
      });
    }
  }
  Met g(c, *On(Spread::kOne, Parts(2)));
  REQUIRE(g.said() == "");
  std::vector<std::vector<int64_t>> counts(2, std::vector<int64_t>(4, 100));
  for (const auto& error : OnRanks(2, [&](int r) {
         CallOptions o;
         o.tokens_device = 3;
         o.expert_counts = &counts[static_cast<size_t>(r)];
         (void)ApplyShare(c, g.layout, g.at(r), o);
       })) {
    CHECK(error == "");
  }
  CheckLoads(&g, counts, 100, int64_t{2} * 3 * c.p.top_k);
  dsv4mx_comm_info info = DSV4MX_COMM_INFO_INIT;
  Must(dsv4mx_comm_query(g.at(0).comm.get(), &info), "query");
  CHECK(info.transport == DSV4MX_COMM_TRANSPORT_COLLECTIVE);
  CHECK(info.window_bytes > 0);
  CHECK(MissingWords(info.reason, "collective,NCCL") == "");
}

TEST_CASE("[D44] tensor parallel over NCCL has the bits of the other transport",
          "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  bool first = true;
  for (const char* text : {"h=96 i=1024 e=4 k=3 m=1 rsf=2",
                           "h=128 i=1024 e=4 k=2 m=300 out=f32 rsf=1.5 bias2=f32 bias13=f32"}) {
    const Case c = GpuRanks(text);
    for (const int size : RankCounts(std::exchange(first, false))) {
      for (const bool invariant : {false, true}) {
        for (const dsv4mx_dtype partial : {DSV4MX_DTYPE_F32, DSV4MX_DTYPE_BF16}) {
          if (invariant && partial == DSV4MX_DTYPE_BF16) continue;
          Layout layout = Slices(size);
          layout.partial = partial;
          if (invariant) layout.tp_reduce = DSV4MX_TP_INVARIANT;
          INFO(text << ", " << size << " ranks, invariant " << invariant);
          const auto wanted = RunGroup(c, *On(Spread::kOne, layout));
          OnStandIns(layout, [&](const Layout& l) {
            Met g(c, l);
            REQUIRE(g.said() == "");
            CHECK(Differs(g.Rows(2, size - 1), wanted) == "");
          });
        }
      }
    }
  }
}

// Sums that travel, and a group of both: what the cases below add to routes and slices.
Layout Sums() {
  Layout l = Parts(2);
  l.ep_combine = DSV4MX_EP_RANK_REDUCE;
  return l;
}
Layout Both() {
  Layout l = Parts(4);
  l.tp = 2;
  return l;
}

// NCCL is given another stream than cudaStreamPerThread, behind and before it (the stand-in refuses that one).
TEST_CASE("over NCCL calls on the legacy stream and on that of the thread",
          "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=20 slot=bf16 invariant=1");
  for (const Layout& layout : {Parts(2), Slices(2), Sums(), Both()}) {
    Met g(c, *On(Spread::kOne, layout));
    REQUIRE(g.said() == "");
    const auto wanted = g.Rows();
    for (const cudaStream_t stream : {cudaStreamLegacy, cudaStreamPerThread}) {
      CallOptions o;
      o.stream = stream;
      CHECK(Differs(g.Rows(2, 0, o), wanted) == "");
      CHECK(g.said() == "");
    }
  }
}

TEST_CASE("a graph of all ranks over NCCL, replayed", "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=20 slot=bf16 invariant=1");
  for (const Layout& layout : {Parts(2), Slices(2), Sums(), Both()}) {
    const Layout l = *On(Spread::kOne, layout);
    Met g(c, l);
    REQUIRE(g.said() == "");
    const auto wanted = g.Rows();
    CheckReplays(c, l, &g.ranks, wanted);
    CHECK(Differs(g.Rows(), wanted) == "");
  }
}

// Rows behind the count stay as they are.
TEST_CASE("[D54] over NCCL counts from device memory, with sums and in a group of both",
          "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=128 e=8 k=2 m=20 slot=bf16 invariant=1");
  Layout sums_of_both = Both();
  sums_of_both.ep_combine = DSV4MX_EP_RANK_REDUCE;
  for (const Layout& layout : {Sums(), Both(), sums_of_both}) {
    const Layout l = *On(Spread::kOne, layout);
    const Joined windows(c, l);
    Met g(c, l);
    REQUIRE(g.said() == "");
    for (const int64_t count : {int64_t{3}, int64_t{0}, int64_t{1000}}) {
      INFO("combine " << l.ep_combine << ", tp " << l.tp << ", count " << count);
      std::vector<std::vector<uint8_t>> wanted(static_cast<size_t>(l.size)), got = wanted;
      const auto rows = [&](const Rank& rank, std::vector<uint8_t>* out) {
        CallOptions o;
        o.tokens_device = count;
        *out = ApplyShare(c, l, rank, o);
      };
      for (const auto& e : OnRanks(l.size, [&](int r) {
             const auto at = static_cast<size_t>(r);
             rows(windows.ranks[at], &wanted[at]);
             rows(g.ranks[at], &got[at]);
           }))
        CHECK(e == "");
      CHECK(got == wanted);
    }
  }
}

TEST_CASE("over NCCL ranks out of step are told, and go on after a reset",
          "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=16 slot=bf16 invariant=1");
  for (const bool tensor : {false, true}) {
    OnStandIns(tensor ? Slices(2) : Parts(2), [&](const Layout& l) {
      Met g(c, l);
      REQUIRE(g.said() == "");
      const auto wanted = g.Rows();
      std::vector<std::vector<uint8_t>> rows(2);
      (void)OnRanks(2, [&](int r) {
        CallOptions o;
        o.tag = static_cast<uint32_t>(7 + r);
        o.rows = &rows[static_cast<size_t>(r)];
        (void)ApplyShare(c, l, g.at(r), o);
      });
      for (int r = 0; r < 2; ++r) {
        const dsv4mx_comm_fault_info fault = FaultOf(g.at(r));
        CHECK(fault.status == DSV4MX_STATUS_COMM_MISMATCH);
        CHECK(fault.rank == 1 - r);
        CHECK(fault.stage == (tensor ? DSV4MX_COMM_STAGE_REDUCE : DSV4MX_COMM_STAGE_DISPATCH));
        CHECK(AllNaN(c.p, rows[static_cast<size_t>(r)]));
      }
      CHECK(AllNaN(c.p, g.Rows()));
      for (const auto& error : g.errors) CHECK(MissingWords(error, "COMM_MISMATCH") == "");
      for (const auto& error : OnRanks(
               2, [&](int r) { Must(dsv4mx_comm_reset(g.at(r).comm.get(), nullptr), "reset"); })) {
        CHECK(error == "");
      }
      CHECK(Differs(g.Rows(), wanted) == "");
      CHECK(g.said() == "");
    });
  }
}

TEST_CASE("over NCCL a collective that fails, and an abort, end the group alone",
          "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=16 slot=bf16 invariant=1");
  const auto one = OneRank(c);
  const Layout l = *On(Spread::kOne, Parts(2));
  const int live = LiveDeviceNccl();
  for (const bool abort : {false, true}) {
    Met g(c, l);
    REQUIRE(g.said() == "");
    CHECK(Differs(g.Rows(), one) == "");
    const int aborted = AbortedDeviceNccl();
    if (abort) {
      for (int r = 0; r < 2; ++r) Must(dsv4mx_comm_abort(g.at(r).comm.get()), "abort");
    } else {
      FailDeviceNccl(0);
    }
    CHECK(AllNaN(c.p, g.Rows()));
    FailDeviceNccl(-1);
    for (const auto& error : g.errors)
      CHECK(MissingWords(error, abort ? "COMM_RANK_LOST" : "NCCL_ERROR,ncclAllGather") == "");
    for (int r = 0; r < 2; ++r) CHECK(FaultOf(g.at(r)).status != DSV4MX_STATUS_OK);
    CHECK(AbortedDeviceNccl() == aborted + 2);
    for (const auto& error : OnRanks(
             2, [&](int r) { Must(dsv4mx_comm_reset(g.at(r).comm.get(), nullptr), "reset"); })) {
      CHECK(error != "");
    }
  }
  CHECK(LiveDeviceNccl() == live);
  // A borrowed communicator stays the caller's.
  {
    Met g(c, l, true, DSV4MX_COMM_NO_SPLIT);
    REQUIRE(g.said() == "");
    const int aborted = AbortedDeviceNccl();
    for (int r = 0; r < 2; ++r) Must(dsv4mx_comm_abort(g.at(r).comm.get()), "abort");
    CHECK(AllNaN(c.p, g.Rows()));
    CHECK(AbortedDeviceNccl() == aborted);
  }
  Met g(c, l);
  CHECK(Differs(g.Rows(), one) == "");
}

// An abort may cut a rank's gather and leave what it sends home afterwards: nothing there comes of an earlier round's rows.
TEST_CASE("over NCCL a rank whose gather is cut sends NaN home", "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=16 slot=bf16 invariant=1");
  for (const Layout& layout : {Parts(2), Sums()}) {
    for (const int calls : {0, 2}) {
      INFO("combine " << layout.ep_combine << ", after " << calls << " calls");
      const Layout l = *On(Spread::kOne, layout);
      Met g(c, l);
      REQUIRE(g.said() == "");
      const auto wanted = Met(c, l).Rows();
      if (calls != 0) CHECK(Differs(g.Rows(calls), wanted) == "");
      CutDeviceNccl(0);
      const auto rows = g.Calls(1);
      CutDeviceNccl(-1);
      CHECK(AllNaN(c.p, rows[0]));
      CHECK(FaultOf(g.at(0)).status == DSV4MX_STATUS_COMM_MISMATCH);
      CHECK(FaultOf(g.at(1)).status == DSV4MX_STATUS_OK);
      const auto half = static_cast<std::ptrdiff_t>(wanted.size() / 2);
      const int64_t none = NaNRows(c.p, rows[1], {wanted.begin() + half, wanted.end()});
      // A sum comes only of a rank that has a token's experts.
      CHECK(none >= (layout.ep_combine == DSV4MX_EP_RANK_REDUCE ? 1 : 8));
      // And a reset leaves no round that a later one could be taken for.
      for (int again = 0; again < 2; ++again) {
        g.Each([&](int r) { Must(dsv4mx_comm_reset(g.at(r).comm.get(), nullptr), "reset"); });
        CHECK(g.said() == "");
        if (again != 0) break;
        CutDeviceNccl(0);
        CHECK(NaNRows(c.p, g.Calls(1)[1], {wanted.begin() + half, wanted.end()}) >= 1);
        CutDeviceNccl(-1);
      }
      CHECK(Differs(g.Rows(), wanted) == "");
    }
  }
}

// A first send may have to connect, which is in progress until the other rank comes.
TEST_CASE("over NCCL an abort ends an apply whose collective is in progress",
          "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=16 slot=bf16 invariant=1");
  for (const Layout& layout : {Parts(2), Sums(), Slices(2)}) {
    Met g(c, *On(Spread::kOne, layout));
    REQUIRE(g.said() == "");
    REQUIRE(g.Rows().size() != 0);
    HoldDeviceNccl(true);
    const auto begin = std::chrono::steady_clock::now();
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      for (int r = 0; r < 2; ++r) Must(dsv4mx_comm_abort(g.at(r).comm.get()), "abort");
    });
    CHECK(AllNaN(c.p, g.Rows()));
    other.join();
    HoldDeviceNccl(false);
    // Of the timeout of a minute nothing is waited for.
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(20));
    for (int r = 0; r < 2; ++r) {
      CHECK(MissingWords(g.errors[static_cast<size_t>(r)], "COMM_RANK_LOST,in progress") == "");
      CHECK(FaultOf(g.at(r)).status == DSV4MX_STATUS_COMM_RANK_LOST);
      CHECK(FaultOf(g.at(r)).rank == r);
    }
  }
}

// Sums go from each to each, and are added by their home: NCCL's own order would be another (the stand-in's is).
TEST_CASE("[D48] RANK_REDUCE over NCCL has the bits of the other transport",
          "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  const int live = LiveDeviceNccl();
  for (const char* text :
       {"h=128 i=64 e=16 k=4 m=37 out=f32 rsf=2.5 bias2=f32", "h=64 i=32 e=8 k=6 m=24 dist=dup",
        "h=64 i=32 e=8 k=2 m=9 wpos=before", "h=2080 i=32 e=8 k=2 m=5 rw=bf16 ids=i64",
        "h=128 i=96 e=16 k=4 m=160 path=bf16", "h=64 i=32 e=8 k=3 m=5 rsf=2"}) {
    const Case c = GpuRanks(text);
    for (const int size : {2, 4, 8}) {
      for (const dsv4mx_dtype partial : {DSV4MX_DTYPE_F32, DSV4MX_DTYPE_BF16}) {
        // An emulator takes seconds for eight ranks.
        if ((size == 8) != (c.p.tokens == 5 && c.p.hidden == 64)) continue;
        if (size != 8 && (partial == DSV4MX_DTYPE_F32) == (size == 4)) continue;
        Layout layout = Parts(size);
        layout.ep_combine = DSV4MX_EP_RANK_REDUCE;
        layout.partial = partial;
        if (size == 4) layout.tokens = {0, c.p.tokens - 1, 0, 1};
        INFO(text << ", " << size << " ranks, partial " << partial);
        const auto wanted = RunGroup(c, *On(Spread::kOne, layout));
        OnStandIns(layout, [&](const Layout& l) {
          Met g(c, l, size == 4);
          REQUIRE(g.said() == "");
          CHECK(Differs(g.Rows(2), wanted) == "");
          CHECK(g.said() == "");
        });
      }
    }
  }
  CHECK(LiveDeviceNccl() == live);
}

TEST_CASE("[D49] tensor parallel inside, expert parallel between, over NCCL: the same bits",
          "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  const int live = LiveDeviceNccl();
  const struct {
    const char* text;
    int size, tp;
    std::vector<int64_t> tokens;
  } cases[] = {{"h=64 i=256 e=8 k=3 m=26 slot=bf16 invariant=1 rsf=2 bias2=f32", 4, 2, {25, 1}},
               {"h=64 i=512 e=4 k=2 m=5 slot=bf16 invariant=1", 8, 4, {0, 5}},
               {"h=64 i=256 e=8 k=2 m=4 slot=bf16 invariant=1", 8, 2, {0, 3, 1, 0}},
               // A part that reduces twice.
               {"h=32 i=256 e=2 k=1 m=261 slot=bf16 invariant=1 out=f32", 4, 2, {260, 1}}};
  for (const auto& one : cases) {
    const Case c = GpuRanks(one.text);
    for (const auto combine : {DSV4MX_EP_ROUTE_EXACT, DSV4MX_EP_RANK_REDUCE}) {
      Layout both = Parts(one.size);
      both.tp = one.tp;
      both.ep_combine = combine;
      both.tokens = one.tokens;
      INFO(one.text << ", tp " << one.tp << " of " << one.size << ", combine " << combine);
      const auto wanted = RunGroup(c, *On(Spread::kOne, both));
      OnStandIns(both, [&](const Layout& l) {
        Met g(c, l, one.tp == 4);
        REQUIRE(g.said() == "");
        CHECK(Differs(g.Rows(2, one.tp - 1), wanted) == "");
        CHECK(g.said() == "");
      });
    }
  }
  CHECK(LiveDeviceNccl() == live);
}

// What is found among parts is told to tensor-parallel ranks, with rows of NaN: also those who saw nothing themselves.
TEST_CASE("[D50] over NCCL a fault among parts reaches every rank of a group of both",
          "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=256 e=8 k=2 m=16 slot=bf16 invariant=1");
  Layout both = *On(Spread::kOne, Parts(4));
  both.tp = 2;
  for (const auto combine : {DSV4MX_EP_ROUTE_EXACT, DSV4MX_EP_RANK_REDUCE}) {
    both.ep_combine = combine;
    Met g(c, both);
    REQUIRE(g.said() == "");
    const auto wanted = g.Rows();
    std::vector<std::vector<uint8_t>> rows(4);
    (void)OnRanks(4, [&](int r) {
      CallOptions o;
      // Rank 2 and its tensor-parallel partner differ, too: all of them are told what came first.
      o.tag = r == 2 ? 8 : 7;
      o.rows = &rows[static_cast<size_t>(r)];
      (void)ApplyShare(c, both, g.at(r), o);
    });
    for (int r = 0; r < 4; ++r) {
      INFO("rank " << r);
      const dsv4mx_comm_fault_info fault = FaultOf(g.at(r));
      CHECK(fault.status == DSV4MX_STATUS_COMM_MISMATCH);
      CHECK(fault.stage == DSV4MX_COMM_STAGE_DISPATCH);
      CHECK(fault.rank == (r == 2 || r == 3 ? 0 : 2));
      CHECK(AllNaN(c.p, rows[static_cast<size_t>(r)]));
    }
    for (const auto& error : OnRanks(
             4, [&](int r) { Must(dsv4mx_comm_reset(g.at(r).comm.get(), nullptr), "reset"); })) {
      CHECK(error == "");
    }
    CHECK(Differs(g.Rows(2), wanted) == "");
    CHECK(g.said() == "");
  }
}

TEST_CASE("[D51] over NCCL a failing collective ends a group of both, and nothing stays",
          "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=256 e=8 k=2 m=16 slot=bf16 invariant=1");
  Layout both = *On(Spread::kOne, Parts(4));
  both.tp = 2;
  both.ep_combine = DSV4MX_EP_RANK_REDUCE;
  const int live = LiveDeviceNccl(), aborted = AbortedDeviceNccl();
  {
    Met g(c, both);
    REQUIRE(g.said() == "");
    REQUIRE(g.Rows().size() == static_cast<size_t>(c.p.tokens * c.p.hidden) * 2);
    FailDeviceNccl(0);
    CHECK(AllNaN(c.p, g.Rows()));
    FailDeviceNccl(-1);
    for (const auto& error : g.errors) CHECK(MissingWords(error, "NCCL_ERROR") == "");
    // The group's own, that of parts and that of slices, on every rank.
    CHECK(AbortedDeviceNccl() == aborted + 12);
  }
  CHECK(LiveDeviceNccl() == live);
}

TEST_CASE("what groups over NCCL do not do is refused by all", "[gpu][gpu-quick][groups][nccl]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=16 slot=bf16 invariant=1");
  Layout both = *On(Spread::kOne, Parts(4));
  both.tp = 2;
  Layout peer = *On(Spread::kOne, Parts(2));
  peer.transport = DSV4MX_COMM_TRANSPORT_PEER;
  const struct {
    Layout layout;
    bool borrow;
    const char* words;
  } cases[] = {{both, true, "UNSUPPORTED,NO_SPLIT with tp_size 2 of size 4,may be split"},
               {peer, false, "UNSUPPORTED,transport is PEER,wanted AUTO or COLLECTIVE"}};
  for (const auto& one : cases) {
    const Met g(c, one.layout, one.borrow, one.borrow ? DSV4MX_COMM_NO_SPLIT : 0);
    for (const auto& error : g.errors) CHECK(MissingWords(error, one.words) == "");
  }
}

// DSV4MX_TEST_NCCL: the library's file. One rank is all that one device has place for: it meets itself, tells itself its layers
// through device memory, and computes.
TEST_CASE("real NCCL on one device", "[gpu][gpu-quick][nccl]") {
  REQUIRE_GPU();
  const char* file = std::getenv("DSV4MX_TEST_NCCL");
  if (file == nullptr || std::string(file) == "stand-in")
    return Skip("DSV4MX_TEST_NCCL names no libnccl.so.2");
  const Case c = GpuRanks("h=64 i=1024 e=4 k=2 m=9 out=f32");
  Layout alone = *On(Spread::kOne, Slices(1));
  alone.tp_reduce = DSV4MX_TP_INVARIANT;
  const auto wanted = RunGroup(c, alone);
  dsv4mx_nccl_source source = DSV4MX_NCCL_SOURCE_INIT;
  source.path = file;
  char id[128];
  Must(dsv4mx_nccl_get_unique_id(&source, id), "unique_id");
  Rank rank;
  MakePart(c, alone, &rank);
  dsv4mx_comm_desc d = CommDescOf(c.p, alone, 0, 0);
  d.kind = DSV4MX_COMM_NCCL_ID;
  d.nccl = &source;
  d.nccl_id = id;
  JoinWith(c, d, &rank);
  CHECK(Differs(ApplyShare(c, alone, rank), wanted) == "");
  Must(dsv4mx_comm_reset(rank.comm.get(), nullptr), "reset");
  CHECK(Differs(ApplyShare(c, alone, rank), wanted) == "");
  Must(dsv4mx_comm_abort(rank.comm.get()), "abort");
  std::vector<uint8_t> rows;
  CallOptions o;
  o.rows = &rows;
  CHECK_THROWS_AS(ApplyShare(c, alone, rank, o), Refused);
  CHECK(AllNaN(c.p, rows));
}

}  // namespace
}  // namespace dsv4mx::test
