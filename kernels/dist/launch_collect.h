// The kernels of a group whose rows travel by collectives (NCCL's all-gather and reduce-scatter), which the host enqueues between
// them.
//
//   PackRows     a record for each of the round's tokens: the row, where its routes lead, its router weights
//   all-gather   everybody's records to everybody
//   layer        unchanged, on [ep * spacing] records, which it reads by strides
//   SpreadRows   every route's result, or zeros where another rank computes it, or NaN where the record did not come
//   reduce-scatter   each home's results: one rank's row and zeros, so that the sum is the row, in whatever order it is made
//   Finish       the ordered sum (launch_exchange.h)
//
// or, where sums travel (RANK_REDUCE),
//
//   SpreadSums   one sum for each record that has anything here
//   all-to-all   each home's, from every part, which it adds in their order: a reduce-scatter's order is nobody's promise
//   Finish
//
//   PackSums     a piece of partial sums
//   all-gather   everybody's to everybody
//   AddSums      in rank order, or as a tree
//
// Expert-parallel parts exchange among ranks of one tensor-parallel number, tensor-parallel ranks within their part. What each
// rank thinks the round is travels along and is compared; and the fault that it knows of, so that both kinds hear of what was
// found among the other. Nobody waits but NCCL's kernels, which know no timeout: a rank that does not come is not found here.
#ifndef DSV4MX_KERNELS_DIST_LAUNCH_COLLECT_H_
#define DSV4MX_KERNELS_DIST_LAUNCH_COLLECT_H_

#include "kernels/dist/launch_exchange.h"

namespace dsv4mx::dist {

// An expert of part p is id p << 16 | local in records, so that a part's ids are a range.
inline constexpr int32_t kPartIds = 1 << 16;

// What a rank thinks the round is: first in its block of partial sums, last in each record.
struct alignas(16) RoundStamp {
  uint64_t tag;
  uint32_t round, count;
  uint64_t fault, unused;
};

// Offsets in a record: [hidden] bf16, [top_k] int32 ids, [top_k] fp32 weights, a stamp.
struct RecordShape {
  int32_t hidden, top_k;
  DSV4MX_EVERYWHERE constexpr int64_t ids() const { return int64_t{2} * hidden; }
  DSV4MX_EVERYWHERE constexpr int64_t weights() const { return ids() + int64_t{4} * top_k; }
  DSV4MX_EVERYWHERE constexpr int64_t stamp() const {
    return (weights() + int64_t{4} * top_k + 15) / 16 * 16;
  }
  DSV4MX_EVERYWHERE constexpr int64_t bytes() const {
    return stamp() + static_cast<int64_t>(sizeof(RoundStamp));
  }
};

// A rank as these kernels see it, number `mine` of `count` that a collective joins: number i is rank first + i * step of the
// group. `told`: where its host reads its fault, and where the kernels read the host's.
struct CollectArgs {
  Progress* progress;
  uint64_t* told;
  int32_t mine, count, first, step;
  uint64_t tag;
};

struct PackRowsArgs {
  CollectArgs group;
  RouteArgs routes;
  OwnTokens own;
  RecordShape shape;
  int32_t spacing;
  const uint16_t* x;  // of this round
  int64_t x_stride;
  uint8_t* records;  // [spacing]
};
int LaunchPackRows(const PackRowsArgs& args, KernelStream stream);

struct SpreadRowsArgs {
  CollectArgs group;
  RecordShape shape;
  const uint8_t* records;  // [count][spacing]
  int32_t spacing;
  int64_t first;      // record of this chunk
  CombineArgs layer;  // its routing, panel rows, slots and weights, of this chunk
  uint8_t* results;  // [rows of this chunk][top_k][hidden] in the slot type, or [rows][hidden] sums
  int32_t sum_is_bf16;
  int64_t* loads;          // [experts] to add to
  int64_t* expert_counts;  // of the caller, or null
};
int LaunchSpreadRows(const SpreadRowsArgs& args, KernelStream stream);
int LaunchSpreadSums(const SpreadRowsArgs& args, KernelStream stream);

// `reduce`: of its sums, tokens and outputs. Blocks: a stamp, then [tokens][hidden].
struct CollectSumsArgs {
  CollectArgs group;
  ReduceArgs reduce;
  uint8_t* blocks;  // [count], block_bytes each
  int64_t block_bytes;
};
int LaunchPackSums(const CollectSumsArgs& args, KernelStream stream);
int LaunchAddSums(const CollectSumsArgs& args, KernelStream stream);

int LoadCollect();

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_LAUNCH_COLLECT_H_
