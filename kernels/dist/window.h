// A rank's window: the memory that the other ranks of its group write. Its layout is arithmetic alone, the same for a host
// that exchanges through shared memory and for kernels that store over NVLink.
//
//   control    fault word, a mark of having left, one cell per peer and stage
//   meta       [ep][max_tokens]               which token a row is, its local experts here, its router weights
//   rows       [ep][max_tokens][hidden]       bf16 rows from each expert-parallel peer (none from itself)
//   slots      [max_tokens][top_k][hidden]    results of this rank's own tokens, one per route, in the slot type; or
//              [ep][max_tokens][hidden]       one partial sum per row that went out, in the partial type
//   partials   [2][tp][reduce_tokens][hidden] partial sums of tensor-parallel peers, in the partial type
//
// Devices lay out meta and rows more simply, and have further parts behind (launch_exchange.h): nobody mixes the two.
//
//   targets        [target_rows]           pointers: where this rank's results go; in small rounds ids and weights. It alone reads and writes these
//   flagged        [2][tp][flagged_bytes]  partial sums that carry their round with them
//   flagged_rows   [ep][flagged_row_bytes]   rows of a small exchange that do, and what their experts need to know
//   flagged_slots  [flagged_slot_bytes]      results of a small exchange that do
//   part_cells     [2][ep][part_cells]     of each CTA's piece of a dispatch or of a combine
//
// Rows are as long as the layer's hidden, so that strides are those of the layer in use; offsets are those of the largest.
#ifndef DSV4MX_KERNELS_DIST_WINDOW_H_
#define DSV4MX_KERNELS_DIST_WINDOW_H_

#include <cstdint>

// What kernels call as well.
#if defined(__CUDACC__)
#define DSV4MX_EVERYWHERE __host__ __device__
#else
#define DSV4MX_EVERYWHERE
#endif

namespace dsv4mx::dist {

inline constexpr int kMaxRanks = 64;

// What one rank tells another once per round. The flag is stored last, with release, and read first, with acquire; it holds
// the round in its high half, so that nothing has to be reset, and a count in its low half.
struct alignas(64) Cell {
  uint64_t flag;
  uint64_t tag;  // what the sender thinks this round is
};

struct ControlBlock {
  alignas(64) uint64_t fault;  // PackFault, 0 = none; the first one stays
  // On the host not 0 once the owner has destroyed its communicator; on devices, which only look at their own, bit r once
  // rank r has.
  alignas(64) uint64_t left;
  Cell dispatch[kMaxRanks];  // by expert-parallel rank of the sender
  Cell combine[kMaxRanks];
  Cell reduce[2][kMaxRanks];  // by tensor-parallel rank of the sender; the two buffers alternate
};

struct WindowShape {
  int32_t ep = 1, tp = 1, top_k = 1;
  int64_t max_tokens = 1, hidden = 32, reduce_tokens = 1;
  int32_t slot_bytes = 2, partial_bytes = 4;
  bool rank_reduce = false;
  // Of devices, whose CTAs publish their pieces one by one: cells per stage and part; and bytes of a reduction, per buffer and
  // tensor-parallel rank, whose data carry their own flags.
  int32_t part_cells = 0;
  int64_t flagged_bytes = 0;
  int64_t target_rows = 0;
  // Likewise of a small exchange, for each part's rows, and for all results.
  int64_t flagged_row_bytes = 0, flagged_slot_bytes = 0;
};

struct Window {
  // Offsets from the window's begin, multiples of 256.
  int64_t meta, rows, slots, partials, targets, flagged, flagged_rows, flagged_slots, part_cells;
  int64_t meta_bytes;  // of one row's meta
  int64_t bytes;
};

// token, then local experts, then router weights.
constexpr int64_t MetaBytes(int32_t top_k) {
  return 4 * (1 + 2 * static_cast<int64_t>(top_k));
}

constexpr Window LayOut(const WindowShape& s) {
  constexpr auto kUp = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  // A group of one exchanges nothing, but its results still lie here.
  const int64_t from = s.ep > 1 ? s.ep : 0;
  const int64_t slots =
      s.rank_reduce && s.ep > 1 ? s.ep * s.partial_bytes : int64_t{s.top_k} * s.slot_bytes;
  const int64_t partials = s.tp > 1 ? 2 * int64_t{s.tp} * s.reduce_tokens : 0;
  Window w{};
  w.meta_bytes = MetaBytes(s.top_k);
  w.meta = kUp(sizeof(ControlBlock));
  w.rows = w.meta + kUp(from * s.max_tokens * w.meta_bytes);
  w.slots = w.rows + kUp(from * s.max_tokens * s.hidden * 2);
  w.partials = w.slots + kUp(s.max_tokens * s.hidden * slots);
  constexpr auto kCell = static_cast<int64_t>(sizeof(Cell));
  w.targets = w.partials + kUp(partials * s.hidden * s.partial_bytes);
  // What is zeroed by a reset comes last.
  w.flagged = w.targets + kUp(s.target_rows * 8);
  w.flagged_rows = w.flagged + kUp(2 * int64_t{s.tp} * s.flagged_bytes);
  w.flagged_slots = w.flagged_rows + kUp(s.ep * s.flagged_row_bytes);
  w.part_cells = w.flagged_slots + kUp(s.flagged_slot_bytes);
  w.bytes = w.part_cells + kUp(2 * int64_t{s.ep} * s.part_cells * kCell);
  return w;
}

// A fault in one word, so that it is published by one store: what, where, who (-1 = not known), found by whom, when.
struct FaultWord {
  int32_t status, stage, rank, found_by;
  uint32_t round;
};
DSV4MX_EVERYWHERE constexpr uint64_t PackFault(const FaultWord& f) {
  return static_cast<uint64_t>(f.status & 0xff) | static_cast<uint64_t>(f.stage & 0xff) << 8 |
         static_cast<uint64_t>(f.rank & 0xff) << 16 |
         static_cast<uint64_t>(f.found_by & 0xff) << 24 | static_cast<uint64_t>(f.round) << 32;
}
constexpr FaultWord UnpackFault(uint64_t word) {
  const auto rank = static_cast<int32_t>(word >> 16 & 0xff);
  return {static_cast<int32_t>(word & 0xff), static_cast<int32_t>(word >> 8 & 0xff),
          rank == 0xff ? -1 : rank, static_cast<int32_t>(word >> 24 & 0xff),
          static_cast<uint32_t>(word >> 32)};
}

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_WINDOW_H_
