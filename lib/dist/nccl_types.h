// What of NCCL's interface is used, declared anew: no header of NCCL is needed to build. Sizes and values are those of every
// version from 2.19 on (tests/dist/nccl_header_check.c compares them with nccl.h where there is one).
#ifndef DSV4MX_LIB_DIST_NCCL_TYPES_H_
#define DSV4MX_LIB_DIST_NCCL_TYPES_H_

#include <climits>
#include <cstddef>
#include <cstdint>

#include "dsv4mx.h"

namespace dsv4mx::dist {

inline constexpr int kNcclOldest = 21900;  // as ncclGetVersion counts

using NcclResult = int;
inline constexpr NcclResult kNcclSuccess = 0, kNcclInProgress = 7;
using NcclComm = void*;

struct NcclUniqueId {
  char internal[128];
};

inline constexpr int kNcclUint8 = 1, kNcclFloat32 = 7, kNcclBfloat16 = 9, kNcclSum = 0;

// The part of ncclConfig_t that 2.19 has. Later versions take a shorter struct by its size.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned int magic = 0xcafebeef;
  unsigned int version = kNcclOldest + 3;
  int blocking = 0;
  int cga_cluster_size = INT_MIN;  // NCCL's "not set"
  int min_ctas = INT_MIN;
  int max_ctas = INT_MIN;
  const char* net_name = nullptr;
  int split_share = INT_MIN;
};

// The functions, by their names without "nccl".
struct NcclTable {
  NcclResult (*GetVersion)(int* version);
  NcclResult (*GetUniqueId)(NcclUniqueId* id);
  NcclResult (*CommInitRankConfig)(NcclComm* comm, int ranks, NcclUniqueId id, int rank,
                                   NcclConfig* config);
  NcclResult (*CommSplit)(NcclComm comm, int color, int key, NcclComm* out, NcclConfig* config);
  NcclResult (*CommGetAsyncError)(NcclComm comm, NcclResult* result);
  NcclResult (*CommCount)(NcclComm comm, int* count);
  NcclResult (*CommUserRank)(NcclComm comm, int* rank);
  NcclResult (*CommFinalize)(NcclComm comm);
  NcclResult (*CommDestroy)(NcclComm comm);
  NcclResult (*CommAbort)(NcclComm comm);
  NcclResult (*AllGather)(const void* mine, void* all, size_t count, int type, NcclComm comm,
                          dsv4mx_stream stream);
  NcclResult (*ReduceScatter)(const void* all, void* mine, size_t count, int type, int op,
                              NcclComm comm, dsv4mx_stream stream);
  NcclResult (*Send)(const void* mine, size_t count, int type, int peer, NcclComm comm,
                     dsv4mx_stream stream);
  NcclResult (*Recv)(void* theirs, size_t count, int type, int peer, NcclComm comm,
                     dsv4mx_stream stream);
  NcclResult (*GroupStart)();
  NcclResult (*GroupEnd)();
  const char* (*GetErrorString)(NcclResult result);
  const char* (*GetLastError)(NcclComm comm);
};

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_NCCL_TYPES_H_
