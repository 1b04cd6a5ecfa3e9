// How ranks talk before they share memory, and whenever a call is collective on the host: one small all-gather.
#ifndef DSV4MX_LIB_DIST_BOOTSTRAP_H_
#define DSV4MX_LIB_DIST_BOOTSTRAP_H_

#include <cstddef>
#include <vector>

#include "lib/base/control.h"
#include "lib/base/status.h"
#include "lib/dist/comm_spec.h"

namespace dsv4mx::dist {

class Bootstrap {
 public:
  virtual ~Bootstrap() = default;
  // all: [size][bytes], by rank. 0 bytes, with null pointers, are a barrier.
  virtual Status AllGather(const void* mine, void* all, size_t bytes, const Control& control) = 0;
  // This rank leaves; whoever waits for it is told, where that is possible.
  virtual void Leave() {}
};

// Ranks tell each other how a step went: the first failure, by rank, is everybody's. Every rank comes here, with its own
// status, however it is; the text of a failure is the thread's last error.
Status Agree(Bootstrap* bootstrap, const CommSpec& spec, Status mine, const Control& control);

// The same numbers of every rank.
template <class T>
Status GatherOne(Bootstrap* bootstrap, const CommSpec& spec, const T& mine, std::vector<T>* all,
                 const Control& control) {
  all->resize(static_cast<size_t>(spec.size));
  const size_t bytes = sizeof(T);  // NOLINT(bugprone-sizeof-expression)
  return bootstrap->AllGather(&mine, all->data(), bytes, control);
}

// A group of one.
class SelfBootstrap final : public Bootstrap {
 public:
  Status AllGather(const void* mine, void* all, size_t bytes, const Control& control) override;
};

// The caller's callbacks. They wait as long as the caller lets them.
class CallbackBootstrap final : public Bootstrap {
 public:
  explicit CallbackBootstrap(const dsv4mx_comm_desc& desc)
      : all_gather_(desc.all_gather), barrier_(desc.barrier), user_(desc.user), size_(desc.size) {}
  Status AllGather(const void* mine, void* all, size_t bytes, const Control& control) override;

 private:
  dsv4mx_all_gather_fn all_gather_;
  dsv4mx_barrier_fn barrier_;
  void* user_;
  int32_t size_;
};

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_BOOTSTRAP_H_
