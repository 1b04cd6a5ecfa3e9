// Which files of a folder make up its checkpoint.
#ifndef DSV4MX_LIB_IO_FOLDER_H_
#define DSV4MX_LIB_IO_FOLDER_H_

#include <string>
#include <vector>

#include "lib/base/status.h"

namespace dsv4mx::io {

struct FolderChoice {
  enum Kind {
    kIndex,   // one index
    kFile,    // one file
    kShards,  // all shards of one name, x-00001-of-0000n.safetensors, without an index
    kRanks,   // all files of the official converter, model0-mpN.safetensors and on
  };
  Kind kind = kFile;
  std::vector<std::string> paths;
};

// Only regular files count, and links to them; what else bears a checkpoint's name (sidecars, folders,
// dangling links, unfinished downloads) is left out, and told where nothing else is found. IO_ERROR
// where no choice is certain, with what is there and what to do.
Status ChooseFromFolder(const std::string& folder, FolderChoice* out);

// "x-00001-of-00003.safetensors": stem "x", number 1, total 3. False for other names.
bool ParseShardName(const std::string& name, std::string* stem, int* number, int* total);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_FOLDER_H_
