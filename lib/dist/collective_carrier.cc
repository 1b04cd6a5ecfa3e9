#include "lib/dist/collective_carrier.h"

#include <algorithm>
#include <cstring>

#include "lib/base/carver.h"
#include "lib/dist/peer_carrier.h"

namespace dsv4mx::dist {

Status CollectiveCarrier::Make(const CommSpec& s, std::unique_ptr<Collectives> own,
                               Collectives* collectives, std::unique_ptr<Carrier>* out) {
  std::unique_ptr<CollectiveCarrier> c(new CollectiveCarrier(s, std::move(own), collectives));
  const bool ep = s.ep_size() > 1, tp = s.tp_size > 1;
  const int64_t hidden = s.max_hidden, routes = s.max_tokens * s.max_top_k * hidden;
  const int64_t slot = ep ? BytesOf(s.slot_dtype) : 4;
  const bool sums = s.ep_combine == DSV4MX_EP_RANK_REDUCE;
  c->sum_bytes_ = ep && sums ? s.max_tokens * hidden * BytesOf(s.partial_dtype) : 0;
  // Of every rank, or for every rank.
  const int64_t results = !ep ? 0 : s.size * (sums ? c->sum_bytes_ : routes * slot);
  c->block_bytes_ = ep ? c->RowsAt() + s.max_tokens * hidden * 2 : 0;
  c->partial_bytes_ = tp ? static_cast<int64_t>(sizeof(Head)) +
                               s.reduce_tokens() * hidden * BytesOf(s.partial_dtype)
                         : 0;
  const auto carve = [&](uint8_t* memory) {
    Carver carver(memory);
    c->block_ = carver.Take<uint8_t>(c->block_bytes_);
    c->blocks_ = carver.Take<uint8_t>(c->block_bytes_ * s.size);
    c->home_ = carver.Take<uint8_t>(c->sum_bytes_ != 0 ? results : routes * slot);
    c->results_ = carver.Take<uint8_t>(results);
    c->gathered_ = carver.Take<uint8_t>(collectives->Gathers() ? results : 0);
    c->partial_ = carver.Take<uint8_t>(c->partial_bytes_);
    c->partials_ = carver.Take<uint8_t>(c->partial_bytes_ * s.size);
    return carver.bytes();
  };
  DSV4MX_TRY(Region::MakePrivate(carve(nullptr), &c->memory_));
  carve(c->memory_->data());
  *out = std::move(c);
  return kOk;
}

Status CollectiveCarrier::Broken() {
  const FaultWord fault = Fault();
  return fault.status == 0 ? kOk : TellFault(spec_, fault);
}

Status CollectiveCarrier::Break(const FaultWord& fault) {
  uint64_t none = 0;
  fault_.compare_exchange_strong(none, PackFault(fault));
  return TellFault(spec_, Fault());
}

Status CollectiveCarrier::Reset() {
  fault_.store(0);
  ep_round_ = tp_round_ = 0;
  entries_ = 0;
  clean_ = false;
  return kOk;
}

Status CollectiveCarrier::Gather(uint8_t* mine, uint8_t* all, int64_t bytes, const Head& head,
                                 bool same_count) {
  std::memcpy(mine, &head, sizeof(head));
  const auto stage = static_cast<dsv4mx_comm_stage>(head.stage);
  const Status gathered =
      collectives_->AllGather(Among::kGroup, mine, all, static_cast<size_t>(bytes), nullptr);
  if (!gathered.ok()) {
    const KeepError why;
    (void)Break({gathered.code, stage, -1, spec_.rank, head.round});
    why.Restore();
    return gathered;
  }
  for (int32_t r = 0; r < spec_.size; ++r) {
    Head theirs;
    std::memcpy(&theirs, all + r * bytes, sizeof(theirs));
    const bool counts = same_count && r / spec_.tp_size == spec_.ep_rank();
    if (theirs.tag == head.tag && theirs.stage == head.stage && theirs.round == head.round &&
        (!counts || theirs.count == head.count))
      continue;
    return Break({DSV4MX_STATUS_COMM_MISMATCH, stage, r, spec_.rank, head.round});
  }
  return kOk;
}

void CollectiveCarrier::Send(const RoundSizes& sizes, int32_t to, int64_t, const RowMeta& meta,
                             const void* x) {
  const int32_t k = spec_.max_top_k;
  uint8_t* entries = block_ + sizeof(Head);
  const auto words = [&](int64_t i) {
    return reinterpret_cast<int32_t*>(entries + i * EntryBytes());
  };
  // A token's parts come one after the other.
  if (entries_ == 0 || words(entries_ - 1)[0] != meta.token) {
    int32_t* w = words(entries_);
    w[0] = meta.token;
    std::fill_n(w + 1, 2 * k, -1);
    std::memcpy(w + 1 + 2 * k, meta.weights, static_cast<size_t>(sizes.top_k) * 4);
    std::memcpy(const_cast<uint8_t*>(RowsOf(block_)) + entries_ * sizes.hidden * 2, x,
                static_cast<size_t>(sizes.hidden) * 2);
    ++entries_;
  }
  int32_t* w = words(entries_ - 1);
  for (int32_t slot = 0; slot < sizes.top_k; ++slot) {
    if (meta.experts[slot] < 0) continue;
    w[1 + slot] = to;
    w[1 + k + slot] = meta.experts[slot];
  }
}

Status CollectiveCarrier::Deliver(const RoundSizes& sizes, const int64_t*, RowTable* table) {
  const Head head{sizes.tag, DSV4MX_COMM_STAGE_DISPATCH, ++ep_round_, entries_};
  entries_ = 0;
  DSV4MX_TRY(Gather(block_, blocks_, block_bytes_, head, false));
  if (!SumsTravel()) Clean(sizes);
  const int64_t k = spec_.max_top_k;
  for (int32_t p = 0; p < spec_.ep_size(); ++p) {
    if (p == spec_.ep_rank()) continue;
    // Tensor-parallel ranks have sent the same rows: each takes those of its own number.
    const int32_t r = spec_.EpPeer(p);
    const uint8_t* block = blocks_ + r * block_bytes_;
    Head theirs;
    std::memcpy(&theirs, block, sizeof(theirs));
    int64_t rows = 0;
    for (int64_t i = 0; i < theirs.count; ++i) {
      const auto* w = reinterpret_cast<const int32_t*>(block + sizeof(Head) + i * EntryBytes());
      int32_t experts[16];
      bool any = false;
      for (int32_t slot = 0; slot < sizes.top_k; ++slot) {
        experts[slot] = w[1 + slot] == spec_.ep_rank() ? w[1 + k + slot] : -1;
        any = any || experts[slot] >= 0;
      }
      if (!any) continue;
      table->Add(RowsOf(block) + i * sizes.hidden * 2, experts,
                 reinterpret_cast<const float*>(w + 1 + 2 * k), sizes.top_k,
                 results_ + ResultAt(sizes, r, w[0], rows++));
    }
  }
  return kOk;
}

void CollectiveCarrier::Clean(const RoundSizes& sizes) {
  if (clean_) return;
  std::memset(results_, 0,
              static_cast<size_t>(spec_.size * spec_.max_tokens * sizes.top_k * sizes.slot_row));
  clean_ = true;
}

// Results for the rank r: route by route of its token, or the sum of the `at`-th row that came from it.
int64_t CollectiveCarrier::ResultAt(const RoundSizes& sizes, int32_t r, int64_t token,
                                    int64_t at) const {
  if (SumsTravel()) return r * sum_bytes_ + at * sizes.partial_row;
  return (r * spec_.max_tokens + token) * sizes.top_k * sizes.slot_row;
}

uint8_t* CollectiveCarrier::OwnSlots(const RoundSizes& sizes, int64_t token, int64_t at) {
  if (spec_.ep_size() == 1) return home_ + token * sizes.top_k * sizes.slot_row;
  if (!SumsTravel()) Clean(sizes);
  return results_ + ResultAt(sizes, spec_.rank, token, at);
}

Status CollectiveCarrier::Return(const RoundSizes& sizes) {
  clean_ = false;
  const int64_t bytes = spec_.max_tokens * sizes.top_k * sizes.slot_row;
  const Status status =
      SumsTravel()
          ? collectives_->AllToAll(Among::kGroup, results_, home_, static_cast<size_t>(sum_bytes_),
                                   gathered_, nullptr)
          : collectives_->ReduceScatter(Among::kGroup, results_, home_,
                                        static_cast<size_t>(bytes / BytesOf(spec_.slot_dtype)),
                                        spec_.slot_dtype, gathered_, nullptr);
  if (status.ok()) return kOk;
  const KeepError why;
  (void)Break({status.code, DSV4MX_COMM_STAGE_COMBINE, -1, spec_.rank, ep_round_});
  why.Restore();
  return status;
}

const uint8_t* CollectiveCarrier::Result(const RoundSizes& sizes, int64_t token, int32_t slot) {
  return home_ + (token * sizes.top_k + slot) * sizes.slot_row;
}

const uint8_t* CollectiveCarrier::Sum(const RoundSizes& sizes, int32_t from, int64_t at) {
  return home_ + ResultAt(sizes, spec_.EpPeer(from), 0, at);
}

uint8_t* CollectiveCarrier::Partials(const RoundSizes&) {
  return partial_ + sizeof(Head);
}

Status CollectiveCarrier::Reduce(const RoundSizes& sizes, int64_t tokens) {
  const Head head{sizes.tag, DSV4MX_COMM_STAGE_REDUCE, ++tp_round_, tokens};
  return Gather(partial_, partials_, partial_bytes_, head, true);
}

const uint8_t* CollectiveCarrier::Partial(const RoundSizes& sizes, int32_t tp, int64_t token) {
  return partials_ + spec_.TpPeer(tp) * partial_bytes_ + sizeof(Head) + token * sizes.partial_row;
}

}  // namespace dsv4mx::dist
