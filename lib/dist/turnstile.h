// Ranks of one NCCL group that are threads of one process: none enqueues a collective of the host's before all of them are there.
// NCCL's kernels wait on the device for each other, and what the host does meanwhile for another rank's device may wait for every
// device that reaches its memory (cudaFree, and perhaps cudaMalloc): it would wait for itself.
#ifndef DSV4MX_LIB_DIST_TURNSTILE_H_
#define DSV4MX_LIB_DIST_TURNSTILE_H_

#include <absl/functional/function_ref.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "lib/base/control.h"
#include "lib/base/status.h"
#include "lib/dist/bootstrap.h"

namespace dsv4mx::dist {

class Turnstile {
 public:
  // Collective, through two gathers of `bootstrap`: that of the ranks in this process; null where there is no other.
  static Status Meet(Bootstrap* bootstrap, const CommSpec& spec, const Control& control,
                     std::shared_ptr<Turnstile>* out);
  // Waits until all ranks of the process have come. go_on is asked every millisecond; where it refuses, this rank leaves.
  Status Pass(absl::FunctionRef<Status()> go_on);

 private:
  void SetMembers(int members);

  std::mutex mutex_;
  std::condition_variable changed_;
  int members_ = 0, come_ = 0;
  uint64_t turn_ = 0;
};

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_TURNSTILE_H_
