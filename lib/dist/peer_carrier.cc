#include "lib/dist/peer_carrier.h"

#include <sched.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "kernels/dist/protocol.h"
#include "lib/base/text.h"
#include "lib/dist/host_ops.h"

namespace dsv4mx::dist {
namespace {

const char* StageName(int32_t stage) {
  switch (stage) {
    case DSV4MX_COMM_STAGE_DISPATCH:
      return "dispatch";
    case DSV4MX_COMM_STAGE_COMBINE:
      return "combine";
    case DSV4MX_COMM_STAGE_REDUCE:
      return "reduce";
    default:
      return "none";
  }
}

// Ranks may outnumber the processors, so that a waiter soon gives its own away.
class Backoff {
 public:
  void Pause() {
    ++turns_;
    if (turns_ < 64) return;
    if (turns_ < 256) {
      sched_yield();
      return;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  // Whether it is time to look at clocks and peers.
  bool Look() const { return turns_ % 16 == 0; }

 private:
  uint32_t turns_ = 0;
};

}  // namespace

Status TellFault(const CommSpec& spec, const FaultWord& f) {
  const double limit = static_cast<double>(spec.timeout_ns) * 1e-9;
  if (f.rank < 0) {
    return Fail(f.status,
                "a collective call failed at stage %s of round %u, rank %d found; it does not say "
                "which rank caused it",
                StageName(f.stage), f.round, f.found_by);
  }
  switch (f.status) {
    case DSV4MX_STATUS_COMM_TIMEOUT:
      return Fail(f.status,
                  "rank %d did not come to stage %s of round %u within %s s, rank %d found", f.rank,
                  StageName(f.stage), f.round, Text(limit, 3).text, f.found_by);
    case DSV4MX_STATUS_COMM_RANK_LOST:
      if (f.stage == DSV4MX_COMM_STAGE_NONE)
        return Fail(f.status, "rank %d aborted the group's work", f.rank);
      return Fail(f.status, "rank %d ended before stage %s of round %u, rank %d found", f.rank,
                  StageName(f.stage), f.round, f.found_by);
    case DSV4MX_STATUS_COMM_MISMATCH:
      return Fail(f.status,
                  "rank %d is in another call at stage %s of round %u, rank %d found; wanted the "
                  "same layers, comm_tag and comm_tokens in the same order on every rank",
                  f.rank, StageName(f.stage), f.round, f.found_by);
    default:
      return Fail(f.status, "rank %d failed inside its own part of a call", f.rank);
  }
}

PeerCarrier::PeerCarrier(const CommSpec& spec, std::vector<std::shared_ptr<Region>> windows)
    : spec_(spec), shape_(ShapeOf(spec)), window_(LayOut(shape_)), regions_(std::move(windows)) {
  for (const auto& region : regions_) windows_.push_back(region->data());
}

FaultWord PeerCarrier::Fault() const {
  return UnpackFault(HostOps::Load(&control(spec_.rank)->fault));
}

Status PeerCarrier::Broken() {
  const FaultWord fault = Fault();
  return fault.status == 0 ? kOk : TellFault(spec_, fault);
}

Status PeerCarrier::Break(const FaultWord& fault) {
  return TellFault(spec_, UnpackFault(Spread<HostOps>(windows_.data(), spec_.size, spec_.rank,
                                                      PackFault(fault), [](int32_t, uint64_t) {})));
}

void PeerCarrier::Leave() {
  HostOps::Store(&control(spec_.rank)->left, 1);
}

Status PeerCarrier::Reset() {
  // Only this rank writes now: all are between the two gathers of a reset.
  std::memset(static_cast<void*>(control(spec_.rank)), 0, sizeof(ControlBlock));
  ep_round_ = tp_round_ = 0;
  return kOk;
}

bool PeerCarrier::Lost(int32_t rank) const {
  return HostOps::Load(&control(rank)->left) != 0 ||
         !regions_[static_cast<size_t>(rank)]->OwnerLives();
}

Status PeerCarrier::Mismatch(dsv4mx_comm_stage stage, uint32_t round, int32_t rank, uint64_t got,
                             uint64_t wanted) {
  const Status told = Break({DSV4MX_STATUS_COMM_MISMATCH, stage, rank, spec_.rank, round});
  if (told.code != DSV4MX_STATUS_COMM_MISMATCH) return told;
  const auto tag = [](uint64_t t) { return static_cast<unsigned>(t & 0xffffffff); };
  if (tag(got) != tag(wanted)) {
    return Fail(told.code,
                "rank %d is in a call with comm_tag %u at stage %s of round %u, wanted %u "
                "as here",
                rank, tag(got), StageName(stage), round, tag(wanted));
  }
  return told;
}

Status PeerCarrier::Await(const Cell* cell, dsv4mx_comm_stage stage, uint32_t round, int32_t rank,
                          uint64_t tag, uint32_t* value) {
  using Clock = std::chrono::steady_clock;
  uint64_t got = 0;
  Backoff backoff;
  Clock::time_point begin{}, asked{};
  while (!Arrived<HostOps>(cell, round, value, &got)) {
    backoff.Pause();
    if (!backoff.Look()) continue;
    DSV4MX_TRY(Broken());
    const auto now = Clock::now();
    if (begin == Clock::time_point{}) begin = asked = now;
    if (now - asked >= std::chrono::milliseconds(1)) {
      asked = now;
      // What it wrote before it ended still counts.
      if (Lost(rank) && !Arrived<HostOps>(cell, round, value, &got))
        return Break({DSV4MX_STATUS_COMM_RANK_LOST, stage, rank, spec_.rank, round});
    }
    if (now - begin >= std::chrono::nanoseconds(spec_.timeout_ns) &&
        !Arrived<HostOps>(cell, round, value, &got))
      return Break({DSV4MX_STATUS_COMM_TIMEOUT, stage, rank, spec_.rank, round});
  }
  return got == tag ? kOk : Mismatch(stage, round, rank, got, tag);
}

int64_t PeerCarrier::SlotsAt(const RoundSizes& sizes, int32_t part, int64_t token,
                             int64_t at) const {
  if (shape_.rank_reduce && shape_.ep > 1)
    return window_.slots + (part * shape_.max_tokens + at) * sizes.partial_row;
  return window_.slots + token * sizes.top_k * sizes.slot_row;
}

void PeerCarrier::Send(const RoundSizes& sizes, int32_t to, int64_t at, const RowMeta& meta,
                       const void* x) {
  // Windows have room for max_top_k of everything.
  int32_t experts[16];
  float weights[16];
  for (int32_t slot = 0; slot < shape_.top_k; ++slot) {
    experts[slot] = slot < sizes.top_k ? meta.experts[slot] : -1;
    weights[slot] = slot < sizes.top_k ? meta.weights[slot] : 0.0f;
  }
  WriteRow<HostOps>(windows_[static_cast<size_t>(spec_.EpPeer(to))], window_, shape_,
                    spec_.ep_rank(), at, RowMeta{meta.token, experts, weights}, x, sizes.hidden);
}

Status PeerCarrier::Deliver(const RoundSizes& sizes, const int64_t* sent, RowTable* table) {
  const uint32_t round = ++ep_round_;
  const int32_t mine = spec_.ep_rank();
  // Also where there are no rows: who gets no flag waits for ever.
  for (int32_t p = 0; p < shape_.ep; ++p) {
    if (p == mine) continue;
    Publish<HostOps>(&control(spec_.EpPeer(p))->dispatch[mine], round,
                     static_cast<uint32_t>(sent[p]), sizes.tag);
  }
  for (int32_t p = 0; p < shape_.ep; ++p) {
    if (p == mine) continue;
    uint32_t count = 0;
    const int32_t peer = spec_.EpPeer(p);
    DSV4MX_TRY(Await(&control(spec_.rank)->dispatch[p], DSV4MX_COMM_STAGE_DISPATCH, round, peer,
                     sizes.tag, &count));
    if (count > shape_.max_tokens)
      return Break({DSV4MX_STATUS_COMM_ERROR, DSV4MX_COMM_STAGE_DISPATCH, peer, spec_.rank, round});
    uint8_t* home = windows_[static_cast<size_t>(peer)];
    for (int64_t at = 0; at < count; ++at) {
      const int64_t row = p * shape_.max_tokens + at;
      const uint8_t* meta = me() + window_.meta + row * window_.meta_bytes;
      const auto* words = reinterpret_cast<const int32_t*>(meta);
      table->Add(me() + window_.rows + row * sizes.hidden * 2, words + 1,
                 reinterpret_cast<const float*>(words + 1 + shape_.top_k), sizes.top_k,
                 home + SlotsAt(sizes, mine, words[0], at));
    }
  }
  return kOk;
}

uint8_t* PeerCarrier::OwnSlots(const RoundSizes& sizes, int64_t token, int64_t at) {
  return me() + SlotsAt(sizes, spec_.ep_rank(), token, at);
}

Status PeerCarrier::Return(const RoundSizes& sizes) {
  const int32_t mine = spec_.ep_rank();
  for (int32_t p = 0; p < shape_.ep; ++p) {
    if (p == mine) continue;
    Publish<HostOps>(&control(spec_.EpPeer(p))->combine[mine], ep_round_, 0, sizes.tag);
  }
  for (int32_t p = 0; p < shape_.ep; ++p) {
    if (p == mine) continue;
    uint32_t ignored = 0;
    DSV4MX_TRY(Await(&control(spec_.rank)->combine[p], DSV4MX_COMM_STAGE_COMBINE, ep_round_,
                     spec_.EpPeer(p), sizes.tag, &ignored));
  }
  return kOk;
}

const uint8_t* PeerCarrier::Result(const RoundSizes& sizes, int64_t token, int32_t slot) {
  return me() + SlotsAt(sizes, 0, token, 0) + slot * sizes.slot_row;
}

const uint8_t* PeerCarrier::Sum(const RoundSizes& sizes, int32_t from, int64_t at) {
  return me() + SlotsAt(sizes, from, 0, at);
}

uint8_t* PeerCarrier::PartialsOf(uint8_t* window, const RoundSizes& sizes, int32_t tp) const {
  const int64_t buffer = (tp_round_ & 1) * shape_.tp + tp;
  return window + window_.partials + buffer * shape_.reduce_tokens * sizes.partial_row;
}

uint8_t* PeerCarrier::Partials(const RoundSizes& sizes) {
  ++tp_round_;
  return PartialsOf(me(), sizes, spec_.tp_rank());
}

Status PeerCarrier::Reduce(const RoundSizes& sizes, int64_t tokens) {
  const int32_t mine = spec_.tp_rank(), buffer = static_cast<int32_t>(tp_round_ & 1);
  for (int32_t t = 0; t < shape_.tp; ++t) {
    if (t == mine) continue;
    const int32_t peer = spec_.TpPeer(t);
    HostOps::Copy(PartialsOf(windows_[static_cast<size_t>(peer)], sizes, mine),
                  PartialsOf(me(), sizes, mine), tokens * sizes.partial_row);
    Publish<HostOps>(&control(peer)->reduce[buffer][mine], tp_round_, static_cast<uint32_t>(tokens),
                     sizes.tag);
  }
  for (int32_t t = 0; t < shape_.tp; ++t) {
    if (t == mine) continue;
    uint32_t theirs = 0;
    const int32_t peer = spec_.TpPeer(t);
    DSV4MX_TRY(Await(&control(spec_.rank)->reduce[buffer][t], DSV4MX_COMM_STAGE_REDUCE, tp_round_,
                     peer, sizes.tag, &theirs));
    if (static_cast<int64_t>(theirs) != tokens)
      return Mismatch(DSV4MX_COMM_STAGE_REDUCE, tp_round_, peer, sizes.tag, sizes.tag);
  }
  return kOk;
}

const uint8_t* PeerCarrier::Partial(const RoundSizes& sizes, int32_t tp, int64_t token) {
  return PartialsOf(me(), sizes, tp) + token * sizes.partial_row;
}

}  // namespace dsv4mx::dist
