// model.safetensors.index.json: which shard holds which tensor.
#ifndef DSV4MX_LIB_IO_SAFETENSORS_INDEX_H_
#define DSV4MX_LIB_IO_SAFETENSORS_INDEX_H_

#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"

namespace dsv4mx::io {

struct IndexEntry {
  std::string tensor;
  std::string shard;  // a plain file name: no folder, so an index cannot point outside its own
};

// Reads {"metadata": anything, "weight_map": {"tensor": "shard file"}}; `label` names the file in
// messages. Entries come sorted by tensor name. On failure *out is left empty.
Status ParseSafetensorsIndex(std::string_view text, const char* label,
                             std::vector<IndexEntry>* out);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_SAFETENSORS_INDEX_H_
