// Shared memory of a CTA and of its cluster: addresses, mbarriers, and copies that arrive later.
#include <cstdlib>
#include <cstring>
#include <utility>

#include "tests/emulator/cta.h"

namespace dsv4mx::emulator {

uint8_t* Find(Cta& cta, uint32_t address, size_t bytes) {
  const uint32_t in_cta = address & ((1u << kRank) - 1);
  if (in_cta >= kStatic) {
    return const_cast<uint8_t*>(cta.static_origin) +
           (static_cast<int64_t>(in_cta) - kStatic - kStaticRoom);
  }
  if (in_cta < kDynamic || in_cta + bytes > kDynamic + cta.shared_bytes) {
    Fail("%zu bytes at shared address %#x, of %zu", bytes, address, cta.shared_bytes);
  }
  return cta.shared + (in_cta - kDynamic);
}

namespace {

Cta& OwnerOf(uint32_t address) {
  const uint32_t rank = address >> kRank;
  if (rank == 0) return *self->cta;
  Cluster& cluster = *self->cta->cluster;
  if (rank > cluster.ctas.size())
    Fail("address %#x is of CTA %u of the cluster", address, rank - 1);
  return *cluster.ctas[rank - 1];
}

MemoryBarrier& BarrierAt(uint32_t bar) {
  Cta& cta = OwnerOf(bar);
  const auto it = cta.memory_barriers.find(bar & ((1u << kRank) - 1));
  if (it == cta.memory_barriers.end()) Fail("barrier at %#x was never initialised", bar);
  return it->second;
}

void Settle(MemoryBarrier& b) {
  if (b.missing != 0 || b.bytes != 0) return;
  b.missing = b.expected;
  b.phase.fetch_add(1, std::memory_order_release);
}

// Under the cluster's mutex.
void Arrive(MemoryBarrier& b, uint32_t bytes) {
  b.bytes += bytes;
  b.missing--;
  Settle(b);
}

bool Perform(Cta& cta, const Copy& copy) {
  if (copy.at->over) {
    self = cta.fibers[0].get();
    const std::lock_guard<std::mutex> lock(cta.cluster->mutex);
    cta.cluster->fault = "a store into a CTA of the cluster that has ended";
    cta.cluster->failed = true;
    return false;
  }
  std::memcpy(copy.to, copy.words.empty() ? copy.from : copy.words.data(), copy.bytes);
  const std::lock_guard<std::mutex> lock(cta.cluster->mutex);
  MemoryBarrier& b = copy.at->memory_barriers.at(copy.bar);
  b.bytes -= copy.bytes;
  Settle(b);
  return true;
}

}  // namespace

bool PerformCopies(Cta& cta, bool all) {
  bool moved = false;
  for (size_t i = 0; i < cta.copies.size();) {
    if (!all && cta.Draw() % 4 != 0) {
      ++i;
      continue;
    }
    const size_t at = all ? i : cta.Draw() % cta.copies.size();
    const Copy copy = std::move(cta.copies[at]);
    cta.copies[at] = std::move(cta.copies.back());
    cta.copies.pop_back();
    if (!Perform(cta, copy)) return true;
    moved = true;
  }
  return moved;
}

void FlushStores() {
  for (const auto& s : self->stores) std::memcpy(s.to, Find(*self->cta, s.from, s.bytes), s.bytes);
  self->stores.clear();
}

uint32_t AddressOf(const void* pointer) {
  const auto* p = static_cast<const uint8_t*>(pointer);
  const Cta& cta = *self->cta;
  if (p >= cta.shared && p <= cta.shared + cta.shared_bytes) {
    return kDynamic + static_cast<uint32_t>(p - cta.shared);
  }
  const int64_t off = p - cta.static_origin;
  if (std::abs(off) >= kStaticRoom) Fail("%p is no shared memory", pointer);
  return static_cast<uint32_t>(kStatic + kStaticRoom + off);
}

uint8_t* At(uint32_t address, size_t bytes) {
  return Find(OwnerOf(address), address, bytes);
}

uint8_t* DynamicShared() {
  return self->cta->shared;
}

void BarrierInit(uint32_t bar, uint32_t count) {
  const std::lock_guard<std::mutex> lock(self->cta->cluster->mutex);
  MemoryBarrier& b = self->cta->memory_barriers[bar];
  b.phase = 0;
  b.expected = b.missing = count;
  b.bytes = 0;
}

void BarrierArrive(uint32_t bar) {
  BarrierArriveExpect(bar, 0);
}

void BarrierArriveExpect(uint32_t bar, uint32_t bytes) {
  MemoryBarrier& b = BarrierAt(bar);
  std::unique_lock<std::mutex> lock(self->cta->cluster->mutex);
  if (b.missing == 0) {
    lock.unlock();
    Fail("more arrivals at barrier %#x than it was made for", bar);
  }
  Arrive(b, bytes);
}

void BarrierWait(uint32_t bar, uint32_t parity) {
  WaitUntil(BarrierAt(bar).phase, 1, parity);
}
bool BarrierTest(uint32_t bar, uint32_t parity) {
  return (BarrierAt(bar).phase.load(std::memory_order_acquire) & 1) != parity;
}

void BulkCopy(uint32_t to, const void* from, uint32_t bytes, uint32_t bar) {
  if (to % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0 || bytes % 16 != 0 ||
      bytes == 0) {
    Fail("bulk copy of %u bytes from %p to %#x: all are multiples of 16", bytes, from, to);
  }
  BarrierAt(bar);
  self->cta->copies.push_back({At(to, bytes), {}, from, bytes, self->cta, bar});
}

void AsyncCopy16(uint32_t to, const void* from) {
  if (to % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0)
    Fail("copy of 16 bytes from %p to %#x: both are multiples of 16", from, to);
  self->copies.push_back({At(to, 16), {}, from, 16, self->cta, 0});
}

// Late as ever: none is under way before the thread has told a barrier.
void AsyncCopiesArrive(uint32_t bar) {
  BarrierArriveExpect(bar, static_cast<uint32_t>(16 * self->copies.size()));
  for (Copy& copy : self->copies) {
    copy.bar = bar;
    self->cta->copies.push_back(std::move(copy));
  }
  self->copies.clear();
}

void BulkStore(void* to, uint32_t from, uint32_t bytes) {
  if (from % 16 != 0 || reinterpret_cast<uintptr_t>(to) % 16 != 0 || bytes % 16 != 0) {
    Fail("bulk store of %u bytes from %#x to %p: all are multiples of 16", bytes, from, to);
  }
  self->stores.push_back({to, from, bytes});
}

void BulkStoreWait() {
  FlushStores();
}

uint32_t ClusterRank() {
  return self->cta->rank;
}

uint32_t ClusterAddress(uint32_t address, uint32_t rank) {
  return address | (rank + 1) << kRank;
}

void* ClusterPointer(void* pointer, uint32_t rank) {
  Cta& other = *self->cta->cluster->ctas.at(rank);
  return Find(other, AddressOf(pointer), 1);
}

void Send(uint32_t to, const void* words, uint32_t bytes, uint32_t bar) {
  Cta& other = OwnerOf(to);
  if (&other != &OwnerOf(bar)) Fail("st.async to %#x with the barrier of another CTA", to);
  BarrierAt(bar);
  const auto* from = static_cast<const uint8_t*>(words);
  self->cta->copies.push_back({Find(other, to, bytes), std::vector<uint8_t>(from, from + bytes),
                               nullptr, bytes, &other, bar & ((1u << kRank) - 1)});
}

}  // namespace dsv4mx::emulator
