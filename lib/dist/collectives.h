// Collectives over the whole group, for ranks that cannot write each other's memory: NCCL's, or what the bootstrap's
// all-gather can do.
#ifndef DSV4MX_LIB_DIST_COLLECTIVES_H_
#define DSV4MX_LIB_DIST_COLLECTIVES_H_

#include <memory>

#include "lib/dist/bootstrap.h"
#include "lib/dist/nccl_loader.h"

namespace dsv4mx::dist {

class Collectives {
 public:
  virtual ~Collectives() = default;
  // all: [size][bytes].
  virtual Status AllGather(const void* mine, void* all, size_t bytes, dsv4mx_stream stream) = 0;
  // all: [size][count]; mine: the sum of everybody's part for this rank. What is added is zero on all ranks but one.
  // gathered: room for [size][count] where GathersToReduce.
  virtual Status ReduceScatter(const void* all, void* mine, size_t count, dsv4mx_dtype dtype,
                               void* gathered, dsv4mx_stream stream) = 0;
  virtual bool GathersToReduce() const { return false; }
};

// Through the caller's all_gather: everything to everybody, the part of one rank after the other.
class GatherCollectives final : public Collectives {
 public:
  GatherCollectives(Bootstrap* bootstrap, const CommSpec& spec)
      : bootstrap_(bootstrap), spec_(spec) {}
  Status AllGather(const void* mine, void* all, size_t bytes, dsv4mx_stream stream) override;
  Status ReduceScatter(const void* all, void* mine, size_t count, dsv4mx_dtype dtype,
                       void* gathered, dsv4mx_stream stream) override;
  bool GathersToReduce() const override { return true; }

 private:
  Bootstrap* bootstrap_;
  CommSpec spec_;
};

// NCCL, on a communicator of its own that never blocks, or on a borrowed one. "Device memory" is the context's: on a CPU
// context host memory, which a stand-in for NCCL takes and NCCL itself refuses.
class NcclGroup final : public Bootstrap, public Collectives {
 public:
  static Status Make(const dsv4mx_comm_desc& desc, const dsv4mx_nccl_source& source,
                     const CommSpec& spec, const Control& control, std::unique_ptr<NcclGroup>* out);
  ~NcclGroup() override;
  const Nccl& nccl() const { return nccl_; }

  Status AllGather(const void* mine, void* all, size_t bytes, const Control& control) override;
  Status AllGather(const void* mine, void* all, size_t bytes, dsv4mx_stream stream) override;
  Status ReduceScatter(const void* all, void* mine, size_t count, dsv4mx_dtype dtype,
                       void* gathered, dsv4mx_stream stream) override;

 private:
  NcclGroup(const CommSpec& spec, const Nccl& nccl) : spec_(spec), nccl_(nccl) {}
  Status Borrow(const dsv4mx_comm_desc& desc, const Control& control);
  // Follows a call that may be in progress until it is done, fails, is cancelled or takes too long.
  Status Wait(const char* call, NcclResult result, const Control& control);
  void Abort();

  CommSpec spec_;
  Nccl nccl_;
  NcclComm comm_ = nullptr;
  bool own_ = true;
  Status failed_;  // nothing is called any more
  char failed_text_[kErrorBytes] = "";
};

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_COLLECTIVES_H_
