// NCCL itself, a device and a thread for each rank: the bits that one GPU, or the other transport, gives.
#include "tests/catch.h"
#include "tests/gpu/real_nccl.h"

namespace dsv4mx::test {
namespace {

TEST_CASE("[D42] real NCCL: expert parallel has the bits of one GPU", "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL(nccl);
  std::vector<std::string> texts = {
      "h=128 i=64 e=16 k=4 m=37 slot=bf16 invariant=1 clamp=10 rsf=2.5",
      "h=96 i=96 e=8 k=3 m=20 slot=bf16 invariant=1 out=f32 bias13=f32 bias2=f32",
      "h=64 i=32 e=8 k=6 m=24 slot=bf16 invariant=1 dist=dup ids=i64 rw=bf16",
      "h=64 i=128 e=8 k=2 m=16 slot=bf16 invariant=1 wpos=before compute=w4a8",
      "h=64 i=64 e=8 k=1 m=9 slot=bf16 invariant=1 wpos=input dist=half",
      "h=64 i=64 e=8 k=2 m=1 slot=bf16 invariant=1",
      "h=128 i=96 e=16 k=4 m=160 slot=bf16 invariant=1 path=bf16"};
  // NCCL takes other algorithms and protocols for more bytes.
  if (nccl.real()) texts.push_back("h=4096 i=256 e=16 k=6 m=64 slot=bf16 invariant=1");
  if (nccl.large()) texts.push_back("h=4096 i=256 e=16 k=6 m=700 slot=bf16 invariant=1");
  bool borrow = false;
  for (const std::string& text : texts) {
    const Case c = GpuRanks(text);
    const auto one = OneRank(c);
    for (const int size : nccl.sizes()) {
      INFO(text << ", " << size << " ranks");
      Met g(c, Each(Parts(size)), borrow, 0, nccl.source());
      REQUIRE(g.said() == "");
      CHECK(Differs(g.Rows(2), one) == "");
      CHECK(g.said() == "");
      borrow = !borrow;
    }
  }
}

TEST_CASE("[D43] real NCCL: any number of tokens, several rounds, counts and loads",
          "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL(nccl);
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=40 slot=bf16 invariant=1");
  const auto one = OneRank(c);
  for (const auto& tokens :
       std::vector<std::vector<int64_t>>{{40, 0}, {0, 40}, {1, 39}, {17, 23}}) {
    for (const int64_t max_tokens : {0, 17, 1}) {
      for (const auto combine : {DSV4MX_EP_ROUTE_EXACT, DSV4MX_EP_RANK_REDUCE}) {
        Layout layout = Parts(2);
        layout.tokens = tokens;
        layout.max_tokens = max_tokens;
        layout.ep_combine = combine;
        INFO("max_tokens " << max_tokens << ", first " << tokens[0] << ", combine " << combine);
        const auto wanted = combine == DSV4MX_EP_ROUTE_EXACT ? one : RunGroup(c, One(layout));
        Met g(c, Each(layout), false, 0, nccl.source());
        REQUIRE(g.said() == "");
        CHECK(Differs(g.Rows(2), wanted) == "");
        CHECK(g.said() == "");
      }
    }
  }
  Met g(c, Each(Parts(2)), false, 0, nccl.source());
  REQUIRE(g.said() == "");
  std::vector<std::vector<int64_t>> counts(2, std::vector<int64_t>(4, 100));
  CallOptions few;
  few.tokens_device = 3;
  (void)g.Calls(1, few,
                [&](int r, CallOptions* o) { o->expert_counts = &counts[static_cast<size_t>(r)]; });
  CHECK(g.said() == "");
  CheckLoads(&g, counts, 100, int64_t{2} * 3 * c.p.top_k);
  dsv4mx_comm_info info = DSV4MX_COMM_INFO_INIT;
  Must(dsv4mx_comm_query(g.at(1).comm.get(), &info), "query");
  CHECK(info.kind == DSV4MX_COMM_NCCL_ID);
  CHECK(info.transport == DSV4MX_COMM_TRANSPORT_COLLECTIVE);
  CHECK(info.rank == 1);
  CHECK(info.ep_size == 2);
  CHECK(info.window_bytes > 0);
  CHECK(info.nccl_version >= 21900);
  CHECK(MissingWords(info.reason, "collective,NCCL") == "");
  CHECK((info.nccl_file[0] != '\0') == nccl.real());
}

TEST_CASE("[D44] real NCCL: tensor parallel has the bits of the other transport",
          "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL(nccl);
  std::vector<std::string> texts = {
      "h=96 i=1024 e=4 k=3 m=1 rsf=2",
      "h=128 i=1024 e=4 k=2 m=300 out=f32 rsf=1.5 bias2=f32 bias13=f32"};
  if (nccl.large()) texts.push_back("h=4096 i=1024 e=4 k=2 m=600");
  for (const std::string& text : texts) {
    const Case c = GpuRanks(text);
    for (const int size : nccl.sizes()) {
      for (const bool invariant : {false, true}) {
        for (const dsv4mx_dtype partial : {DSV4MX_DTYPE_F32, DSV4MX_DTYPE_BF16}) {
          if (invariant && partial == DSV4MX_DTYPE_BF16) continue;
          Layout layout = Slices(size);
          layout.partial = partial;
          if (invariant) layout.tp_reduce = DSV4MX_TP_INVARIANT;
          INFO(text << ", " << size << " ranks, invariant " << invariant << ", partial "
                    << partial);
          // Invariant means that of one rank.
          Layout other = layout;
          if (invariant) other.size = other.tp = 1;
          const auto wanted = RunGroup(c, One(other));
          Met g(c, Each(layout), invariant, 0, nccl.source());
          REQUIRE(g.said() == "");
          CHECK(Differs(g.Rows(2), wanted) == "");
          CHECK(Differs(g.Rows(1, size - 1), wanted) == "");
          CHECK(g.said() == "");
        }
      }
    }
  }
}

TEST_CASE("[D48] real NCCL: RANK_REDUCE has the bits of the other transport",
          "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL(nccl);
  std::vector<std::string> texts = {
      "h=128 i=64 e=16 k=4 m=37 out=f32 rsf=2.5 bias2=f32", "h=64 i=32 e=8 k=6 m=24 dist=dup",
      "h=64 i=32 e=8 k=2 m=9 wpos=before", "h=2080 i=32 e=8 k=2 m=5 rw=bf16 ids=i64",
      "h=128 i=96 e=16 k=4 m=160 path=bf16"};
  if (nccl.real())
    texts.push_back(nccl.large() ? "h=4096 i=256 e=16 k=6 m=700" : "h=4096 i=64 e=16 k=6 m=300");
  for (const std::string& text : texts) {
    const Case c = GpuRanks(text);
    for (const int size : nccl.sizes()) {
      for (const dsv4mx_dtype partial : {DSV4MX_DTYPE_F32, DSV4MX_DTYPE_BF16}) {
        Layout layout = SumsOf(size);
        layout.partial = partial;
        if (partial == DSV4MX_DTYPE_BF16) {
          layout.tokens.assign(static_cast<size_t>(size), 0);
          layout.tokens[1] = c.p.tokens;
        }
        INFO(text << ", " << size << " ranks, partial " << partial);
        const auto wanted = RunGroup(c, One(layout));
        Met g(c, Each(layout), partial == DSV4MX_DTYPE_BF16, 0, nccl.source());
        REQUIRE(g.said() == "");
        CHECK(Differs(g.Rows(2), wanted) == "");
        CHECK(g.said() == "");
      }
    }
  }
}

TEST_CASE("[D49] real NCCL: tensor parallel inside, expert parallel between", "[gpu][nccl]") {
  REQUIRE_NCCL(nccl);
  if (Devices() < 4) return Skip("fewer than four CUDA devices");
  const Case c = GpuRanks("h=64 i=256 e=8 k=3 m=26 slot=bf16 invariant=1 rsf=2 bias2=f32");
  for (const auto combine : {DSV4MX_EP_ROUTE_EXACT, DSV4MX_EP_RANK_REDUCE}) {
    Layout both = Parts(4);
    both.tp = 2;
    both.ep_combine = combine;
    both.tokens = {25, 1};
    INFO("combine " << combine);
    const auto wanted = RunGroup(c, One(both));
    Met g(c, Each(both), combine == DSV4MX_EP_RANK_REDUCE, 0, nccl.source());
    REQUIRE(g.said() == "");
    CHECK(Differs(g.Rows(2, 1), wanted) == "");
    CHECK(g.said() == "");
  }
}

// The stream of the thread that calls, which means another one in a thread of NCCL's.
TEST_CASE("real NCCL: a call on cudaStreamPerThread", "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL(nccl);
  const Case c = GpuRanks("h=64 i=256 e=8 k=2 m=20 slot=bf16 invariant=1");
  CallOptions o;
  for (const Layout& layout : {Parts(2), SumsOf(2), Slices(2)}) {
    Met g(c, Each(layout), false, 0, nccl.source());
    REQUIRE(g.said() == "");
    const auto wanted = g.Rows();
    for (const cudaStream_t stream : {cudaStreamPerThread, cudaStreamLegacy}) {
      o.stream = stream;
      CHECK(Differs(g.Rows(20, 0, o), wanted) == "");
      CHECK(g.said() == "");
    }
  }
}

// The host's communicator gathers one int of each rank, as it does in its own work.
std::string HostGathers(const RealNccl& nccl, Met* g) {
  std::vector<int> wanted(static_cast<size_t>(g->layout.size));
  for (size_t r = 0; r < wanted.size(); ++r) wanted[r] = 100 + static_cast<int>(r);
  g->Each([&](int r) {
    const Stream stream;
    const Guarded mine(g->at(r).context, &wanted[static_cast<size_t>(r)], sizeof(int), 16);
    const Guarded all(g->at(r).context, wanted.size() * sizeof(int), 16);
    const int result = nccl.host().AllGather(mine.data(), all.data(), sizeof(int), 1,
                                             g->host[static_cast<size_t>(r)], stream.get());
    if (result != 0) throw std::runtime_error("ncclAllGather returned " + std::to_string(result));
    stream.Wait();
    if (std::memcmp(all.Read().data(), wanted.data(), all.bytes()) != 0)
      throw std::runtime_error("the host's own all-gather gave something else");
  });
  return g->said();
}

TEST_CASE("real NCCL: a borrowed communicator stays the caller's", "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL(nccl);
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=20 slot=bf16 invariant=1");
  const auto one = OneRank(c);
  const Layout l = Each(Parts(2));
  for (const uint32_t flags : {uint32_t{0}, uint32_t{DSV4MX_COMM_NO_SPLIT}}) {
    INFO("flags " << flags);
    Met g(c, l, true, flags, nccl.source());
    REQUIRE(g.said() == "");
    for (int i = 0; i < 3; ++i) {
      CHECK(Differs(g.Rows(2), one) == "");
      CHECK(g.said() == "");
      if (nccl.real()) CHECK(HostGathers(nccl, &g) == "");
    }
    // The group's end is not the communicator's.
    g.Each([&](int r) { g.at(r).comm.reset(); });
    CHECK(g.said() == "");
    if (nccl.real()) CHECK(HostGathers(nccl, &g) == "");
  }
  if (!nccl.real()) return;
  // Made for all devices at once, by one thread; and an NCCL that is found because the process has loaded it.
  std::vector<void*> made(2);
  const int devices[] = {0, 1};
  REQUIRE(nccl.host().InitAll(made.data(), 2, devices) == 0);
  NcclSource found = nccl.source();
  found.path = "";
  found.make = [&](const char(&)[128], int, int rank) { return made[static_cast<size_t>(rank)]; };
  Met g(c, l, true, 0, found);
  REQUIRE(g.said() == "");
  CHECK(Differs(g.Rows(2), one) == "");
  CHECK(HostGathers(nccl, &g) == "");
  dsv4mx_comm_info info = DSV4MX_COMM_INFO_INIT;
  Must(dsv4mx_comm_query(g.at(0).comm.get(), &info), "query");
  CHECK(info.kind == DSV4MX_COMM_NCCL_BORROW);
}

TEST_CASE("real NCCL: what a borrowed communicator does not fit is refused",
          "[gpu][nccl][two-gpus]") {
  REQUIRE_NCCL_ITSELF(nccl);
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=20 slot=bf16 invariant=1");
  const Layout l = Each(Parts(2));
  const Met g(c, l, true, 0, nccl.source());
  REQUIRE(g.said() == "");
  dsv4mx_comm_desc d = CommDescOf(c.p, l, 1, 0);
  d.kind = DSV4MX_COMM_NCCL_BORROW;
  d.nccl = &g.nccl.source;
  d.nccl_comm = g.host[0];
  dsv4mx_comm* comm = nullptr;
  REQUIRE_REFUSED(dsv4mx_comm_create(ContextFor(c.p, l, 0), &d, &comm), DSV4MX_STATUS_COMM_MISMATCH,
                  "nccl_comm is rank 0 of 2,wanted 1 of 2");
  CHECK(comm == nullptr);
}

}  // namespace
}  // namespace dsv4mx::test
