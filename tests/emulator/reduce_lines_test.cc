// Reductions (kernels/dist/reduce.cu and reduce_twice.cu), kernel by kernel, so that a rank can be stopped in the middle. The emulator's
// device memory is the host's, which plays the rank that stops.
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
    w.reduce_tokens = 0;
    w.flagged_bytes = dist::FlaggedBytes(static_cast<int64_t>(count) * (s.narrow ? 2 : 4));
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
      a.flagged = window.flagged;
      a.flagged_bytes = w.flagged_bytes;
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
  int64_t Blocks() const { return (static_cast<int64_t>(count) / 8 + 29) / 30; }
  // Whether CTAs have one thing to do each: of so many blocks of a rank's partial sums, or of a slice in two shots.
  static bool Apart(int64_t blocks, int32_t ctas = dist::kReduceCtas) { return blocks > 2 * ctas; }
  // In the window of `rank`, of the round that comes next: the n-th block that another rank writes, or its tag.
  uint64_t* BlockOf(int rank, int from, int64_t n) const {
    const auto buffer = (progress[static_cast<size_t>(rank)]->tp_round + 1) & 1;
    uint8_t* tag = windows[static_cast<size_t>(rank)]->data + window.flagged +
                   (static_cast<int64_t>(buffer) * shape.ranks + from) * args[0].flagged_bytes;
    return reinterpret_cast<uint64_t*>(tag + 128 + n * 512);
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

// Zeros of a round, as if they had come.
void Fill(uint64_t* block, uint64_t round) {
  for (int line = 0; line < 4; ++line) block[line * 16 + 15] = round << 32;
}
void Tag(uint64_t* first_block, const dist::ReduceArgs& a, uint64_t tag, uint64_t round) {
  first_block[-16] = round << 32 | (tag & 0xffffffffu);
  first_block[-15] = round << 32 | ((tag >> 32) ^ static_cast<uint32_t>(a.tokens) * 0x9e3779b1u);
}

TEST_CASE("reductions have the bits of a sum in rank order, or of a tree", "[lines]") {
  // Less than a line, less than a block, a few blocks and one that is begun; and more than there are warps.
  for (const Shape& shape :
       {Shape{2, 1, false, false}, Shape{4, 3, true, true}, Shape{2, 127, false, false},
        Shape{2, 150, true, false}, Shape{3, 130, true, false}, Shape{4, 126, false, true},
        Shape{6, 2, true, false}, Shape{8, 2, false, true}}) {
    Ranks ranks(shape);
    CHECK(Ranks::Apart(ranks.Blocks()) == (shape.tokens > 70));
    // All rows; up to within a block; none.
    for (const int live : {shape.tokens, shape.tokens / 2, 0}) {
      ranks.live = live;
      const int apart = live % shape.ranks;
      ranks.Clear();
      ranks.Round(apart);
      for (int r = 0; r < shape.ranks; ++r) {
        INFO(shape.ranks << " ranks, " << shape.tokens << " rows, " << live
                         << " of them live, rank " << r << ", at once " << apart);
        CHECK(ranks.Wrong(r, false) == -1);
        CHECK(ranks.Fault(r) == 0);
      }
    }
  }
}

TEST_CASE("a rank that stops in the middle leaves NaN, and is told of", "[lines]") {
  for (const int tokens : {5, 150}) {
    for (const bool at_once : {true, false}) {
      for (const bool mismatch : {false, true}) {
        Ranks ranks({2, tokens, true, false});
        const int64_t blocks = ranks.Blocks();
        ranks.live = tokens - 1;
        ranks.Clear();
        ranks.Round(0);
        REQUIRE(ranks.Wrong(0, false) == -1);
        ranks.Clear();
        if (!at_once) ranks.Launch(0, dist::kPush);
        ranks.Launch(1, dist::kPush);
        if (mismatch) {
          Tag(ranks.BlockOf(0, 1, 0), ranks.args[1], 9, 2);
        } else {
          // In the last turn of every warp.
          for (int64_t n = Ranks::Apart(blocks) ? blocks / 5 : 0; n < blocks; ++n)
            ranks.BlockOf(0, 1, n)[15] = 0;
        }
        INFO(tokens << " rows, at once " << at_once << ", mismatch " << mismatch);
        ranks.Launch(0, at_once ? dist::kPush | dist::kWait : dist::kWait);
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

// The host is all ranks but the first: their sums of its slice are zeros, and so are the sums of their own slices.
TEST_CASE("in two shots a rank that stops in the middle leaves NaN, and hands on no sums",
          "[lines]") {
  // Few blocks, many; of a slice.
  for (const int tokens : {7, 330}) {
    for (const int lost_shot : {-1, 0, 1}) {
      Ranks ranks({4, tokens, true, false});
      const int64_t each = (ranks.Blocks() + 3) / 4;
      CHECK(Ranks::Apart(each, dist::kReduceTwiceCtas) == (tokens > 70));
      ranks.live = tokens - 1;
      ranks.Clear();
      dist::ReduceArgs a = ranks.args[0];
      a.parts = dist::kPush | dist::kWait;
      a.alone = 1;
      const auto lost = [&](int from, int shot, int64_t i) {
        return from == 2 && shot == lost_shot && i >= (tokens > 70 ? each / 8 : 0);
      };
      for (int from = 1; from < 4; ++from) {
        Tag(ranks.BlockOf(0, from, 0), a, dist::TagInTwoShots(a), 1);
        for (int64_t i = 0; i < each; ++i) {
          if (!lost(from, 0, i)) Fill(ranks.BlockOf(0, from, i), 1);
          // Sums of fp32: two blocks each.
          for (int64_t n = 0; n < 2 && !lost(from, 1, i); ++n)
            Fill(ranks.BlockOf(0, from, each + 2 * i + n), 1);
        }
      }
      const uint64_t* handed = ranks.BlockOf(1, 0, each);
      REQUIRE(dist::LaunchReduceTwice(a, nullptr) == 0);
      INFO(tokens << " rows, lost: shot " << lost_shot);
      CHECK(ranks.progress[0]->tp_round == 1);
      CHECK(ranks.progress[0]->failed == (lost_shot >= 0));
      CHECK(ranks.Fault(0) == (lost_shot >= 0 ? kTimeout : 0));
      int64_t wrongly_handed = 0;
      for (int64_t i = 0; i < each; ++i) {
        const bool has = handed[i * 128 + 15] >> 32 == 1;
        wrongly_handed += lost_shot < 0 ? !has : has && lost(2, 0, i);
      }
      CHECK(wrongly_handed == 0);
      const auto slice = static_cast<size_t>(each) * 240;
      size_t wrong = 0;
      for (size_t i = 0; i < ranks.count; ++i) {
        const bool alive = i < static_cast<size_t>(ranks.live) * kHidden;
        const float wanted = !alive      ? kUntouched
                             : i < slice ? ranks.sums[0][i] * kFactor + kThere
                                         : kThere;
        const float got = ranks.out[0][i];
        // What a warp wrote before the group failed is NaN; what others had written by then may be right.
        const bool none = alive && lost_shot >= 0 && (i < slice) == (lost_shot == 0);
        wrong += none ? !std::isnan(got)
                      : got != wanted && !(alive && lost_shot >= 0 && std::isnan(got));
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("in two shots ranks that add to what is there and ranks that do not are told",
          "[lines]") {
  // One of them even sends all that it should.
  for (const bool sends : {true, false}) {
    Ranks ranks({4, 9, true, false});
    dist::ReduceArgs a = ranks.args[0], other = a;
    a.parts = dist::kPush | dist::kWait;
    a.alone = 1;
    other.out_is_f32 = other.accumulate = 0;
    REQUIRE(dist::TagInTwoShots(a) != dist::TagInTwoShots(other));
    for (int from = 1; from < 4; ++from) {
      Tag(ranks.BlockOf(0, from, 0), a, dist::TagInTwoShots(from == 2 ? other : a), 1);
      for (int64_t i = 0; i < 3 * ((ranks.Blocks() + 3) / 4) && (sends || from != 2); ++i)
        Fill(ranks.BlockOf(0, from, i), 1);
    }
    REQUIRE(dist::LaunchReduceTwice(a, nullptr) == 0);
    CHECK(ranks.Fault(0) == kMismatch);
    CHECK(ranks.Wrong(0, true) == -1);
  }
}

}  // namespace
}  // namespace dsv4mx::test
