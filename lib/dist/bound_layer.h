// A layer as a group knows it: checked against the other ranks' parts, with the way of every id.
#ifndef DSV4MX_LIB_DIST_BOUND_LAYER_H_
#define DSV4MX_LIB_DIST_BOUND_LAYER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "lib/base/backend.h"
#include "lib/base/rank_group.h"
#include "lib/base/spec.h"
#include "lib/dist/bootstrap.h"
#include "lib/dist/comm_spec.h"
#include "lib/dist/routes.h"

namespace dsv4mx::dist {

struct BoundLayer {
  // Collective over the group.
  static Status Make(Bootstrap* bootstrap, const CommSpec& comm, const LayerSpec& layer,
                     const LayerBackend& backend, const Control& control,
                     std::shared_ptr<BoundLayer>* out);

  // Router weights travel with the rows where they are used before the second product.
  bool weights_travel = false;
  RouteTable routes;
  uint32_t tag = 0;                       // what all ranks must agree on, as a number
  std::vector<int64_t> loads;             // [experts] pairs computed here, read by anybody
  std::unique_ptr<GroupLayer> on_device;  // instead of all this, where devices exchange rows
};

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_BOUND_LAYER_H_
