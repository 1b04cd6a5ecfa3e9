// Where ranks share a device, a kernel that waits for another rank may hold back the very kernel that it waits for: streams
// share queues of the device, and a wide kernel leaves no place for a second one. So the host lets nobody enqueue a wait before
// every rank of the device has enqueued its push, and orders the streams by events: no kernel ever waits for one that has not
// run. Here calls of apply do wait for each other on the host, within the timeout.
#ifndef DSV4MX_LIB_CUDA_CUDA_GATE_H_
#define DSV4MX_LIB_CUDA_CUDA_GATE_H_

#include <cuda_runtime_api.h>

#include <absl/functional/function_ref.h>

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "lib/base/status.h"

namespace dsv4mx::cuda {

// The streams of ranks as they come to a gate, and an event behind what each has enqueued.
struct GateVisit {
  cudaStream_t stream = nullptr;
  cudaEvent_t pushed = nullptr;
};

class Gate {
 public:
  static constexpr int kAllCame = -1, kEnded = -2;

  void SetMembers(int count);
  // Waits until all members have come. Gives their visits; kAllCame, the first member that did not come in time, or kEnded if
  // ended() says that the group has.
  int Pass(int member, const GateVisit& visit, int64_t timeout_ns, absl::FunctionRef<bool()> ended,
           std::vector<GateVisit>* all);
  // This member will not come any more.
  void Leave(int member);
  bool Left(int member) const;
  void Reset();

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<GateVisit> visits_, passed_;
  std::vector<uint8_t> here_, left_;
  int arrived_ = 0;
  uint64_t round_ = 0;
};

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_GATE_H_
