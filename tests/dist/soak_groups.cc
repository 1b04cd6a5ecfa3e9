// Groups of ranks, turn after turn: random problems on random groups of threads or processes, with faults and what follows
// them. Every turn has a process of its own, or one for each rank, so that one that hangs is ended and told.
//
//     soak_groups [TURN]      that turn alone, by the number that a failure prints
//
// DSV4MX_SOAK_SECONDS: how long, 5 if unset. DSV4MX_SEED repeats a run.
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "tests/dist/fake_nccl.h"
#include "tests/dist/soak_rank.h"
#include "tests/run_seed.h"

namespace dsv4mx::test {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kMostRanks = 8, kHang = 180;  // seconds

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// What the processes of a turn share: an all-gather, what is wanted, and what went wrong.
struct Shared {
  std::atomic<uint32_t> posted[kMostRanks], read[kMostRanks];
  std::atomic<uint32_t> told;  // processes that have written a text
  char text[2000];
  int64_t wanted_bytes, calls;
  uint8_t wanted[1 << 20];
  uint8_t gather[kMostRanks][16 << 20];
};
Shared* shared;

struct Process {
  int rank, size;
  uint32_t gathers;
};

int32_t GatherShared(void* user, const void* mine, void* all, size_t bytes) {
  Process& p = *static_cast<Process*>(user);
  const uint32_t number = ++p.gathers;
  if (bytes > sizeof(shared->gather[0])) return 1;
  const auto begin = Clock::now();
  const auto wait = [&](const std::atomic<uint32_t>* cells, uint32_t least) {
    for (int r = 0; r < p.size; ++r) {
      while (cells[r].load() < least) {
        if (Since(begin) > 100) return false;
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    }
    return true;
  };
  if (!wait(shared->read, number - 1)) return 2;
  std::memcpy(shared->gather[p.rank], mine, bytes);
  shared->posted[p.rank].store(number);
  if (!wait(shared->posted, number)) return 3;
  for (int r = 0; r < p.size; ++r)
    std::memcpy(static_cast<uint8_t*>(all) + static_cast<size_t>(r) * bytes, shared->gather[r],
                bytes);
  shared->read[p.rank].store(number);
  return 0;
}

void Tell(const std::string& text) {
  if (shared->told.fetch_add(1) == 0)
    std::snprintf(shared->text, sizeof(shared->text), "%s", text.c_str());
}

// What every group must give: the bits of one rank, or of a first group of threads, which is not far from one rank.
std::vector<uint8_t> Wanted(const Turn& t, const Case& c) {
  Layout plain = t.layout;
  plain.kind = DSV4MX_COMM_LOCAL;
  plain.transport = DSV4MX_COMM_TRANSPORT_AUTO;
  plain.timeout_ns = 60'000'000'000;
  const std::vector<uint8_t> one = Runner(c).Apply().raw;
  if (t.Exact()) return one;
  if (t.layout.tp_reduce == DSV4MX_TP_INVARIANT) {
    // The same bits at every size.
    plain.size = plain.tp = 1;
    plain.tokens.clear();
  }
  const std::vector<uint8_t> group = RunGroup(c, plain);
  const double far = Distance(c.p, group, one);
  Need(far < 0.03, "the group is " + std::to_string(far) + " from one rank");
  return group;
}

void RunThreads(const Turn& t, const Case& c, const std::vector<uint8_t>& wanted) {
  (void)ContextOf(c.p);
  const auto table = FakeNcclTable();
  dsv4mx_nccl_source source = DSV4MX_NCCL_SOURCE_INIT;
  source.functions = table.data();
  source.function_count = table.size();
  std::atomic<int64_t> applied{0};
  // A group that has lost a rank is followed by a new one.
  for (int groups = 0; groups < 2; ++groups) {
    char id[128] = {};
    Must(dsv4mx_nccl_get_unique_id(&source, id), "unique_id");
    const uint64_t group = NewGroup();
    std::atomic<bool> lost{false};
    const auto rank = [&](int r) {
      Member m(t, c, wanted, r);
      if (t.way == Way::kNccl) {
        dsv4mx_comm_desc d = CommDescOf(c.p, t.layout, r, 0);
        d.nccl = &source;
        d.nccl_id = id;
        JoinWith(c, d, &m.rank());
      } else {
        JoinGroup(c, t.layout, group, &m.rank());
      }
      m.Works(t.calls);
      if (groups == 0) {
        if (m.Endure()) {
          m.Works(t.calls);
        } else {
          lost = true;
        }
      }
      applied += m.applied;
    };
    (void)OnRanks(t.layout.size, [&](int r) {
      try {
        rank(r);
      } catch (const std::exception& e) {
        // The others would wait for it.
        Tell("rank " + std::to_string(r) + ": " + e.what());
        _exit(1);
      }
    });
    if (!lost) break;
  }
  shared->calls += applied;
}

void RunProcess(const Turn& t, const Case& c, const std::vector<uint8_t>& wanted, int rank) {
  Member m(t, c, wanted, rank);
  Process me{rank, t.layout.size, 0};
  dsv4mx_comm_desc d = CommDescOf(c.p, t.layout, rank, 0);
  d.all_gather = GatherShared;
  d.user = &me;
  JoinWith(c, d, &m.rank());
  m.Works(t.calls);
  const bool goes_on = m.Endure();
  // A process that leaves takes nothing with it in order.
  if (!goes_on && m.Victim()) _exit(0);
  if (goes_on) m.Works(t.calls);
  if (rank == 0) shared->calls += m.applied * t.layout.size;
}

// body in a process of its own; "" or what went wrong.
template <class Body>
pid_t Start(const Body& body) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  try {
    body();
    _exit(0);
  } catch (const std::exception& e) {
    Tell(e.what());
  }
  _exit(1);
}

// Whether all end well; where one does not, the others are ended.
bool End(std::vector<pid_t> all) {
  const auto begin = Clock::now();
  bool good = true;
  while (!all.empty()) {
    for (size_t i = 0; i < all.size();) {
      int status = 0;
      if (waitpid(all[i], &status, WNOHANG) == 0) {
        ++i;
        continue;
      }
      if (good && WIFSIGNALED(status)) Tell("ended by signal " + std::to_string(WTERMSIG(status)));
      const bool ended_well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
      all.erase(all.begin() + static_cast<ptrdiff_t>(i));
      if (good && !ended_well) {
        good = false;
        for (const pid_t p : all) kill(p, SIGKILL);
      }
    }
    if (good && Since(begin) > kHang) {
      good = false;
      Tell("no end within " + std::to_string(kHang) + " s");
      for (const pid_t p : all) kill(p, SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  return good;
}

bool RunTurn(const Turn& t) {
  for (int r = 0; r < kMostRanks; ++r) shared->posted[r] = 0, shared->read[r] = 0;
  shared->told = 0;
  shared->text[0] = '\0';
  bool good = End({Start([&] {
    const Case c = MakeCase(t.problem);
    const std::vector<uint8_t> wanted = Wanted(t, c);
    Need(wanted.size() <= sizeof(shared->wanted), "no place for what is wanted");
    std::memcpy(shared->wanted, wanted.data(), wanted.size());
    shared->wanted_bytes = static_cast<int64_t>(wanted.size());
    if (!t.processes) RunThreads(t, c, wanted);
  })});
  if (good && t.processes) {
    std::vector<pid_t> ranks;
    for (int r = 0; r < t.layout.size; ++r) {
      ranks.push_back(Start([&] {
        const Case c = MakeCase(t.problem);
        RunProcess(t, c, {shared->wanted, shared->wanted + shared->wanted_bytes}, r);
      }));
    }
    good = End(ranks);
  }
  if (!good) std::printf("%s\n  %s\n", t.Text().c_str(), shared->text);
  return good;
}

int Main(int argc, char** argv) {
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return std::perror("mmap"), 2;
  shared = new (memory) Shared;
  if (argc > 1) return RunTurn(DrawTurn(std::strtoull(argv[1], nullptr, 10))) ? 0 : 1;
  const char* given = std::getenv("DSV4MX_SOAK_SECONDS");
  const double seconds = given == nullptr ? 5 : std::atof(given);
  std::mt19937_64 seeds(RunSeed());
  int ways[6] = {}, troubles[6] = {}, passed = 0, failed = 0;
  for (const auto begin = Clock::now(); Since(begin) < seconds && failed < 10;) {
    const Turn t = DrawTurn(seeds() >> 20);
    std::fflush(stdout);
    ++(RunTurn(t) ? passed : failed);
    ++ways[static_cast<int>(t.way)], ++troubles[static_cast<int>(t.trouble)];
  }
  for (int i = 0; i < 6; ++i)
    std::printf("%d %s, %d %s; ", ways[i], kWays[i], troubles[i], kTroubles[i]);
  std::printf("%lld calls\n%d passed, %d failed, 0 skipped\n",
              static_cast<long long>(shared->calls), passed, failed);
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace dsv4mx::test

int main(int argc, char** argv) {
  return dsv4mx::test::Main(argc, argv);
}
