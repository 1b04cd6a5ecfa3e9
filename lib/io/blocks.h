// The blocks of a checkpoint that hold experts: layers and draft blocks under any prefix.
#ifndef DSV4MX_LIB_IO_BLOCKS_H_
#define DSV4MX_LIB_IO_BLOCKS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "lib/base/status.h"
#include "lib/io/checkpoint_reader.h"

namespace dsv4mx::io {

struct BlockName {
  enum Kind {
    kLayer,   // layers.N under any prefix
    kMtp,     // mtp.N or mtp.layers.N under any prefix
    kPrefix,  // everything up to "experts."
  };
  Kind kind = kLayer;
  int32_t index = 0;
  std::string_view prefix = {};
};

// "layers.3", "mtp.0" or the prefix, for messages.
std::string BlockText(const BlockName& block);

// What stands before "experts." in the names of the block's tensors ("model.layers.3.mlp.").
// NOT_FOUND, with the blocks that there are; INVALID_ARGUMENT where several prefixes have the block.
Status FindBlock(const Checkpoint& checkpoint, const BlockName& block, std::string* stem);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_BLOCKS_H_
