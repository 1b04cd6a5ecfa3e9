// Where the ids of a layer lead: for each id its copies, as expert-parallel rank and local expert there.
#ifndef DSV4MX_LIB_DIST_ROUTES_H_
#define DSV4MX_LIB_DIST_ROUTES_H_

#include <cstdint>
#include <vector>

#include "kernels/dist/protocol.h"
#include "lib/base/rank_group.h"
#include "lib/base/spec.h"
#include "lib/base/status.h"

namespace dsv4mx::dist {

struct Copy {
  int32_t ep_rank, local;
};

// One id that a rank holds, as ranks tell each other.
struct HeldId {
  int32_t id, local;
};
// Those of a layer, by id. An id means one local expert here.
std::vector<HeldId> HeldIds(const LayerSpec& spec);

class RouteTable {
 public:
  // held[r]: what expert-parallel rank r holds. Refuses ids that nobody holds, naming the first.
  static Status Make(int32_t id_count, const std::vector<std::vector<HeldId>>& held, int32_t home,
                     RouteTable* out);

  // The same for kernels, as this rank goes: an id with a copy at home has that one alone.
  GroupRoutes Ways() const;

  // The copy that serves this route, or null for an id that means nothing.
  const Copy* Choose(int64_t id, int64_t token, int slot) const {
    if (id < 0 || id >= static_cast<int64_t>(home_.size())) return nullptr;
    const auto i = static_cast<size_t>(id);
    const Copy* copies = copies_.data() + begin_[i];
    if (home_[i] >= 0) return copies + home_[i];
    const auto count = static_cast<uint32_t>(begin_[i + 1] - begin_[i]);
    return copies + CopyOf(static_cast<uint32_t>(token), static_cast<uint32_t>(slot), count);
  }

 private:
  std::vector<int32_t> begin_;  // [ids + 1] first copy of each id
  std::vector<Copy> copies_;    // by id, then by rank
  std::vector<int32_t> home_;   // [ids] which of its copies is on this rank, or -1
};

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_ROUTES_H_
