// From an open checkpoint to the weights of one layer: what the file holds, and setting all of it.
#ifndef DSV4MX_LIB_CORE_LOAD_H_
#define DSV4MX_LIB_CORE_LOAD_H_

#include <cstdint>

#include "lib/base/status.h"
#include "lib/core/weights.h"
#include "lib/io/blocks.h"
#include "lib/io/checkpoint_reader.h"

namespace dsv4mx {

// Fills the fields of *desc that the block's tensors decide; the others are left alone.
Status QueryLayer(const io::Checkpoint& checkpoint, const io::BlockName& block,
                  dsv4mx_layer_desc* desc);

// QueryLayer and what the config.json beside the tensors says. Fields `wanted` (0 = all but the scaling
// factor); *filled says which were there.
Status QueryConfig(const io::Checkpoint& checkpoint, const io::BlockName& block, uint32_t wanted,
                   dsv4mx_layer_desc* desc, uint32_t* filled);

// Sets every tensor of the experts that the weights hold, and of these the channels that they hold; no
// other expert is asked for. `staging_bytes` bounds the memory beside; 0 = what the layer's query
// says. A cancelled or failed load may be repeated.
Status LoadLayer(Weights* weights, const io::Checkpoint& checkpoint, const io::BlockName& block,
                 int64_t staging_bytes, const Weights::Call& call);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_CORE_LOAD_H_
