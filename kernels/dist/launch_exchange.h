// The kernels of a group: rows to their experts' ranks, results home, the sum; and the reduction of tensor-parallel ranks. What
// a round is, and why one buffer is enough, protocol.h says; here is how devices go through it.
//
//   Send    every token's ids (as local experts of the destination, -1 = not there) to every part, and its row of x to the
//           parts that compute it; then waits for the others' (own part included: it lies in the window as well)
//   layer   unchanged, on ep * spacing rows: what came is already in the form that it reads
//   Place   where results go, if the layer's GEMM2 is to send them home
//   Return  else each computed pair's result to its token's home, or a row's sum; then waits for the others'
//   Finish  the ordered sum, or NaN where the group has failed
//
// A token has the same place in every window, its own number: so nobody lists, counts or converts anything. What a rank does
// not compute is an id of -1 there, which costs the layer nothing.
//
// Pushing takes a few CTAs, each of which publishes its own piece: no CTA waits for another one of its device before the others
// can hear. Waiting takes one of them, and in a small round those that then add up, never more: other work of the device goes
// on. Where ranks share a device nobody may wait for what cannot run beside it; there pushing and waiting are two launches
// (`parts`), and every rank's push is enqueued before any rank's wait.
#ifndef DSV4MX_KERNELS_DIST_LAUNCH_EXCHANGE_H_
#define DSV4MX_KERNELS_DIST_LAUNCH_EXCHANGE_H_

#include "kernels/dist/window.h"
#include "kernels/launch.h"

namespace dsv4mx::dist {

// Of one rank, in its device's memory; zero at the beginning.
struct alignas(16) Progress {
  uint32_t ep_round, tp_round;  // the last that nobody needs the number of any more
  uint32_t ended;               // CTAs of the kernel that runs which do not
  uint32_t failed;              // a round found the group failed: results are NaN from there on
  uint64_t fault;               // over collectives: what it found, for the others; 0 = none
};

// A rank and its group as its kernels see them.
struct GroupArgs {
  uint8_t* windows[kMaxRanks];  // by rank of the group
  uint64_t* told
      [kMaxRanks];  // where a rank's host reads its fault, or null: it is told by its own kernels
  Progress* progress;
  int32_t rank, size, tp_size;
  // What follows from these, so that kernels need not divide: some 25 instructions, each of which waits for the one before.
  int32_t part, parts, slice;  // expert-parallel rank, how many there are, tensor-parallel rank
  int64_t part_cells;          // offset in a window: [2][ep][kMostPieces]
  uint64_t timeout_ns;
  uint64_t tag;  // what this rank thinks the round is

  void SetRank(int32_t of_group, int32_t ranks, int32_t tp) {
    rank = of_group, size = ranks, tp_size = tp;
    part = rank / tp, parts = size / tp, slice = rank % tp;
  }
};

// CTAs of a push, each with a piece of its own, the same on all ranks. 8 saturate NVLink by stores that go to peers alone (354 of
// 370 GB/s between two H200). But as much stays here: a part's own rows and results are copied by the same CTAs, 16 of which
// moved 440 GB/s in all at 4,096 tokens. So a large round takes many.
inline constexpr int32_t kMiddleCtas = 64, kLargeCtas = 128;
inline constexpr int32_t kMostPieces = kLargeCtas;
constexpr int32_t PiecesOf(int64_t tokens, int64_t hidden) {
  return tokens * hidden <= 64 * 4096 ? kMiddleCtas : kLargeCtas;
}

// A small round goes without pieces: what travels carries its round with it (flagged.cuh). One way instead of three: the bytes',
// their acknowledgement's and the flag's.
inline constexpr int32_t kFlaggedTokens = 64;
inline constexpr int64_t kFlaggedElements = 64 * 4096;
constexpr bool IsFlagged(int64_t tokens, int64_t hidden) {
  return tokens <= kFlaggedTokens && tokens * hidden <= kFlaggedElements;
}
// Rows and results travel in blocks of 512 bytes, which hold so many units of 16 (line.cuh). Every row begins one; results of fp32
// have two beside each other, with the first and the second half of eight elements each.
inline constexpr int64_t kFlaggedUnits = 30, kFlaggedBlock = 512;
inline constexpr int64_t kFlaggedColumns =
    kFlaggedUnits * 8;  // of a row that a block, or two, hold
DSV4MX_EVERYWHERE constexpr int32_t FlaggedBlocks(int32_t hidden) {
  return (hidden + static_cast<int32_t>(kFlaggedColumns) - 1) /
         static_cast<int32_t>(kFlaggedColumns);
}
// Of rows as in IsFlagged, of which each may begin another block: of any hidden up to this one.
constexpr int64_t FlaggedRowsBytes(int64_t max_tokens, int64_t hidden) {
  const int64_t tokens = max_tokens < kFlaggedTokens ? max_tokens : kFlaggedTokens;
  const int64_t all = tokens * hidden;
  return ((all < kFlaggedElements ? all : kFlaggedElements) / kFlaggedColumns + tokens) *
         kFlaggedBlock;
}
// One part's rows: words, which are a tag of two, then local experts and router weights of [kFlaggedTokens][kFlaggedSlots]; then
// blocks.
inline constexpr int32_t kFlaggedSlots = 16;
inline constexpr int64_t kFlaggedIds = 16,
                         kFlaggedWeights = kFlaggedIds + kFlaggedTokens * kFlaggedSlots,
                         kFlaggedX = kFlaggedWeights + kFlaggedTokens * kFlaggedSlots;
constexpr int64_t FlaggedRowBytes(int64_t max_tokens, int64_t hidden) {
  return 8 * kFlaggedX + FlaggedRowsBytes(max_tokens, hidden);
}
// Results: a tag of two words from every part, then slots [tokens][top_k][hidden], or sums [ep][tokens][hidden].
inline constexpr int64_t kFlaggedResults = 2 * kMaxRanks;
constexpr int64_t FlaggedSlotBytes(int64_t max_tokens, int64_t hidden, int64_t bytes_per_element) {
  return 8 * kFlaggedResults + FlaggedRowsBytes(max_tokens, hidden) * bytes_per_element / 2;
}

inline constexpr int32_t kPush = 1, kWait = 2;

// How to divide by what the host knows: a division takes some 25 instructions, each of which waits for the one before, this one or
// two. For numbers below 2^32 / by.
struct Division {
  int32_t by;
  uint32_t magic;
};
constexpr Division DivisionBy(int64_t by) {
  return {static_cast<int32_t>(by), static_cast<uint32_t>(((int64_t{1} << 32) + by - 1) / by)};
}

// Where the parts of a window lie that the kernels of expert-parallel ranks use, for `spacing` tokens of every part.
struct ExchangeSizes {
  int64_t ids;      // [ep][spacing][top_k] int32, offset
  int64_t weights;  // [ep][spacing][top_k] fp32, offset; or -1: they stay at home
  int64_t rows;     // [ep][spacing][hidden] bf16, offset
  int64_t slots;    // results of own tokens, offset
  // Of a small round, offsets; what has come lies at ids, weights and rows, and slots are not used.
  int64_t flagged_rows, flagged_row_bytes, flagged_slots;
  int32_t flagged;  // IsFlagged
  int32_t spacing, top_k, hidden;
  int32_t pieces;  // CTAs of a push, PiecesOf(spacing, hidden) or another number up to kMostPieces
  int32_t slot_bytes;   // of an element
  int32_t sums_travel;  // slots are [ep][spacing][hidden] sums, else [spacing][top_k][hidden]
  int32_t sum_is_bf16;
  // Of a small round, found by its launch: whole numbers of these.
  Division tokens, slots_each, blocks;  // spacing, top_k, FlaggedBlocks(hidden)
};

// The way of every id: in the low half the copy (part << 16 | local expert) where there is one, else where in `copies` its
// copies begin; in the high half how many there are.
struct RouteArgs {
  const uint64_t* ids;  // [id_count]
  const uint32_t* copies;
  int32_t id_count;
};

// The caller's tokens of this round.
struct OwnTokens {
  const void* ids;  // of this round
  int64_t ids_stride;
  int32_t ids_are_64;
  const void* weights;
  int64_t weights_stride;
  int32_t weight_is_bf16;
  const int32_t* tokens_device;  // of the call, or null
  int32_t first, tokens;         // first of this round, and how many at most
  int32_t top_k;
};

struct SendArgs {
  GroupArgs group;
  ExchangeSizes sizes;
  RouteArgs routes;
  OwnTokens own;
  const uint16_t* x;  // of this round
  int64_t x_stride;
  int32_t parts;
  // Of a small round, found by its launch: CTAs that push; and the shares that a row is cut into where it is pushed, and where it
  // is taken.
  int32_t pushers;
  Division shares, take_shares;
};
int LaunchSend(const SendArgs& args, KernelStream stream);

// The ordered sum of a round.
struct SumArgs {
  RouteArgs routes;
  OwnTokens own;
  int32_t weighted;
  float factor;
  void* out;  // of this round
  int64_t out_stride;
  int32_t out_is_f32;
  int32_t accumulate;
  // Pairs computed here by local expert, [experts] or null, and the same where the host reads them.
  const int64_t* loads;
  int64_t* loads_told;
  int32_t experts;
};

// Where the layer's GEMM2 stores its rows, so that results travel while it computes others: each computed pair's slot at its
// token's home, and where the group has failed a place of this rank's own. Pairs are counted here. LaunchReturn then has
// nothing to push (`pushed`).
struct PlaceArgs {
  GroupArgs group;
  ExchangeSizes sizes;
  const int32_t* panel_row;  // [rows * top_k] of each pair
  int32_t first, rows;       // of the window's rows, as in ReturnArgs
  void* slots;               // [panel rows][hidden] of this rank's own
  void** targets;            // [panel rows]
  int64_t* loads;
  int64_t* expert_counts;
  int32_t experts;
};
int LaunchPlace(const PlaceArgs& args, KernelStream stream);

struct ReturnArgs {
  GroupArgs group;
  ExchangeSizes sizes;
  const void* results;  // [rows of the layer's slots][hidden]
  const int32_t*
      result_row;       // [rows * top_k] row of each pair, or null: pairs are rows; of this chunk
  int32_t first, rows;  // of the window's rows
  int32_t weighted;     // sums: router weights are applied here
  int64_t* loads;       // [experts] to add to, or null
  int64_t* expert_counts;  // of the caller, or null
  int32_t experts;
  int32_t pushed;  // by GEMM2
  int32_t last;    // chunk of the round: publishes
  int32_t parts;
  int32_t pushers;  // as in SendArgs
  Division shares;  // of a pair's result
  // Of a small round, where what waits adds up as well, and ends the round: no LaunchFinish follows.
  SumArgs sum;
};
int LaunchReturn(const ReturnArgs& args, KernelStream stream);
// What the two above launch where a round is small.
int LaunchSendFlagged(const SendArgs& args, KernelStream stream);
int LaunchReturnFlagged(const ReturnArgs& args, KernelStream stream);

struct FinishArgs {
  GroupArgs group;
  ExchangeSizes sizes;
  SumArgs sum;
  int32_t poison;  // NaN, whatever came; no round ends
};
int LaunchFinish(const FinishArgs& args, KernelStream stream);

// One reduction: `tokens` rows of every tensor-parallel rank, added in rank order, or as the upper levels of the tree of
// launch_slices.h. All that travels carries its round, as in small rounds of the exchange: a warp has a block of units at a time,
// pushes it to everybody, and adds up what has come of it. Where there are many blocks some CTAs push them all, without
// waiting for anybody, and the others add.
//
// Large ones go in two shots: each rank adds up a slice and hands it to all others, which adds the same numbers in the same
// order: as it is written where out is bf16 and nothing is there to add to, else the sums in fp32. It saves bytes and costs one
// more way, so it is taken where what is saved takes longer than that: with two ranks never.
//
// CTAs in one shot and in two, and those of them that push. An adder waits for memory most of the time, 2 us for a block, and in one
// shot there is four times as much to add: so there are more of them than run at a time.
inline constexpr int32_t kReduceCtas = 1024, kReduceTwiceCtas = 640, kReducePushers = 160;
inline constexpr int64_t kSavedBytes = 512 * 1024;
// `bytes`: of one rank's partial sums, `handed_bytes` of as many elements as they are handed on.
constexpr bool IsInTwoShots(int64_t ranks, int64_t bytes, int64_t handed_bytes) {
  return ranks >= 4 &&
         (ranks - 1) * bytes - (ranks - 1) * (bytes + handed_bytes) / ranks >= kSavedBytes;
}
// Of a rank's tag, in words, and blocks of its partial sums of up to so many bytes: all of them, or in two shots, where four ranks
// or more have at most twice a quarter in blocks of twice as many.
inline constexpr int64_t kFlaggedSums = 16;
constexpr int64_t FlaggedBytes(int64_t bytes) {
  return 8 * kFlaggedSums + (bytes / (16 * kFlaggedUnits) + 8) * kFlaggedBlock;
}
struct ReduceArgs {
  GroupArgs group;
  const void* sums;  // own partial sums [tokens][hidden]
  int32_t sum_is_bf16;
  int64_t flagged;        // offset in the window: [2][tp][flagged_bytes]
  int64_t flagged_bytes;  // FlaggedBytes of the largest reduction
  int32_t hidden, tokens;
  const int32_t* tokens_device;
  int32_t first;  // token of the call, for tokens_device
  float factor;
  void* out;
  int64_t out_stride;
  int32_t out_is_f32;
  int32_t accumulate;
  int32_t tree;  // a power of two of ranks
  int32_t parts;
  int32_t alone;  // every rank is on a device of its own
  // Found by its launch: CTAs that push alone, and in two shots that add alone; 0: all do everything.
  int32_t pushers, adders;
};
// In two shots: bf16 results are handed on, else fp32 sums.
DSV4MX_EVERYWHERE constexpr bool HandsResults(const ReduceArgs& a) {
  return a.out_is_f32 == 0 && a.accumulate == 0;
}
// What it is tagged with: ranks that add to what is there and ranks that do not take different forms, and are told.
DSV4MX_EVERYWHERE constexpr uint64_t TagInTwoShots(const ReduceArgs& a) {
  return a.group.tag ^ (HandsResults(a) ? 0x9e3779b97f4a7c15u : 0xc2b2ae3d27d4eb4fu);
}
int LaunchReduce(const ReduceArgs& args, KernelStream stream);
// What it launches in two shots.
int LaunchReduceTwice(const ReduceArgs& args, KernelStream stream);

// From the host: tells all of a fault (0 = none), or that this rank has gone.
struct TellArgs {
  GroupArgs group;
  uint64_t fault;
  int32_t gone;
};
int LaunchTell(const TellArgs& args, KernelStream stream);

// The same thing after a rank has failed alone, or before anybody writes: loads every kernel above.
int LoadExchange();

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_LAUNCH_EXCHANGE_H_
