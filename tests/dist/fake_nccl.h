// A stand-in for NCCL: ranks are threads, "device memory" is host memory, and every fault can be asked for. As a table of
// functions, and as a shared object that is loaded like the real one.
#ifndef DSV4MX_TESTS_DIST_FAKE_NCCL_H_
#define DSV4MX_TESTS_DIST_FAKE_NCCL_H_

#include <vector>

#include "dsv4mx.h"

namespace dsv4mx::test {

// What goes wrong, for all ranks until it is set anew.
struct FakeNccl {
  int version = 22809;
  int id_result = 0;       // of ncclGetUniqueId
  int init_result = 0;     // of ncclCommInitRankConfig
  int split_result = 0;    // of ncclCommSplit
  int group_result = 0;    // of ncclGroupStart
  int send_result = 0;     // of ncclSend
  int in_progress = 0;     // so many polls of each call are in progress
  bool hang = false;       // calls stay in progress for ever
  int async_after = -1;    // collectives of a communicator after which an asynchronous error comes
  size_t config_size = 0;  // most bytes of the config that this version knows; 0 = all
  const char* missing = nullptr;
};
// Live communicators, aborts and wrong configs since the last Reset.
struct FakeNcclSeen {
  int live = 0, aborts = 0, destroys = 0, bad_configs = 0, groups_open = 0;
};

void SetFakeNccl(const FakeNccl& faults);
FakeNcclSeen SeenByFakeNccl();
std::vector<dsv4mx_nccl_function> FakeNcclTable();
// A communicator as a host would have it.
void* MakeFakeNcclComm(const char (&id)[128], int size, int rank, bool blocking = true);
void DestroyFakeNcclComm(void* comm);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_DIST_FAKE_NCCL_H_
