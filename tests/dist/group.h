// A group of ranks as threads of one process, each with its part of one problem; and what one rank would have computed.
// Threads do not judge: what goes wrong comes back as text.
#ifndef DSV4MX_TESTS_DIST_GROUP_H_
#define DSV4MX_TESTS_DIST_GROUP_H_

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/guarded.h"
#include "tests/runner.h"

namespace dsv4mx::test {

struct DestroyComm {
  void operator()(dsv4mx_comm* p) const { dsv4mx_comm_destroy(p); }
};
using CommPtr = std::unique_ptr<dsv4mx_comm, DestroyComm>;

// How a problem lies on a group.
struct Layout {
  int size = 1, tp = 1;
  std::vector<std::vector<int32_t>> placement;  // [ep] experts of each part; empty = even ranges
  bool physical = false;                        // ids count copies: those of part 0, then of part 1
  std::vector<int64_t> tokens;                  // [ep] of each part; empty = dealt out evenly
  int64_t max_tokens = 0;                       // of the communicator; 0 = what one call needs
  dsv4mx_ep_combine ep_combine = DSV4MX_EP_ROUTE_EXACT;
  dsv4mx_tp_reduce tp_reduce = DSV4MX_TP_RANK_ORDER;
  int32_t tp_slices = 0;
  dsv4mx_dtype slot = 0, partial = 0;
  dsv4mx_comm_kind kind = DSV4MX_COMM_LOCAL;
  dsv4mx_comm_transport transport = 0;
  int64_t timeout_ns = 60'000'000'000;  // of what goes well, on a machine with other work too
  std::vector<int32_t>
      devices;  // [size] ordinals of CUDA devices; empty = the problem's context for all

  int ep() const { return size / tp; }
};

// A number that no other group of this process has.
uint64_t NewGroup();

dsv4mx_comm_desc CommDescOf(const Problem& p, const Layout& layout, int rank, uint64_t group);

// A bootstrap of threads, for kind CALLBACK: what a program's own sockets would do.
class ThreadGather {
 public:
  // That of a group number; the same object for all its ranks.
  static std::shared_ptr<ThreadGather> Of(uint64_t group, int size);
  static int32_t AllGather(void* user, const void* mine, void* all, size_t bytes);

  struct User {
    std::shared_ptr<ThreadGather> gather;
    int rank = 0;
  };

 private:
  // In apply nobody allocates, this gather neither.
  explicit ThreadGather(int size) : size_(size) { data_.reserve(size_t{8} << 20); }
  int size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<uint8_t> data_;
  int arrived_ = 0, leaving_ = 0;
};

// One rank: its layer, its weights, its communicator.
struct Rank {
  int rank = 0;
  const dsv4mx_context* context = nullptr;
  LayerPtr layer;
  WeightsPtr weights;
  ThreadGather::User gather;
  CommPtr comm;
  std::unique_ptr<Guarded> workspace;
};

// That of rank `rank`; made on first use.
const dsv4mx_context* ContextFor(const Problem& p, const Layout& layout, int rank);

// The tokens [first, first + count) of the whole that part `ep` has.
struct Share {
  int64_t first, count;
};
Share ShareOf(const Problem& p, const Layout& layout, int ep);

// The rank's layer and weights; `comm` may already be there (its workspace counts the others' rows).
void MakePart(const Case& whole, const Layout& layout, Rank* rank);
// Creates the communicator. Throws Refused.
void MakeComm(const Case& whole, const Layout& layout, uint64_t group, Rank* rank);
// The same, prepares the layer and takes a workspace.
void JoinGroup(const Case& whole, const Layout& layout, uint64_t group, Rank* rank);
// The same by a descriptor of the caller's.
void JoinWith(const Case& whole, const dsv4mx_comm_desc& desc, Rank* rank);

// One collective call of the rank's tokens. Returns the rows that it wrote; throws Refused.
struct CallOptions {
  uint32_t tag = 0;
  const std::vector<uint8_t>* accumulate = nullptr;  // of the rank's rows
  int64_t tokens = -1;                               // instead of the rank's share
  int64_t comm_tokens = 0;
  std::vector<uint8_t>* rows = nullptr;  // also where the call is refused
  int64_t tokens_device = -1;            // >= 0: given as a device integer
  dsv4mx_stream stream = nullptr;
  std::vector<int64_t>* expert_counts = nullptr;  // added to
};

// The buffers of one rank's calls, which may be made many times, and captured.
class GroupBuffers {
 public:
  GroupBuffers(const Case& whole, const Layout& layout, const Rank& rank,
               const CallOptions& options = {});
  // Enqueues one call.
  dsv4mx_status Apply() const;
  // Waits and reads the rank's rows. Throws where something was written beside them.
  std::vector<uint8_t> Rows() const;
  void Poison() { out_->Fill(0xAB); }
  std::vector<int64_t> Counts() const;
  dsv4mx_apply_args& args() { return args_; }

 private:
  const Rank& rank_;
  std::unique_ptr<Guarded> x_, ids_, weights_, out_, count_, counts_;
  dsv4mx_apply_args args_ = DSV4MX_APPLY_ARGS_INIT;
  dsv4mx_stream stream_;
};

std::vector<uint8_t> ApplyShare(const Case& whole, const Layout& layout, const Rank& rank,
                                const CallOptions& options = {});

// Runs body(rank) on a thread per rank. Returns what was thrown, by rank; "" = nothing.
std::vector<std::string> OnRanks(int size, const std::function<void(int rank)>& body);

// Everything: the group is made, applies `calls` times, and each rank's rows (of the last call) come back in the order of
// the whole problem's tokens, of tensor-parallel rank `tp`. Throws what a rank threw.
std::vector<uint8_t> RunGroup(const Case& whole, const Layout& layout, int calls = 1, int tp = 0);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_DIST_GROUP_H_
