// Reductions that go in steps (kernels/dist/reduce.cu), kernel by kernel, so that a rank can be stopped between two steps. The
// emulator's device memory is the host's, which plays the rank that stops.
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/dist/launch_exchange.h"
#include "kernels/dist/window.h"
#include "tests/catch.h"
#include "tests/numbers.h"
#include "tests/random.h"

namespace dsv4mx::test {
namespace {

using dist::Cell;

constexpr int kHidden = 4128;
constexpr int kTimeout = 51, kMismatch = 53;
constexpr float kFactor = 1.5f, kThere = 0.25f, kUntouched = -77.0f;

struct Memory {
  explicit Memory(size_t bytes) : data(new (std::align_val_t{256}) uint8_t[bytes]()) {}
  ~Memory() { operator delete[](data, std::align_val_t{256}); }
  Memory(const Memory&) = delete;
  uint8_t* data;
};

struct Shape {
  int ranks, tokens;
  bool narrow, tree;
};

// Ranks of one device, whose launches follow each other.
struct Ranks {
  explicit Ranks(const Shape& s) : shape(s), count(static_cast<size_t>(s.tokens) * kHidden) {
    dist::WindowShape w;
    w.tp = s.ranks;
    w.hidden = kHidden;
    w.reduce_tokens = s.tokens;
    w.partial_bytes = s.narrow ? 2 : 4;
    w.reduce_cells = dist::kReduceCells;
    w.flagged_bytes = dist::FlaggedBytes(s.ranks);
    window = dist::LayOut(w);
    live = s.tokens;
    for (int r = 0; r < s.ranks; ++r) {
      windows.push_back(std::make_unique<Memory>(static_cast<size_t>(window.bytes)));
      progress.push_back(std::make_unique<dist::Progress>());
      Rng rng(7, static_cast<uint64_t>(r));
      std::vector<float> of_rank(count);
      std::vector<uint16_t> bits(count);
      for (size_t i = 0; i < count; ++i) {
        const float v =
            static_cast<float>(static_cast<int64_t>(rng.Below(2000001)) - 1000000) / 4096.0f;
        bits[i] = ToBf16(v);
        of_rank[i] = s.narrow ? FromBf16(bits[i]) : v;
      }
      sums.push_back(std::move(of_rank));
      narrow.push_back(std::move(bits));
    }
    out.assign(static_cast<size_t>(s.ranks), {});
    for (int r = 0; r < s.ranks; ++r) {
      dist::ReduceArgs a{};
      for (int p = 0; p < s.ranks; ++p) a.group.windows[p] = windows[static_cast<size_t>(p)]->data;
      const auto at = static_cast<size_t>(r);
      a.group.progress = progress[at].get();
      a.group.SetRank(r, s.ranks, s.ranks);
      a.group.timeout_ns = 100'000'000;
      a.group.tag = 1;
      a.sums = s.narrow ? static_cast<const void*>(narrow[at].data()) : sums[at].data();
      a.sum_is_bf16 = s.narrow;
      a.partials = window.partials;
      a.cells = window.reduce_cells;
      a.flagged = window.flagged;
      a.flagged_bytes = w.flagged_bytes;
      a.partial_bytes = static_cast<int64_t>(count) * w.partial_bytes;
      a.hidden = kHidden;
      a.tokens = s.tokens;
      a.tokens_device = &live;
      a.factor = kFactor;
      a.out_stride = kHidden;
      a.out_is_f32 = 1;
      a.accumulate = 1;
      a.tree = s.tree;
      args.push_back(a);
    }
    Clear();
  }
  void Clear() {
    for (size_t r = 0; r < out.size(); ++r) {
      out[r].assign(count, kThere);
      for (size_t i = static_cast<size_t>(live) * kHidden; i < count; ++i) out[r][i] = kUntouched;
      args[r].out = out[r].data();
    }
  }
  void Launch(int rank, int parts) {
    dist::ReduceArgs a = args[static_cast<size_t>(rank)];
    a.parts = parts;
    REQUIRE(dist::LaunchReduce(a, nullptr) == 0);
  }
  // One round in which `rank` alone pushes and waits at once, by warps of its own.
  void Round(int rank) {
    for (int r = 0; r < shape.ranks; ++r)
      if (r != rank) Launch(r, dist::kPush);
    Launch(rank, dist::kPush | dist::kWait);
    for (int r = 0; r < shape.ranks; ++r)
      if (r != rank) Launch(r, dist::kWait);
  }
  float Wanted(size_t i) const {
    std::vector<float> v;
    for (const auto& of_rank : sums) v.push_back(of_rank[i]);
    if (shape.tree) {
      for (; v.size() > 1; v.resize(v.size() / 2))
        for (size_t k = 0; k < v.size() / 2; ++k) v[k] = v[2 * k] + v[2 * k + 1];
    } else {
      float sum = 0;
      for (const float one : v) sum += one;
      v[0] = sum;
    }
    return v[0] * kFactor + kThere;
  }
  // The first element of a rank that is not what it should be; -1: none.
  int64_t Wrong(int rank, bool nan) const {
    const auto& rows = out[static_cast<size_t>(rank)];
    for (size_t i = 0; i < count; ++i) {
      const bool alive = i < static_cast<size_t>(live) * kHidden;
      const bool right = !alive ? rows[i] == kUntouched
                         : nan  ? std::isnan(rows[i])
                                : rows[i] == Wanted(i);
      if (!right) return static_cast<int64_t>(i);
    }
    return -1;
  }
  int Steps() const {
    const int64_t units = static_cast<int64_t>(count) / 8;
    return dist::ReduceStepsOf((units + dist::kReduceCtas - 1) / dist::kReduceCtas * 8 *
                               (shape.narrow ? 2 : 4));
  }
  // In the window of `rank`, of the round that comes next: the cell of another rank's step.
  Cell& CellOf(int rank, int from, int cta, int step, int shot = 0) {
    const auto buffer = (progress[static_cast<size_t>(rank)]->tp_round + 1) & 1;
    auto* cells =
        reinterpret_cast<Cell*>(windows[static_cast<size_t>(rank)]->data + window.reduce_cells);
    return cells[(static_cast<int64_t>(buffer) * shape.ranks + from) * dist::kReduceCells +
                 (shot * dist::kReduceCtas + cta) * dist::kMostReduceSteps + step];
  }
  int Fault(int rank) const {
    const auto* control =
        reinterpret_cast<const dist::ControlBlock*>(windows[static_cast<size_t>(rank)]->data);
    return dist::UnpackFault(control->fault).status;
  }

  Shape shape;
  size_t count;
  dist::Window window;
  int32_t live = 0;
  std::vector<std::unique_ptr<Memory>> windows;
  std::vector<std::unique_ptr<dist::Progress>> progress;
  std::vector<std::vector<float>> sums;
  std::vector<std::vector<uint16_t>> narrow;
  std::vector<std::vector<float>> out;
  std::vector<dist::ReduceArgs> args;
};

TEST_CASE("a CTA's piece goes in one step where it is small, and in a limited number of them",
          "[steps]") {
  constexpr int64_t kStep = dist::kReduceStepBytes;
  CHECK(dist::ReduceStepsOf(0) == 1);
  CHECK(dist::ReduceStepsOf(2 * kStep - 1) == 1);
  CHECK(dist::ReduceStepsOf(2 * kStep) == 2);
  CHECK(dist::ReduceStepsOf(5 * kStep - 1) == 4);
  CHECK(dist::ReduceStepsOf(1000 * kStep) == dist::kMostReduceSteps);
}

TEST_CASE("reductions in steps have the bits of a sum in rank order, or of a tree", "[steps]") {
  // CTAs have 1,613 to 5,241 units; the last step of each is begun only, and the last CTA's is shorter.
  for (const Shape& shape : {Shape{2, 800, false, false}, Shape{2, 1300, true, false},
                             Shape{3, 600, false, false}, Shape{4, 560, false, true}}) {
    Ranks ranks(shape);
    REQUIRE(ranks.Steps() > 1);
    // All rows; up to within a step, of the first CTAs alone too; none.
    for (const int live : {shape.tokens, shape.tokens / 2 + 7, 3, 0}) {
      ranks.live = live;
      const int apart = live % shape.ranks;
      ranks.Clear();
      ranks.Round(apart);
      for (int r = 0; r < shape.ranks; ++r) {
        INFO(shape.ranks << " ranks, " << live << " rows, rank " << r << ", by warps of its own "
                         << apart);
        CHECK(ranks.Wrong(r, false) == -1);
        CHECK(ranks.Fault(r) == 0);
      }
    }
  }
}

// The host is all ranks but the first: their sums of its slice are zeros, and so are the sums of their own slices.
TEST_CASE("in two shots a rank that stops between two steps leaves NaN in all rows, and no sums",
          "[steps]") {
  for (const int lost_shot : {-1, 0, 1}) {
    Ranks ranks({4, 560, false, false});
    const int steps = ranks.Steps();
    REQUIRE(steps > 1);
    ranks.live = 557;
    ranks.Clear();
    const size_t slice = (ranks.count / 8 + 3) / 4 * 8;
    for (int from = 1; from < 4; ++from) {
      for (int i = 0; i < 2 * dist::kReduceCtas * steps; ++i) {
        const int shot = i % 2, cta = i / 2 / steps, step = i / 2 % steps;
        if (shot == lost_shot && from == 2 && step == steps - 1) continue;
        Cell& cell = ranks.CellOf(0, from, cta, step, shot);
        cell.flag = uint64_t{1} << 32 | 560;
        cell.tag = dist::TagInTwoShots(ranks.args[0]);
      }
    }
    const auto cell = [&](int step, int shot) {
      return reinterpret_cast<const Cell*>(ranks.windows[1]->data + ranks.window.reduce_cells) +
             int64_t{4} * dist::kReduceCells + shot * dist::kReduceCtas * dist::kMostReduceSteps +
             step;
    };
    dist::ReduceArgs a = ranks.args[0];
    a.parts = dist::kPush | dist::kWait;
    REQUIRE(dist::LaunchReduceTwice(a, nullptr) == 0);
    INFO("lost: shot " << lost_shot);
    CHECK(ranks.progress[0]->tp_round == 1);
    CHECK(ranks.progress[0]->failed == (lost_shot >= 0));
    CHECK(ranks.Fault(0) == (lost_shot >= 0 ? kTimeout : 0));
    for (int step = 0; step < steps; ++step) {
      CHECK(cell(step, 0)->flag == (uint64_t{1} << 32 | 560));
      const bool summed = lost_shot != 0 || step < steps - 1;
      // What came in time may have been published before the group failed.
      if (lost_shot != 0 || !summed)
        CHECK(cell(step, 1)->flag == (summed ? uint64_t{1} << 32 | 560 : 0));
    }
    if (lost_shot >= 0) {
      CHECK(ranks.Wrong(0, true) == -1);
      continue;
    }
    size_t wrong = 0;
    for (size_t i = 0; i < ranks.count; ++i) {
      const bool alive = i < size_t{557} * kHidden;
      const float wanted = !alive      ? kUntouched
                           : i < slice ? ranks.sums[0][i] * kFactor + kThere
                                       : kThere;
      wrong += ranks.out[0][i] != wanted;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("in two shots ranks that add to what is there and ranks that do not are told",
          "[steps]") {
  Ranks ranks({4, 560, false, false});
  dist::ReduceArgs a = ranks.args[0], other = a;
  a.parts = dist::kPush | dist::kWait;
  other.out_is_f32 = other.accumulate = 0;
  REQUIRE(dist::TagInTwoShots(a) != dist::TagInTwoShots(other));
  for (int from = 1; from < 4; ++from) {
    for (int i = 0; i < 2 * dist::kReduceCtas * dist::kMostReduceSteps; ++i) {
      Cell& cell =
          ranks.CellOf(0, from, i / 2 % dist::kReduceCtas, i / 2 / dist::kReduceCtas, i % 2);
      cell.flag = uint64_t{1} << 32 | 560;
      cell.tag = dist::TagInTwoShots(from == 2 ? other : a);
    }
  }
  REQUIRE(dist::LaunchReduceTwice(a, nullptr) == 0);
  CHECK(ranks.Fault(0) == kMismatch);
  CHECK(ranks.Wrong(0, true) == -1);
}

TEST_CASE("a rank that stops between two steps leaves NaN in all rows", "[steps]") {
  for (const bool apart : {true, false}) {
    for (const bool mismatch : {false, true}) {
      for (const bool last : {true, false}) {
        Ranks ranks({2, 800, false, false});
        const int steps = ranks.Steps();
        REQUIRE(steps > 2);
        ranks.live = 797;
        ranks.Clear();
        ranks.Round(0);
        REQUIRE(ranks.Wrong(0, false) == -1);
        ranks.Clear();
        if (!apart) ranks.Launch(0, dist::kPush);
        ranks.Launch(1, dist::kPush);
        for (int cta = 0; cta < dist::kReduceCtas; ++cta) {
          for (int s = last ? steps - 1 : 1; s < steps; ++s) {
            Cell& cell = ranks.CellOf(0, 1, cta, s);
            REQUIRE(cell.flag >> 32 == 2);
            if (mismatch) {
              cell.tag = 9;
            } else {
              cell.flag = 0;
            }
          }
        }
        INFO("apart " << apart << ", mismatch " << mismatch << ", last " << last);
        ranks.Launch(0, apart ? dist::kPush | dist::kWait : dist::kWait);
        CHECK(ranks.Wrong(0, true) == -1);
        CHECK(ranks.Fault(0) == (mismatch ? kMismatch : kTimeout));
        CHECK(ranks.Fault(1) == (mismatch ? kMismatch : kTimeout));
        CHECK(ranks.progress[0]->failed == 1);
        // The other one hears of it, although all that it waits for has come.
        ranks.Launch(1, dist::kWait);
        CHECK(ranks.Wrong(1, true) == -1);
        // Nothing is a result from there on.
        ranks.Clear();
        ranks.Launch(0, dist::kPush | dist::kWait);
        CHECK(ranks.Wrong(0, true) == -1);
      }
    }
  }
}

}  // namespace
}  // namespace dsv4mx::test
