// Where threads of a warp, a CTA or a cluster meet.
#include <cstring>

#include "tests/emulator/cta.h"

namespace dsv4mx::emulator {

void CompleteIfAll(Warp& w) {
  if (w.arrived == 0 || (w.mask & w.lanes & ~w.ended & ~w.arrived) != 0) return;
  w.present[w.generation & 1] = w.arrived;
  w.arrived = 0;
  w.generation.fetch_add(1, std::memory_order_release);
}

void CompleteIfAll(Cta& cta, ThreadBarrier& b) {
  if (b.arrived == 0 || b.arrived < (b.threads == 0 ? cta.live : b.threads)) return;
  b.arrived = 0;
  b.generation.fetch_add(1, std::memory_order_release);
}

Lanes Meet(const char* operation, uint32_t mask, uint64_t mine) {
  Warp& w = self->cta->warps[static_cast<size_t>(self->number / 32)];
  const int lane = self->number % 32;
  const uint64_t generation = w.generation;
  if ((mask >> lane & 1) == 0) Fail("%s with mask %#x by lane %d", operation, mask, lane);
  if (w.arrived == 0) {
    w.operation = operation;
    w.mask = mask;
  } else if ((w.operation != operation && std::strcmp(w.operation, operation) != 0) ||
             w.mask != mask) {
    Fail("%s with mask %#x where other lanes do %s with %#x", operation, mask, w.operation, w.mask);
  }
  w.values[generation & 1][lane] = mine;
  w.arrived |= 1u << lane;
  CompleteIfAll(w);
  WaitUntil(w.generation, ~uint64_t{0}, generation);
  return {w.values[generation & 1], w.present[generation & 1], lane};
}

void Rest() {
  self->fiber.Leave();
}

void NamedBarrier(int id, int threads) {
  Cta& cta = *self->cta;
  ThreadBarrier& b = cta.barriers[id];
  const uint64_t generation = b.generation;
  if (b.arrived == 0) {
    b.threads = threads;
  } else if (b.threads != threads) {
    Fail("bar.sync %d of %d threads where others wait for %d", id, threads, b.threads);
  }
  ++b.arrived;
  CompleteIfAll(cta, b);
  WaitUntil(b.generation, ~uint64_t{0}, generation);
}

bool AnyOfAll(bool mine) {
  Cta& cta = *self->cta;
  cta.any |= mine;
  NamedBarrier(0, 0);
  const bool any = cta.any;
  NamedBarrier(0, 0);
  cta.any = false;
  NamedBarrier(0, 0);
  return any;
}

void ClusterBarrier() {
  Cluster& cluster = *self->cta->cluster;
  const uint64_t generation = cluster.generation;
  const int all = static_cast<int>(cluster.ctas.size()) * self->cta->threads;
  if (++cluster.arrived == all) {
    cluster.arrived = 0;
    cluster.generation.fetch_add(1, std::memory_order_release);
  }
  WaitUntil(cluster.generation, ~uint64_t{0}, generation);
}

}  // namespace dsv4mx::emulator
