// dsv4mx-bench-load: from page cache to prepared experts. Makes a synthetic checkpoint where it is read, then times, more than
// once, since the first touch of a virtual machine's memory is slow: a plain copy of the same bytes out of page cache by as
// many threads, the load, and prepare. On CUDA also a plain copy of the same bytes from pinned memory, and repacking alone.
#include <sys/resource.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/bench/load_device.h"
#if DSV4MX_HAVE_CUDA
#include "tests/bench/load_floor.h"
#endif
#include "tests/bench/load_slices.h"
#include "tests/bench/synthetic_checkpoint.h"
#include "tests/bench/tool.h"
#include "tests/problems.h"
#include "tests/runner.h"

namespace dsv4mx::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;
using test::Must;
using test::Problem;

constexpr const char* kTool = "dsv4mx-bench-load";
const char kHelp[] =
    "usage: dsv4mx-bench-load [options] \"problem\"...\n"
    "\n"
    "  --folder DIR     where the checkpoint is made and read; default: the system's temporary "
    "folder\n"
    "  --threads N,..   that read, 1..64; default: the library's choice, and all processors for "
    "the\n"
    "                   plain copy\n"
    "  --staging N,..   MiB of memory beside the weights; default: the library's choice\n"
    "  --passes N       of each, default 2\n"
    "  --snapshot       also save a snapshot of the layer in DIR and restore it\n"
    "  --processes N    only let so many processes load a slice each at the same time, first with "
    "the\n"
    "                   file out of the page cache; fails where they read anything twice\n"
    "  --floor          also what the host allows without the library: reads into small slots of "
    "pinned\n"
    "                   memory, copies, and both at once, in many ways\n"
    "  --make LAYERS    write a model of so many such layers to DIR, and do nothing else\n"
    "  --json FILE      write everything as JSON too\n"
    "\n"
    "A problem is one layer as dsv4mx-bench takes it, \"flash e=64 dev=cuda\"; tp=N loads slice "
    "0.\n"
    "Exit code: 0 all right, 1 failed, 2 usage.\n";

struct Options {
  std::string folder, json;
  std::vector<int> threads = {0}, staging = {0};
  int passes = 2, processes = 0, make = 0;
  bool snapshot = false, floor = false;
};

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

double LoadAverage() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : -1;
}

struct RemovedFile {
  std::string path;
  ~RemovedFile() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
};

struct CloseCheckpoint {
  void operator()(dsv4mx_checkpoint* p) const { dsv4mx_checkpoint_destroy(p); }
};

// One problem: what its passes share.
class Loading {
 public:
  Loading(const Problem& p, const Options& options)
      : p_(p),
        options_(options),
        file_{OwnFile(options.folder, "layer.safetensors")},
        layer_file_(file_.path, p, 0) {
    dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
    cd.device = p.device;
    cd.log = Say;
    cd.log_user = this;
    cd.log_level = DSV4MX_LOG_DEBUG;
    dsv4mx_context* made = nullptr;
    Must(dsv4mx_context_create(&cd, &made), "context_create");
    context_.reset(made);
    dsv4mx_layer_desc desc = test::DescOf(test::Case{p, {}, {}, {}});
    desc.tp_size = p.tp;
    desc.w13_order = DSV4MX_W13_ORDER_GATE_UP;  // of what repacking is given; files say theirs
    desc_ = desc;
    layer_ = test::MakeLayer(context_.get(), desc);
    Must(dsv4mx_layer_query(layer_.get(), &info_), "layer_query");
    // Results lie in memory that the passes share, so that only the first meets it untouched.
    plain_.reset(new uint8_t[static_cast<size_t>(layer_file_.bytes())]);
    Must(dsv4mx_context_alloc(context_.get(), static_cast<size_t>(info_.prepared_bytes), &memory_),
         "alloc");
  }
  ~Loading() { dsv4mx_context_free(context_.get(), memory_); }
  Loading(const Loading&) = delete;
  Loading& operator=(const Loading&) = delete;

  Json Run() {
    std::printf("%s, %s: %.3f GB\n", test::ProblemText(p_).c_str(), info_.backend,
                1e-9 * static_cast<double>(layer_file_.bytes()));
    Json result = {{"problem", test::ProblemText(p_)},
                   {"backend", info_.backend},
                   {"source_bytes", layer_file_.bytes()},
                   {"prepared_bytes", info_.prepared_bytes},
                   {"peak_extra_bytes", info_.peak_extra_bytes}};
    for (const int threads : options_.threads) {
      for (const int staging : options_.staging) {
        for (int pass = 1; pass <= options_.passes; ++pass) {
          result["passes"].push_back(Pass(threads, staging, pass));
        }
      }
    }
    result["memory"] = Memory();
    if (options_.snapshot) result["snapshot"] = Snapshot();
#if DSV4MX_HAVE_CUDA
    if (Cuda()) {
      result["device_bytes"] = WatchDevice();
      if (p_.tp == 1) result["repack"] = RepackAlone();
      if (options_.floor) {
        result["floor"] = LoadFloor(file_.path, layer_file_.data(), layer_file_.bytes(), {});
      }
    }
#endif
    return result;
  }

 private:
  bool Cuda() const {
    return p_.device == DSV4MX_DEVICE_CUDA;
  }

  static void Say(void* user, dsv4mx_log_level, const char* text) {
    static_cast<Loading*>(user)->log_.emplace_back(text);
  }

  test::WeightsPtr MakeWeights() const {
    return MakeWeights(layer_.get());
  }
  test::WeightsPtr MakeWeights(const dsv4mx_layer* layer) const {
    dsv4mx_weights_desc where = DSV4MX_WEIGHTS_DESC_INIT;
    where.memory = memory_;
    where.memory_bytes = static_cast<size_t>(info_.prepared_bytes);
    dsv4mx_weights* weights = nullptr;
    Must(dsv4mx_weights_create(layer, &where, &weights), "weights_create");
    return test::WeightsPtr(weights);
  }

  using CheckpointPtr = std::unique_ptr<dsv4mx_checkpoint, CloseCheckpoint>;
  CheckpointPtr Open(int threads) const {
    dsv4mx_checkpoint_args open = DSV4MX_CHECKPOINT_ARGS_INIT;
    open.threads = threads;
    dsv4mx_checkpoint* checkpoint = nullptr;
    Must(dsv4mx_checkpoint_create(file_.path.c_str(), &open, &checkpoint), "checkpoint_create");
    return CheckpointPtr(checkpoint);
  }

  static void Load(dsv4mx_weights* weights, dsv4mx_checkpoint* checkpoint, int staging) {
    dsv4mx_load_args args = DSV4MX_LOAD_ARGS_INIT;
    args.staging_bytes = int64_t{staging} << 20;
    Must(dsv4mx_weights_load(weights, checkpoint, test::Block(0), &args, nullptr), "load");
  }

  Json Pass(int threads, int staging, int pass) {
    const int copiers = threads != 0
                            ? threads
                            : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    const double gb = 1e-9 * static_cast<double>(layer_file_.bytes());
    Json one = {{"threads", threads},
                {"copy_threads", copiers},
                {"staging_mib", staging},
                {"pass", pass},
                {"load_average", LoadAverage()}};
    const CheckpointPtr checkpoint = Open(threads);
    const double cpu0 = CpuSeconds();
    const double copy = layer_file_.PlainCopy(plain_.get(), copiers);
    const double copy_cpu = CpuSeconds() - cpu0;
    log_.clear();
    const test::WeightsPtr weights = MakeWeights();
    const double cpu1 = CpuSeconds();
    const auto begin = Clock::now();
    Load(weights.get(), checkpoint.get(), staging);
    const double load = Seconds(begin), load_cpu = CpuSeconds() - cpu1;
    const auto middle = Clock::now();
    Must(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr), "prepare");
    const double prepare = Seconds(middle), prepare_cpu = CpuSeconds() - cpu1 - load_cpu;
    const double both = load + prepare;
    one["plain_copy_s"] = copy;
    one["load_s"] = load;
    one["prepare_s"] = prepare;
    one["plain_copy_cpu_s"] = copy_cpu;
    one["load_cpu_s"] = load_cpu;
    one["prepare_cpu_s"] = prepare_cpu;
    one["load_gb_s"] = gb / both;
    one["times_plain_copy"] = both / copy;
    std::printf("  ");
    if (threads != 0) std::printf("%d threads, ", threads);
    if (staging != 0) std::printf("%d MiB, ", staging);
    std::printf(
        "pass %d: plain copy %.3f s (%.2f GB/s), load %.4f s, prepare %.4f s: %.2f GB/s, %.2f "
        "times the copy; of processors: %.3f, %.3f, %.3f s",
        pass, copy, gb / copy, load, prepare, gb / both, both / copy, copy_cpu, load_cpu,
        prepare_cpu);
#if DSV4MX_HAVE_CUDA
    if (Cuda()) {
      const double pinned = PinnedCopy(layer_file_.bytes());
      one["pinned_copy_s"] = pinned;
      one["times_pinned_copy"] = both / pinned;
      std::printf("; pinned copy %.4f s (%.2f GB/s): %.2f times", pinned, gb / pinned,
                  both / pinned);
    }
#endif
    std::printf("\n");
    for (const std::string& text : log_) std::printf("    %s\n", text.c_str());
    one["log"] = log_;
    std::fflush(stdout);
    return one;
  }

  // By the allocator hook, whose own memory may take longer to come by: in a pass of its own.
  Json Memory() const {
    Ledger ledger;
    dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
    cd.device = p_.device;
    ledger.Hook(&cd);
    dsv4mx_context* made = nullptr;
    Must(dsv4mx_context_create(&cd, &made), "context_create");
    const test::ContextPtr context(made);
    const test::LayerPtr layer = test::MakeLayer(context.get(), desc_);
    const size_t before = ledger.now();
    ledger.BeginPeak();
    const test::WeightsPtr weights = MakeWeights(layer.get());
    const auto begin = Clock::now();
    Load(weights.get(), Open(0).get(), 0);
    Must(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr), "prepare");
    const double seconds = Seconds(begin);
    const size_t most = ledger.peak() - before;
    std::printf(
        "  memory beside the weights by the allocator hook: %zu bytes, %lld promised; its own "
        "time %.4f of %.4f s\n",
        most, static_cast<long long>(info_.peak_extra_bytes), ledger.seconds(), seconds);
    return {{"taken_bytes", most},
            {"promised_bytes", info_.peak_extra_bytes},
            {"allocator_s", ledger.seconds()},
            {"seconds", seconds}};
  }

  Json Snapshot() {
    const RemovedFile file{OwnFile(options_.folder, "layer.snapshot")};
    const double gb = 1e-9 * static_cast<double>(info_.prepared_bytes);
    Json rows = Json::array();
    const auto add = [&](const char* what, int level, double seconds) {
      rows.push_back({{"what", what},
                      {"level", level},
                      {"seconds", seconds},
                      {"gb_s", gb / seconds},
                      {"file_bytes", std::filesystem::file_size(file.path)}});
      std::printf("  snapshot, level %d: %s %.3f s (%.2f GB/s)\n", level, what, seconds,
                  gb / seconds);
      std::fflush(stdout);
    };
    for (const int level : {0, -1}) {
      test::WeightsPtr weights = MakeWeights();
      Load(weights.get(), Open(0).get(), 0);
      Must(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr), "prepare");
      dsv4mx_snapshot_args args = DSV4MX_SNAPSHOT_ARGS_INIT;
      args.level = level;
      for (int round = 0; round < options_.passes; ++round) {
        const auto begin = Clock::now();
        Must(dsv4mx_weights_save(weights.get(), file.path.c_str(), &args, nullptr), "save");
        add("save", level, Seconds(begin));
      }
      for (int round = 0; round < options_.passes; ++round) {
        weights = nullptr;
        weights = MakeWeights();
        const auto begin = Clock::now();
        Must(dsv4mx_weights_restore(weights.get(), file.path.c_str(), &args, nullptr), "restore");
        add("restore", level, Seconds(begin));
      }
    }
    return rows;
  }

#if DSV4MX_HAVE_CUDA
  // As the driver counts: also what no hook sees.
  Json WatchDevice() {
    const test::WeightsPtr weights = MakeWeights();
    const CheckpointPtr checkpoint = Open(0);
    DeviceWatch watch;
    Load(weights.get(), checkpoint.get(), 0);
    Must(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr), "prepare");
    const int64_t most = watch.Most();
    std::printf("  device memory by the driver's count: %lld bytes beside the weights\n",
                static_cast<long long>(most));
    return most;
  }

  Json RepackAlone() {
    const test::WeightsPtr weights = MakeWeights();
    const RepackRate r = Repack(p_, weights.get());
    const double bytes = static_cast<double>(r.bytes);
    std::printf("  repacking codes alone: %.0f GB/s by the device's clock, %.0f by the host's\n",
                1e-9 * bytes / r.device_s, 1e-9 * bytes / r.call_s);
    return {{"code_bytes", r.bytes},
            {"device_gb_s", 1e-9 * bytes / r.device_s},
            {"host_gb_s", 1e-9 * bytes / r.call_s}};
  }
#endif

  const Problem p_;
  const Options& options_;
  RemovedFile file_;
  LayerFile layer_file_;
  std::vector<std::string> log_;
  dsv4mx_layer_desc desc_ = DSV4MX_LAYER_DESC_INIT;
  test::ContextPtr context_;
  test::LayerPtr layer_;
  dsv4mx_layer_info info_ = DSV4MX_LAYER_INFO_INIT;
  std::unique_ptr<uint8_t[]> plain_;
  void* memory_ = nullptr;
};

int Number(const char* name, const char* text, char** end, long most) {
  const long v = std::strtol(text, end, 10);
  if (*end == text || v < 1 || v > most) {
    UsageError(kTool,
               std::string(name) + ": got \"" + optarg + "\", wanted 1 to " + std::to_string(most));
  }
  return static_cast<int>(v);
}

// Of the option that was just met: one, or several behind commas.
std::vector<int> Numbers(const char* name, long most, bool several) {
  std::vector<int> all;
  const char* at = optarg;
  for (char* end = nullptr;; at = end + 1) {
    all.push_back(Number(name, at, &end, most));
    if (*end == 0) return all;
    if (*end != ',' || !several) Number(name, "", &end, most);
  }
}

Options ParseOptions(int argc, char** argv) {
  Options o;
  o.folder = std::filesystem::temp_directory_path();
  enum { kFolder = 1, kThreads, kStaging, kPasses, kSnapshot, kProcesses, kFloor, kMake, kJson };
  const option known[] = {{"help", no_argument, nullptr, 'h'},
                          {"folder", required_argument, nullptr, kFolder},
                          {"threads", required_argument, nullptr, kThreads},
                          {"staging", required_argument, nullptr, kStaging},
                          {"passes", required_argument, nullptr, kPasses},
                          {"snapshot", no_argument, nullptr, kSnapshot},
                          {"processes", required_argument, nullptr, kProcesses},
                          {"floor", no_argument, nullptr, kFloor},
                          {"make", required_argument, nullptr, kMake},
                          {"json", required_argument, nullptr, kJson},
                          {}};
  for (int code; (code = NextOption(kTool, argc, argv, known)) != -1;) {
    if (code == 'h') {
      std::printf("%s", kHelp);
      std::exit(kGood);
    }
    if (code == kFolder) o.folder = optarg;
    if (code == kThreads) o.threads = Numbers("--threads", 64, true);
    if (code == kStaging) o.staging = Numbers("--staging", 1024, true);
    if (code == kPasses) o.passes = Numbers("--passes", 100, false)[0];
    if (code == kSnapshot) o.snapshot = true;
    if (code == kProcesses) o.processes = Numbers("--processes", 64, false)[0];
    if (code == kFloor) o.floor = true;
    if (code == kMake) o.make = Numbers("--make", 1000, false)[0];
    if (code == kJson) o.json = optarg;
  }
  if (optind == argc) UsageError(kTool, "wanted a problem, such as \"flash e=64\"");
  if (o.make != 0 && argc - optind != 1) UsageError(kTool, "--make: wanted one problem");
  return o;
}

int Main(int argc, char** argv) {
  std::string command = kTool;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    command += word.find(' ') != std::string::npos ? " \"" + word + "\"" : " " + word;
  }
  const Options options = ParseOptions(argc, argv);
  Json report = {{"tool", kTool},
                 {"version", dsv4mx_version_string()},
                 {"command", command},
                 {"processors", std::thread::hardware_concurrency()}};
  for (int i = optind; i < argc; ++i) {
    try {
      const Problem problem = test::Parse(argv[i]);
      if (options.make != 0) {
        const auto begin = Clock::now();
        const int64_t bytes = WriteModel(options.folder, problem, options.make);
        std::printf("%s: %d layers, %lld bytes, written in %.1f s\n", options.folder.c_str(),
                    options.make, static_cast<long long>(bytes), Seconds(begin));
        return kGood;
      }
      report["results"].push_back(
          options.processes != 0
              ? LoadSlices(problem, options.folder, options.processes, options.passes)
              : Loading(problem, options).Run());
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s: %s: %s\n", kTool, argv[i], error.what());
      return kFailed;
    }
  }
  if (options.json.empty()) return kGood;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(options.json.c_str(), "w"),
                                                       std::fclose);
  const std::string text = report.dump(2) + "\n";
  if (file == nullptr || std::fwrite(text.data(), 1, text.size(), file.get()) != text.size()) {
    std::fprintf(stderr, "%s: %s cannot be written\n", kTool, options.json.c_str());
    return kFailed;
  }
  return kGood;
}

}  // namespace
}  // namespace dsv4mx::bench

int main(int argc, char** argv) {
  return dsv4mx::bench::Main(argc, argv);
}
