// Finds NCCL when it is first needed: the caller's functions, the caller's path, the environment's, what the process has
// already, and last the system's. Nothing of it is linked, and what is loaded stays.
#ifndef DSV4MX_LIB_DIST_NCCL_LOADER_H_
#define DSV4MX_LIB_DIST_NCCL_LOADER_H_

#include <string>

#include "lib/base/status.h"
#include "lib/dist/nccl_types.h"

namespace dsv4mx::dist {

struct Nccl {
  NcclTable table{};
  int version = 0;
  std::string file;  // "" for functions of the caller
};

// `borrowed`: the caller holds a communicator, so that only an NCCL that is already there can be the one that made it.
Status LoadNccl(const dsv4mx_nccl_source& source, bool borrowed, Nccl* out);

// NCCL_ERROR with the name of the call, its result and NCCL's own words.
Status NcclFailed(const Nccl& nccl, const char* call, NcclResult result, NcclComm comm);

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_NCCL_LOADER_H_
