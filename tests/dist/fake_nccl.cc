#include "tests/dist/fake_nccl.h"

#include <algorithm>
#include <atomic>
#include <climits>
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

namespace {

struct Id {
  char internal[128];
};
struct Config {
  size_t size;
  unsigned int magic, version;
  int blocking, cga, min_ctas, max_ctas;
  const char* net;
  int split_share;
};

enum { kOk = 0, kInternal = 3, kInvalid = 4, kInProgress = 7 };

// Ranks that came with one id, or by one split.
struct Group {
  std::mutex mutex;
  std::condition_variable changed;
  int size = 0, arrived = 0, leaving = 0;
  bool broken = false;
  std::vector<uint8_t> data;
};

struct Comm {
  std::shared_ptr<Group> group;
  int rank = 0, polls = 0, calls = 0, splits = 0, async = kOk;
  bool blocking = false;
  std::string key;
  // A split whose handle is told when this one is ready again.
  Comm *child = nullptr, **told = nullptr;
};

// What a thread has called since ncclGroupStart.
struct Part {
  void* data;
  size_t bytes;
  int peer;
};
thread_local std::vector<Part> sends, receives;
thread_local Comm* grouped = nullptr;

std::mutex mutex;
std::map<std::string, std::shared_ptr<Group>> groups;
dsv4mx::test::FakeNccl faults;
dsv4mx::test::FakeNcclSeen seen;
std::atomic<int> next_id{1};

dsv4mx::test::FakeNccl Faults() {
  const std::lock_guard<std::mutex> lock(mutex);
  return faults;
}

Comm* Make(const std::string& key, int size, int rank, bool blocking) {
  const std::lock_guard<std::mutex> lock(mutex);
  auto& group = groups[key];
  if (group == nullptr) {
    group = std::make_shared<Group>();
    group->size = size;
  }
  ++seen.live;
  auto* comm = new Comm;
  comm->group = group;
  comm->rank = rank;
  comm->blocking = blocking;
  comm->key = key;
  return comm;
}

// A blocking communicator finishes at once, another one after some polls.
int Begin(Comm* comm) {
  const auto f = Faults();
  comm->polls = comm->blocking ? 0 : f.in_progress;
  if (f.hang && !comm->blocking) return kInProgress;
  return comm->polls > 0 ? kInProgress : kOk;
}

bool GoodConfig(const Config* c) {
  const bool good = c->magic == 0xcafebeef && c->version >= 21400 &&
                    c->size >= sizeof(size_t) * 5 && c->blocking == 0 && c->cga == INT_MIN &&
                    c->net == nullptr;
  if (!good) {
    const std::lock_guard<std::mutex> lock(mutex);
    ++seen.bad_configs;
  }
  return good;
}

template <class Reduce>
int Collect(Comm* comm, const void* mine, size_t bytes, const Reduce& reduce) {
  const auto f = Faults();
  if (comm->async != kOk) return comm->async;
  if (f.async_after >= 0 && comm->calls >= f.async_after) {
    comm->async = kInternal;
    return comm->blocking ? kInternal : kInProgress;
  }
  ++comm->calls;
  Group& g = *comm->group;
  std::unique_lock<std::mutex> lock(g.mutex);
  const auto broken = [&] { return g.broken; };
  g.changed.wait(lock, [&] { return g.leaving == 0 || broken(); });
  if (broken()) return kInternal;
  g.data.resize(bytes * static_cast<size_t>(g.size));
  std::memcpy(g.data.data() + bytes * static_cast<size_t>(comm->rank), mine, bytes);
  if (++g.arrived == g.size) {
    g.arrived = 0, g.leaving = g.size;
    g.changed.notify_all();
  } else if (!g.changed.wait_for(lock, std::chrono::seconds(5),
                                 [&] { return g.leaving != 0 || broken(); })) {
    g.broken = true;
    g.changed.notify_all();
  }
  if (broken()) return kInternal;
  reduce(g.data);
  if (--g.leaving == 0) g.changed.notify_all();
  lock.unlock();
  return Begin(comm);
}

float FromBf16(uint16_t b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

}  // namespace

extern "C" {

int ncclGetVersion(int* version) {
  *version = Faults().version;
  return *version < 0 ? kInternal : kOk;
}
int ncclGetUniqueId(Id* id) {
  std::memset(id, 0, sizeof *id);
  const int number = next_id++;
  std::memcpy(id, &number, sizeof number);
  return Faults().id_result;
}
int ncclCommInitRankConfig(Comm** comm, int ranks, Id id, int rank, Config* config) {
  if (!GoodConfig(config)) return kInvalid;
  if (Faults().init_result != kOk) return Faults().init_result;
  *comm = Make(std::string(id.internal, sizeof id.internal), ranks, rank, false);
  return Begin(*comm);
}
int ncclCommSplit(Comm* comm, int color, int key, Comm** out, Config* config) {
  if (!GoodConfig(config)) return kInvalid;
  if (Faults().split_result != kOk) return Faults().split_result;
  // Ranks tell each other what they want.
  struct Wish {
    int color, key;
  } mine{color, key};
  std::vector<Wish> all(static_cast<size_t>(comm->group->size));
  const int calls = comm->calls;
  const int met = Collect(comm, &mine, sizeof mine, [&](const std::vector<uint8_t>& data) {
    std::memcpy(all.data(), data.data(), data.size());
  });
  comm->calls = calls;
  if (met != kOk && met != kInProgress) return met;
  int size = 0, rank = 0;
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r].color != color) continue;
    ++size;
    rank += all[r].key < key || (all[r].key == key && static_cast<int>(r) < comm->rank);
  }
  Comm* child = Make(comm->key + "/" + std::to_string(comm->splits++) + "/" + std::to_string(color),
                     size, rank, false);
  if (comm->blocking || comm->polls == 0) {
    *out = child;
    return Begin(child);
  }
  *out = nullptr;
  comm->child = child;
  comm->told = out;
  return Begin(comm);
}
int ncclCommGetAsyncError(Comm* comm, int* result) {
  if (comm == nullptr) return kInvalid;
  if (comm->async != kOk) {
    *result = comm->async;
  } else if (Faults().hang && !comm->blocking) {
    *result = kInProgress;
  } else {
    *result = comm->polls > 0 && --comm->polls > 0 ? kInProgress : kOk;
    if (*result == kOk && comm->child != nullptr) {
      *comm->told = comm->child;
      (void)Begin(comm->child);
      comm->child = nullptr;
    }
  }
  return kOk;
}
int ncclCommCount(Comm* comm, int* count) {
  *count = comm->group->size;
  return kOk;
}
int ncclCommUserRank(Comm* comm, int* rank) {
  *rank = comm->rank;
  return kOk;
}
int ncclCommFinalize(Comm* comm) {
  return comm->async != kOk ? comm->async : Begin(comm);
}
int ncclCommDestroy(Comm* comm) {
  const std::lock_guard<std::mutex> lock(mutex);
  --seen.live, ++seen.destroys;
  delete comm;
  return kOk;
}
int ncclCommAbort(Comm* comm) {
  {
    const std::lock_guard<std::mutex> lock(comm->group->mutex);
    comm->group->broken = true;
    comm->group->changed.notify_all();
  }
  const std::lock_guard<std::mutex> lock(mutex);
  --seen.live, ++seen.aborts;
  delete comm;
  return kOk;
}
int ncclAllGather(const void* mine, void* all, size_t count, int type, Comm* comm, void*) {
  if (type != 1) return kInvalid;
  return Collect(comm, mine, count, [&](const std::vector<uint8_t>& data) {
    std::memcpy(all, data.data(), data.size());
  });
}
int ncclReduceScatter(const void* all, void* mine, size_t count, int type, int op, Comm* comm,
                      void*) {
  if ((type != 7 && type != 9) || op != 0) return kInvalid;
  const size_t width = type == 7 ? 4 : 2, part = count * width;
  const auto size = static_cast<size_t>(comm->group->size);
  return Collect(comm, all, part * size, [&](const std::vector<uint8_t>& data) {
    for (size_t i = 0; i < count; ++i) {
      float sum = 0;
      // From the last rank on: the order is nobody's promise.
      for (size_t r = size; r-- > 0;) {
        const uint8_t* from =
            data.data() + (r * size + static_cast<size_t>(comm->rank)) * part + i * width;
        float f;
        uint16_t b;
        if (width == 4) {
          std::memcpy(&f, from, 4);
        } else {
          std::memcpy(&b, from, 2);
          f = FromBf16(b);
        }
        sum += f;
      }
      if (width == 4) {
        std::memcpy(static_cast<uint8_t*>(mine) + i * 4, &sum, 4);
      } else {
        uint32_t bits;
        std::memcpy(&bits, &sum, 4);
        const auto b = static_cast<uint16_t>(bits >> 16);
        std::memcpy(static_cast<uint8_t*>(mine) + i * 2, &b, 2);
      }
    }
  });
}
int ncclGroupStart() {
  grouped = nullptr;
  sends.clear();
  receives.clear();
  const std::lock_guard<std::mutex> lock(mutex);
  if (faults.group_result == kOk) ++seen.groups_open;
  return faults.group_result;
}
int ncclSend(const void* mine, size_t count, int type, int peer, Comm* comm, void*) {
  if (type != 1 || peer < 0 || peer >= comm->group->size) return kInvalid;
  if (Faults().send_result != kOk) return Faults().send_result;
  grouped = comm;
  sends.push_back({const_cast<void*>(mine), count, peer});
  return kOk;
}
int ncclRecv(void* theirs, size_t count, int type, int peer, Comm* comm, void*) {
  if (type != 1 || peer < 0 || peer >= comm->group->size) return kInvalid;
  grouped = comm;
  receives.push_back({theirs, count, peer});
  return kOk;
}
// One send to and one receive from every rank, of one size: what is between is nobody's here.
int ncclGroupEnd() {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    --seen.groups_open;
  }
  if (grouped == nullptr) return kOk;
  const auto size = static_cast<size_t>(grouped->group->size);
  if (Faults().send_result != kOk) return kOk;
  if (sends.size() != size || receives.size() != size) return kInvalid;
  const size_t bytes = sends[0].bytes;
  std::vector<uint8_t> mine(size * bytes);
  for (const Part& p : sends) {
    if (p.bytes != bytes) return kInvalid;
    std::memcpy(mine.data() + static_cast<size_t>(p.peer) * bytes, p.data, bytes);
  }
  const auto me = static_cast<size_t>(grouped->rank);
  return Collect(grouped, mine.data(), mine.size(), [&](const std::vector<uint8_t>& data) {
    for (const Part& p : receives)
      std::memcpy(p.data, data.data() + (static_cast<size_t>(p.peer) * size + me) * bytes, bytes);
  });
}
const char* ncclGetErrorString(int result) {
  return result == kOk ? "no error" : result == kInProgress ? "in progress" : "internal error";
}
const char* ncclGetLastError(Comm*) {
  return "the stand-in was told to fail";
}

}  // extern "C"

namespace dsv4mx::test {

void SetFakeNccl(const FakeNccl& given) {
  const std::lock_guard<std::mutex> lock(mutex);
  const int live = seen.live;
  faults = given;
  seen = {};
  seen.live = live;
}

FakeNcclSeen SeenByFakeNccl() {
  const std::lock_guard<std::mutex> lock(mutex);
  return seen;
}

std::vector<dsv4mx_nccl_function> FakeNcclTable() {
#define ENTRY(name) {sizeof(dsv4mx_nccl_function), #name, reinterpret_cast<const void*>(&name)}
  std::vector<dsv4mx_nccl_function> all = {ENTRY(ncclGetVersion),
                                           ENTRY(ncclGetUniqueId),
                                           ENTRY(ncclCommInitRankConfig),
                                           ENTRY(ncclCommSplit),
                                           ENTRY(ncclCommGetAsyncError),
                                           ENTRY(ncclCommCount),
                                           ENTRY(ncclCommUserRank),
                                           ENTRY(ncclCommFinalize),
                                           ENTRY(ncclCommDestroy),
                                           ENTRY(ncclCommAbort),
                                           ENTRY(ncclAllGather),
                                           ENTRY(ncclReduceScatter),
                                           ENTRY(ncclSend),
                                           ENTRY(ncclRecv),
                                           ENTRY(ncclGroupStart),
                                           ENTRY(ncclGroupEnd),
                                           ENTRY(ncclGetErrorString),
                                           ENTRY(ncclGetLastError)};
#undef ENTRY
  const char* missing = Faults().missing;
  all.erase(std::remove_if(all.begin(), all.end(),
                           [&](const dsv4mx_nccl_function& f) {
                             return missing != nullptr && std::strcmp(f.name, missing) == 0;
                           }),
            all.end());
  return all;
}

void* MakeFakeNcclComm(const char (&id)[128], int size, int rank, bool blocking) {
  return Make(std::string(id, sizeof id), size, rank, blocking);
}

void DestroyFakeNcclComm(void* comm) {
  (void)ncclCommDestroy(static_cast<Comm*>(comm));
}

}  // namespace dsv4mx::test
