// From an open checkpoint to the weights of one layer: what the file holds, and setting all of it.
#ifndef DSV4MX_LIB_CORE_LOAD_H_
#define DSV4MX_LIB_CORE_LOAD_H_

#include <cstdint>

#include "lib/base/status.h"
#include "lib/core/weights.h"
#include "lib/io/checkpoint_reader.h"

namespace dsv4mx {

// Fills the fields of *desc that the layer's tensors decide; the others are left alone.
Status QueryLayer(const io::Checkpoint& checkpoint, const dsv4mx_block& block,
                  dsv4mx_layer_desc* desc);

// Sets every expert tensor of the layer that the weights hold. A cancelled or failed load may be
// repeated.
Status LoadLayer(Weights* weights, const io::Checkpoint& checkpoint, const dsv4mx_block& block,
                 const Weights::Call& call);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_CORE_LOAD_H_
