#include "lib/dist/routes.h"

namespace dsv4mx::dist {

std::vector<HeldId> HeldIds(const LayerSpec& spec) {
  std::vector<HeldId> held;
  const Placement& p = spec.placement;
  if (p.id_map.empty()) {
    for (int32_t e = 0; e < p.experts; ++e) held.push_back({p.id_first + e, e});
    return held;
  }
  for (int32_t id = 0; id < p.id_count; ++id) {
    if (const int32_t local = p.LocalExpert(id); local >= 0) held.push_back({id, local});
  }
  return held;
}

GroupRoutes RouteTable::Ways() const {
  const auto packed = [](const Copy& c) {
    return static_cast<uint32_t>(c.ep_rank) << 16 | static_cast<uint32_t>(c.local);
  };
  GroupRoutes ways;
  ways.begin.push_back(0);
  for (size_t id = 0; id < home_.size(); ++id) {
    const Copy* copies = copies_.data() + begin_[id];
    if (home_[id] >= 0) {
      ways.copies.push_back(packed(copies[home_[id]]));
    } else {
      for (int32_t i = 0; i < begin_[id + 1] - begin_[id]; ++i)
        ways.copies.push_back(packed(copies[i]));
    }
    ways.begin.push_back(static_cast<int32_t>(ways.copies.size()));
  }
  return ways;
}

Status RouteTable::Make(int32_t id_count, const std::vector<std::vector<HeldId>>& held,
                        int32_t home, RouteTable* out) {
  const auto ids = static_cast<size_t>(id_count);
  RouteTable t;
  t.begin_.assign(ids + 1, 0);
  t.home_.assign(ids, -1);
  for (const auto& rank : held) {
    for (const HeldId& h : rank) {
      DSV4MX_RETURN_IF(h.id < 0 || h.id >= id_count, DSV4MX_STATUS_COMM_MISMATCH,
                       "a rank holds id %d, wanted 0..%d", h.id, id_count - 1);
      ++t.begin_[static_cast<size_t>(h.id) + 1];
    }
  }
  for (size_t id = 0; id < ids; ++id) {
    DSV4MX_RETURN_IF(t.begin_[id + 1] == 0, DSV4MX_STATUS_INVALID_ARGUMENT,
                     "id %zu of %d is held by no rank, wanted every expert on at least one", id,
                     id_count);
    t.begin_[id + 1] += t.begin_[id];
  }
  t.copies_.resize(static_cast<size_t>(t.begin_[ids]));
  std::vector<int32_t> next(t.begin_.begin(), t.begin_.end() - 1);
  for (size_t r = 0; r < held.size(); ++r) {
    for (const HeldId& h : held[r]) {
      const auto id = static_cast<size_t>(h.id);
      if (static_cast<int32_t>(r) == home) t.home_[id] = next[id] - t.begin_[id];
      t.copies_[static_cast<size_t>(next[id]++)] = Copy{static_cast<int32_t>(r), h.local};
    }
  }
  *out = std::move(t);
  return kOk;
}

}  // namespace dsv4mx::dist
