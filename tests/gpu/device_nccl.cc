#include "tests/gpu/device_nccl.h"

#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/gpu/cuda_must.h"
#include "tests/gpu/sum_parts.h"

namespace {

using dsv4mx::test::PartList;

constexpr int kMostRanks = PartList::kMost;
enum { kOk = 0, kInternal = 3, kInvalid = 4, kInProgress = 7 };

struct Id {
  char internal[128];
};

struct Visit {
  const void* mine;
  cudaStream_t stream;
  cudaEvent_t reached;
};

struct Group {
  std::mutex mutex;
  std::condition_variable changed;
  int size = 0, arrived = 0;
  uint64_t round = 0;
  bool broken = false;
  Visit visits[kMostRanks] = {}, passed[kMostRanks] = {};
};

struct Comm {
  std::shared_ptr<Group> group;
  int rank = 0, calls = 0, splits = 0;
  std::string key;
  cudaEvent_t before = nullptr, after = nullptr;
};

std::mutex mutex;
std::map<std::string, std::shared_ptr<Group>> groups;
std::atomic<int> next_id{1}, fail_after{-1}, cut{-1}, live{0}, aborted{0};
std::atomic<bool> held{false};

Comm* Make(const std::string& key, int size, int rank) {
  const std::lock_guard<std::mutex> lock(mutex);
  auto& group = groups[key];
  if (group == nullptr) {
    group = std::make_shared<Group>();
    group->size = size;
  }
  auto* comm = new Comm;
  comm->group = group;
  comm->rank = rank;
  comm->key = key;
  CUDA_MUST(cudaEventCreateWithFlags(&comm->before, cudaEventDisableTiming));
  CUDA_MUST(cudaEventCreateWithFlags(&comm->after, cudaEventDisableTiming));
  ++live;
  return comm;
}

// Waits on the host until all ranks are here.
int MeetOnHost(Comm* comm, const Visit& mine, Visit* all) {
  Group& g = *comm->group;
  std::unique_lock<std::mutex> lock(g.mutex);
  if (g.broken) return kInternal;
  g.visits[comm->rank] = mine;
  const uint64_t round = g.round;
  if (++g.arrived == g.size) {
    g.arrived = 0;
    ++g.round;
    std::memcpy(g.passed, g.visits, sizeof(g.visits));
    g.changed.notify_all();
  } else if (!g.changed.wait_for(lock, std::chrono::seconds(60),
                                 [&] { return g.round != round || g.broken; })) {
    g.broken = true;
    g.changed.notify_all();
  }
  if (g.round == round) return kInternal;
  std::memcpy(all, g.passed, sizeof(g.passed));
  return kOk;
}

// And lets the stream wait for theirs.
int Meet(Comm* comm, const void* mine, cudaStream_t stream, cudaEvent_t reached, Visit* all) {
  CUDA_MUST(cudaEventRecord(reached, stream));
  Group& g = *comm->group;
  if (MeetOnHost(comm, {mine, stream, reached}, all) != kOk) return kInternal;
  for (int r = 0; r < g.size; r++)
    if (all[r].stream != stream) CUDA_MUST(cudaStreamWaitEvent(stream, all[r].reached, 0));
  return kOk;
}

// Enqueued by a thread of its own, as NCCL does for a communicator that does not block: cudaStreamPerThread would be another
// stream there, and is refused.
template <class Work>
int Collect(Comm* comm, const void* mine, cudaStream_t stream, const Work& work) {
  if (stream == cudaStreamPerThread) return kInvalid;
  if (held) return kInProgress;
  if (fail_after >= 0 && comm->calls >= fail_after) return kInternal;
  ++comm->calls;
  int device = 0, result = kInternal;
  CUDA_MUST(cudaGetDevice(&device));
  std::exception_ptr thrown;
  std::thread([&] {
    try {
      CUDA_MUST(cudaSetDevice(device));
      Visit all[kMostRanks];
      if (Meet(comm, mine, stream, comm->before, all) != kOk) return;
      work(all);
      // Nobody writes what others still read.
      result = Meet(comm, mine, stream, comm->after, all);
    } catch (...) {
      thrown = std::current_exception();
    }
  }).join();
  if (thrown != nullptr) std::rethrow_exception(thrown);
  return result;
}

int GetVersion(int* version) {
  *version = 22809;
  return kOk;
}
int GetUniqueId(Id* id) {
  std::memset(id, 0, sizeof *id);
  const int number = next_id++;
  std::memcpy(id, &number, sizeof number);
  return kOk;
}
int CommInitRankConfig(Comm** comm, int ranks, Id id, int rank, void*) {
  if (ranks > kMostRanks) return kInvalid;
  *comm = Make(std::string(id.internal, sizeof id.internal), ranks, rank);
  return kOk;
}
int CommSplit(Comm* comm, int color, int key, Comm** out, void*) {
  struct Wish {
    int color, key;
  } const wish{color, key};
  Visit all[kMostRanks];
  if (MeetOnHost(comm, {&wish, nullptr, nullptr}, all) != kOk) return kInternal;
  int size = 0, rank = 0;
  for (int r = 0; r < comm->group->size; r++) {
    const Wish& theirs = *static_cast<const Wish*>(all[r].mine);
    if (theirs.color != color) continue;
    ++size;
    rank += theirs.key < key || (theirs.key == key && r < comm->rank);
  }
  *out = Make(comm->key + "/" + std::to_string(comm->splits++) + "/" + std::to_string(color), size,
              rank);
  // Nobody goes before all have read.
  return MeetOnHost(comm, {}, all);
}
int CommGetAsyncError(Comm*, int* result) {
  *result = held ? kInProgress : kOk;
  return kOk;
}
int CommCount(Comm* comm, int* count) {
  *count = comm->group->size;
  return kOk;
}
int CommUserRank(Comm* comm, int* rank) {
  *rank = comm->rank;
  return kOk;
}
int CommFinalize(Comm*) {
  return kOk;
}
int CommDestroy(Comm* comm) {
  (void)cudaEventDestroy(comm->before);
  (void)cudaEventDestroy(comm->after);
  --live;
  delete comm;
  return kOk;
}
int CommAbort(Comm* comm) {
  {
    const std::lock_guard<std::mutex> lock(comm->group->mutex);
    comm->group->broken = true;
    comm->group->changed.notify_all();
  }
  ++aborted;
  return CommDestroy(comm);
}
int AllGather(const void* mine, void* all, size_t count, int type, Comm* comm,
              cudaStream_t stream) {
  if (type != 1) return kInvalid;
  return Collect(comm, mine, stream, [&](const Visit* visits) {
    for (int r = 0; r < comm->group->size && comm->rank != cut; r++) {
      void* to = static_cast<uint8_t*>(all) + static_cast<size_t>(r) * count;
      if (to != visits[r].mine)
        CUDA_MUST(cudaMemcpyAsync(to, visits[r].mine, count, cudaMemcpyDeviceToDevice, stream));
    }
  });
}
int ReduceScatter(const void* all, void* mine, size_t count, int type, int op, Comm* comm,
                  cudaStream_t stream) {
  if ((type != 7 && type != 9) || op != 0) return kInvalid;
  return Collect(comm, all, stream, [&](const Visit* visits) {
    PartList parts{{}, comm->group->size, type == 9};
    for (int r = 0; r < parts.count; r++) parts.from[r] = visits[r].mine;
    const auto n = static_cast<int64_t>(count);
    dsv4mx::test::SumParts(parts, n * comm->rank, n, mine, stream);
  });
}
// What a thread has called since GroupStart, of one communicator.
struct Part {
  void* data;
  size_t bytes;
  int peer;
};
struct Calls {
  Comm* comm = nullptr;
  cudaStream_t stream = nullptr;
  std::vector<Part> sends, receives;
};
thread_local Calls calls;

int GroupStart() {
  calls = {};
  return kOk;
}
int Send(const void* mine, size_t count, int type, int peer, Comm* comm, cudaStream_t stream) {
  if (type != 1 || peer < 0 || peer >= comm->group->size) return kInvalid;
  calls.comm = comm;
  calls.stream = stream;
  calls.sends.push_back({const_cast<void*>(mine), count, peer});
  return kOk;
}
int Recv(void* theirs, size_t count, int type, int peer, Comm* comm, cudaStream_t) {
  if (type != 1 || peer < 0 || peer >= comm->group->size) return kInvalid;
  calls.receives.push_back({theirs, count, peer});
  return kOk;
}
int GroupEnd() {
  if (calls.comm == nullptr) return kOk;
  const Calls& mine = calls;  // of this thread
  const Comm& me = *mine.comm;
  bool paired = true;
  const int result = Collect(mine.comm, &mine, mine.stream, [&](const Visit* visits) {
    for (const Part& to : mine.receives) {
      const Part* from = nullptr;
      for (const Part& p : static_cast<const Calls*>(visits[to.peer].mine)->sends)
        if (p.peer == me.rank) from = &p;
      paired = paired && from != nullptr && from->bytes == to.bytes;
      if (paired)
        CUDA_MUST(
            cudaMemcpyAsync(to.data, from->data, to.bytes, cudaMemcpyDeviceToDevice, mine.stream));
    }
  });
  return result != kOk ? result : paired ? kOk : kInvalid;
}
const char* GetErrorString(int result) {
  return result == kOk ? "no error" : "internal error";
}
const char* GetLastError(Comm*) {
  return "the stand-in on the device was told to fail";
}

}  // namespace

namespace dsv4mx::test {

std::vector<dsv4mx_nccl_function> DeviceNcclTable() {
#define ENTRY(name) \
  { sizeof(dsv4mx_nccl_function), "nccl" #name, reinterpret_cast<const void*>(&name) }
  return {ENTRY(GetVersion),
          ENTRY(GetUniqueId),
          ENTRY(CommInitRankConfig),
          ENTRY(CommSplit),
          ENTRY(CommGetAsyncError),
          ENTRY(CommCount),
          ENTRY(CommUserRank),
          ENTRY(CommFinalize),
          ENTRY(CommDestroy),
          ENTRY(CommAbort),
          ENTRY(AllGather),
          ENTRY(ReduceScatter),
          ENTRY(Send),
          ENTRY(Recv),
          ENTRY(GroupStart),
          ENTRY(GroupEnd),
          ENTRY(GetErrorString),
          ENTRY(GetLastError)};
#undef ENTRY
}

void FailDeviceNccl(int calls) {
  fail_after = calls;
}
void HoldDeviceNccl(bool hold) {
  held = hold;
}
void CutDeviceNccl(int rank) {
  cut = rank;
}
int LiveDeviceNccl() {
  return live;
}
int AbortedDeviceNccl() {
  return aborted;
}
void* MakeDeviceNcclComm(const char (&id)[128], int size, int rank) {
  return Make(std::string(id, sizeof id), size, rank);
}
void DestroyDeviceNcclComm(void* comm) {
  (void)CommDestroy(static_cast<Comm*>(comm));
}

}  // namespace dsv4mx::test
