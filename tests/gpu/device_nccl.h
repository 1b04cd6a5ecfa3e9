// A stand-in for NCCL on one device, whose ranks are threads: collectives are copies in stream order, and each call waits on the
// host for the other ranks' calls, so that it can be captured with all ranks on one stream. Sums go from the last rank to the
// first.
#ifndef DSV4MX_TESTS_GPU_DEVICE_NCCL_H_
#define DSV4MX_TESTS_GPU_DEVICE_NCCL_H_

#include <vector>

#include "dsv4mx.h"

namespace dsv4mx::test {

std::vector<dsv4mx_nccl_function> DeviceNcclTable();
// Collectives of all communicators fail from now on, if not negative, after so many more calls of each.
void FailDeviceNccl(int calls);
// Collectives of all communicators stay in progress and do nothing, as NCCL's do until they have connected.
void HoldDeviceNccl(bool hold);
// All-gathers of all communicators bring that rank nothing, while the others get what it sent: as NCCL's, where an abort of that
// rank cuts them. Negative: none.
void CutDeviceNccl(int rank);
// Communicators that live, and aborts so far.
int LiveDeviceNccl();
int AbortedDeviceNccl();
// A communicator as a host would have it.
void* MakeDeviceNcclComm(const char (&id)[128], int size, int rank);
void DestroyDeviceNcclComm(void* comm);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_DEVICE_NCCL_H_
