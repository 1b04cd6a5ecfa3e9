// The steps of a round, over a policy of memory operations: std::atomic on the host, PTX on a device. A policy has
//
//   uint64_t Load(const uint64_t*)             acquire, of memory that other ranks write
//   void Store(uint64_t*, uint64_t)            release, into memory of another rank
//   bool Claim(uint64_t*, uint64_t)            0 becomes the value, for the first that comes
//   void Copy(void* to, const void* from, n)   ordinary stores, n a multiple of 4
//
// One round of the exchange of experts, on every rank (tests/models/ep.pml):
//
//   1. write rows into the windows of those that hold their experts, then Publish to every peer, also where there were none
//   2. Await every peer's rows, compute, write results into the windows of the rows' homes, Publish to every peer
//   3. Await every peer's results, add them up
//
// There is one buffer and no acknowledgement. A rank begins round n+1 after every peer has published its results of n,
// which it did after reading the rows of n: so rows are not overwritten unread. It writes results of n+1 after the home
// has published its rows of n+1, which it did after adding up n: so results are not overwritten unread.
//
// The reduction (tests/models/tp.pml) has one step, so that a fast rank may be a round ahead of a slow one: two buffers
// alternate. Nobody is two ahead, since round n+1 ends only when all have published n+1, after reading n.
#ifndef DSV4MX_KERNELS_DIST_PROTOCOL_H_
#define DSV4MX_KERNELS_DIST_PROTOCOL_H_

#include <cstdint>

#include "kernels/dist/window.h"

// Of kernels where they are compiled as such, else of the host.
#if defined(__CUDACC__)
#define DSV4MX_OF_POLICY __device__ inline
#else
#define DSV4MX_OF_POLICY inline
#endif

namespace dsv4mx::dist {

template <class Ops>
DSV4MX_OF_POLICY void Publish(Cell* cell, uint32_t round, uint32_t value, uint64_t tag) {
  cell->tag = tag;
  Ops::Store(&cell->flag, static_cast<uint64_t>(round) << 32 | value);
}

// Whether the peer has published this round. Rounds are compared for equality, so that they may wrap around.
template <class Ops>
DSV4MX_OF_POLICY bool Arrived(const Cell* cell, uint32_t round, uint32_t* value, uint64_t* tag) {
  const uint64_t flag = Ops::Load(&cell->flag);
  if (static_cast<uint32_t>(flag >> 32) != round) return false;
  *value = static_cast<uint32_t>(flag);
  *tag = cell->tag;
  return true;
}

// Which of an id's copies a route takes: the home's own if there is one, else one by the route's place, so that neighbours
// spread. A function of nothing but the arguments: every run chooses alike.
DSV4MX_EVERYWHERE constexpr uint32_t CopyOf(uint32_t token, uint32_t slot, uint32_t copies) {
  uint32_t h = token * 0x9e3779b1u ^ (slot + 1) * 0x85ebca6bu;
  h ^= h >> 15;
  h *= 0x2c1b3c6du;
  h ^= h >> 13;
  return h % copies;
}

// One row and what its experts need to know of it.
struct RowMeta {
  int32_t token;
  const int32_t* experts;  // [top_k] local expert at the destination, or -1
  const float* weights;    // [top_k]
};

template <class Ops>
DSV4MX_OF_POLICY void WriteRow(uint8_t* window, const Window& w, const WindowShape& s, int32_t from,
                               int64_t at, const RowMeta& meta, const void* x, int64_t hidden) {
  uint8_t* m = window + w.meta + (from * s.max_tokens + at) * w.meta_bytes;
  Ops::Copy(m, &meta.token, 4);
  Ops::Copy(m + 4, meta.experts, 4 * int64_t{s.top_k});
  Ops::Copy(m + 4 + 4 * int64_t{s.top_k}, meta.weights, 4 * int64_t{s.top_k});
  Ops::Copy(window + w.rows + (from * s.max_tokens + at) * hidden * 2, x, hidden * 2);
}

// Tells every window of a fault; what was told first stays, and told(rank, fault) hears of those that had not been told.
// Returns the word that counts on this rank.
template <class Ops, class Told>
DSV4MX_OF_POLICY uint64_t Spread(uint8_t* const* windows, int32_t ranks, int32_t me, uint64_t fault,
                                 const Told& told) {
  uint64_t* const own = &reinterpret_cast<ControlBlock*>(windows[me])->fault;
  if (Ops::Claim(own, fault)) {
    told(me, fault);
  } else {
    fault = Ops::Load(own);
  }
  for (int32_t r = 0; r < ranks; ++r) {
    if (r == me) continue;
    if (Ops::Claim(&reinterpret_cast<ControlBlock*>(windows[r])->fault, fault)) told(r, fault);
  }
  return fault;
}

}  // namespace dsv4mx::dist

#endif  // DSV4MX_KERNELS_DIST_PROTOCOL_H_
