// What the opaque handles of the public header are: references on core objects, so that handles may
// be destroyed in any order.
#ifndef DSV4MX_LIB_API_HANDLES_H_
#define DSV4MX_LIB_API_HANDLES_H_

#include <memory>
#include <vector>

#include "lib/core/context.h"
#include "lib/core/layer.h"
#include "lib/core/weights.h"
#include "lib/io/blocks.h"
#include "lib/io/checkpoint_reader.h"

struct dsv4mx_context {
  std::shared_ptr<const dsv4mx::Context> impl;
};
struct dsv4mx_layer {
  std::shared_ptr<dsv4mx::Layer> impl;
};
struct dsv4mx_weights {
  std::unique_ptr<dsv4mx::Weights> impl;
};
struct dsv4mx_comm {
  std::shared_ptr<const dsv4mx::Context> context;
};
struct dsv4mx_checkpoint {
  std::unique_ptr<dsv4mx::io::Checkpoint> impl;
  std::vector<dsv4mx::io::BlockName> blocks;  // of impl, in the order of get_block
};

#endif  // DSV4MX_LIB_API_HANDLES_H_
