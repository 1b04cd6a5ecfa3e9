// Groups of GPU ranks: what they promise about bits, faults, and graphs. Every case runs with all ranks on one device, in lock
// step, and where there are several with a device for each, or on two that ranks share.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>
#include <thread>
#include <type_traits>

#include "tests/catch.h"
#include "tests/gpu/cuda_must.h"
#include "tests/gpu/gpu_groups.h"
#include "tests/gpu/streams.h"
#include "tests/reference.h"

namespace dsv4mx::test {
namespace {

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
    "h=96 i=64 e=8 k=3 m=21 slot=f32 invariant=1",
    "h=128 i=96 e=16 k=4 m=160 slot=bf16 invariant=1 path=bf16",
    // A row in shares that do not divide it; more ids than a small round keeps at hand; results that are not cut into shares.
    "h=1056 i=32 e=8 k=2 m=5 slot=bf16 invariant=1",
    "h=64 i=32 e=520 k=2 m=6 slot=bf16 invariant=1",
    "h=2080 i=32 e=16 k=16 m=40 slot=bf16 invariant=1",
};

// Routes travel as the layer's slots are.
Layout PartsFor(const Case& c, int size) {
  Layout l = Parts(size);
  l.slot = c.p.slot;
  return l;
}

TEST_CASE("[D1] route-exact expert parallel has the bits of one GPU", "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  bool first = true;
  for (const char* text : kProblems) {
    const Case c = GpuRanks(text);
    const auto one = OneRank(c);
    for (const int size : RankCounts(std::exchange(first, false))) {
      INFO(text);
      OnDevices(PartsFor(c, size),
                [&](const Layout& l) { CHECK(Differs(RunGroup(c, l, 2), one) == ""); });
    }
  }
}

// Rounds whose rows many CTAs push, whose results GEMM2 sends home (bf16 slots), and chunks of rows within them.
TEST_CASE("[D9] large rounds have the bits of one GPU", "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  for (const char* text : {"h=1024 i=32 e=4 k=1 m=640 slot=bf16 invariant=1",
                           "h=512 i=64 e=16 k=4 m=600 slot=bf16 invariant=1 bias2=f32 path=planes",
                           "h=512 i=96 e=16 k=3 m=601 slot=bf16 invariant=1 path=bf16 dist=dup",
                           "h=512 i=64 e=8 k=2 m=600 slot=bf16 invariant=1 compute=w4a8",
                           "h=512 i=64 e=8 k=2 m=600 slot=f32 invariant=1"}) {
    INFO(text);
    const Case c = GpuRanks(text);
    const auto one = OneRank(c);
    OnDevices(PartsFor(c, 2),
              [&](const Layout& l) { CHECK(Differs(RunGroup(c, l, 2), one) == ""); });
  }
  const Case c = GpuRanks("h=1024 i=32 e=4 k=1 m=640 slot=bf16 invariant=1");
  // Large rounds and small ones by turns: what each leaves in the windows the other must not take for its own.
  Layout turns = PartsFor(c, 2);
  turns.max_tokens = 300;
  const auto one = OneRank(c);
  OnDevices(turns, [&](const Layout& l) { CHECK(Differs(RunGroup(c, l, 3), one) == ""); });
  Layout sums = Parts(2);
  sums.ep_combine = DSV4MX_EP_RANK_REDUCE;
  OnDevices(sums,
            [&](const Layout& l) { CHECK(Differs(RunGroup(c, l, 2), RunGroup(c, l)) == ""); });
}

TEST_CASE("[D2] GPU ranks may have any number of tokens, none included, and take several rounds",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=14 slot=bf16 invariant=1");
  const auto one = OneRank(c);
  for (const auto& tokens : std::vector<std::vector<int64_t>>{{14, 0}, {0, 14}, {1, 13}, {6, 8}}) {
    for (const int64_t max_tokens : {0, 3, 6, 1}) {
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

// One group all the time, so that what earlier rounds left lies where the next one looks.
TEST_CASE("[D1] small rounds by turns: ids that mean nothing, parts without a pair, other rows",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  const Case all = GpuRanks("h=1056 i=32 e=8 k=3 m=10 slot=bf16 invariant=1");
  const int64_t pairs = all.p.tokens * all.p.top_k, hidden = all.p.hidden;
  std::vector<Case> turns;
  const auto turn = [&](const std::function<int64_t(int64_t pair, int64_t id)>& id) {
    Case c = all;
    for (int64_t i = 0; i < pairs; ++i) {
      auto& of_pair = c.in.ids[static_cast<size_t>(i)];
      of_pair = static_cast<std::decay_t<decltype(of_pair)>>(id(i, of_pair));
    }
    // Other rows than the turn before, in every place.
    std::rotate(c.in.x.begin(), c.in.x.begin() + hidden * static_cast<int64_t>(1 + turns.size()),
                c.in.x.end());
    turns.push_back(std::move(c));
  };
  turn([](int64_t, int64_t id) { return id; });
  turn([](int64_t, int64_t) { return -1; });
  turn([](int64_t, int64_t id) { return id % 4; });
  turn([](int64_t, int64_t id) { return 4 + id % 4; });
  // Every other token goes nowhere.
  turn([&](int64_t pair, int64_t id) { return pair / all.p.top_k % 2 == 0 ? id : -1; });
  turn([](int64_t pair, int64_t id) {
    const int64_t wrong[] = {8, 1000, -7, 2147483647, 519};
    return pair % 3 == 0 ? wrong[pair % 5] : id;
  });
  for (const bool sums : {false, true}) {
    Layout layout = Parts(2);
    if (sums) layout.ep_combine = DSV4MX_EP_RANK_REDUCE;
    OnDevices(layout, [&](const Layout& l) {
      std::vector<std::vector<uint8_t>> wanted;
      for (const Case& c : turns) wanted.push_back(sums ? RunGroup(c, l) : OneRank(c));
      Joined g(all, l);
      for (const size_t i : {0, 1, 2, 3, 0, 4, 3, 5, 1, 5, 2, 4}) {
        INFO("turn " << i << (sums ? ", sums" : ", routes"));
        std::vector<std::vector<uint8_t>> rows(2);
        for (const auto& error : OnRanks(2, [&](int r) {
               rows[static_cast<size_t>(r)] = ApplyShare(turns[i], l, g.at(r));
             })) {
          CHECK(error == "");
        }
        rows[0].insert(rows[0].end(), rows[1].begin(), rows[1].end());
        CHECK(Differs(rows[0], wanted[i]) == "");
      }
    });
  }
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

// As processes do: each maps the others' windows from files. Ranks have a device each, for nothing orders their kernels here.
TEST_CASE("[D8] ranks with a bootstrap of the caller's map each other's windows",
          "[gpu][gpu-quick][groups][two-gpus]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=256 e=8 k=2 m=20 slot=bf16 invariant=1");
  for (const bool tensor : {false, true}) {
    const auto placed = On(Spread::kEach, tensor ? Slices(2) : Parts(2));
    if (!placed) {
      Skip("fewer than two CUDA devices");
      return;
    }
    Layout layout = *placed;
    const auto wanted = RunGroup(c, layout);
    layout.kind = DSV4MX_COMM_CALLBACK;
    CHECK(Differs(RunGroup(c, layout, 3), wanted) == "");
  }
}

TEST_CASE("[D7] tensor parallel inside, expert parallel between GPUs: the bits of one part",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=128 e=8 k=3 m=26 slot=bf16 invariant=1 rsf=2");
  Layout both = Slices(4);
  both.tp = 2;
  // Also where one part has nothing to reduce.
  for (const auto& tokens : {std::vector<int64_t>{17, 9}, std::vector<int64_t>{0, 26}}) {
    both.tokens = tokens;
    OnDevices(Slices(2), [&](const Layout& alone) {
      const auto wanted = RunGroup(c, alone);
      OnDevices(both, [&](const Layout& l) { CHECK(Differs(RunGroup(c, l, 2, 1), wanted) == ""); });
    });
  }
}

// Ranks that share a device reduce in one shot, whatever the size, and push and wait in launches of their own.
TEST_CASE("[D52] large sums go in two shots, with the bits of one", "[gpu][gpu-quick][two-shots]") {
  REQUIRE_GPU();
  const struct {
    const char* text;
    int size;
    int64_t max_tokens;  // less than all: the last round is a small one
    dsv4mx_dtype partial;
    bool invariant;
  } cases[] = {
      {"h=16384 i=128 e=1 k=1 m=25 out=f32 rsf=1.5", 4, 22, DSV4MX_DTYPE_F32, false},
      {"h=16384 i=512 e=1 k=1 m=22", 4, 0, DSV4MX_DTYPE_F32, true},
      {"h=16416 i=256 e=1 k=1 m=15 rw=bf16", 8, 0, DSV4MX_DTYPE_BF16, false},
      // More blocks than warps: CTAs push, add or take.
      {"h=16416 i=128 e=1 k=1 m=200 out=f32", 4, 0, DSV4MX_DTYPE_F32, false},
      {"h=16416 i=128 e=1 k=1 m=278", 4, 0, DSV4MX_DTYPE_BF16, false},
  };
  int run = 0;
  for (const auto& one : cases) {
    Layout layout = Slices(one.size);
    const auto each = On(Spread::kEach, layout);
    if (!each) continue;
    ++run;
    const Case c = GpuRanks(one.text);
    const auto with = [&](Layout l) {
      l.max_tokens = one.max_tokens;
      l.partial = one.partial;
      if (one.invariant) l.tp_reduce = DSV4MX_TP_INVARIANT, l.tp_slices = 4;
      return l;
    };
    INFO(one.text << ", " << one.size << " ranks");
    const auto wanted = RunGroup(c, with(*On(Spread::kOne, layout)));
    CHECK(Differs(RunGroup(c, with(*each), 3, one.size - 1), wanted) == "");
  }
  if (run == 0) return Skip("fewer than four devices");
}

TEST_CASE(
    "[D55] large sums of two ranks, pushed by some CTAs and added by others, have the bits of "
    "ranks of one device",
    "[gpu][gpu-quick][groups][two-gpus]") {
  REQUIRE_GPU();
  const Layout layout = Slices(2);
  const auto each = On(Spread::kEach, layout);
  if (!each) return Skip("fewer than two CUDA devices");
  for (const dsv4mx_dtype partial : {DSV4MX_DTYPE_F32, DSV4MX_DTYPE_BF16}) {
    for (const bool invariant : {false, true}) {
      if (invariant && partial == DSV4MX_DTYPE_BF16) continue;
      const Case c = GpuRanks(invariant ? "h=8224 i=256 e=1 k=1 m=340 out=f32"
                                        : "h=8224 i=128 e=1 k=1 m=580 rsf=1.5");
      const auto with = [&](Layout l) {
        l.partial = partial;
        if (invariant) l.tp_reduce = DSV4MX_TP_INVARIANT, l.tp_slices = 2;
        return l;
      };
      INFO("partial " << partial << ", invariant " << invariant);
      const auto wanted = RunGroup(c, with(*On(Spread::kOne, layout)));
      CHECK(Differs(RunGroup(c, with(*each), 3, 1), wanted) == "");
    }
  }
}

TEST_CASE("[D53] in two shots ranks that do not come, or are out of step, are told",
          "[gpu][gpu-quick][two-shots]") {
  REQUIRE_GPU();
  Layout layout = Slices(4);
  if (Devices() < 4) return Skip("fewer than four devices");
  layout.timeout_ns = 2'000'000'000;
  // In one step, and in several.
  for (const char* text : {"h=16384 i=128 e=1 k=1 m=22", "h=16384 i=128 e=1 k=1 m=200"}) {
    const Case c = GpuRanks(text);
    Joined g(c, *On(Spread::kEach, layout));
    for (const bool skips : {false, true}) {
      CheckWorks(&g);
      std::vector<std::vector<uint8_t>> rows(4);
      (void)OnRanks(4, [&](int r) {
        CallOptions o;
        o.tag = !skips && r == 2 ? 5 : 0;
        o.rows = &rows[static_cast<size_t>(r)];
        if (!skips || r != 2) (void)ApplyShare(c, g.layout, g.at(r), o);
      });
      for (int r = 0; r < 4; ++r) {
        if (skips && r == 2) continue;
        INFO("rank " << r << ", skips " << skips);
        CHECK(FaultOf(g.at(r)).status ==
              (skips ? DSV4MX_STATUS_COMM_TIMEOUT : DSV4MX_STATUS_COMM_MISMATCH));
        CHECK(FaultOf(g.at(r)).stage == DSV4MX_COMM_STAGE_REDUCE);
        CHECK(AllNaN(c.p, rows[static_cast<size_t>(r)]));
      }
      ResetAll(&g);
    }
    CheckWorks(&g);
  }
}

TEST_CASE("[D6] TP_INVARIANT on GPUs: the same bits at every tp_size, as at one rank",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  // Few pairs and many, rows in tiles of all widths, biases, both kinds of numbers, scales that need the wide path.
  const struct {
    const char* problem;
    int slices;
  } cases[] = {
      {"h=128 i=1024 e=4 k=2 m=37 out=f32 rsf=1.5 bias2=f32 bias13=f32", 0},
      {"h=96 i=1024 e=4 k=3 m=1 clamp=10", 8},
      {"h=64 i=512 e=4 k=4 m=300 rw=bf16 ids=i64", 4},
      {"h=128 i=512 e=4 k=2 m=21 compute=w4a8 out=f32", 4},
      {"h=64 i=256 e=4 k=2 m=9 wpos=before invariant=1", 2},
      {"h=64 i=2048 e=2 k=2 m=5 path=bf16", 16},
  };
  for (const auto& one : cases) {
    const Case c = GpuRanks(one.problem);
    const Reference truth = Compute(c);
    const auto layout_of = [&](int size) {
      Layout l = Slices(size);
      l.tp_reduce = DSV4MX_TP_INVARIANT;
      l.tp_slices = one.slices;
      return l;
    };
    Layout alone = layout_of(1);
    alone.kind = DSV4MX_COMM_SELF;
    const auto wanted = RunGroup(c, *On(Spread::kOne, alone));
    INFO(one.problem);
    CHECK(Error(c.p, wanted, truth.truth) <= (c.p.compute == DSV4MX_COMPUTE_W4A8 ? 5e-2 : 4e-3));
    for (const int size : {1, 2, 4, 8}) {
      if (size > (one.slices == 0 ? 8 : one.slices)) continue;
      // Of many tokens three rounds are as good as twenty.
      for (const int64_t max_tokens : {0, c.p.tokens > 100 ? 128 : 16}) {
        Layout layout = layout_of(size);
        layout.max_tokens = max_tokens;
        OnDevices(layout, [&](const Layout& l) {
          CHECK(Differs(RunGroup(c, l, 2, size - 1), wanted) == "");
        });
      }
    }
  }
}

// ------------------------------------------------------------------------------------------------- ranks that joined --

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
          "[gpu][gpu-quick][groups][limits]") {
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
          "[gpu][gpu-quick][groups][limits]") {
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
          "[gpu][gpu-quick][groups][limits]") {
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
  Layout layout = *On(Spread::kOne, Parts(2));
  layout.kind = DSV4MX_COMM_CALLBACK;
  layout.transport = DSV4MX_COMM_TRANSPORT_COLLECTIVE;
  const uint64_t group = NewGroup();
  for (int r = 0; r < 2; ++r) (void)ContextFor(c.p, layout, r);
  for (const auto& error : OnRanks(2, [&](int r) {
         Rank rank;
         rank.rank = r;
         rank.context = ContextFor(c.p, layout, r);
         MakeComm(c, layout, group, &rank);
       })) {
    CHECK(MissingWords(error, "UNSUPPORTED,COLLECTIVE with kind CALLBACK,wanted AUTO or PEER") ==
          "");
  }
}

TEST_CASE("layers that cannot keep TP_INVARIANT on GPUs are refused, with the way on",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  const struct {
    const char *problem, *words;
  } cases[] = {
      {"h=64 i=512 e=4 k=2 m=4", "UNSUPPORTED_SHAPE,intermediate is 512,8 slices,128 channels"},
      {"h=64 i=1024 e=4 k=2 m=4 slot=bf16", "UNSUPPORTED,slot_dtype is BF16,wanted F32"},
      {"h=64 i=1024 e=4 k=2 m=4 path=planes", "UNSUPPORTED,number_path is PLANES,wanted AUTO"},
  };
  for (const auto& one : cases) {
    const Case c = GpuRanks(one.problem);
    Layout layout = *On(Spread::kOne, Slices(2));
    layout.tp_reduce = DSV4MX_TP_INVARIANT;
    const uint64_t group = NewGroup();
    for (int r = 0; r < 2; ++r) (void)ContextFor(c.p, layout, r);
    for (const auto& error : OnRanks(2, [&](int r) {
           Rank rank;
           rank.rank = r;
           MakePart(c, layout, &rank);
           JoinGroup(c, layout, group, &rank);
         })) {
      CHECK(MissingWords(error, one.words) == "");
    }
  }
}

// ----------------------------------------------------------------------------------------------------------- graphs --

TEST_CASE("a graph of all ranks of one device, replayed with other tokens",
          "[gpu][gpu-quick][groups]") {
  REQUIRE_GPU();
  const Case c = GpuRanks("h=64 i=64 e=8 k=2 m=20 slot=bf16 invariant=1");
  for (const bool tensor : {false, true}) {
    const Layout l = *On(Spread::kOne, tensor ? Slices(2) : Parts(2));
    const auto wanted = RunGroup(c, l);
    Joined g(c, l);
    CheckWorks(&g);
    CheckReplays(c, l, &g.ranks, wanted);
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
