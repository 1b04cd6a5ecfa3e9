// NCCL itself over several devices, for the cases that stand-ins cannot show. DSV4MX_TEST_NCCL names its file; on an emulator's
// devices "stand-in" runs these cases, as far as they do not wait for NCCL's own doing, on the stand-in.
#ifndef DSV4MX_TESTS_GPU_REAL_NCCL_H_
#define DSV4MX_TESTS_GPU_REAL_NCCL_H_

#include <dlfcn.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "tests/gpu/nccl_groups.h"
#include "tests/gpu/thread_stacks.h"

namespace dsv4mx::test {

// Ends the program where a case hangs: a stream that waits for ever would keep every destructor waiting.
class Watchdog {
 public:
  explicit Watchdog(int seconds)
      : thread_([this, seconds] {
          std::unique_lock<std::mutex> lock(mutex_);
          if (!changed_.wait_for(lock, std::chrono::seconds(seconds), [&] { return over_; }))
            End("the case is not over after its time");
        }) {}
  ~Watchdog() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  [[noreturn]] static void End(const char* why) {
    std::fflush(stdout);
    std::fprintf(stderr, "HANGS: %s\n", why);
    if (std::getenv("DSV4MX_TEST_TRACE") != nullptr) TellStacks();
    std::_Exit(3);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;  // last: it uses the others
};

// What a host of its own communicators calls.
struct HostNccl {
  struct Id {
    char internal[128];
  };
  int (*InitRank)(void** comm, int size, Id id, int rank);
  int (*InitAll)(void** comms, int size, const int* devices);
  int (*Destroy)(void* comm);
  int (*Abort)(void* comm);
  int (*AllGather)(const void* mine, void* all, size_t count, int type, void* comm,
                   cudaStream_t stream);
};

class RealNccl {
 public:
  RealNccl() : watchdog_(Seconds()) {
    const char* file = std::getenv("DSV4MX_TEST_NCCL");
    if (file == nullptr) {
      missing_ = "DSV4MX_TEST_NCCL names no libnccl.so.2";
    } else if (Devices() < 2) {
      missing_ = "fewer than two CUDA devices";
    } else if (std::string(file) == "stand-in") {
      source_ = StandIn();
    } else {
      Load(file);
    }
  }
  // Why the case is skipped, or "".
  const std::string& missing() const { return missing_; }
  // DSV4MX_TEST_FEW: without the largest shapes.
  bool large() const { return real() && std::getenv("DSV4MX_TEST_FEW") == nullptr; }
  bool real() const { return handle_ != nullptr; }
  const NcclSource& source() const { return source_; }
  const HostNccl& host() const { return host_; }
  // As many ranks as devices: 2, and 4 and 8 where there are so many.
  std::vector<int> sizes() const {
    std::vector<int> all;
    for (const int size : {2, 4, 8}) {
      if (size <= Devices()) all.push_back(size);
    }
    return all;
  }

 private:
  // DSV4MX_TEST_SECONDS: how long a case may take.
  static int Seconds() {
    if (std::getenv("DSV4MX_EMULATED_DEVICES") != nullptr) return 900;
    const char* wanted = std::getenv("DSV4MX_TEST_SECONDS");
    return wanted != nullptr ? std::atoi(wanted) : 120;
  }
  template <class Function>
  void Find(const char* name, Function* out) {
    void* address = dlsym(handle_, name);
    if (address == nullptr) throw std::runtime_error(std::string("NCCL lacks ") + name);
    std::memcpy(out, &address, sizeof(address));
  }
  void Load(const char* file) {
    handle_ = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (handle_ == nullptr) throw std::runtime_error(dlerror());
    Find("ncclCommInitRank", &host_.InitRank);
    Find("ncclCommInitAll", &host_.InitAll);
    Find("ncclCommDestroy", &host_.Destroy);
    Find("ncclCommAbort", &host_.Abort);
    Find("ncclAllGather", &host_.AllGather);
    source_.path = file;
    source_.make = [h = host_](const char(&bytes)[128], int size, int rank) {
      HostNccl::Id id;
      std::memcpy(&id, bytes, sizeof(id));
      void* comm = nullptr;
      if (const int result = h.InitRank(&comm, size, id, rank); result != 0)
        throw std::runtime_error("ncclCommInitRank returned " + std::to_string(result));
      return comm;
    };
    source_.destroy = [h = host_](void* comm) { (void)h.Destroy(comm); };
  }

  Watchdog watchdog_;
  std::string missing_;
  void* handle_ = nullptr;
  NcclSource source_;
  HostNccl host_{};
};

// Leaves the test case, counted as skipped, where there are no two devices or no NCCL.
#define REQUIRE_NCCL(name)                \
  REQUIRE_GPU();                          \
  const ::dsv4mx::test::RealNccl name;    \
  if (!name.missing().empty()) {          \
    ::dsv4mx::test::Skip(name.missing()); \
    return;                               \
  }

// And where the stand-in would wait on the host, or has nothing to show.
#define REQUIRE_NCCL_ITSELF(name)                         \
  REQUIRE_NCCL(name);                                     \
  if (!name.real()) {                                     \
    ::dsv4mx::test::Skip("this is of NCCL itself alone"); \
    return;                                               \
  }

// A device for each rank.
inline Layout Each(const Layout& layout) {
  return *On(Spread::kEach, layout);
}
// All on one device: how the other transport computes what is wanted.
inline Layout One(const Layout& layout) {
  return *On(Spread::kOne, layout);
}

// Sums that travel, and a group of both.
inline Layout SumsOf(int size) {
  Layout l = Parts(size);
  l.ep_combine = DSV4MX_EP_RANK_REDUCE;
  return l;
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_REAL_NCCL_H_
