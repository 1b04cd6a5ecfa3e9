// NCCL: how it is found, what is said where it is not, and the transport over a stand-in for it with every fault.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/catch.h"
#include "tests/dist/fake_nccl.h"
#include "tests/dist/group.h"

namespace dsv4mx::test {
namespace {

const char* const kText = "h=64 i=64 e=8 k=3 m=21 slot=bf16 invariant=1";

struct Source {
  Source() : table(FakeNcclTable()) {
    source.functions = table.data();
    source.function_count = table.size();
  }
  std::vector<dsv4mx_nccl_function> table;
  dsv4mx_nccl_source source = DSV4MX_NCCL_SOURCE_INIT;
};

struct Result {
  std::vector<std::string> errors;
  std::vector<uint8_t> rows;  // of all parts
  std::vector<dsv4mx_comm_info> infos;
};

// The whole way with NCCL_ID, or with borrowed communicators.
Result RunNccl(const Case& c, Layout layout, bool borrow = false, uint32_t flags = 0, int calls = 1,
               bool blocking = true) {
  (void)ContextOf(c.p);
  Source s;
  char id[128];
  Must(dsv4mx_nccl_get_unique_id(&s.source, id), "unique_id");
  std::vector<std::vector<uint8_t>> outs(static_cast<size_t>(layout.size));
  std::vector<dsv4mx_comm_info> infos(static_cast<size_t>(layout.size),
                                      dsv4mx_comm_info DSV4MX_COMM_INFO_INIT);
  Result result;
  result.errors = OnRanks(layout.size, [&](int r) {
    Rank rank;
    rank.rank = r;
    MakePart(c, layout, &rank);
    dsv4mx_comm_desc d = CommDescOf(c.p, layout, r, 0);
    d.kind = borrow ? DSV4MX_COMM_NCCL_BORROW : DSV4MX_COMM_NCCL_ID;
    d.flags = flags;
    d.nccl = &s.source;
    d.nccl_id = id;
    struct Host {
      ~Host() {
        if (comm != nullptr) DestroyFakeNcclComm(comm);
      }
      void* comm = nullptr;
    } host;
    if (borrow) d.nccl_comm = host.comm = MakeFakeNcclComm(id, layout.size, r, blocking);
    JoinWith(c, d, &rank);
    Must(dsv4mx_comm_query(rank.comm.get(), &infos[static_cast<size_t>(r)]), "query");
    for (int call = 0; call < calls; ++call)
      outs[static_cast<size_t>(r)] = ApplyShare(c, layout, rank);
    rank.comm.reset();
  });
  for (int ep = 0; ep < layout.ep(); ++ep) {
    const auto& one = outs[static_cast<size_t>(ep * layout.tp)];
    result.rows.insert(result.rows.end(), one.begin(), one.end());
  }
  result.infos = infos;
  return result;
}

Layout Ranks(int size) {
  Layout layout;
  layout.size = size;
  layout.timeout_ns = 2'000'000'000;
  return layout;
}

TEST_CASE("[D40] where NCCL comes from, and what is said where it does not", "[dist][nccl]") {
  SetFakeNccl({});
  dsv4mx_nccl_info info = DSV4MX_NCCL_INFO_INIT;
  Source s;
  REQUIRE_OK(dsv4mx_nccl_query(&s.source, &info));
  CHECK(info.version == 22809);
  CHECK(std::string(info.file) == "");
  for (const auto& f : FakeNcclTable()) {
    SetFakeNccl({.missing = f.name});
    const Source less;
    REQUIRE_REFUSED(dsv4mx_nccl_query(&less.source, &info), DSV4MX_STATUS_NCCL_UNAVAILABLE,
                    std::string("table,lacks,2.19,") + f.name);
  }
  Source small;
  small.table[0].struct_size = 16;
  REQUIRE_REFUSED(dsv4mx_nccl_query(&small.source, &info), DSV4MX_STATUS_INVALID_STRUCT,
                  "functions[0] is 16,24");
  SetFakeNccl({.version = -1});
  REQUIRE_REFUSED(dsv4mx_nccl_query(&s.source, &info), DSV4MX_STATUS_NCCL_UNAVAILABLE,
                  "ncclGetVersion,returned 3");
  SetFakeNccl({.version = 21805});
  REQUIRE_REFUSED(dsv4mx_nccl_query(&s.source, &info), DSV4MX_STATUS_NCCL_UNAVAILABLE,
                  "version 21805,2.19");
  SetFakeNccl({});
  dsv4mx_nccl_source path = DSV4MX_NCCL_SOURCE_INIT;
  path.path = "/nowhere/libnccl.so.2";
  REQUIRE_REFUSED(dsv4mx_nccl_query(&path, &info), DSV4MX_STATUS_NCCL_UNAVAILABLE,
                  "/nowhere/libnccl.so.2,dsv4mx_nccl_source,cannot be loaded");
  setenv("DSV4MX_NCCL_PATH", "/elsewhere/libnccl.so.2", 1);
  REQUIRE_REFUSED(dsv4mx_nccl_query(nullptr, &info), DSV4MX_STATUS_NCCL_UNAVAILABLE,
                  "/elsewhere/libnccl.so.2,DSV4MX_NCCL_PATH");
  // A library that is none.
  setenv("DSV4MX_NCCL_PATH", "libm.so.6", 1);
  REQUIRE_REFUSED(dsv4mx_nccl_query(nullptr, &info), DSV4MX_STATUS_NCCL_UNAVAILABLE,
                  "libm.so.6 lacks ncclGetVersion");
  unsetenv("DSV4MX_NCCL_PATH");
  if (dlopen("libnccl.so.2", RTLD_NOLOAD | RTLD_NOW) == nullptr) {
    void* there = dlopen("libnccl.so.2", RTLD_NOW);
    if (there == nullptr) {
      REQUIRE_REFUSED(dsv4mx_nccl_query(nullptr, &info), DSV4MX_STATUS_NCCL_UNAVAILABLE,
                      "not found,DSV4MX_NCCL_PATH is not set,libnccl.so.2,ncclGetVersion,pip");
    }
    // Another copy than the one that made a borrowed communicator would not do.
    dsv4mx_comm_desc d = CommDescOf(MakeCase(kText).p, Ranks(2), 0, 0);
    d.kind = DSV4MX_COMM_NCCL_BORROW;
    d.nccl_comm = &d;
    dsv4mx_comm* comm = nullptr;
    if (there == nullptr) {
      REQUIRE_REFUSED(dsv4mx_comm_create(CpuContext(), &d, &comm), DSV4MX_STATUS_NCCL_UNAVAILABLE,
                      "made nccl_comm,functions or its path");
    }
  }
}

TEST_CASE("[D41] NCCL as a shared object", "[dist][nccl]") {
  const char* file = std::getenv("DSV4MX_TEST_FAKE_NCCL");
  if (file == nullptr) return Skip("DSV4MX_TEST_FAKE_NCCL names no shared object");
  dsv4mx_nccl_info info = DSV4MX_NCCL_INFO_INIT;
  dsv4mx_nccl_source path = DSV4MX_NCCL_SOURCE_INIT;
  path.path = file;
  REQUIRE_OK(dsv4mx_nccl_query(&path, &info));
  CHECK(info.version == 22809);
  CHECK(std::string(info.file) == file);
  setenv("DSV4MX_NCCL_PATH", file, 1);
  info = DSV4MX_NCCL_INFO_INIT;
  REQUIRE_OK(dsv4mx_nccl_query(nullptr, &info));
  CHECK(std::string(info.file) == file);
  unsetenv("DSV4MX_NCCL_PATH");
}

TEST_CASE("[D42] over NCCL: the bits of one rank, of one part, of every size", "[dist][nccl]") {
  const Case c = MakeCase(kText);
  const auto one = Runner(c).Apply().raw;
  for (const int in_progress : {0, 3}) {
    for (const int size : {1, 2, 4}) {
      SetFakeNccl({.in_progress = in_progress});
      const Result r = RunNccl(c, Ranks(size), false, 0, 2);
      for (const auto& e : r.errors) CHECK(e == "");
      CHECK(r.rows == one);
      CHECK(SeenByFakeNccl().live == 0);
      CHECK(SeenByFakeNccl().aborts == 0);
      CHECK(SeenByFakeNccl().bad_configs == 0);
      CHECK(r.infos[0].nccl_version == 22809);
      if (size > 1) CHECK(r.infos[0].transport == DSV4MX_COMM_TRANSPORT_COLLECTIVE);
    }
  }
  SetFakeNccl({});
  Layout few = Ranks(4);
  few.tokens = {0, 20, 0, 1};
  few.max_tokens = 7;
  CHECK(RunNccl(c, few).rows == one);
  Layout f32 = Ranks(4);
  f32.slot = DSV4MX_DTYPE_F32;
  const Case wide = MakeCase("h=64 i=64 e=8 k=3 m=21 slot=f32 invariant=1");
  CHECK(RunNccl(wide, f32).rows == Runner(wide).Apply().raw);
  // Tensor parallel: what windows give.
  for (const auto reduce : {DSV4MX_TP_RANK_ORDER, DSV4MX_TP_INVARIANT}) {
    const Case t = MakeCase("h=64 i=256 e=4 k=2 m=300");
    Layout tp = Ranks(4);
    tp.tp = 4;
    tp.tp_reduce = reduce;
    CHECK(RunNccl(t, tp).rows == RunGroup(t, tp));
  }
}

TEST_CASE("[D43] a borrowed communicator is split, or used as it is, and never destroyed",
          "[dist][nccl]") {
  const Case c = MakeCase(kText);
  const auto one = Runner(c).Apply().raw;
  for (const uint32_t flags : {0u, static_cast<uint32_t>(DSV4MX_COMM_NO_SPLIT)}) {
    SetFakeNccl({});
    const Result r = RunNccl(c, Ranks(2), true, flags);
    for (const auto& e : r.errors) CHECK(e == "");
    CHECK(r.rows == one);
    // The host's two, and ours where they were split.
    CHECK(SeenByFakeNccl().destroys == (flags == 0 ? 4 : 2));
    CHECK(SeenByFakeNccl().live == 0);
  }
  Source s;
  char id[128];
  REQUIRE_OK(dsv4mx_nccl_get_unique_id(&s.source, id));
  void* host = MakeFakeNcclComm(id, 3, 1);
  dsv4mx_comm_desc d = CommDescOf(c.p, Ranks(2), 0, 0);
  d.kind = DSV4MX_COMM_NCCL_BORROW;
  d.nccl = &s.source;
  d.nccl_comm = host;
  dsv4mx_comm* comm = nullptr;
  REQUIRE_REFUSED(dsv4mx_comm_create(CpuContext(), &d, &comm), DSV4MX_STATUS_COMM_MISMATCH,
                  "nccl_comm is rank 1 of 3,wanted 0 of 2");
  d.nccl_comm = nullptr;
  REQUIRE_REFUSED(dsv4mx_comm_create(CpuContext(), &d, &comm), DSV4MX_STATUS_INVALID_ARGUMENT,
                  "nccl_comm is NULL");
  d.kind = DSV4MX_COMM_NCCL_ID;
  REQUIRE_REFUSED(dsv4mx_comm_create(CpuContext(), &d, &comm), DSV4MX_STATUS_INVALID_ARGUMENT,
                  "nccl_id is NULL");
  DestroyFakeNcclComm(host);
}

TEST_CASE("[D44] faults of NCCL are statuses, and nothing stays behind", "[dist][nccl]") {
  const Case c = MakeCase(kText);
  const struct {
    FakeNccl faults;
    const char* words;
  } cases[] = {
      {{.init_result = 1}, "NCCL_ERROR,ncclCommInitRankConfig returned 1,told to fail"},
      {{.hang = true}, "COMM_TIMEOUT,ncclCommInitRankConfig,in progress after 2.000 s"},
      {{.async_after = 0}, "NCCL_ERROR,ncclAllGather"},
      {{.async_after = 9}, "NCCL_ERROR"},
      {{.in_progress = 2, .async_after = 7}, "NCCL_ERROR"},
  };
  for (const auto& one : cases) {
    SetFakeNccl(one.faults);
    const Result r = RunNccl(c, Ranks(2), false, 0, 4);
    INFO(one.words);
    for (const auto& e : r.errors) CHECK(MissingWords(e, one.words) == "");
    CHECK(SeenByFakeNccl().live == 0);
    CHECK(SeenByFakeNccl().bad_configs == 0);
  }
  // A borrowed one is not aborted.
  SetFakeNccl({.async_after = 5});
  const Result r = RunNccl(c, Ranks(2), true, DSV4MX_COMM_NO_SPLIT, 4);
  for (const auto& e : r.errors) CHECK(MissingWords(e, "NCCL_ERROR") == "");
  CHECK(SeenByFakeNccl().aborts == 0);
  SetFakeNccl({});
  char id[128];
  SetFakeNccl({.id_result = 3});
  Source s;
  REQUIRE_REFUSED(dsv4mx_nccl_get_unique_id(&s.source, id), DSV4MX_STATUS_NCCL_ERROR,
                  "ncclGetUniqueId returned 3");
  SetFakeNccl({});
}

TEST_CASE("[D48] RANK_REDUCE over collectives: sums in rank order, the bits of windows",
          "[dist][nccl]") {
  SetFakeNccl({});
  for (const char* text : {"h=128 i=64 e=16 k=4 m=37 out=f32 rsf=2.5",
                           "h=64 i=32 e=8 k=6 m=24 dist=dup wpos=before bias13=f32",
                           "h=64 i=64 e=8 k=1 m=9 wpos=input dist=half"}) {
    const Case c = MakeCase(text);
    for (const int size : {2, 4, 8}) {
      for (const dsv4mx_dtype partial : {DSV4MX_DTYPE_F32, DSV4MX_DTYPE_BF16}) {
        Layout layout = Ranks(size);
        layout.ep_combine = DSV4MX_EP_RANK_REDUCE;
        layout.partial = partial;
        if (size == 4) layout.tokens = {0, c.p.tokens - 1, 0, 1}, layout.max_tokens = 7;
        INFO(text << " on " << size << " partial " << partial);
        const auto wanted = RunGroup(c, layout);
        const Result r = RunNccl(c, layout, false, 0, 2);
        for (const auto& e : r.errors) CHECK(e == "");
        CHECK(r.rows == wanted);
        layout.kind = DSV4MX_COMM_CALLBACK;
        layout.transport = DSV4MX_COMM_TRANSPORT_COLLECTIVE;
        CHECK(RunGroup(c, layout, 2) == wanted);
      }
    }
  }
  CHECK(SeenByFakeNccl().live == 0);
}

TEST_CASE("[D49] expert and tensor parallel over collectives: the bits of windows",
          "[dist][nccl]") {
  SetFakeNccl({});
  const Case c = MakeCase("h=64 i=128 e=8 k=3 m=600 slot=bf16 invariant=1 rsf=2");
  for (const int tp : {2, 4}) {
    for (const auto combine : {DSV4MX_EP_ROUTE_EXACT, DSV4MX_EP_RANK_REDUCE}) {
      // A part without tokens, and one that needs several reductions where others need one.
      Layout both = Ranks(8);
      both.tp = tp;
      both.ep_combine = combine;
      both.tokens = tp == 2 ? std::vector<int64_t>{0, 580, 1, 19} : std::vector<int64_t>{599, 1};
      INFO("tp " << tp << ", combine " << combine);
      const auto wanted = RunGroup(c, both);
      const Result r = RunNccl(c, both, false, 0, 2);
      for (const auto& e : r.errors) CHECK(e == "");
      CHECK(r.rows == wanted);
      CHECK(RunNccl(c, both, true, DSV4MX_COMM_NO_SPLIT).rows == wanted);
      both.kind = DSV4MX_COMM_CALLBACK;
      both.transport = DSV4MX_COMM_TRANSPORT_COLLECTIVE;
      CHECK(RunGroup(c, both, 2, tp - 1) == wanted);
    }
  }
  CHECK(SeenByFakeNccl().live == 0);
}

TEST_CASE("[D50] a split of a communicator that does not block is waited for", "[dist][nccl]") {
  const Case c = MakeCase(kText);
  const auto one = Runner(c).Apply().raw;
  SetFakeNccl({.in_progress = 3});
  const Result r = RunNccl(c, Ranks(2), true, 0, 1, false);
  for (const auto& e : r.errors) CHECK(e == "");
  CHECK(r.rows == one);
  CHECK(SeenByFakeNccl().live == 0);
  for (const bool blocking : {true, false}) {
    SetFakeNccl({.split_result = 3});
    for (const auto& e : RunNccl(c, Ranks(2), true, 0, 1, blocking).errors)
      CHECK(MissingWords(e, "NCCL_ERROR,ncclCommSplit returned 3") == "");
  }
  SetFakeNccl({});
}

TEST_CASE("[D51] sends and receives that fail end the group, and what was begun is ended",
          "[dist][nccl]") {
  const Case c = MakeCase("h=64 i=64 e=8 k=3 m=21");
  Layout sums = Ranks(2);
  sums.ep_combine = DSV4MX_EP_RANK_REDUCE;
  for (const FakeNccl& faults : {FakeNccl{.group_result = 3}, FakeNccl{.send_result = 3},
                                 FakeNccl{.in_progress = 2, .async_after = 10},
                                 FakeNccl{.async_after = 11}, FakeNccl{.async_after = 12}}) {
    SetFakeNccl(faults);
    for (const auto& e : RunNccl(c, sums, false, 0, 6).errors) {
      INFO(e);
      CHECK(MissingWords(e, "NCCL_ERROR") == "");
    }
    CHECK(SeenByFakeNccl().groups_open == 0);
    CHECK(SeenByFakeNccl().live == 0);
  }
  SetFakeNccl({});
}

TEST_CASE("[D45] what this version does not do over collectives is refused on every rank",
          "[dist][nccl]") {
  const Case c = MakeCase(kText);
  SetFakeNccl({});
  Layout peer = Ranks(2);
  peer.transport = DSV4MX_COMM_TRANSPORT_PEER;
  for (const auto& e : RunNccl(c, peer).errors) CHECK(MissingWords(e, "UNSUPPORTED,PEER") == "");
  unsetenv("NCCL_NVLS_ENABLE");
  for (const auto& e : RunNccl(c, Ranks(2), false, DSV4MX_COMM_FORBID_MULTICAST).errors)
    CHECK(MissingWords(e, "UNSUPPORTED,NCCL_NVLS_ENABLE is not set,FORBID_MULTICAST") == "");
  setenv("NCCL_NVLS_ENABLE", "0", 1);
  for (const auto& e : RunNccl(c, Ranks(2), false, DSV4MX_COMM_FORBID_MULTICAST).errors)
    CHECK(e == "");
  unsetenv("NCCL_NVLS_ENABLE");
}

// Hidden: tests/dist/nccl_real.sh runs it for each NCCL that it finds.
TEST_CASE("[D47] the real NCCL without a GPU", "[.][real-nccl]") {
  const char* file = std::getenv("DSV4MX_TEST_NCCL");
  if (file == nullptr) return Skip("DSV4MX_TEST_NCCL names no libnccl.so.2");
  dsv4mx_nccl_source source = DSV4MX_NCCL_SOURCE_INIT;
  source.path = file;
  dsv4mx_nccl_info info = DSV4MX_NCCL_INFO_INIT;
  REQUIRE_OK(dsv4mx_nccl_query(&source, &info));
  CHECK(info.version >= 21900);
  CHECK(std::string(info.file) == file);
  // What is loaded is found without a path.
  dsv4mx_nccl_info again = DSV4MX_NCCL_INFO_INIT;
  REQUIRE_OK(dsv4mx_nccl_query(nullptr, &again));
  CHECK(again.version == info.version);
  char id[128] = {};
  REQUIRE_OK(dsv4mx_nccl_get_unique_id(&source, id));
  CHECK(std::string(id, sizeof id) != std::string(128, '\0'));
  printf("NCCL %d, %s\n", info.version, file);
  if (WhyNoGpu().empty()) return;
  // Two ranks of the CPU: NCCL says that there is no device, and nothing crashes or hangs.
  for (const auto& e : OnRanks(2, [&](int r) {
         dsv4mx_comm_desc d = CommDescOf(MakeCase(kText).p, Ranks(2), r, 0);
         d.kind = DSV4MX_COMM_NCCL_ID;
         d.nccl = &source;
         d.nccl_id = id;
         dsv4mx_comm* comm = nullptr;
         Must(dsv4mx_comm_create(CpuContext(), &d, &comm), "comm_create");
       }))
    CHECK(MissingWords(e, "NCCL_ERROR,ncclCommInitRankConfig") == "");
}

TEST_CASE("[D46] the caller's all_gather alone carries everything", "[dist]") {
  const Case c = MakeCase(kText);
  Layout layout = Ranks(4);
  layout.kind = DSV4MX_COMM_CALLBACK;
  layout.transport = DSV4MX_COMM_TRANSPORT_COLLECTIVE;
  CHECK(RunGroup(c, layout, 3) == Runner(c).Apply().raw);
  // What it gathers to add up is part of what the query tells.
  const auto group = NewGroup();
  std::vector<Rank> ranks(4);
  for (const auto& e : OnRanks(4, [&](int r) {
         Rank& rank = ranks[static_cast<size_t>(r)];
         rank.rank = r;
         MakeComm(c, layout, group, &rank);
         dsv4mx_comm_info info = DSV4MX_COMM_INFO_INIT;
         Must(dsv4mx_comm_query(rank.comm.get(), &info), "comm_query");
         const dsv4mx_comm_desc d = CommDescOf(c.p, layout, r, group);
         const int64_t routes = d.max_tokens * d.max_top_k * d.max_hidden * 2;
         if (info.window_bytes < (2 * 4 + 1) * routes) throw std::runtime_error("window_bytes");
       }))
    CHECK(e == "");
  const Case t = MakeCase("h=64 i=256 e=4 k=2 m=30");
  layout.tp = 4;
  Layout windows = Ranks(4);
  windows.tp = 4;
  CHECK(RunGroup(t, layout) == RunGroup(t, windows));
}

}  // namespace
}  // namespace dsv4mx::test
