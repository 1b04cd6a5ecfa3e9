// Collectives (lib/base/rank_group.h) of NCCL, or what the bootstrap's all-gather can do.
#ifndef DSV4MX_LIB_DIST_COLLECTIVES_H_
#define DSV4MX_LIB_DIST_COLLECTIVES_H_

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

#include "lib/base/backend.h"
#include "lib/base/rank_group.h"
#include "lib/dist/bootstrap.h"
#include "lib/dist/nccl_loader.h"
#include "lib/dist/turnstile.h"

namespace dsv4mx::dist {

// Through the caller's all_gather, over the whole group: everything to everybody, the part of one rank after the other.
class GatherCollectives final : public Collectives {
 public:
  GatherCollectives(Bootstrap* bootstrap, const CommSpec& spec)
      : bootstrap_(bootstrap), spec_(spec) {}
  Status AllGather(Among among, const void* mine, void* all, size_t bytes,
                   dsv4mx_stream stream) override;
  Status ReduceScatter(Among among, const void* all, void* mine, size_t count, dsv4mx_dtype dtype,
                       void* gathered, dsv4mx_stream stream) override;
  Status AllToAll(Among among, const void* all, void* mine, size_t bytes, void* gathered,
                  dsv4mx_stream stream) override;
  bool Gathers() const override { return true; }
  const char* what() const override { return "collective: all_gather of the caller"; }

 private:
  Bootstrap* bootstrap_;
  CommSpec spec_;
};

// NCCL, on a communicator of its own that never blocks, or on a borrowed one. "Device memory" is the context's: on a CPU
// context host memory, which a stand-in for NCCL takes and NCCL itself refuses. What ranks tell each other on the host goes
// through device memory.
//
// NCCL may enqueue a call later, from a thread of its own: no stream given to it is cudaStreamPerThread, which would be another
// one there. Memory of what goes through the device is taken once, for the reason that turnstile.h tells.
class NcclGroup final : public Bootstrap, public Collectives {
 public:
  static Status Make(const dsv4mx_comm_desc& desc, const dsv4mx_nccl_source& source,
                     const CommSpec& spec, const Backend& backend, const Control& control,
                     std::unique_ptr<NcclGroup>* out);
  ~NcclGroup() override;
  const Nccl& nccl() const { return nccl_; }

  // For groups that have both expert-parallel parts and tensor-parallel ranks: a communicator for either. Collective.
  Status Divide(const CommSpec& spec, const Control& control);

  Status AllGather(const void* mine, void* all, size_t bytes, const Control& control) override;
  Status AllGather(Among among, const void* mine, void* all, size_t bytes,
                   dsv4mx_stream stream) override;
  Status ReduceScatter(Among among, const void* all, void* mine, size_t count, dsv4mx_dtype dtype,
                       void* gathered, dsv4mx_stream stream) override;
  Status AllToAll(Among among, const void* all, void* mine, size_t bytes, void* gathered,
                  dsv4mx_stream stream) override;
  void Abort() override;
  bool Aborted() const override { return aborted_.load(); }
  const char* what() const override { return "collective: NCCL"; }

 private:
  NcclGroup(const CommSpec& spec, const Nccl& nccl, const Backend& backend)
      : spec_(spec), nccl_(nccl), backend_(backend) {}
  Status TakeBlock();
  Status Meet(const dsv4mx_comm_desc& desc, const Control& control);
  Status Borrow(const dsv4mx_comm_desc& desc, const Control& control);
  Status Split(NcclComm parent, int color, int key, const Control& control, NcclComm* out);
  NcclComm Of(Among among) const;
  // A piece of what every rank has: mine[0..bytes), which comes to all + rank * stride.
  Status GatherPiece(const uint8_t* mine, uint8_t* all, size_t bytes, size_t stride,
                     const Control& control);
  // Follows a call that may be in progress until it is done, fails, is cancelled or takes too long.
  Status Wait(const char* call, NcclResult result, NcclComm comm, const Control& control);
  // The same of what was enqueued on stream_.
  Status WaitForStream(const Control& control);
  // Whether to go on waiting for `call`, begun at `begin`. Where not, the communicator is aborted.
  Status GoOn(const char* call, std::chrono::steady_clock::time_point begin,
              const Control& control);
  void Fail(Status why);
  void LeaveNccl(NcclComm* comm);
  void LeaveAll();

  CommSpec spec_;
  Nccl nccl_;
  const Backend& backend_;
  std::mutex mutex_;                // around NCCL's functions
  dsv4mx_stream stream_ = nullptr;  // of what ranks tell each other on the host
  uint8_t* block_ = nullptr;        // a piece of this rank, then one of every rank
  std::shared_ptr<Turnstile> turnstile_;
  NcclComm comm_ = nullptr;
  bool own_ = true;
  // Of a group that has been divided: a rank of each part, ranks of this part.
  NcclComm parts_ = nullptr, slices_ = nullptr;
  int parts_size_ = 0;
  std::atomic<bool> aborted_{false};
  std::atomic<bool> abort_asked_{false};  // whoever waits with the mutex gives up
  Status failed_;                         // nothing is called any more
  char failed_text_[kErrorBytes] = "";
};

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_COLLECTIVES_H_
