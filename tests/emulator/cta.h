// The state of CTAs that run: what the parts of the emulator share.
#ifndef DSV4MX_TESTS_EMULATOR_CTA_H_
#define DSV4MX_TESTS_EMULATOR_CTA_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/emulator/fiber.h"
#include "tests/emulator/machine.h"

namespace dsv4mx::emulator {

inline constexpr int kMostThreads = 1024, kNamedBarriers = 16;
inline constexpr size_t kMostShared = 232448;
// Dynamic shared memory begins at kDynamic; static variables are the host thread's own (thread_local), kept apart by how far
// they are from one of them.
inline constexpr uint32_t kDynamic = 1024, kStatic = 0x80'0000, kStaticRoom = 0x40'0000, kRank = 24;

// What a thread waits for: a counter that has moved on from a value, looked at through a mask.
struct Wait {
  const std::atomic<uint64_t>* counter = nullptr;
  uint64_t mask = 0, value = 0;
  bool Over() const {
    return counter == nullptr || (counter->load(std::memory_order_acquire) & mask) != value;
  }
};

struct Warp {
  std::atomic<uint64_t> generation{0};
  uint32_t lanes = 0, ended = 0, arrived = 0, mask = 0;
  const char* operation = nullptr;
  uint64_t values[2][32];
  uint32_t present[2];
};

struct MemoryBarrier {
  std::atomic<uint64_t> phase{0};
  int64_t expected = 0, missing = 0, bytes = 0;
};

struct ThreadBarrier {
  std::atomic<uint64_t> generation{0};
  int arrived = 0, threads = 0;
};

// A warpgroup's product under way.
struct Product {
  std::atomic<uint64_t> generation{0};
  int arrived = 0;
  struct {
    const uint32_t* a;
    float* d;
  } lanes[128];
  Number number;
  int columns;
  uint64_t b;
  bool accumulate;
};

struct Cta;
struct Cluster {
  const Launch* launch = nullptr;
  std::vector<Cta*> ctas;
  std::atomic<uint64_t> generation{0};
  std::atomic<int> arrived{0};
  std::atomic<uint64_t> steps{0};  // grows while anything moves
  std::atomic<bool> failed{false};
  std::mutex mutex;  // of barriers, which CTAs of a cluster share, and of the fault
  std::string fault;
};

struct Copy {
  uint8_t* to;
  std::vector<uint8_t> words;  // what is sent from registers
  const void* from;            // else from memory
  uint32_t bytes;
  Cta* at;  // whose barrier counts
  uint32_t bar;
};

struct Emulated {
  Fiber fiber;
  Thread view;
  Wait wait;
  Cta* cta = nullptr;
  int number = 0;
  bool ended = false;
  struct Store {
    void* to;
    uint32_t from, bytes;
  };
  std::vector<Store> stores;
  std::vector<Copy> copies;  // asked for, and not yet told to any barrier
};

struct Cta {
  Cluster* cluster = nullptr;
  unsigned rank = 0;
  uint8_t* shared = nullptr;
  size_t shared_bytes = 0;
  const uint8_t* static_origin = nullptr;  // the anchor of the host thread it runs on
  int threads = 0, live = 0;
  std::atomic<bool> over{false};
  std::vector<std::unique_ptr<Emulated>> fibers;
  std::deque<Warp> warps;
  ThreadBarrier barriers[kNamedBarriers];
  std::deque<Product> products;
  std::map<uint32_t, MemoryBarrier> memory_barriers;
  std::vector<Copy> copies;
  uint32_t draw = 1;
  bool any = false;  // of those that meet in __syncthreads_or

  uint32_t Draw() {  // xorshift
    draw ^= draw << 13;
    draw ^= draw >> 17;
    draw ^= draw << 5;
    return draw;
  }
};

// The thread that runs.
extern thread_local Emulated* self;
// Where static shared variables of the host thread stand: an address is how far they are from it.
extern thread_local uint8_t anchor;

// Ends the launch: the thread stops here and is never resumed.
[[noreturn]] void Fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
void WaitUntil(const std::atomic<uint64_t>& counter, uint64_t mask, uint64_t value);

// Of meeting.cc: who waits goes on if all have come.
void CompleteIfAll(Warp& w);
void CompleteIfAll(Cta& cta, ThreadBarrier& b);

// Of shared_memory.cc.
uint8_t* Find(Cta& cta, uint32_t address, size_t bytes);
// Some of the copies that are under way arrive, in any order; all of them where nothing else can move.
bool PerformCopies(Cta& cta, bool all);
// What this thread stores in bulk leaves.
void FlushStores();

}  // namespace dsv4mx::emulator

#endif  // DSV4MX_TESTS_EMULATOR_CTA_H_
