#include "tests/bench/load_slices.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <vector>

#include "tests/bench/synthetic_checkpoint.h"
#include "tests/runner.h"

namespace dsv4mx::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;
using test::Must;

[[noreturn]] void Throw(const std::string& what) {
  throw std::runtime_error(what);
}

double Seconds(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// What a process has read so far: by calls of the system, and from a disk.
struct Io {
  int64_t called = 0, fetched = 0, faults = 0;
};
Io IoSoFar() {
  Io io;
  std::ifstream file("/proc/self/io");
  for (std::string name; file >> name;) {
    int64_t value = 0;
    file >> value;
    if (name == "rchar:") io.called = value;
    if (name == "read_bytes:") io.fetched = value;
  }
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  io.faults = used.ru_majflt;
  return io;
}

struct Report {
  double load_s = 0, prepare_s = 0;
  Io io;
};

void Put(int fd, const void* data, size_t bytes) {
  if (write(fd, data, bytes) != static_cast<ssize_t>(bytes)) Throw("a pipe is broken");
}
void Take(int fd, void* data, size_t bytes) {
  if (read(fd, data, bytes) != static_cast<ssize_t>(bytes)) Throw("a process ended early");
}

// A process' life: ready, go, report, for each pass.
void Child(const test::Problem& p, const std::string& path, int rank, int processes, int passes,
           int go, int up) {
  Report report;
  int pass = 0;
  try {
    dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
    cd.device = p.device;
    cd.threads = p.threads;
    dsv4mx_context* made = nullptr;
    Must(dsv4mx_context_create(&cd, &made), "context_create");
    const test::ContextPtr context(made);
    dsv4mx_layer_desc desc = test::DescOf(test::Case{p, {}, {}, {}});
    desc.tp_size = processes;
    desc.tp_rank = rank;
    const test::LayerPtr layer = test::MakeLayer(context.get(), desc);
    for (; pass < passes; ++pass) {
      const test::WeightsPtr weights = test::MakeWeights(layer.get());
      dsv4mx_checkpoint* checkpoint = nullptr;
      Must(dsv4mx_checkpoint_create(path.c_str(), nullptr, &checkpoint), "checkpoint_create");
      const std::unique_ptr<dsv4mx_checkpoint, void (*)(dsv4mx_checkpoint*)> own(
          checkpoint, dsv4mx_checkpoint_destroy);
      char sign = 0;
      Put(up, &sign, 1);
      Take(go, &sign, 1);
      const Io before = IoSoFar();
      auto begin = Clock::now();
      Must(dsv4mx_weights_load(weights.get(), checkpoint, test::Block(0), nullptr, nullptr),
           "load");
      report.load_s = Seconds(begin);
      begin = Clock::now();
      Must(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr), "prepare");
      report.prepare_s = Seconds(begin);
      const Io after = IoSoFar();
      report.io = {after.called - before.called, after.fetched - before.fetched,
                   after.faults - before.faults};
      Put(up, &report, sizeof report);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "slice %d: %s\n", rank, error.what());
    _exit(1);
  }
  _exit(0);
}

// Bytes of a file that the page cache holds.
int64_t Resident(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const auto bytes = static_cast<size_t>(std::filesystem::file_size(path));
  void* at = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  if (at == MAP_FAILED) return -1;
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((bytes + page - 1) / page);
  const int failed = mincore(at, bytes, pages.data());
  munmap(at, bytes);
  if (failed != 0) return -1;
  const auto held = std::count_if(pages.begin(), pages.end(), [](auto p) { return (p & 1) != 0; });
  return std::min<int64_t>(held * static_cast<int64_t>(page), static_cast<int64_t>(bytes));
}

void Forget(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  (void)fsync(fd);
  (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  close(fd);
}

struct Removed {
  std::string path;
  ~Removed() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
};

}  // namespace

Json LoadSlices(const test::Problem& p, const std::string& folder, int processes, int passes) {
  const Removed file{OwnFile(folder, "slices.safetensors")};
  const LayerFile layer(file.path, p, 0);
  const auto file_bytes = static_cast<int64_t>(std::filesystem::file_size(file.path));
  struct Process {
    pid_t id;
    int go, up;
  };
  std::vector<Process> all;
  for (int rank = 0; rank < processes; ++rank) {
    int go[2], up[2];
    if (pipe(go) != 0 || pipe(up) != 0) Throw("no pipe");
    std::fflush(stdout);
    const pid_t id = fork();
    if (id < 0) Throw("no process");
    if (id == 0) {
      close(go[1]);
      close(up[0]);
      Child(p, file.path, rank, processes, passes, go[0], up[1]);
    }
    close(go[0]);
    close(up[1]);
    all.push_back({id, go[1], up[0]});
  }
  Json result = {{"problem", test::ProblemText(p)},
                 {"processes", processes},
                 {"file_bytes", file_bytes},
                 {"tensor_bytes", layer.bytes()}};
  std::string wrong;
  for (int pass = 0; pass < passes; ++pass) {
    char sign = 0;
    for (const Process& process : all) Take(process.up, &sign, 1);
    if (pass == 0) Forget(file.path);
    const int64_t resident = Resident(file.path);
    const auto begin = Clock::now();
    for (const Process& process : all) Put(process.go, &sign, 1);
    Io sum;
    double slowest = 0;
    for (const Process& process : all) {
      Report report;
      Take(process.up, &report, sizeof report);
      sum.called += report.io.called;
      sum.fetched += report.io.fetched;
      sum.faults += report.io.faults;
      slowest = std::max(slowest, report.load_s + report.prepare_s);
    }
    const double seconds = Seconds(begin);
    result["passes"].push_back({{"resident_before_bytes", resident},
                                {"resident_after_bytes", Resident(file.path)},
                                {"seconds", seconds},
                                {"slowest_s", slowest},
                                {"read_by_calls_bytes", sum.called},
                                {"read_from_disk_bytes", sum.fetched},
                                {"major_faults", sum.faults}});
    std::printf(
        "%d slices, pass %d: %.3f s (%.2f GB/s of the file); of %.3f GB %.3f were in the page "
        "cache; read from the disk %.3f GB, by calls %.3f GB, major faults %lld\n",
        processes, pass + 1, seconds, 1e-9 * static_cast<double>(file_bytes) / seconds,
        1e-9 * static_cast<double>(file_bytes), 1e-9 * static_cast<double>(resident),
        1e-9 * static_cast<double>(sum.fetched), 1e-9 * static_cast<double>(sum.called),
        static_cast<long long>(sum.faults));
    // Pages of readahead at the ends of pieces, and the processes' own files.
    const int64_t beside = int64_t{processes} << 20;
    const int64_t missing = file_bytes - resident;
    // Gate and up once, of down each process every row.
    const int64_t once = layer.bytes() * (2 + processes) / 3;
    if (sum.fetched > missing + beside) wrong = "more came from the disk than was not cached";
    if (sum.called > once + beside) wrong = "more was read than gate and up once";
  }
  for (const Process& process : all) {
    int status = 0;
    if (waitpid(process.id, &status, 0) != process.id || status != 0) wrong = "a process failed";
    close(process.go);
    close(process.up);
  }
  if (!wrong.empty()) Throw(wrong);
  return result;
}

}  // namespace dsv4mx::bench
