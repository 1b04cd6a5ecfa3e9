// What the keys of a GGUF file say about the routed experts: the same as a config.json, for files that have none beside them.
#ifndef DSV4MX_LIB_IO_GGUF_CONFIG_H_
#define DSV4MX_LIB_IO_GGUF_CONFIG_H_

#include <cstdint>

#include "lib/base/status.h"
#include "lib/io/gguf.h"
#include "lib/io/model_config.h"

namespace dsv4mx::io {

// `layer` chooses from values that a file has for each layer; below 0 these count only where all are equal. `label` names the
// file in messages. FORMAT_ERROR for a value that cannot be, UNSUPPORTED for an activation that this library does not
// compute. On failure *out is left empty.
Status ConfigFromGguf(const GgufKeys& keys, int64_t layer, const char* label, ModelConfig* out);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_GGUF_CONFIG_H_
