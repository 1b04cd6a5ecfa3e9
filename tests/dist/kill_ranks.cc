// Ranks that are killed: processes of one host exchange in windows of shared memory, one is ended with SIGKILL at a random
// moment, many times over. Each time the survivors, which are the same processes throughout, must say COMM_RANK_LOST or
// COMM_TIMEOUT of that rank within the limit, give rows of NaN, and work with a new communicator and a new process in the
// dead one's place, with the bits of one rank.
//
//     kill_ranks TURNS [RANKS [cuda]]   the parent; it starts "kill_ranks --rank R SIZE FD [cuda]" for each rank
//
// With "cuda" ranks have a GPU each, or share the one that there is, and exchange in its memory: nobody learns of a death there
// but by the timeout.
//
// The parent is the bootstrap: a rank sends its bytes over a socket pair, the parent answers with everybody's.
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tests/dist/group.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kTimeout = 1'000'000'000;
const char* const kText = "h=64 i=64 e=8 k=2 m=64 slot=bf16 invariant=1";
const char* const kCuda = "cuda";

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

bool Send(int fd, const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = send(fd, at, bytes, MSG_NOSIGNAL);
    if (n <= 0) return false;
    at += n, bytes -= static_cast<size_t>(n);
  }
  return true;
}

bool Receive(int fd, void* data, size_t bytes) {
  char* at = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t n = recv(fd, at, bytes, 0);
    if (n <= 0) return false;
    at += n, bytes -= static_cast<size_t>(n);
  }
  return true;
}

// What a rank tells the parent; a gather is followed by its bytes.
enum Kind : int32_t { kGather = 1, kRound = 2, kFault = 3, kReady = 4 };
struct Message {
  Kind kind;
  int32_t value;  // bytes, rounds or a status
  double seconds;
  int32_t rank;  // of the fault
  int32_t good;  // whether the rows were what they had to be
};

struct Line {
  int fd, size;
};

int32_t GatherOverLine(void* user, const void* mine, void* all, size_t bytes) {
  const Line& line = *static_cast<Line*>(user);
  const Message m{kGather, static_cast<int32_t>(bytes), 0, 0, 0};
  return Send(line.fd, &m, sizeof m) && Send(line.fd, mine, bytes) &&
                 Receive(line.fd, all, bytes * static_cast<size_t>(line.size))
             ? 0
             : 1;
}

bool AllNaN(const std::vector<uint8_t>& rows) {
  for (size_t i = 0; i + 2 <= rows.size(); i += 2) {
    uint16_t v;
    std::memcpy(&v, rows.data() + i, 2);
    if (!std::isnan(FromBf16(v))) return false;
  }
  return true;
}

int RankMain(int rank_number, int size, int fd, bool cuda) {
  const Case c = MakeCase(std::string(kText) + (cuda ? " dev=cuda" : ""));
  Layout layout;
  layout.size = size;
  layout.kind = DSV4MX_COMM_CALLBACK;
  layout.timeout_ns = kTimeout;
  int32_t devices = 0;
  if (cuda) Must(dsv4mx_device_get_count(DSV4MX_DEVICE_CUDA, &devices), "device_get_count");
  for (int r = 0; r < size && devices > 1; ++r) layout.devices.push_back(r % devices);
  Rank rank;
  rank.rank = rank_number;
  MakePart(c, layout, &rank);
  // What one rank that holds all experts computes of this rank's tokens.
  const std::vector<uint8_t> whole = Runner(c).Apply().raw;
  const Share share = ShareOf(c.p, layout, rank_number);
  const size_t row = static_cast<size_t>(c.p.hidden) * 2;
  const std::vector<uint8_t> wanted(
      whole.begin() + static_cast<ptrdiff_t>(share.first * static_cast<int64_t>(row)),
      whole.begin() +
          static_cast<ptrdiff_t>((share.first + share.count) * static_cast<int64_t>(row)));
  Line line{fd, size};
  for (;;) {
    dsv4mx_comm_desc d = CommDescOf(c.p, layout, rank_number, 0);
    d.all_gather = GatherOverLine;
    d.user = &line;
    JoinWith(c, d, &rank);
    for (int32_t round = 1;; ++round) {
      std::vector<uint8_t> rows;
      CallOptions options;
      options.rows = &rows;
      const auto begin = Clock::now();
      dsv4mx_status status = DSV4MX_STATUS_OK;
      try {
        (void)ApplyShare(c, layout, rank, options);
      } catch (const Refused& e) {
        status = e.status;
      }
      dsv4mx_comm_fault_info f = DSV4MX_COMM_FAULT_INFO_INIT;
      Must(dsv4mx_comm_query_faults(rank.comm.get(), &f), "query_faults");
      // On a GPU apply has returned when its kernels find a fault.
      if (cuda && status == DSV4MX_STATUS_OK) status = f.status;
      if (status != DSV4MX_STATUS_OK) {
        const Message m{kFault, status, Since(begin), f.rank, AllNaN(rows) && f.status == status};
        if (!Send(fd, &m, sizeof m)) return 1;
        break;
      }
      const Message m{kRound, round, Since(begin), 0, rows == wanted};
      if (!Send(fd, &m, sizeof m)) return 1;
    }
    rank.comm.reset();
    char go = 0;
    if (!Receive(fd, &go, 1) || go == 'q') return 0;
  }
}

struct Process {
  pid_t pid = 0;
  int fd = -1;
  std::vector<uint8_t> gather;  // waits for the others
  bool waits = false;
  bool faulted = false;
};

Process Start(const char* self, int rank, int size, bool cuda) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) std::perror("socketpair"), std::exit(2);
  Process p;
  p.pid = fork();
  if (p.pid == 0) {
    // Ends of other ranks' lines must not stay open here.
    for (int fd = 3; fd < 256; ++fd) {
      if (fd != pair[1]) close(fd);
    }
    execl(self, self, "--rank", std::to_string(rank).c_str(), std::to_string(size).c_str(),
          std::to_string(pair[1]).c_str(), cuda ? kCuda : nullptr, static_cast<char*>(nullptr));
    _exit(127);
  }
  close(pair[1]);
  p.fd = pair[0];
  return p;
}

#define EXPECT(condition, ...)                                  \
  do {                                                          \
    if (!(condition)) {                                         \
      std::printf("turn %d: ", turn), std::printf(__VA_ARGS__); \
      std::printf("\n"), ++failures;                            \
    }                                                           \
  } while (0)

int ParentMain(const char* self, int turns, int size, bool cuda) {
  std::mt19937 random(std::random_device{}());
  int failures = 0, lost = 0, timeouts = 0;
  double slowest = 0;
  int64_t rounds = 0;
  std::vector<Process> ranks;
  for (int r = 0; r < size; ++r) ranks.push_back(Start(self, r, size, cuda));
  for (int turn = 0; turn < turns; ++turn) {
    const int victim = static_cast<int>(random() % static_cast<unsigned>(size));
    const int after = static_cast<int>(random() % 20);  // rounds, then microseconds
    const auto delay = std::chrono::microseconds(random() % 2000);
    int faults = 0;
    bool killed = false;
    Clock::time_point when{};
    const auto begin = Clock::now();
    while (faults < size - 1) {
      if (Since(begin) > 60) {
        std::printf("turn %d: survivors did not answer within 60 s\n", turn);
        for (const Process& p : ranks) kill(p.pid, SIGKILL);
        return 1;
      }
      std::vector<pollfd> polls;
      for (const Process& p : ranks) polls.push_back({p.waits || p.fd < 0 ? -1 : p.fd, POLLIN, 0});
      poll(polls.data(), polls.size(), 100);
      for (int r = 0; r < size; ++r) {
        Process& p = ranks[static_cast<size_t>(r)];
        if ((polls[static_cast<size_t>(r)].revents & (POLLIN | POLLHUP)) == 0) continue;
        Message m;
        if (!Receive(p.fd, &m, sizeof m)) {
          EXPECT(killed && r == victim, "rank %d ended by itself", r);
          close(p.fd), p.fd = -1;
          if (!killed) return 1;
          continue;
        }
        switch (m.kind) {
          case kGather:
            p.gather.resize(static_cast<size_t>(m.value));
            p.waits = Receive(p.fd, p.gather.data(), p.gather.size());
            break;
          case kRound:
            ++rounds;
            EXPECT(m.good, "rank %d: wrong rows in round %d", r, m.value);
            if (r == victim && m.value >= after && !killed) {
              std::this_thread::sleep_for(delay);
              kill(p.pid, SIGKILL);
              killed = true, when = Clock::now();
            }
            break;
          case kFault: {
            const double seconds = std::min(m.seconds, Since(when));
            slowest = std::max(slowest, seconds);
            ++faults;
            (m.value == DSV4MX_STATUS_COMM_RANK_LOST ? lost : timeouts)++;
            EXPECT(killed, "rank %d: a fault before the kill: status %d of rank %d", r, m.value,
                   m.rank);
            EXPECT(m.value == DSV4MX_STATUS_COMM_RANK_LOST || m.value == DSV4MX_STATUS_COMM_TIMEOUT,
                   "rank %d: status %d", r, m.value);
            EXPECT(m.rank == victim, "rank %d blames rank %d, the victim is %d", r, m.rank, victim);
            EXPECT(m.good, "rank %d: rows that are not NaN, or a poll that says otherwise", r);
            EXPECT(seconds < 1e-9 * kTimeout + 3, "rank %d: %.3f s", r, seconds);
            break;
          }
          default:
            break;
        }
      }
      bool all = true;
      for (const Process& p : ranks) all = all && p.waits;
      if (!all) continue;
      std::vector<uint8_t> answer;
      for (const Process& p : ranks) answer.insert(answer.end(), p.gather.begin(), p.gather.end());
      for (Process& p : ranks) p.waits = false, (void)Send(p.fd, answer.data(), answer.size());
    }
    Process& dead = ranks[static_cast<size_t>(victim)];
    waitpid(dead.pid, nullptr, 0);
    if (dead.fd >= 0) close(dead.fd);
    const bool last = turn + 1 == turns;
    for (int r = 0; r < size; ++r) {
      if (r != victim) (void)Send(ranks[static_cast<size_t>(r)].fd, last ? "q" : "g", 1);
    }
    if (last) {
      for (int r = 0; r < size; ++r) {
        int status = 0;
        if (r == victim) continue;
        waitpid(ranks[static_cast<size_t>(r)].pid, &status, 0);
        EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0, "rank %d ended with %x", r, status);
      }
    } else {
      dead = Start(self, victim, size, cuda);
    }
  }
  std::printf(
      "%d kills of %d ranks, %lld rounds between: %d times RANK_LOST, %d times TIMEOUT, slowest "
      "%.3f s\n",
      turns, size, static_cast<long long>(rounds), lost, timeouts, slowest);
  std::printf("%d passed, %d failed, 0 skipped\n", failures == 0 ? turns : 0, failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace dsv4mx::test

int main(int argc, char** argv) {
  using namespace dsv4mx::test;  // NOLINT
  try {
    const bool cuda = argc > 3 && std::string(argv[argc - 1]) == kCuda;
    if (argc >= 5 && std::string(argv[1]) == "--rank")
      return RankMain(std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]), cuda);
    return ParentMain(argv[0], argc > 1 ? std::atoi(argv[1]) : 100,
                      argc > 2 ? std::atoi(argv[2]) : 4, cuda);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 3;
  }
}
