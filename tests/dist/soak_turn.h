// One turn of the soak test: a problem, a group to run it on and what goes wrong there, all drawn from one number.
#ifndef DSV4MX_TESTS_DIST_SOAK_TURN_H_
#define DSV4MX_TESTS_DIST_SOAK_TURN_H_

#include <cstdint>
#include <string>

#include "tests/dist/group.h"

namespace dsv4mx::test {

// How ranks meet, and what carries their rows.
enum class Way {
  kLocal,            // threads, windows
  kThreadsShared,    // threads, all_gather and windows in shared memory
  kThreadsGather,    // threads, all_gather alone
  kNccl,             // threads, a stand-in for NCCL
  kProcessesShared,  // processes, windows in shared memory
  kProcessesGather,  // processes, all_gather alone
};
constexpr const char* kWays[] = {"local", "threads, shared memory",   "threads, all_gather",
                                 "NCCL",  "processes, shared memory", "processes, all_gather"};

// What one rank, the victim, does once in a turn.
enum class Trouble {
  kNone,
  kLate,   // comes late, but in time
  kTag,    // is in another call
  kAbort,  // aborts the group's work
  kSkip,   // does not come: others wait for the timeout
  kLeave,  // destroys its communicator, or its process ends
};
constexpr const char* kTroubles[] = {"none", "late", "tag", "abort", "skip", "leave"};

struct Turn {
  uint64_t seed = 0;
  std::string problem;
  Layout layout;
  Way way = Way::kLocal;
  Trouble trouble = Trouble::kNone;
  int victim = 0, calls = 1;
  bool peer = true;  // windows
  bool processes = false;

  // The bits are those of one rank; else those of the first group of threads.
  bool Exact() const {
    return layout.tp == 1 && layout.ep_combine == DSV4MX_EP_ROUTE_EXACT &&
           layout.tp_reduce == DSV4MX_TP_RANK_ORDER;
  }
  std::string Text() const;
};

Turn DrawTurn(uint64_t seed);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_DIST_SOAK_TURN_H_
