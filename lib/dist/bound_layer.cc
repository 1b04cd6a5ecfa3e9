#include "lib/dist/bound_layer.h"

#include <algorithm>
#include <cstring>

namespace dsv4mx::dist {
namespace {

constexpr auto kInvalid = DSV4MX_STATUS_INVALID_ARGUMENT;

// What this rank can judge alone.
Status CheckAlone(const CommSpec& c, const LayerSpec& s) {
  DSV4MX_RETURN_IF(s.hidden > c.max_hidden || s.top_k > c.max_top_k, kInvalid,
                   "the layer has hidden %d and top_k %d, wanted at most the communicator's "
                   "max_hidden %d and max_top_k %d",
                   s.hidden, s.top_k, c.max_hidden, c.max_top_k);
  DSV4MX_RETURN_IF(s.oracle != DSV4MX_ORACLE_NONE, DSV4MX_STATUS_UNSUPPORTED,
                   "the layer computes with an oracle, wanted none: its sums do not travel");
  DSV4MX_RETURN_IF(s.checked_ids, DSV4MX_STATUS_UNSUPPORTED,
                   "the layer has DSV4MX_LAYER_CHECKED_IDS, wanted one without: a rank that "
                   "refuses its ids would leave the others waiting");
  DSV4MX_RETURN_IF(s.tp_size != c.tp_size || s.tp_rank != c.tp_rank(), kInvalid,
                   "the layer is tensor-parallel rank %d of %d, wanted %d of %d as rank %d of the "
                   "group",
                   s.tp_rank, s.tp_size, c.tp_rank(), c.tp_size, c.rank);
  if (c.ep_size() > 1 && c.ep_combine == DSV4MX_EP_ROUTE_EXACT) {
    DSV4MX_RETURN_IF(!s.batch_invariant, DSV4MX_STATUS_UNSUPPORTED,
                     "the layer is not DSV4MX_LAYER_BATCH_INVARIANT, which ROUTE_EXACT needs: set "
                     "the flag, or use RANK_REDUCE");
    DSV4MX_RETURN_IF(s.slot_dtype != c.slot_dtype, DSV4MX_STATUS_UNSUPPORTED,
                     "slot_dtype of the layer is %s, wanted %s as the communicator's, which "
                     "ROUTE_EXACT needs: change either, or use RANK_REDUCE",
                     s.slot_dtype == DSV4MX_DTYPE_F32 ? "F32" : "BF16",
                     c.slot_dtype == DSV4MX_DTYPE_F32 ? "F32" : "BF16");
  }
  if (c.tp_reduce != DSV4MX_TP_INVARIANT) return kOk;
  const int32_t unit = s.compute == DSV4MX_COMPUTE_W4A8 ? 128 : kGroupSize;
  DSV4MX_RETURN_IF(s.intermediate_global % (c.tp_slices * unit) != 0,
                   DSV4MX_STATUS_UNSUPPORTED_SHAPE,
                   "intermediate is %d, wanted %d slices of a multiple of %d channels for "
                   "TP_INVARIANT: scales must not straddle a slice",
                   s.intermediate_global, c.tp_slices, unit);
  const int32_t share = s.intermediate_global / c.tp_size;
  DSV4MX_RETURN_IF(s.intermediate != share || s.intermediate_first != share * s.tp_rank, kInvalid,
                   "channels %d..%d are held here, wanted the even cut %d..%d for TP_INVARIANT",
                   s.intermediate_first, s.intermediate_first + s.intermediate - 1,
                   share * s.tp_rank, share * (s.tp_rank + 1) - 1);
  return kOk;
}

// The part of one rank, as it travels.
struct Part {
  uint64_t numerics;  // of the device
  int64_t hidden, top_k, intermediate, experts_global, id_count, compute, activation;
  int64_t router_weight_position, slot_dtype, out_dtype, batch_invariant;
  int64_t intermediate_first, intermediate_count, held;
};

// What of the arithmetic is no size, in one number.
int64_t ActivationOf(const LayerSpec& s) {
  uint64_t h = 0xcbf29ce484222325;
  for (const float f :
       {s.clamp_limit, s.alpha, s.beta, s.situ_beta, s.situ_linear_beta, s.routed_scaling_factor}) {
    uint32_t bits;
    std::memcpy(&bits, &f, sizeof(bits));
    h = (h ^ bits) * 0x100000001b3;
  }
  const bool w2_bias = s.w2_bias != 0 || s.w2_bias_elsewhere;
  h = (h ^ (s.w13_bias != 0 ? 1u : 0u) ^ (w2_bias ? 2u : 0u)) * 0x100000001b3;
  return static_cast<int64_t>(h >> 1);
}

Part PartOf(const LayerSpec& s, const LayerBackend& backend) {
  Part p{};
  p.numerics = backend.NumericsOfDevice();
  p.hidden = s.hidden;
  p.top_k = s.top_k;
  p.intermediate = s.intermediate_global;
  p.experts_global = s.placement.experts_global;
  p.id_count = s.placement.id_count;
  p.compute = s.compute;
  p.activation = ActivationOf(s);
  p.router_weight_position = s.router_weight_position;
  p.slot_dtype = s.slot_dtype;
  p.out_dtype = s.out_dtype;
  p.batch_invariant = s.batch_invariant;
  p.intermediate_first = s.intermediate_first;
  p.intermediate_count = s.intermediate;
  p.held = static_cast<int64_t>(HeldIds(s).size());
  return p;
}

constexpr struct {
  const char* name;
  int64_t Part::*field;
} kCompared[] = {{"hidden", &Part::hidden},
                 {"top_k", &Part::top_k},
                 {"intermediate", &Part::intermediate},
                 {"experts_global", &Part::experts_global},
                 {"the number of ids", &Part::id_count},
                 {"compute", &Part::compute},
                 {"a number made of activation, scaling factor and biases", &Part::activation},
                 {"router_weight_position", &Part::router_weight_position},
                 {"slot_dtype", &Part::slot_dtype},
                 {"out_dtype", &Part::out_dtype},
                 {"batch_invariant", &Part::batch_invariant}};

Status CompareParts(const CommSpec& c, const std::vector<Part>& parts) {
  for (int32_t r = 1; r < c.size; ++r) {
    const Part &part = parts[static_cast<size_t>(r)], &first = parts[0];
    for (const auto& f : kCompared) {
      DSV4MX_RETURN_IF(part.*f.field != first.*f.field, DSV4MX_STATUS_COMM_MISMATCH,
                       "%s of the layer is %lld on rank %d, wanted %lld as on rank 0", f.name,
                       static_cast<long long>(part.*f.field), r,
                       static_cast<long long>(first.*f.field));
    }
    DSV4MX_RETURN_IF(c.ep_combine == DSV4MX_EP_ROUTE_EXACT && part.numerics != first.numerics,
                     DSV4MX_STATUS_COMM_MISMATCH,
                     "rank %d computes on a device of another kind than rank 0 (instruction set, "
                     "SM count), wanted the same, or RANK_REDUCE",
                     r);
  }
  // Slices of one expert-parallel part follow each other and are the whole.
  for (int32_t ep = 0; ep < c.ep_size(); ++ep) {
    int64_t next = 0;
    for (int32_t tp = 0; tp < c.tp_size; ++tp) {
      const int32_t r = ep * c.tp_size + tp;
      const Part& part = parts[static_cast<size_t>(r)];
      DSV4MX_RETURN_IF(part.intermediate_first != next, DSV4MX_STATUS_COMM_MISMATCH,
                       "rank %d holds channels from %lld on, wanted %lld: slices of an "
                       "expert-parallel part follow each other by rank",
                       r, static_cast<long long>(part.intermediate_first),
                       static_cast<long long>(next));
      next += part.intermediate_count;
    }
    DSV4MX_RETURN_IF(next != parts[0].intermediate, DSV4MX_STATUS_COMM_MISMATCH,
                     "the slices of expert-parallel part %d end at channel %lld, wanted %lld", ep,
                     static_cast<long long>(next), static_cast<long long>(parts[0].intermediate));
  }
  return kOk;
}

bool Same(const std::vector<HeldId>& a, const std::vector<HeldId>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const HeldId& x, const HeldId& y) {
    return x.id == y.id && x.local == y.local;
  });
}

// What every rank holds, and the way of every id as this rank goes it.
Status MakeRoutes(Bootstrap* bootstrap, const CommSpec& c, const LayerSpec& s,
                  const std::vector<Part>& parts, const Control& control, RouteTable* out) {
  int64_t most = 1;
  for (const Part& part : parts) most = std::max(most, part.held);
  std::vector<HeldId> mine = HeldIds(s);
  mine.resize(static_cast<size_t>(most));
  std::vector<HeldId> all(static_cast<size_t>(most * c.size));
  DSV4MX_TRY(bootstrap->AllGather(mine.data(), all.data(), mine.size() * sizeof(HeldId), control));
  const auto held_of = [&](int32_t r) {
    const auto begin = all.begin() + r * most;
    return std::vector<HeldId>(begin, begin + parts[static_cast<size_t>(r)].held);
  };
  std::vector<std::vector<HeldId>> held;
  held.reserve(static_cast<size_t>(c.ep_size()));
  for (int32_t ep = 0; ep < c.ep_size(); ++ep) held.push_back(held_of(c.EpPeer(ep)));
  for (int32_t r = 0; r < c.size; ++r) {
    const int32_t first = r / c.tp_size * c.tp_size;
    DSV4MX_RETURN_IF(!Same(held_of(r), held_of(first)), DSV4MX_STATUS_COMM_MISMATCH,
                     "rank %d holds other experts than rank %d, wanted the same on all "
                     "tensor-parallel ranks of a part",
                     r, first);
  }
  return RouteTable::Make(s.placement.id_count, held, c.ep_rank(), out);
}

uint32_t TagOf(const Part& p) {
  uint64_t h = 0xcbf29ce484222325;
  for (const auto& f : kCompared) h = (h ^ static_cast<uint64_t>(p.*f.field)) * 0x100000001b3;
  return static_cast<uint32_t>(h ^ h >> 32);
}

}  // namespace

Status BoundLayer::Make(Bootstrap* bootstrap, const CommSpec& c, const LayerSpec& s,
                        const LayerBackend& backend, const Control& control,
                        std::shared_ptr<BoundLayer>* out) {
  DSV4MX_TRY(Agree(bootstrap, c, CheckAlone(c, s), control));
  std::vector<Part> parts;
  const Part mine = PartOf(s, backend);
  DSV4MX_TRY(GatherOne(bootstrap, c, mine, &parts, control));
  // Every rank sees the same parts and judges alike.
  DSV4MX_TRY(CompareParts(c, parts));
  auto layer = std::make_shared<BoundLayer>();
  DSV4MX_TRY(MakeRoutes(bootstrap, c, s, parts, control, &layer->routes));
  layer->weights_travel = s.router_weight_position != DSV4MX_ROUTER_WEIGHT_AFTER_W2;
  layer->tag = TagOf(mine);
  layer->loads.assign(static_cast<size_t>(s.experts), 0);
  *out = std::move(layer);
  return kOk;
}

}  // namespace dsv4mx::dist
