// The blocks of a checkpoint that hold experts: layers and draft blocks under any prefix.
#ifndef DSV4MX_LIB_IO_BLOCKS_H_
#define DSV4MX_LIB_IO_BLOCKS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

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
  // Of a layer or a draft block it is what to look under where several prefixes have the number; empty = any.
  std::string_view prefix = {};
};

// "layers.3", "mtp.0", "layers.3 under 'model.layers.3.mlp.'" or the prefix, for messages.
std::string BlockText(const BlockName& block);

// All blocks: layers by index, draft blocks by index, then the others; of one index in the order of prefixes. Each has
// its prefix, which ends with a NUL and lives as long as the checkpoint.
std::vector<BlockName> ListBlocks(const Checkpoint& checkpoint);

// What stands before "experts." in the names of the block's tensors ("model.layers.3.mlp.").
// NOT_FOUND, with the blocks that there are; INVALID_ARGUMENT where several prefixes have the block.
Status FindBlock(const Checkpoint& checkpoint, const BlockName& block, std::string* stem);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_BLOCKS_H_
