// What all layers of a checkpoint need on one rank's device, before a byte of weights is read.
#ifndef DSV4MX_LIB_CORE_MODEL_H_
#define DSV4MX_LIB_CORE_MODEL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "lib/base/status.h"
#include "lib/core/context.h"
#include "lib/io/blocks.h"
#include "lib/io/checkpoint_reader.h"

namespace dsv4mx {

// dsv4mx_model_args with its structs brought to the current sizes.
struct ModelOptions {
  dsv4mx_layer_desc layer{};
  dsv4mx_layer_experimental experimental{};
  int32_t tp_size = 0, ep_size = 0;
  int64_t max_tokens = 0;
};

// Makes each block's layer and asks it, so that the figures are those of the layers that will be made.
Status QueryModel(const io::Checkpoint& checkpoint, const std::vector<io::BlockName>& blocks,
                  const std::shared_ptr<const Context>& context, const ModelOptions& options,
                  dsv4mx_model_info* out);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_CORE_MODEL_H_
