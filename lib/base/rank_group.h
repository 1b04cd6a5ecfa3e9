// One rank of a group on a device that runs kernels: what lib/dist asks of a backend, where it does not move rows itself
// (lib/dist/exchange.h does on the CPU). Collective steps have agreed on the host before; nothing here talks to other ranks
// but by memory.
#ifndef DSV4MX_LIB_BASE_RANK_GROUP_H_
#define DSV4MX_LIB_BASE_RANK_GROUP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/dist/window.h"
#include "lib/base/backend.h"

namespace dsv4mx {

// Whom a collective joins: the group; or, in a group that has been divided, one rank of each expert-parallel part, those with
// this one's tensor-parallel number; or the ranks of this one's part.
enum class Among { kGroup, kParts, kSlices };

// Collectives for ranks that cannot write each other's memory. Enqueued on the stream; what they return says nothing of other
// ranks. `size` below is the number of ranks that are joined. One thread at a time, but for Abort.
class Collectives {
 public:
  virtual ~Collectives() = default;
  // all: [size][bytes]. mine may be its place there.
  virtual Status AllGather(Among among, const void* mine, void* all, size_t bytes,
                           dsv4mx_stream stream) = 0;
  // all: [size][count]; mine: the sum of everybody's part for this rank. What is added is zero on all ranks but one.
  // gathered: room for [size][count] where Gathers.
  virtual Status ReduceScatter(Among among, const void* all, void* mine, size_t count,
                               dsv4mx_dtype dtype, void* gathered, dsv4mx_stream stream) = 0;
  // all: [size][bytes], for each rank; mine: [size][bytes], each rank's for this one. gathered: as above.
  virtual Status AllToAll(Among among, const void* all, void* mine, size_t bytes, void* gathered,
                          dsv4mx_stream stream) = 0;
  // Whether the two above gather everything to take their part of it.
  virtual bool Gathers() const { return false; }
  // Ends what is under way and refuses all that follows, as far as the collectives are this group's own.
  virtual void Abort() {}
  virtual bool Aborted() const { return false; }
  // "collective: NCCL".
  virtual const char* what() const = 0;
};

// What is fixed when a group is made.
struct GroupShape {
  int32_t rank = 0, size = 1, tp_size = 1;
  int32_t tp_slices = 0;   // of TP_INVARIANT, else 0
  bool processes = false;  // ranks are processes, which map each other's windows
  dist::WindowShape
      window;  // of expert-parallel and tensor-parallel parts, as the host lays it out
  int64_t timeout_ns = 0;
};

// A device, the same in all processes of a host.
struct DeviceIdentity {
  uint8_t bytes[16];
};

// A rank's window, as every rank of the process holds it: it lasts as long as anybody might write to it.
class GroupWindow {
 public:
  virtual ~GroupWindow() = default;
};

// What a window needs to be mapped by the processes of other ranks.
class WindowSharing {
 public:
  virtual ~WindowSharing() = default;
  virtual Status Identify(DeviceIdentity* out) const = 0;
  // The number here of another process's device. UNSUPPORTED where this process does not see it.
  virtual Status FindPlace(const DeviceIdentity& identity, int32_t* place) const = 0;
  // An open file that is this rank's window; the caller closes it.
  virtual Status Share(int* file) const = 0;
  // Another process's.
  virtual Status Open(int file, std::shared_ptr<GroupWindow>* out) const = 0;
};

// A layer as a rank's group knows it.
class GroupLayer {
 public:
  virtual ~GroupLayer() = default;
  // Pairs computed here by local expert, [experts]; without a CUDA call.
  virtual void GetLoads(int64_t* pairs) const = 0;
};

// Where every id leads: copies[begin[id]..begin[id + 1]) as expert-parallel part << 16 | local expert there, of which the
// token's place chooses one. Every id has at least one.
struct GroupRoutes {
  std::vector<int32_t> begin;
  std::vector<uint32_t> copies;
};

struct GroupCall {
  const LayerBackend& backend;
  const ExpertStore& store;
  const Census& census;
  GroupLayer* layer;
  const ApplyCall& call;
  int64_t comm_tokens;  // the most of any part in this call
  uint64_t layer_tag;   // what all ranks agree on
  uint32_t comm_tag;
  dsv4mx_stream stream;
};

class RankGroup {
 public:
  virtual ~RankGroup() = default;

  // Which device this is, for the others to reach.
  virtual int32_t place() const = 0;
  // places: of every rank.
  virtual Status MakeWindow(const std::vector<int32_t>& places) = 0;
  virtual std::shared_ptr<GroupWindow> window() const = 0;
  // Null where windows stay in the process.
  virtual const WindowSharing* sharing() const { return nullptr; }
  virtual Status Connect(std::vector<std::shared_ptr<GroupWindow>> windows) = 0;
  virtual int64_t bytes() const = 0;
  // "windows in memory of CUDA devices 0 and 1".
  virtual const char* what() const = 0;

  virtual Status MakeLayer(const LayerBackend& backend, const GroupRoutes& routes,
                           bool weights_travel, std::unique_ptr<GroupLayer>* out) = 0;
  // Enqueues only. *fault: what this rank found on the host, if it returns COMM_*; told to nobody yet.
  virtual Status Apply(const GroupCall& call, dist::FaultWord* fault) = 0;
  // NaN in the rows of a call that cannot be made.
  virtual void Poison(const GroupCall& call) = 0;

  // The fault that this rank knows of, without a call of the device.
  virtual dist::FaultWord Fault() const = 0;
  // Tells every rank, as far as it can. Returns what counts on this rank.
  virtual dist::FaultWord Break(const dist::FaultWord& fault) = 0;
  virtual void Leave() = 0;
  // Between two collective calls: forgets faults and rounds. Waits for the device.
  virtual Status Reset() = 0;
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_RANK_GROUP_H_
