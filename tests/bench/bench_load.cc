// dsv4mx-bench-load: from page cache to prepared experts. Makes a synthetic checkpoint where it is read, then times, twice,
// since the first touch of a virtual machine's memory is slow: a plain copy of the same bytes out of page cache by as many
// threads, the load, and prepare. On CUDA also a plain copy of the same bytes from pinned memory, and repacking alone.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/bench/tool.h"
#include "tests/problems.h"
#include "tests/random.h"
#include "tests/runner.h"
#if DSV4MX_HAVE_CUDA
#include <cuda_runtime_api.h>
#endif

namespace dsv4mx::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;
using test::Must;
using test::Problem;
using test::Rng;

constexpr const char* kTool = "dsv4mx-bench-load";
const char kHelp[] =
    "usage: dsv4mx-bench-load [options] \"problem\"...\n"
    "\n"
    "  --folder DIR   where the checkpoint is made and read; default: the system's temporary "
    "folder\n"
    "  --threads N    that read, 1..64; default: the library's choice, and all processors for the\n"
    "                 plain copy\n"
    "  --passes N     default 2\n"
    "  --json FILE    write everything as JSON too\n"
    "\n"
    "A problem is one layer as dsv4mx-bench takes it, \"flash e=64 dev=cuda\"; tp=N loads slice "
    "0.\n"
    "Exit code: 0 all right, 1 failed, 2 usage.\n";

double Seconds(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Seconds of processors that this process used, on a shared machine the steadier measure.
double CpuSeconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

[[noreturn]] void Throw(const std::string& what) {
  throw std::runtime_error(what);
}

#if DSV4MX_HAVE_CUDA
void Cuda(cudaError_t error, const char* call) {
  if (error != cudaSuccess) Throw(std::string(call) + ": " + cudaGetErrorString(error));
}
#endif

// A file that goes away with the object.
class Checkpoint {
 public:
  Checkpoint(const std::string& folder, const Problem& p)
      : path_(folder + "/dsv4mx-bench-load.safetensors") {
    const int64_t h = p.hidden, i = p.intermediate;
    const struct {
      const char* name;
      bool codes;
      int64_t rows, k;
    } tensors[] = {{"w1.weight", true, i, h}, {"w1.scale", false, i, h}, {"w3.weight", true, i, h},
                   {"w3.scale", false, i, h}, {"w2.weight", true, h, i}, {"w2.scale", false, h, i}};
    std::string header = "{";
    for (int32_t e = 0; e < p.experts; ++e) {
      for (const auto& t : tensors) {
        const int64_t columns = t.codes ? t.k / 2 : t.k / 32, end = bytes_ + t.rows * columns;
        header += (header.size() > 1 ? ",\"layers.0.ffn.experts." : "\"layers.0.ffn.experts.") +
                  std::to_string(e) + "." + t.name + "\":{\"dtype\":\"" +
                  (t.codes ? "I8" : "F8_E8M0") + "\",\"shape\":[" + std::to_string(t.rows) + "," +
                  std::to_string(columns) + "],\"data_offsets\":[" + std::to_string(bytes_) + "," +
                  std::to_string(end) + "]}";
        bytes_ = end;
      }
    }
    header += "}";
    data_ = 8 + static_cast<int64_t>(header.size());
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path_.c_str(), "wb"),
                                                         std::fclose);
    if (file == nullptr) Throw(path_ + ": cannot be written");
    const auto put = [&](const void* data, size_t n) {
      if (std::fwrite(data, 1, n, file.get()) != n) Throw(path_ + ": cannot be written");
    };
    const uint64_t length = header.size();
    put(&length, 8);
    put(header.data(), header.size());
    // Any codes do; scales are as in real checkpoints.
    std::vector<uint8_t> codes(size_t{1} << 22), scales(size_t{1} << 20);
    Rng rng(1);
    rng.Bytes(codes.data(), codes.size());
    for (uint8_t& b : scales) b = static_cast<uint8_t>(119 + rng.Below(9));
    for (int32_t e = 0; e < p.experts; ++e) {
      for (const auto& t : tensors) {
        const std::vector<uint8_t>& from = t.codes ? codes : scales;
        auto left = static_cast<size_t>(t.rows * (t.codes ? t.k / 2 : t.k / 32));
        for (size_t n; left > 0; left -= n) put(from.data(), n = std::min(left, from.size()));
      }
    }
    if (std::fflush(file.get()) != 0) Throw(path_ + ": cannot be written");
  }
  ~Checkpoint() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;
  const std::string& path() const { return path_; }
  int64_t bytes() const { return bytes_; }

  // All tensor bytes into `to`, by threads that take blocks of 4 MiB in turn.
  double PlainCopy(uint8_t* to, int threads) const {
    const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) Throw(path_ + ": cannot be opened");
    std::atomic<int64_t> next{0};
    std::atomic<bool> good{true};
    const auto work = [&] {
      constexpr int64_t kBlock = 4 << 20;
      for (int64_t at; (at = next.fetch_add(kBlock)) < bytes_;) {
        const auto n = static_cast<size_t>(std::min(kBlock, bytes_ - at));
        for (size_t done = 0; done < n;) {
          const ssize_t got = pread(fd, to + at + static_cast<int64_t>(done), n - done,
                                    data_ + at + static_cast<int64_t>(done));
          if (got <= 0) {
            good = false;
            return;
          }
          done += static_cast<size_t>(got);
        }
      }
    };
    const auto begin = Clock::now();
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(work);
    work();
    for (std::thread& t : others) t.join();
    const double seconds = Seconds(begin);
    close(fd);
    if (!good) Throw(path_ + ": cannot be read");
    return seconds;
  }

 private:
  std::string path_;
  int64_t bytes_ = 0, data_ = 0;
};

// What the library takes by the hook.
struct Ledger {
  std::map<void*, size_t> live;
  size_t now = 0, peak = 0;
  static void* Alloc(void* user, size_t bytes, size_t alignment, dsv4mx_memory memory,
                     dsv4mx_stream) {
    auto* l = static_cast<Ledger*>(user);
    void* p = nullptr;
    if (memory == DSV4MX_MEMORY_HOST) {
      p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    }
#if DSV4MX_HAVE_CUDA
    if (memory == DSV4MX_MEMORY_DEVICE && cudaMalloc(&p, bytes) != cudaSuccess) p = nullptr;
    if (memory == DSV4MX_MEMORY_PINNED && cudaHostAlloc(&p, bytes, 0) != cudaSuccess) p = nullptr;
#endif
    if (p == nullptr) return nullptr;
    l->live[p] = bytes;
    l->now += bytes;
    l->peak = std::max(l->peak, l->now);
    return p;
  }
  static void Free(void* user, void* p, size_t bytes, dsv4mx_memory memory, dsv4mx_stream) {
    auto* l = static_cast<Ledger*>(user);
    l->now -= bytes;
    l->live.erase(p);
    if (memory == DSV4MX_MEMORY_HOST) std::free(p);
#if DSV4MX_HAVE_CUDA
    if (memory == DSV4MX_MEMORY_DEVICE) (void)cudaFree(p);
    if (memory == DSV4MX_MEMORY_PINNED) (void)cudaFreeHost(p);
#endif
  }
};

#if DSV4MX_HAVE_CUDA
// Two pinned blocks of 32 MiB in turn, as often as the bytes want it, to two places of the device.
double PinnedCopy(int64_t bytes) {
  constexpr int64_t kBlock = 32 << 20;
  void *host[2], *device[2];
  for (int i = 0; i < 2; ++i) {
    Cuda(cudaHostAlloc(&host[i], kBlock, 0), "cudaHostAlloc");
    std::memset(host[i], i, kBlock);
    Cuda(cudaMalloc(&device[i], kBlock), "cudaMalloc");
  }
  const auto copy = [&](int64_t all) {
    for (int64_t at = 0, i = 0; at < all; at += kBlock, i ^= 1) {
      Cuda(cudaMemcpyAsync(device[i], host[i], static_cast<size_t>(std::min(kBlock, all - at)),
                           cudaMemcpyHostToDevice, cudaStreamPerThread),
           "cudaMemcpyAsync");
    }
    Cuda(cudaStreamSynchronize(cudaStreamPerThread), "cudaStreamSynchronize");
  };
  copy(4 * kBlock);
  const auto begin = Clock::now();
  copy(bytes);
  const double seconds = Seconds(begin);
  for (int i = 0; i < 2; ++i) {
    (void)cudaFreeHost(host[i]);
    (void)cudaFree(device[i]);
  }
  return seconds;
}

// Bytes of packed codes a second out of device memory into the layout, over all experts; sources take turns so that they are
// not found in the second-level cache.
double RepackRate(const Problem& p, dsv4mx_weights* weights) {
  const int64_t h = p.hidden, i = p.intermediate, matrix = h * i / 2;
  const int64_t sources = std::max<int64_t>(3, (int64_t{512} << 20) / matrix / 3 * 3);
  uint8_t* codes = nullptr;
  Cuda(cudaMalloc(reinterpret_cast<void**>(&codes), static_cast<size_t>(sources * matrix)),
       "cudaMalloc");
  Cuda(cudaMemset(codes, 0x35, static_cast<size_t>(sources * matrix)), "cudaMemset");
  const auto stream = reinterpret_cast<dsv4mx_stream>(cudaStreamPerThread);
  int64_t bytes = 0;
  const auto all = [&] {
    int64_t source = 0;
    for (int32_t e = 0; e < p.experts; ++e) {
      for (const char* name : {"w1.weight", "w3.weight", "w2.weight"}) {
        const bool down = name[1] == '2';
        dsv4mx_tensor t = test::Tensor(codes + source * matrix, DSV4MX_DTYPE_U8,
                                       {down ? h : i, (down ? i : h) / 2});
        t.memory = DSV4MX_MEMORY_DEVICE;
        Must(dsv4mx_weights_set(weights, name, e, &t, nullptr, stream), "set");
        source = (source + 1) % sources;
        bytes += matrix;
      }
    }
    Cuda(cudaStreamSynchronize(cudaStreamPerThread), "cudaStreamSynchronize");
  };
  all();
  bytes = 0;
  const auto begin = Clock::now();
  all();
  const double seconds = Seconds(begin);
  (void)cudaFree(codes);
  return static_cast<double>(bytes) / seconds;
}
#endif

double LoadAverage() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : -1;
}

Json Run(const Problem& p, const std::string& folder, int threads, int passes) {
  const bool cuda = p.device == DSV4MX_DEVICE_CUDA;
  Ledger ledger;
  dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
  cd.device = p.device;
  cd.threads = cuda ? 0 : threads;
  cd.alloc = Ledger::Alloc;
  cd.free = Ledger::Free;
  cd.alloc_user = &ledger;
  dsv4mx_context* made = nullptr;
  Must(dsv4mx_context_create(&cd, &made), "context_create");
  const test::ContextPtr context(made);
  const Checkpoint file(folder, p);
  dsv4mx_layer_desc desc = test::DescOf(test::Case{p, {}, {}, {}});
  desc.tp_size = p.tp;
  const test::LayerPtr layer = test::MakeLayer(context.get(), desc);
  dsv4mx_layer_info info = DSV4MX_LAYER_INFO_INIT;
  Must(dsv4mx_layer_query(layer.get(), &info), "layer_query");
  const int copiers =
      threads != 0 ? threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));

  dsv4mx_checkpoint_args open = DSV4MX_CHECKPOINT_ARGS_INIT;
  open.threads = threads;
  dsv4mx_checkpoint* checkpoint = nullptr;
  Must(dsv4mx_checkpoint_create(file.path().c_str(), &open, &checkpoint), "checkpoint_create");
  const std::unique_ptr<dsv4mx_checkpoint, void (*)(dsv4mx_checkpoint*)> own(
      checkpoint, dsv4mx_checkpoint_destroy);

  // Both results lie in memory that the passes share, so that the second finds it touched.
  const auto all = static_cast<size_t>(file.bytes());
  const std::unique_ptr<uint8_t[]> plain(new uint8_t[all]);
  void* memory = nullptr;
  Must(dsv4mx_context_alloc(context.get(), static_cast<size_t>(info.prepared_bytes), &memory),
       "alloc");
  Json result = {{"problem", test::ProblemText(p)}, {"backend", info.backend},
                 {"source_bytes", file.bytes()},    {"prepared_bytes", info.prepared_bytes},
                 {"reading_threads", threads},      {"copy_threads", copiers}};
  std::printf("%s, %s: %.3f GB\n", test::ProblemText(p).c_str(), info.backend,
              static_cast<double>(all) / 1e9);
  size_t peak = 0;
  for (int pass = 1; pass <= passes; ++pass) {
    Json one = {{"pass", pass}, {"load_average", LoadAverage()}};
    const double cpu0 = CpuSeconds();
    const double copy = file.PlainCopy(plain.get(), copiers);
    const double copy_cpu = CpuSeconds() - cpu0;
    dsv4mx_weights_desc where = DSV4MX_WEIGHTS_DESC_INIT;
    where.memory = memory;
    where.memory_bytes = static_cast<size_t>(info.prepared_bytes);
    dsv4mx_weights* weights = nullptr;
    const size_t before = ledger.now;
    ledger.peak = before;
    Must(dsv4mx_weights_create(layer.get(), &where, &weights), "weights_create");
    const test::WeightsPtr keep(weights);
    const double cpu1 = CpuSeconds();
    const auto begin = Clock::now();
    Must(dsv4mx_weights_load(weights, checkpoint, test::Block(0), nullptr, nullptr), "load");
    const double load = Seconds(begin), load_cpu = CpuSeconds() - cpu1;
    const auto middle = Clock::now();
    Must(dsv4mx_weights_prepare(weights, nullptr, nullptr), "prepare");
    const double prepare = Seconds(middle), prepare_cpu = CpuSeconds() - cpu1 - load_cpu;
    peak = std::max(peak, ledger.peak - before);
    const double gb = static_cast<double>(all) / 1e9;
    one["plain_copy_s"] = copy;
    one["load_s"] = load;
    one["prepare_s"] = prepare;
    one["plain_copy_cpu_s"] = copy_cpu;
    one["load_cpu_s"] = load_cpu;
    one["prepare_cpu_s"] = prepare_cpu;
    one["load_gb_s"] = gb / (load + prepare);
    one["times_plain_copy"] = (load + prepare) / copy;
    std::printf(
        "  pass %d: plain copy %.3f s (%.2f GB/s), load %.3f s, prepare %.3f s: %.2f GB/s, %.2f "
        "times the copy",
        pass, copy, gb / copy, load, prepare, gb / (load + prepare), (load + prepare) / copy);
    std::printf("; of processors: %.3f, %.3f, %.3f s", copy_cpu, load_cpu, prepare_cpu);
#if DSV4MX_HAVE_CUDA
    if (cuda) {
      const double pinned = PinnedCopy(file.bytes());
      one["pinned_copy_s"] = pinned;
      one["times_pinned_copy"] = (load + prepare) / pinned;
      std::printf("; pinned copy %.3f s (%.2f GB/s): %.2f times", pinned, gb / pinned,
                  (load + prepare) / pinned);
    }
#endif
    std::printf("\n");
    result["passes"].push_back(one);
  }
#if DSV4MX_HAVE_CUDA
  if (cuda) {
    dsv4mx_weights_desc where = DSV4MX_WEIGHTS_DESC_INIT;
    where.memory = memory;
    where.memory_bytes = static_cast<size_t>(info.prepared_bytes);
    dsv4mx_weights* weights = nullptr;
    Must(dsv4mx_weights_create(layer.get(), &where, &weights), "weights_create");
    const test::WeightsPtr keep(weights);
    const double rate = RepackRate(p, weights);
    result["repack_codes_gb_s"] = rate / 1e9;
    std::printf("  repacking codes alone: %.0f GB/s\n", rate / 1e9);
  }
#endif
  dsv4mx_context_free(context.get(), memory);
  result["peak_extra_bytes"] = info.peak_extra_bytes;
  result["peak_taken_bytes"] = peak;
  std::printf("  beside the weights: %zu bytes taken, %lld promised\n", peak,
              static_cast<long long>(info.peak_extra_bytes));
  return result;
}

int Main(int argc, char** argv) {
  std::string folder = std::filesystem::temp_directory_path(), json;
  int threads = 0, passes = 2;
  enum { kFolder = 1, kThreads, kPasses, kJson };
  const option known[] = {{"help", no_argument, nullptr, 'h'},
                          {"folder", required_argument, nullptr, kFolder},
                          {"threads", required_argument, nullptr, kThreads},
                          {"passes", required_argument, nullptr, kPasses},
                          {"json", required_argument, nullptr, kJson},
                          {}};
  const auto number = [](const char* name, long most) {
    char* end;
    const long v = std::strtol(optarg, &end, 10);
    if (*optarg == 0 || *end != 0 || v < 1 || v > most) {
      UsageError(kTool, std::string(name) + ": got \"" + optarg + "\", wanted 1 to " +
                            std::to_string(most));
    }
    return static_cast<int>(v);
  };
  std::string command = kTool;
  for (int i = 1; i < argc; ++i) {
    command +=
        std::string(" ") +
        (std::strchr(argv[i], ' ') != nullptr ? "\"" + std::string(argv[i]) + "\"" : argv[i]);
  }
  for (int code; (code = NextOption(kTool, argc, argv, known)) != -1;) {
    if (code == 'h') {
      std::printf("%s", kHelp);
      return kGood;
    }
    if (code == kFolder) folder = optarg;
    if (code == kThreads) threads = number("--threads", 64);
    if (code == kPasses) passes = number("--passes", 100);
    if (code == kJson) json = optarg;
  }
  if (optind == argc) UsageError(kTool, "wanted a problem, such as \"flash e=64\"");
  Json report = {{"tool", kTool},
                 {"version", dsv4mx_version_string()},
                 {"command", command},
                 {"processors", std::thread::hardware_concurrency()}};
  for (int i = optind; i < argc; ++i) {
    try {
      report["results"].push_back(Run(test::Parse(argv[i]), folder, threads, passes));
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s: %s: %s\n", kTool, argv[i], error.what());
      return kFailed;
    }
  }
  if (json.empty()) return kGood;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(json.c_str(), "w"), std::fclose);
  const std::string text = report.dump(2) + "\n";
  if (file == nullptr || std::fwrite(text.data(), 1, text.size(), file.get()) != text.size()) {
    std::fprintf(stderr, "%s: %s cannot be written\n", kTool, json.c_str());
    return kFailed;
  }
  return kGood;
}

}  // namespace
}  // namespace dsv4mx::bench

int main(int argc, char** argv) {
  return dsv4mx::bench::Main(argc, argv);
}
