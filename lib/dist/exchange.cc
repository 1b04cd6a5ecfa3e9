#include "lib/dist/exchange.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/dist/protocol.h"
#include "lib/base/carver.h"
#include "lib/dist/sums.h"

namespace dsv4mx::dist {
namespace {

constexpr int64_t kSomeRows = 256;
constexpr int kMaxTopK = 16;

// Levels that a tree of this many leaves holds at once.
int32_t Levels(int32_t leaves) {
  return std::bit_width(static_cast<uint32_t>(leaves)) + 1;
}

int64_t Rounds(int64_t tokens, int64_t of) {
  return std::max<int64_t>(1, (tokens + of - 1) / of);
}

// Pairs by local expert, for a balancer and for the caller.
void CountRows(const LayerCall& c, const RowsCall& rows, int32_t top_k, BoundLayer* bound) {
  for (int64_t i = 0; i < rows.rows * top_k; ++i) {
    const int32_t e = rows.experts[i];
    if (e < 0) continue;
    __atomic_fetch_add(&bound->loads[static_cast<size_t>(e)], int64_t{1}, __ATOMIC_RELAXED);
    if (c.call.expert_counts != nullptr)
      __atomic_fetch_add(&c.call.expert_counts[e], int64_t{1}, __ATOMIC_RELAXED);
  }
}

}  // namespace

int64_t RowTable::Bytes(int64_t rows, int32_t top_k) {
  return rows * (2 * static_cast<int64_t>(sizeof(void*)) + 8 * int64_t{top_k});
}

void RowTable::Place(uint8_t* memory, int64_t rows, int32_t top_k) {
  x_ = reinterpret_cast<const void**>(memory);
  slots_ = reinterpret_cast<void**>(memory) + rows;
  experts_ = reinterpret_cast<int32_t*>(slots_ + rows);
  weights_ = reinterpret_cast<float*>(experts_ + rows * top_k);
}

void RowTable::Add(const void* x, const int32_t* experts, const float* weights, int32_t top_k,
                   void* slots) {
  x_[rows_] = x;
  slots_[rows_] = slots;
  std::copy_n(experts, top_k, experts_ + rows_ * top_k);
  std::copy_n(weights, top_k, weights_ + rows_ * top_k);
  ++rows_;
}

Exchange::Exchange(const CommSpec& spec, std::unique_ptr<Carrier> carrier)
    : spec_(spec), carrier_(std::move(carrier)) {}

Status Exchange::Make(const CommSpec& s, std::unique_ptr<Carrier> carrier,
                      std::unique_ptr<Exchange>* out) {
  std::unique_ptr<Exchange> e(new Exchange(s, std::move(carrier)));
  const bool tree = s.tp_reduce == DSV4MX_TP_INVARIANT;
  uint8_t* rows = nullptr;
  const auto carve = [&](uint8_t* memory) {
    Carver c(memory);
    rows = c.Take<uint8_t>(RowTable::Bytes(MostRows(s), s.max_top_k));
    e->part_ = c.Take<int32_t>(s.max_tokens * s.max_top_k);
    e->at_ = c.Take<int32_t>(s.max_tokens * s.ep_size());
    e->some_ = c.Take<uint8_t>(e->SumsTravel() ? kSomeRows * s.max_top_k * s.max_hidden * 4 : 0);
    e->levels_ = c.Take<float>(tree ? Levels(s.tp_slices) * s.reduce_tokens() * s.max_hidden : 0);
    return c.bytes();
  };
  DSV4MX_TRY(Region::MakePrivate(carve(nullptr), &e->scratch_));
  carve(e->scratch_->data());
  e->table_.Place(rows, MostRows(s), s.max_top_k);
  *out = std::move(e);
  return kOk;
}

int64_t Exchange::bytes() const {
  return carrier_->bytes() + static_cast<int64_t>(scratch_->bytes());
}

Status Exchange::Apply(const LayerCall& c, BoundLayer* bound) {
  int64_t tokens = c.call.tokens;
  if (c.call.tokens_device != nullptr)
    tokens = std::clamp<int64_t>(*c.call.tokens_device, 0, tokens);
  const Status status = Run(c, bound, tokens);
  if (status.ok()) return status;
  // What this rank alone failed in, the others would wait for.
  const KeepError why;
  (void)carrier_->Break(
      {DSV4MX_STATUS_COMM_ERROR, DSV4MX_COMM_STAGE_NONE, spec_.rank, spec_.rank, 0});
  why.Restore();
  Poison(c.spec, c.call, tokens);
  return status;
}

Status Exchange::Run(const LayerCall& c, BoundLayer* bound, int64_t tokens) {
  DSV4MX_TRY(carrier_->Broken());
  const bool tree = spec_.tp_reduce == DSV4MX_TP_INVARIANT;
  const int64_t of = tree ? spec_.reduce_tokens() : spec_.max_tokens;
  // Tensor-parallel ranks have the same tokens; of other parts' the caller tells the most.
  const int64_t rounds = Rounds(spec_.ep_size() > 1 ? c.comm_tokens : c.call.tokens, of);
  RoundSizes sizes{};
  sizes.hidden = c.spec.hidden;
  sizes.top_k = c.spec.top_k;
  sizes.slot_row = c.spec.hidden * (tree ? 4 : BytesOf(c.spec.slot_dtype));
  sizes.partial_row = c.spec.hidden * BytesOf(spec_.partial_dtype);
  for (int64_t round = 0; round < rounds; ++round) {
    const int64_t first = std::min(round * of, tokens), count = std::min(of, tokens - first);
    const uint32_t place =
        static_cast<uint32_t>(round * 0x9e3779b1) ^ static_cast<uint32_t>(rounds * 0x85ebca6b);
    sizes.most = std::min(of, c.comm_tokens - round * of);
    sizes.tag = static_cast<uint64_t>(bound->tag ^ place) << 32 | c.comm_tag;
    DSV4MX_TRY(tree ? InvariantRound(c, sizes, bound, first, count)
                    : Round(c, sizes, bound, first, count));
  }
  return kOk;
}

void Exchange::Route(const LayerCall& c, const RoundSizes& sizes, BoundLayer* bound, int64_t first,
                     int64_t count, int64_t* sent) {
  const PairArray ids = IdsOf(c.spec, c.call).From(first);
  const PairArray weights = WeightsOf(c.spec, c.call).From(first);
  const int32_t me = spec_.ep_rank(), parts = spec_.ep_size(), top_k = sizes.top_k;
  table_.Clear();
  for (int64_t t = 0; t < count; ++t) {
    int32_t local[kMaxTopK];
    float weight[kMaxTopK];
    int32_t* part = part_ + t * top_k;
    uint64_t touched = 0;
    for (int slot = 0; slot < top_k; ++slot) {
      const Copy* copy = bound->routes.Choose(ids.Id(t, slot), first + t, slot);
      part[slot] = copy == nullptr ? -1 : copy->ep_rank;
      local[slot] = copy == nullptr ? -1 : copy->local;
      weight[slot] = weights.Weight(t, slot);
      if (copy != nullptr) touched |= uint64_t{1} << copy->ep_rank;
    }
    const uint16_t* x = static_cast<const uint16_t*>(c.call.x) + (first + t) * c.call.x_stride;
    for (int32_t p = 0; p < parts; ++p) {
      int32_t* at = at_ + t * parts + p;
      *at = -1;
      if ((touched >> p & 1) == 0) continue;
      int32_t experts[kMaxTopK];
      for (int slot = 0; slot < top_k; ++slot) experts[slot] = part[slot] == p ? local[slot] : -1;
      *at = static_cast<int32_t>(sent[p]++);
      if (p == me) {
        table_.Add(x, experts, weight, top_k, carrier_->OwnSlots(sizes, t, *at));
      } else {
        carrier_->Send(sizes, p, *at, RowMeta{static_cast<int32_t>(t), experts, weight}, x);
      }
    }
  }
}

Status Exchange::Round(const LayerCall& c, const RoundSizes& sizes, BoundLayer* bound,
                       int64_t first, int64_t count) {
  int64_t sent[kMaxRanks] = {};
  Route(c, sizes, bound, first, count, sent);
  if (spec_.ep_size() > 1) DSV4MX_TRY(carrier_->Deliver(sizes, sent, &table_));
  DSV4MX_TRY(SumsTravel() ? ComputeSums(c, sizes, bound)
                          : Compute(c, sizes, bound, 0, c.spec.intermediate, c.spec.slot_dtype));
  if (spec_.ep_size() > 1) DSV4MX_TRY(carrier_->Return(sizes));
  return Finish(c, sizes, first, count);
}

Status Exchange::Compute(const LayerCall& c, const RoundSizes& sizes, BoundLayer* bound,
                         int32_t channel_first, int32_t channel_count, dsv4mx_dtype slot_dtype) {
  if (table_.rows() == 0) return kOk;
  RowsCall rows{};
  rows.rows = table_.rows();
  rows.x = table_.x();
  rows.experts = table_.experts();
  rows.weights = table_.weights();
  rows.slots = table_.slots();
  rows.slot_stride = sizes.slot_row;
  rows.slot_dtype = slot_dtype;
  rows.channel_first = channel_first;
  rows.channel_count = channel_count;
  rows.workspace = c.call.workspace;
  rows.workspace_bytes = c.call.workspace_bytes;
  rows.multiprocessors = c.call.multiprocessors;
  if (channel_first == 0) CountRows(c, rows, sizes.top_k, bound);
  return c.backend.ApplyRows(c.store, c.census, rows, c.stream);
}

Status Exchange::ComputeSums(const LayerCall& c, const RoundSizes& sizes, BoundLayer* bound) {
  const bool weighted = c.spec.router_weight_position == DSV4MX_ROUTER_WEIGHT_AFTER_W2;
  for (int64_t begin = 0; begin < table_.rows(); begin += kSomeRows) {
    const int64_t count = std::min(kSomeRows, table_.rows() - begin);
    void* homes[kSomeRows];
    const int64_t pairs = begin * sizes.top_k;
    // Their results stay here for a moment.
    RowsCall rows{};
    rows.rows = count;
    rows.x = table_.x() + begin;
    rows.experts = table_.experts() + pairs;
    rows.weights = table_.weights() + pairs;
    rows.slots = table_.slots() + begin;
    for (int64_t i = 0; i < count; ++i) {
      homes[i] = rows.slots[i];
      table_.slots()[begin + i] = some_ + i * sizes.top_k * sizes.slot_row;
    }
    rows.slot_stride = sizes.slot_row;
    rows.slot_dtype = c.spec.slot_dtype;
    rows.channel_count = c.spec.intermediate;
    rows.workspace = c.call.workspace;
    rows.workspace_bytes = c.call.workspace_bytes;
    rows.multiprocessors = c.call.multiprocessors;
    DSV4MX_TRY(c.backend.ApplyRows(c.store, c.census, rows, c.stream));
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t at = 0; at < sizes.hidden; at += kRun) {
        const int64_t run = std::min(kRun, sizes.hidden - at);
        float sum[kRun] = {}, y[kRun];
        for (int slot = 0; slot < sizes.top_k; ++slot) {
          const int64_t pair = i * sizes.top_k + slot;
          if (rows.experts[pair] < 0) continue;
          const uint8_t* from = some_ + pair * sizes.slot_row + at * BytesOf(c.spec.slot_dtype);
          if (weighted) {
            Weigh(from, c.spec.slot_dtype, rows.weights[pair], run, y);
          } else {
            Widen(from, c.spec.slot_dtype, run, y);
          }
          Add(y, run, sum);
        }
        Narrow(sum, spec_.partial_dtype, run,
               static_cast<uint8_t*>(homes[i]) + at * BytesOf(spec_.partial_dtype));
      }
    }
    CountRows(c, rows, sizes.top_k, bound);
  }
  return kOk;
}

void Exchange::SumRoutes(const LayerCall& c, const RoundSizes& sizes, int64_t first, int64_t token,
                         int64_t begin, int64_t count, dsv4mx_dtype slot_dtype, float* sum) {
  float y[kRun];
  std::fill_n(sum, count, 0.0f);
  if (SumsTravel()) {
    for (int32_t p = 0; p < spec_.ep_size(); ++p) {
      const int32_t at = at_[token * spec_.ep_size() + p];
      if (at < 0) continue;
      Widen(carrier_->Sum(sizes, p, at) + begin * BytesOf(spec_.partial_dtype), spec_.partial_dtype,
            count, y);
      Add(y, count, sum);
    }
    return;
  }
  const bool weighted = c.spec.router_weight_position == DSV4MX_ROUTER_WEIGHT_AFTER_W2;
  const PairArray weights = WeightsOf(c.spec, c.call).From(first);
  for (int32_t slot = 0; slot < sizes.top_k; ++slot) {
    if (part_[token * sizes.top_k + slot] < 0) continue;
    const uint8_t* from = carrier_->Result(sizes, token, slot) + begin * BytesOf(slot_dtype);
    if (weighted) {
      Weigh(from, slot_dtype, weights.Weight(token, slot), count, y);
    } else {
      Widen(from, slot_dtype, count, y);
    }
    Add(y, count, sum);
  }
}

Status Exchange::Finish(const LayerCall& c, const RoundSizes& sizes, int64_t first, int64_t count) {
  float sum[kRun];
  if (spec_.tp_size == 1) {
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t at = 0; at < sizes.hidden; at += kRun) {
        const int64_t run = std::min(kRun, sizes.hidden - at);
        SumRoutes(c, sizes, first, t, at, run, c.spec.slot_dtype, sum);
        Write(c.spec, c.call, first + t, at, run, sum);
      }
    }
    return kOk;
  }
  // Tensor-parallel ranks have the same tokens, and make as many reductions as these need.
  const int64_t some = spec_.reduce_tokens();
  const int64_t most =
      spec_.ep_size() > 1 && carrier_->ReducesTogether() ? std::max(count, sizes.most) : count;
  for (int64_t begin = 0; begin == 0 || begin < most; begin += some) {
    const int64_t now = std::clamp<int64_t>(count - begin, 0, some);
    uint8_t* partials = carrier_->Partials(sizes);
    for (int64_t t = 0; t < now; ++t) {
      for (int64_t at = 0; at < sizes.hidden; at += kRun) {
        const int64_t run = std::min(kRun, sizes.hidden - at);
        SumRoutes(c, sizes, first, begin + t, at, run, c.spec.slot_dtype, sum);
        Narrow(sum, spec_.partial_dtype, run,
               partials + t * sizes.partial_row + at * BytesOf(spec_.partial_dtype));
      }
    }
    DSV4MX_TRY(ReduceAndWrite(c, sizes, first + begin, now));
  }
  return kOk;
}

Status Exchange::ReduceAndWrite(const LayerCall& c, const RoundSizes& sizes, int64_t first,
                                int64_t count) {
  DSV4MX_TRY(carrier_->Reduce(sizes, count));
  const bool tree = spec_.tp_reduce == DSV4MX_TP_INVARIANT;
  const int32_t ranks = spec_.tp_size;
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t at = 0; at < sizes.hidden; at += kRun) {
      const int64_t run = std::min(kRun, sizes.hidden - at);
      const auto rank = [&](int32_t r, float* y) {
        Widen(carrier_->Partial(sizes, r, t) + at * BytesOf(spec_.partial_dtype),
              spec_.partial_dtype, run, y);
      };
      if (tree) {
        // The upper levels of the tree whose lower ones each rank has added.
        float level[8][kRun];
        for (int32_t r = 0, top = 0; r < ranks; ++r) {
          rank(r, level[top]);
          for (int32_t done = r; (done & 1) != 0; done >>= 1, --top)
            Add(level[top], run, level[top - 1]);
          ++top;
        }
        Write(c.spec, c.call, first + t, at, run, level[0]);
      } else {
        float sum[kRun] = {}, y[kRun];
        for (int32_t r = 0; r < ranks; ++r) {
          rank(r, y);
          Add(y, run, sum);
        }
        Write(c.spec, c.call, first + t, at, run, sum);
      }
    }
  }
  return kOk;
}

// Slice by slice: a slice's rows are computed, weighed and added over the routes into the tree's next leaf; whenever two
// neighbours of a level are there, they become one of the next. What a rank has in the end is the subtree of its slices.
Status Exchange::InvariantRound(const LayerCall& c, const RoundSizes& sizes, BoundLayer* bound,
                                int64_t first, int64_t count) {
  int64_t sent[kMaxRanks] = {};
  Route(c, sizes, bound, first, count, sent);
  const int32_t slices = spec_.tp_slices / spec_.tp_size;
  const int32_t channels = c.spec.intermediate / slices;
  const int64_t level = spec_.reduce_tokens() * sizes.hidden;
  for (int32_t slice = 0, top = 0; slice < slices; ++slice, ++top) {
    DSV4MX_TRY(Compute(c, sizes, bound, slice * channels, channels, DSV4MX_DTYPE_F32));
    float* leaf = levels_ + top * level;
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t at = 0; at < sizes.hidden; at += kRun) {
        const int64_t run = std::min(kRun, sizes.hidden - at);
        SumRoutes(c, sizes, first, t, at, run, DSV4MX_DTYPE_F32, leaf + t * sizes.hidden + at);
      }
    }
    for (int32_t done = slice; (done & 1) != 0; done >>= 1, --top)
      Add(levels_ + top * level, count * sizes.hidden, levels_ + (top - 1) * level);
  }
  if (spec_.tp_size == 1) {
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t at = 0; at < sizes.hidden; at += kRun) {
        Write(c.spec, c.call, first + t, at, std::min(kRun, sizes.hidden - at),
              levels_ + t * sizes.hidden + at);
      }
    }
    return kOk;
  }
  std::memcpy(carrier_->Partials(sizes), levels_, static_cast<size_t>(count * sizes.partial_row));
  return ReduceAndWrite(c, sizes, first, count);
}

}  // namespace dsv4mx::dist
