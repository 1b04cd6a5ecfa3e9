// What goes wrong in a group ends on every rank with a status in time, with rows of NaN, and without harm to anything else.
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

#include "tests/catch.h"
#include "tests/dist/group.h"
#include "tests/new_faults.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kShort = 300'000'000;  // nanoseconds

const char* const kText = "h=64 i=64 e=8 k=2 m=16 slot=bf16 invariant=1";

// What one rank was told.
struct Told {
  std::string text;  // "" = nothing went wrong
  dsv4mx_status status = DSV4MX_STATUS_OK;
  double seconds = 0;
};

// body(rank) on a thread each; what each was refused with, and when.
std::vector<Told> Refusals(int size, const std::function<void(int)>& body) {
  std::vector<Told> told(static_cast<size_t>(size));
  const auto begin = Clock::now();
  const auto other = OnRanks(size, [&](int r) {
    Told& mine = told[static_cast<size_t>(r)];
    try {
      body(r);
    } catch (const Refused& e) {
      mine.text = e.what();
      mine.status = e.status;
    }
    mine.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  });
  for (const auto& error : other) REQUIRE(error == "");
  return told;
}

void CheckTold(const Told& t, dsv4mx_status status, const std::string& words) {
  INFO(t.text);
  CHECK(std::string(dsv4mx_status_name(t.status)) == dsv4mx_status_name(status));
  CHECK(MissingWords(t.text, words) == "");
}

bool AllNaN(const std::vector<uint8_t>& rows) {
  for (size_t i = 0; i + 2 <= rows.size(); i += 2) {
    uint16_t v;
    std::memcpy(&v, rows.data() + i, 2);
    if (!std::isnan(FromBf16(v))) return false;
  }
  return true;
}

// Ranks of one group that have joined, for tests of apply.
struct Joined {
  Joined(const Case& whole, Layout given) : c(whole), layout(std::move(given)) {
    (void)ContextOf(c.p);
    Again();
  }
  void Again() {
    ranks.clear();
    ranks.resize(static_cast<size_t>(layout.size));
    const uint64_t group = NewGroup();
    for (const auto& t : Refusals(layout.size, [&](int r) {
           Rank& rank = ranks[static_cast<size_t>(r)];
           rank.rank = r;
           MakePart(c, layout, &rank);
           JoinGroup(c, layout, group, &rank);
         }))
      REQUIRE(t.text == "");
  }
  Rank& at(int r) { return ranks[static_cast<size_t>(r)]; }
  std::vector<uint8_t> Apply(int r, const CallOptions& options = {}) {
    return ApplyShare(c, layout, at(r), options);
  }
  dsv4mx_comm_fault_info Fault(int r) {
    dsv4mx_comm_fault_info f = DSV4MX_COMM_FAULT_INFO_INIT;
    REQUIRE_OK(dsv4mx_comm_query_faults(at(r).comm.get(), &f));
    return f;
  }
  void AllWork() {
    for (const auto& t : Refusals(layout.size, [&](int r) { (void)Apply(r); })) CHECK(t.text == "");
  }

  Case c;
  Layout layout;
  std::vector<Rank> ranks;
};

Layout Ranks(int size, int64_t timeout_ns = kShort) {
  Layout layout;
  layout.size = size;
  layout.timeout_ns = timeout_ns;
  return layout;
}

TEST_CASE("[D20] a rank that does not come to create is named in time", "[dist]") {
  const Case c = MakeCase(kText);
  const uint64_t group = NewGroup();
  const auto told = Refusals(4, [&](int r) {
    Rank rank;
    rank.rank = r;
    if (r != 2) MakeComm(c, Ranks(4), group, &rank);
  });
  for (const int r : {0, 1, 3}) {
    CheckTold(told[static_cast<size_t>(r)], DSV4MX_STATUS_COMM_TIMEOUT, "rank 2 of 4,join,0.300");
    CHECK(told[static_cast<size_t>(r)].seconds < 5);
  }
  // The number is free again.
  for (const auto& t : Refusals(2, [&](int r) {
         Rank rank;
         rank.rank = r;
         MakeComm(c, Ranks(2), group, &rank);
       }))
    CHECK(t.text == "");
}

TEST_CASE("[D21] ranks that describe the group differently all fail alike", "[dist]") {
  const Case c = MakeCase(kText);
  const struct {
    void (*change)(dsv4mx_comm_desc*);
    dsv4mx_status status;
    const char* words;
  } cases[] = {
      {[](dsv4mx_comm_desc* d) { d->max_tokens = 17; }, DSV4MX_STATUS_COMM_MISMATCH,
       "max_tokens is 17 on rank 1,wanted 16 as on rank 0"},
      {[](dsv4mx_comm_desc* d) { d->ep_combine = DSV4MX_EP_RANK_REDUCE; },
       DSV4MX_STATUS_COMM_MISMATCH, "ep_combine is 1 on rank 1"},
      {[](dsv4mx_comm_desc* d) { d->slot_dtype = DSV4MX_DTYPE_F32; }, DSV4MX_STATUS_COMM_MISMATCH,
       "slot_dtype is 2 on rank 1"},
      {[](dsv4mx_comm_desc* d) { d->timeout_ns = 1'000'000'000; }, DSV4MX_STATUS_COMM_MISMATCH,
       "timeout_ns"},
      {[](dsv4mx_comm_desc* d) { d->max_hidden = 63; }, DSV4MX_STATUS_INVALID_ARGUMENT,
       "rank 1: ,max_hidden is 63,multiple of 32"},
      {[](dsv4mx_comm_desc* d) { d->tp_size = 3; }, DSV4MX_STATUS_INVALID_ARGUMENT,
       "rank 1: ,tp_size is 3 of size 4"},
      {[](dsv4mx_comm_desc* d) { d->partial_dtype = DSV4MX_DTYPE_F16; },
       DSV4MX_STATUS_UNSUPPORTED_DTYPE, "rank 1: ,partial_dtype is 3"},
      {[](dsv4mx_comm_desc* d) { d->tp_slices = 4; }, DSV4MX_STATUS_INVALID_ARGUMENT,
       "rank 1: ,tp_slices is 4"},
      {[](dsv4mx_comm_desc* d) { d->tp_reduce = DSV4MX_TP_INVARIANT; }, DSV4MX_STATUS_UNSUPPORTED,
       "rank 1: ,TP_INVARIANT with 4 expert-parallel parts"},
      {[](dsv4mx_comm_desc* d) { d->flags = 64; }, DSV4MX_STATUS_INVALID_ARGUMENT,
       "rank 1: ,flags is 0x40"},
      {[](dsv4mx_comm_desc* d) { d->max_tokens = 0; }, DSV4MX_STATUS_INVALID_ARGUMENT,
       "rank 1: ,max_tokens is 0,1..131072"},
  };
  for (const auto& one : cases) {
    const uint64_t group = NewGroup();
    const auto told = Refusals(4, [&](int r) {
      dsv4mx_comm_desc d = CommDescOf(c.p, Ranks(4), r, group);
      if (r == 1) one.change(&d);
      dsv4mx_comm* comm = reinterpret_cast<dsv4mx_comm*>(0x10);
      const dsv4mx_status status = dsv4mx_comm_create(ContextOf(c.p), &d, &comm);
      if (comm != nullptr) throw std::runtime_error("a communicator came out of a refusal");
      Must(status, "create");
    });
    for (int r = 0; r < 4; ++r) {
      std::string words = one.words;
      if (r == 1 && words.rfind("rank 1: ,", 0) == 0) words = words.substr(9);
      CheckTold(told[static_cast<size_t>(r)], one.status, words);
    }
  }
}

TEST_CASE("[D22] ranks of other sizes and ranks that come twice are refused alone", "[dist]") {
  const Case c = MakeCase(kText);
  const uint64_t group = NewGroup();
  const auto told = Refusals(4, [&](int r) {
    dsv4mx_comm_desc d = CommDescOf(c.p, Ranks(2), r % 2, group);
    if (r == 2) d.size = 3;
    if (r >= 2) std::this_thread::sleep_for(std::chrono::milliseconds(60));
    if (r == 1) std::this_thread::sleep_for(std::chrono::milliseconds(150));
    dsv4mx_comm* comm = nullptr;
    if (r == 3) d.rank = 0;
    Must(dsv4mx_comm_create(ContextOf(c.p), &d, &comm), "create");
    dsv4mx_comm_destroy(comm);
  });
  CHECK(told[0].text == "");
  CHECK(told[1].text == "");
  CheckTold(told[2], DSV4MX_STATUS_COMM_MISMATCH, "size is 3,wanted 2");
  CheckTold(told[3], DSV4MX_STATUS_COMM_MISMATCH, "rank 0,come already");
}

TEST_CASE("[D23] layers that cannot keep the promise are refused on every rank", "[dist]") {
  const struct {
    const char *first, *second;  // problem of rank 0, of rank 1
    dsv4mx_status status;
    const char* words;
  } cases[] = {
      {kText, "h=64 i=64 e=8 k=2 m=16 slot=bf16", DSV4MX_STATUS_UNSUPPORTED,
       "BATCH_INVARIANT,ROUTE_EXACT"},
      {"h=64 i=64 e=8 k=2 m=16 invariant=1", "h=64 i=64 e=8 k=2 m=16 invariant=1",
       DSV4MX_STATUS_UNSUPPORTED, "slot_dtype,F32,wanted BF16"},
      {kText, "h=64 i=64 e=8 k=2 m=16 slot=bf16 invariant=1 clamp=3", DSV4MX_STATUS_COMM_MISMATCH,
       "activation,rank 1"},
      {kText, "h=32 i=64 e=8 k=2 m=16 slot=bf16 invariant=1", DSV4MX_STATUS_COMM_MISMATCH,
       "hidden of the layer is 32 on rank 1,wanted 64"},
      {kText, "h=64 i=64 e=8 k=1 m=16 slot=bf16 invariant=1", DSV4MX_STATUS_COMM_MISMATCH,
       "top_k of the layer is 1"},
      {kText, "h=96 i=64 e=8 k=2 m=16 slot=bf16 invariant=1", DSV4MX_STATUS_INVALID_ARGUMENT,
       "hidden 96,max_hidden 64"},
      {kText, "h=64 i=64 e=8 k=2 m=16 slot=bf16 invariant=1 oracle=truth",
       DSV4MX_STATUS_UNSUPPORTED, "oracle"},
  };
  for (const auto& one : cases) {
    const Case first = MakeCase(one.first), second = MakeCase(one.second);
    const uint64_t group = NewGroup();
    const auto told = Refusals(2, [&](int r) {
      Rank rank;
      rank.rank = r;
      MakePart(r == 0 ? first : second, Ranks(2), &rank);
      MakeComm(first, Ranks(2), group, &rank);
      Must(dsv4mx_comm_prepare(rank.comm.get(), rank.layer.get(), nullptr), "prepare");
    });
    INFO(one.second);
    for (const auto& t : told) CheckTold(t, one.status, one.words);
  }
  // An expert that nobody holds.
  const Case c = MakeCase(kText);
  Layout layout = Ranks(2);
  layout.placement = {{0, 1, 2}, {4, 5, 6, 7}};
  const uint64_t group = NewGroup();
  for (const auto& t : Refusals(2, [&](int r) {
         Rank rank;
         rank.rank = r;
         MakePart(c, layout, &rank);
         JoinGroup(c, layout, group, &rank);
       }))
    CheckTold(t, DSV4MX_STATUS_INVALID_ARGUMENT, "id 3 of 8,held by no rank");
}

TEST_CASE("[D24] a rank that does not come to apply, and one that comes late", "[dist]") {
  Joined g(MakeCase(kText), Ranks(4));
  std::vector<std::vector<uint8_t>> rows(4);
  const auto told = Refusals(4, [&](int r) {
    (void)g.Apply(r);  // a round that works
    if (r == 3) std::this_thread::sleep_for(std::chrono::milliseconds(900));
    CallOptions options;
    options.rows = &rows[static_cast<size_t>(r)];
    (void)g.Apply(r, options);
  });
  for (int r = 0; r < 4; ++r) {
    const auto i = static_cast<size_t>(r);
    CheckTold(told[i], DSV4MX_STATUS_COMM_TIMEOUT, "rank 3,stage dispatch,round 2,0.300");
    if (r != 3) CHECK(told[i].seconds < 5);
    CHECK(AllNaN(rows[i]));
    const auto f = g.Fault(r);
    CHECK(f.status == DSV4MX_STATUS_COMM_TIMEOUT);
    CHECK(f.stage == DSV4MX_COMM_STAGE_DISPATCH);
    CHECK(f.rank == 3);
    CHECK(f.found_by != 3);
    CHECK(f.round == 2);
  }
  // It stays so, at once.
  for (const auto& t : Refusals(4, [&](int r) { (void)g.Apply(r); })) {
    CheckTold(t, DSV4MX_STATUS_COMM_TIMEOUT, "rank 3");
    CHECK(t.seconds < 0.25);
  }
  // A reset with all ranks, or a new communicator.
  for (const auto& t :
       Refusals(4, [&](int r) { Must(dsv4mx_comm_reset(g.at(r).comm.get(), nullptr), "reset"); }))
    CHECK(t.text == "");
  CHECK(g.Fault(1).status == DSV4MX_STATUS_OK);
  g.AllWork();
  g.Again();
  g.AllWork();
}

TEST_CASE("[D25] a rank that leaves is lost to the others, at once", "[dist]") {
  Joined g(MakeCase(kText), Ranks(4, 60'000'000'000));
  std::vector<std::vector<uint8_t>> rows(4);
  const auto told = Refusals(4, [&](int r) {
    (void)g.Apply(r);
    if (r == 1) {
      g.at(r).comm.reset();
      return;
    }
    CallOptions options;
    options.rows = &rows[static_cast<size_t>(r)];
    (void)g.Apply(r, options);
  });
  for (const int r : {0, 2, 3}) {
    const auto i = static_cast<size_t>(r);
    CheckTold(told[i], DSV4MX_STATUS_COMM_RANK_LOST, "rank 1 ended,dispatch,round 2");
    CHECK(told[i].seconds < 5);
    CHECK(AllNaN(rows[i]));
  }
  const auto reset = Refusals(4, [&](int r) {
    if (r != 1) Must(dsv4mx_comm_reset(g.at(r).comm.get(), nullptr), "reset");
  });
  for (const int r : {0, 2, 3})
    CheckTold(reset[static_cast<size_t>(r)], DSV4MX_STATUS_COMM_RANK_LOST, "rank 1,left");
  g.Again();
  g.AllWork();
}

TEST_CASE("[D26] ranks out of step are told so", "[dist]") {
  const auto mismatch = [](Layout layout, const std::function<CallOptions(int)>& options,
                           const char* words) {
    Joined g(MakeCase(kText), std::move(layout));
    std::vector<std::vector<uint8_t>> rows(static_cast<size_t>(g.layout.size));
    for (const auto& t : Refusals(g.layout.size, [&](int r) {
           CallOptions o = options(r);
           o.rows = &rows[static_cast<size_t>(r)];
           (void)g.Apply(r, o);
         }))
      CheckTold(t, DSV4MX_STATUS_COMM_MISMATCH, words);
    for (const auto& one : rows) CHECK(AllNaN(one));
    g.Again();
    g.AllWork();
  };
  mismatch(
      Ranks(2),
      [](int r) {
        CallOptions o;
        o.tag = r == 0 ? 7 : 8;
        return o;
      },
      "dispatch,round 1");
  mismatch(
      Ranks(4),
      [](int r) {
        CallOptions o;
        o.comm_tokens = r == 2 ? 40 : 0;
        return o;
      },
      "dispatch,round 1");
  Layout tp = Ranks(2);
  tp.tp = 2;
  mismatch(
      tp,
      [](int r) {
        CallOptions o;
        o.tokens = r == 0 ? 3 : 4;
        return o;
      },
      "reduce,round 1");
  mismatch(
      tp,
      [](int r) {
        CallOptions o;
        o.tag = r == 0 ? 3 : 4;
        return o;
      },
      "reduce,round 1");
}

TEST_CASE("[D27] layers that are called in different order are told so without a tag", "[dist]") {
  const Case c = MakeCase(kText), d = MakeCase(std::string(kText) + " clamp=4");
  Joined g(c, Ranks(2));
  std::vector<Rank> second(2);
  for (const auto& t : Refusals(2, [&](int r) {
         Rank& rank = second[static_cast<size_t>(r)];
         rank.rank = r;
         MakePart(d, g.layout, &rank);
         Must(dsv4mx_comm_prepare(g.at(r).comm.get(), rank.layer.get(), nullptr), "prepare");
         std::swap(rank.comm, g.at(r).comm);
         std::swap(rank.workspace, g.at(r).workspace);
         (void)ApplyShare(d, g.layout, rank);
         if (r == 0) (void)ApplyShare(d, g.layout, rank);
         std::swap(rank.comm, g.at(r).comm);
         std::swap(rank.workspace, g.at(r).workspace);
         (void)g.Apply(r);
       }))
    CheckTold(t, DSV4MX_STATUS_COMM_MISMATCH, "another call,round 2");
  for (int r = 0; r < 2; ++r) {
    if (g.at(r).comm == nullptr) std::swap(second[static_cast<size_t>(r)].comm, g.at(r).comm);
  }
}

TEST_CASE("[D28] abort ends a wait from another thread", "[dist]") {
  Joined g(MakeCase(kText), Ranks(2, 60'000'000'000));
  dsv4mx_status aborted = DSV4MX_STATUS_INTERNAL;
  std::thread aborter([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    aborted = dsv4mx_comm_abort(g.at(0).comm.get());
  });
  const auto told = Refusals(2, [&](int r) {
    if (r == 0) (void)g.Apply(r);
  });
  aborter.join();
  CHECK(aborted == DSV4MX_STATUS_OK);
  CheckTold(told[0], DSV4MX_STATUS_COMM_RANK_LOST, "rank 0 aborted");
  CHECK(told[0].seconds < 5);
  CHECK(g.Fault(1).status == DSV4MX_STATUS_COMM_RANK_LOST);
  CHECK(g.Fault(1).rank == 0);
  CHECK(g.Fault(1).stage == DSV4MX_COMM_STAGE_NONE);
  for (const auto& t :
       Refusals(2, [&](int r) { Must(dsv4mx_comm_reset(g.at(r).comm.get(), nullptr), "reset"); }))
    CHECK(t.text == "");
  g.AllWork();
}

TEST_CASE("[D29] creation obeys cancel, deadline and progress", "[dist]") {
  const Case c = MakeCase(kText);
  dsv4mx_comm_desc d = CommDescOf(c.p, Ranks(2, 60'000'000'000), 0, NewGroup());
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  d.control = &control;
  dsv4mx_comm* comm = nullptr;
  control.timeout_ns = 50'000'000;
  REQUIRE_REFUSED(dsv4mx_comm_create(ContextOf(c.p), &d, &comm), DSV4MX_STATUS_DEADLINE_EXCEEDED,
                  "dsv4mx_comm_create,1 of 2,ranks");
  control.timeout_ns = 0;
  const int32_t cancel = 1;
  control.cancel = &cancel;
  REQUIRE_REFUSED(dsv4mx_comm_create(ContextOf(c.p), &d, &comm), DSV4MX_STATUS_CANCELLED,
                  "cancelled");
  control.cancel = nullptr;
  control.progress = [](void* user, dsv4mx_stage stage, int64_t done, int64_t total) {
    *static_cast<std::string*>(user) =
        std::to_string(stage) + ":" + std::to_string(done) + "/" + std::to_string(total);
    return int32_t{1};
  };
  std::string seen;
  control.progress_user = &seen;
  REQUIRE_REFUSED(dsv4mx_comm_create(ContextOf(c.p), &d, &comm), DSV4MX_STATUS_CANCELLED,
                  "progress callback");
  CHECK(seen == std::to_string(DSV4MX_STAGE_JOIN) + ":1/2");
}

TEST_CASE("[D30] what is wrong on one rank alone changes nothing for the others", "[dist]") {
  Joined g(MakeCase(kText), Ranks(2, 60'000'000'000));
  const auto told = Refusals(2, [&](int r) {
    if (r == 1) {
      CallOptions o;
      o.comm_tokens = 3;
      try {
        (void)g.Apply(r, o);
        throw std::runtime_error("accepted");
      } catch (const Refused& e) {
        if (MissingWords(e.what(), "tokens is 8,comm_tokens = 3") != "") throw;
      }
      Rank small = Rank();
      std::swap(small, g.at(1));
      auto workspace = std::make_unique<Guarded>(nullptr, 64, 256);
      std::swap(small.workspace, workspace);
      try {
        (void)ApplyShare(g.c, g.layout, small);
        throw std::runtime_error("accepted");
      } catch (const Refused& e) {
        if (e.status != DSV4MX_STATUS_WORKSPACE_TOO_SMALL) throw;
      }
      std::swap(small.workspace, workspace);
      std::swap(small, g.at(1));
    }
    (void)g.Apply(r);
  });
  for (const auto& t : told) CHECK(t.text == "");
  CallOptions many;
  many.comm_tokens = 131073;
  const auto refused = Refusals(2, [&](int r) { (void)g.Apply(r, many); });
  for (const auto& t : refused)
    CheckTold(t, DSV4MX_STATUS_INVALID_ARGUMENT, "comm_tokens is 131073,0..131072");
  // A layer that was not prepared.
  Rank stranger;
  stranger.rank = 0;
  MakePart(g.c, g.layout, &stranger);
  std::swap(stranger.comm, g.at(0).comm);
  dsv4mx_apply_args a = DSV4MX_APPLY_ARGS_INIT;
  a.comm = stranger.comm.get();
  REQUIRE_REFUSED(dsv4mx_layer_apply(stranger.layer.get(), stranger.weights.get(), &a, nullptr),
                  DSV4MX_STATUS_INVALID_STATE, "dsv4mx_comm_prepare");
  int64_t loads[8] = {};
  REQUIRE_REFUSED(dsv4mx_comm_get_loads(a.comm, stranger.layer.get(), loads, 4),
                  DSV4MX_STATUS_INVALID_STATE, "not prepared");
}

TEST_CASE("[D31] loads count what every rank sent here", "[dist]") {
  Joined g(MakeCase("h=64 i=64 e=8 k=2 m=16 slot=bf16 invariant=1 dist=one"), Ranks(2));
  g.AllWork();
  g.AllWork();
  int64_t all = 0, hot = 0;
  for (int r = 0; r < 2; ++r) {
    int64_t loads[4] = {};
    REQUIRE_OK(dsv4mx_comm_get_loads(g.at(r).comm.get(), g.at(r).layer.get(), loads, 4));
    for (const int64_t n : loads) all += n, hot = std::max(hot, n);
    REQUIRE_REFUSED(dsv4mx_comm_get_loads(g.at(r).comm.get(), g.at(r).layer.get(), loads, 3),
                    DSV4MX_STATUS_INVALID_ARGUMENT, "count is 3,4 experts");
  }
  CHECK(all == 2 * 16 * 2);
  CHECK(hot == 2 * 16);
}

TEST_CASE("[D32] what a communicator is", "[dist]") {
  Layout layout = Ranks(4);
  layout.tp = 2;
  Joined g(MakeCase(kText), layout);
  dsv4mx_comm_info info = DSV4MX_COMM_INFO_INIT;
  REQUIRE_OK(dsv4mx_comm_query(g.at(3).comm.get(), &info));
  CHECK(info.kind == DSV4MX_COMM_LOCAL);
  CHECK(info.transport == DSV4MX_COMM_TRANSPORT_PEER);
  CHECK(info.rank == 3);
  CHECK(info.size == 4);
  CHECK(info.ep_rank == 1);
  CHECK(info.ep_size == 2);
  CHECK(info.tp_rank == 1);
  CHECK(info.tp_size == 2);
  CHECK(info.window_bytes > 16 * 64 * 2);
  CHECK(std::string(info.reason) == "peer: windows in memory of this process");
  CHECK(info.nccl_version == 0);
}

TEST_CASE("[D33] apply with a group takes no memory, the first call as little as others",
          "[dist]") {
  const Case exact = MakeCase(kText), slices = MakeCase("h=64 i=256 e=4 k=2 m=16");
  struct Way {
    const char* name;
    int tp;
    dsv4mx_comm_kind kind;
    dsv4mx_comm_transport transport;
    dsv4mx_ep_combine combine;
    dsv4mx_tp_reduce reduce;
  };
  constexpr auto kLocal = DSV4MX_COMM_LOCAL, kCallback = DSV4MX_COMM_CALLBACK;
  constexpr auto kAuto = DSV4MX_COMM_TRANSPORT_AUTO, kGather = DSV4MX_COMM_TRANSPORT_COLLECTIVE;
  constexpr auto kExact = DSV4MX_EP_ROUTE_EXACT, kSums = DSV4MX_EP_RANK_REDUCE;
  constexpr auto kOrder = DSV4MX_TP_RANK_ORDER, kTree = DSV4MX_TP_INVARIANT;
  for (const Way& way :
       {Way{"routes", 1, kLocal, kAuto, kExact, kOrder},
        Way{"sums", 1, kLocal, kAuto, kSums, kOrder},
        Way{"slices", 4, kLocal, kAuto, kExact, kOrder},
        Way{"tree", 4, kLocal, kAuto, kExact, kTree}, Way{"both", 2, kLocal, kAuto, kExact, kOrder},
        Way{"shared memory", 1, kCallback, kAuto, kExact, kOrder},
        Way{"all_gather, routes", 1, kCallback, kGather, kExact, kOrder},
        Way{"all_gather, slices", 4, kCallback, kGather, kExact, kOrder}}) {
    const Case& c = way.tp == 4 ? slices : exact;
    Layout layout = Ranks(4, 20'000'000'000);
    layout.tp = way.tp;
    layout.kind = way.kind;
    layout.transport = way.transport;
    layout.ep_combine = way.combine;
    layout.tp_reduce = way.reduce;
    Joined g(c, layout);
    for (const auto& t : Refusals(4, [&](int r) {
           const GroupBuffers buffers(c, layout, g.at(r));
           for (int call = 0; call < 2; ++call) {
             dsv4mx_status status;
             {
               const FailingNew none(0, FailingNew::kOfThread);
               status = buffers.Apply();
             }
             Must(status, "apply");
           }
         })) {
      INFO(way.name << ": " << t.text);
      CHECK(t.text == "");
    }
  }
}

}  // namespace
}  // namespace dsv4mx::test
