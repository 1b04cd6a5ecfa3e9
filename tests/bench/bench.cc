// dsv4mx-bench: times and judges the layer through the public C ABI, on any device, for the problem strings that the
// tests use (tests/problems.h). What is timed is also verified, and every figure stands beside what the same machine
// could do at most in the same run.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/cpu_ceilings.h"
#include "tests/bench/loaded_layer.h"
#include "tests/bench/report.h"
#include "tests/bench/statistics.h"
#include "tests/bench/tool.h"
#include "tests/random.h"

namespace dsv4mx::bench {
namespace {

using test::Problem;

constexpr const char* kTool = "dsv4mx-bench";
constexpr int kLeastRuns = 5;  // of a CPU case

struct Options {
  std::string mode = "performance", json, baseline, cublas;
  double seconds = 0.8;
  int rows = 0;       // to judge; 0 = by mode
  int rotations = 0;  // 0 = as many as leave the caches
  std::vector<std::string> problems;
};

const char kHelp[] =
    "usage: dsv4mx-bench [options] \"problem\"...\n"
    "\n"
    "  --mode MODE      performance (default): time, verify, compare with the ceilings\n"
    "                   correctness: judge one guarded apply per problem against the reference\n"
    "                   list: print the cases and what each has to do, run nothing\n"
    "  --json FILE      write everything as JSON too; - = standard output, and the table to "
    "standard error\n"
    "  --baseline FILE  JSON of an earlier run, whose times then stand beside these\n"
    "  --time SECONDS   per case and ceiling, default 0.8; on a GPU the length of the sustained "
    "state\n"
    "  --rows N         tokens to judge, default 4, correctness 16; their reference is slow\n"
    "  --rotations N    routings to take turns with, default: until 1 GB of weights is read, at "
    "most 16\n"
    "  --cublas FILE    libcublas for the dense ceiling, default: as the loader finds it\n"
    "\n"
    "Any value of a problem may be a comma list: \"flash m=1,64 dev=cuda\". Times are in "
    "microseconds.\n"
    "A floor is max(bytes of the experts hit / read rate, FLOP / compute rate), with the rates "
    "measured\n"
    "in this run: memory reads and fp32 multiply-add on the CPU, memory reads and cuBLAS bf16 on a "
    "GPU.\n"
    "burst: after 0.4 s of rest, a few replays; sustained: without rest, the later half. Before "
    "each "
    "apply\n"
    "a plain kernel writes ids and x, whose own time is taken off. chained: sustained without that "
    "kernel,\n"
    "each apply right behind the one before.\n"
    "Exit code: 0 all right, 1 a case failed, 2 usage.\n"
    "\n";

Options ParseOptions(int argc, char** argv) {
  Options o;
  enum { kMode = 1, kJson, kBaseline, kCublas, kTime, kRows, kRotations };
  const option known[] = {{"help", no_argument, nullptr, 'h'},
                          {"mode", required_argument, nullptr, kMode},
                          {"json", required_argument, nullptr, kJson},
                          {"baseline", required_argument, nullptr, kBaseline},
                          {"cublas", required_argument, nullptr, kCublas},
                          {"time", required_argument, nullptr, kTime},
                          {"rows", required_argument, nullptr, kRows},
                          {"rotations", required_argument, nullptr, kRotations},
                          {}};
  const auto number = [](const char* name, double lo, double hi) {
    char* end;
    const double v = std::strtod(optarg, &end);
    if (*optarg == 0 || *end != 0 || !(v >= lo && v <= hi))
      UsageError(kTool, std::string(name) + ": got \"" + optarg + "\", wanted a number from " +
                            std::to_string(lo) + " to " + std::to_string(hi));
    return v;
  };
  for (int code; (code = NextOption(kTool, argc, argv, known)) != -1;) {
    switch (code) {
      case 'h':
        std::printf("%s%s", kHelp, test::ProblemHelp().c_str());
        std::exit(kGood);
      case kMode:
        o.mode = optarg;
        if (o.mode != "performance" && o.mode != "correctness" && o.mode != "list")
          UsageError(kTool,
                     "--mode: got \"" + o.mode + "\", wanted performance, correctness or list");
        break;
      case kJson:
        o.json = optarg;
        break;
      case kBaseline:
        o.baseline = optarg;
        break;
      case kCublas:
        o.cublas = optarg;
        break;
      case kTime:
        o.seconds = number("--time", 0.001, 600);
        break;
      case kRows:
        o.rows = static_cast<int>(number("--rows", 1, 1 << 20));
        break;
      case kRotations:
        o.rotations = static_cast<int>(number("--rotations", 1, 1024));
        break;
    }
  }
  for (int i = optind; i < argc; ++i) {
    for (const std::string& text : test::ExpandProblems(argv[i])) o.problems.push_back(text);
  }
  if (o.problems.empty()) UsageError(kTool, "wanted a problem, such as \"flash m=1\"");
  if (o.rows == 0) o.rows = o.mode == "correctness" ? 16 : 4;
  return o;
}

// First, last and random tokens in between, in order.
std::vector<int64_t> PickRows(const Problem& p, int rows) {
  std::vector<int64_t> picked;
  if (p.tokens <= rows) {
    for (int64_t t = 0; t < p.tokens; ++t) picked.push_back(t);
    return picked;
  }
  picked = {0};
  if (rows > 1) picked.push_back(p.tokens - 1);
  test::Rng rng(p.seed, 5);
  while (static_cast<int>(picked.size()) < rows) {
    const int64_t t = rng.Below(p.tokens);
    if (std::find(picked.begin(), picked.end(), t) == picked.end()) picked.push_back(t);
  }
  std::sort(picked.begin(), picked.end());
  return picked;
}

class Bench {
 public:
  Bench(const Options& options, Report* report) : options_(options), report_(report) {}

  void Run(const std::string& given) {
    Result result;
    result.given = given;
    try {
      std::string error;
      if (!test::ParseProblem(given, &result.problem, &error)) throw std::runtime_error(error);
      RunCase(&result);
    } catch (const std::exception& error) {
      result.error = error.what();
    }
    report_->Add(result);
  }

 private:
  void RunCase(Result* result) {
    const Problem& p = result->problem;
    const dsv4mx_context* context = test::ContextOf(p);
    dsv4mx_context_info info{};
    info.struct_size = sizeof info;
    test::Must(dsv4mx_context_query(context, &info), "context_query");
    const bool cuda = info.device == DSV4MX_DEVICE_CUDA;
    const bool timed = options_.mode == "performance";
    const DeviceCeilings* ceilings = timed ? CeilingsOf(info) : nullptr;

    Progress("making " + std::to_string(p.LocalExperts()) + " experts of " + result->given);
    loaded_.Use(p);
    Progress("");
    result->backend = loaded_.info().backend;
    result->plan = loaded_.Plan(p.tokens);
    const test::Case c = test::MakeCase(p, false);
    result->rows = PickRows(p, options_.rows);
    if (!timed) {
      result->work = WorkOf(c, c.in.ids);
      Judge(c, test::ApplyGuarded(context, loaded_.layer(), loaded_.weights(), p, c.in), result);
      return;
    }
    const DeviceCase device(loaded_, c,
                            options_.rotations > 0 ? options_.rotations : DefaultRotations(c));
    result->work = device.work();
    result->rotations = device.rotations();
    if (cuda) {
      TimeGpu(device, *ceilings, result);
    } else {
      TimeCpu(device, *ceilings, result);
    }
    Judge(c, device.Read(), result);
  }

  // Runs that touch rotation after rotation and end with rotation 0, whose output is judged.
  void TimeCpu(const DeviceCase& device, const DeviceCeilings& ceilings, Result* result) {
    using Clock = std::chrono::steady_clock;
    std::vector<double> seconds;
    double total = 0;
    for (int r = device.rotations() - 1; r >= 0; --r) device.Apply(r, nullptr);
    do {
      for (int r = device.rotations() - 1; r >= 0; --r) {
        const Clock::time_point begin = Clock::now();
        device.Apply(r, nullptr);
        seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
        total += seconds.back();
      }
    } while (total < options_.seconds || static_cast<int>(seconds.size()) < kLeastRuns);
    const Summary s = Summarise(seconds);
    StateTime t{"cpu", {}, 0};
    t.time.us = s.median * 1e6;
    t.time.us_min = s.least * 1e6;
    t.time.spread = s.spread;
    t.time.runs = static_cast<int>(seconds.size());
    t.floor_us = 1e6 * std::max(result->work.bytes / ceilings.cpu.read_bytes,
                                result->work.flop / ceilings.cpu.flops);
    result->times.push_back(t);
  }

  void TimeGpu(const DeviceCase& device, const DeviceCeilings& ceilings, Result* result) {
#if DSV4MX_HAVE_CUDA
    const int n = device.rotations();
    const auto measure = [&](bool write, bool apply, double seconds) {
      return timer_->Measure(
          [&](dsv4mx_stream stream) {
            for (int r = n - 1; r >= 0; --r) {
              if (write) device.WriteInputs(r, stream);
              if (apply && write) device.ApplyWritten(stream);
              if (apply && !write) device.Apply(r, stream);
            }
          },
          seconds);
    };
    const GpuTimes chained = measure(false, true, options_.seconds);
    const GpuTimes writes = measure(true, false, options_.seconds / 4);
    GpuTimes times = measure(true, true, options_.seconds);
    const auto less = [](GpuTime* t, const GpuTime& own) { t->us -= own.us, t->us_min -= own.us; };
    less(&times.burst, writes.burst);
    less(&times.sustained, writes.sustained);
    const auto add = [&](const char* state, GpuTime t, double read, double dense) {
      t.us /= n;
      t.us_min /= n;
      double floor = result->work.bytes / read;
      if (dense > 0) floor = std::max(floor, result->work.flop / dense);
      result->times.push_back({state, t, floor * 1e6});
    };
    add("burst", times.burst, ceilings.gpu.read_burst, ceilings.gpu.dense_burst);
    add("sustained", times.sustained, ceilings.gpu.read_sustained, ceilings.gpu.dense_sustained);
    add("chained", chained.sustained, ceilings.gpu.read_sustained, ceilings.gpu.dense_sustained);
#else
    (void)device, (void)ceilings, (void)result;
#endif
  }

  void Judge(const test::Case& c, const test::Output& out, Result* result) {
    Progress("judging " + std::to_string(result->rows.size()) + " rows");
    if (!result->rows.empty()) {
      const test::Reference want = test::Compute(c, result->rows);
      result->score = test::Judge(c.p, out, want);
      result->judged = true;
      result->error = test::CheckOutput(c, out, want);
    } else {
      result->error = out.damage;
    }
    Progress("");
  }

  const DeviceCeilings* CeilingsOf(const dsv4mx_context_info& info) {
    const bool cuda = info.device == DSV4MX_DEVICE_CUDA;
    DeviceCeilings c;
    c.cuda = cuda;
    c.device =
        cuda ? std::string("cuda, ") + info.name + ", " + std::to_string(info.multiprocessors) +
                   " multiprocessors"
             : "cpu " + IsaName(info.cpu_isa) + ", " + std::to_string(info.threads) + " threads";
    const std::string key = c.device;
    const auto found = ceilings_.find(key);
    if (found != ceilings_.end() && cuda) return &found->second;
    Progress("measuring ceilings");
    if (cuda) {
#if DSV4MX_HAVE_CUDA
      timer_ = std::make_unique<GpuTimer>(info.device_ordinal);
      c.gpu = timer_->MeasureCeilings(options_.seconds, options_.cublas);
      c.device += ", " + timer_->Describe();
#endif
    } else {
      // A shared machine's memory has other users too: every case measures again, and the best counts from then on.
      c.cpu = MeasureCpuCeilings(info.cpu_isa, info.threads, options_.seconds);
      if (found != ceilings_.end()) {
        const CpuCeilings before = found->second.cpu;
        const bool higher =
            c.cpu.read_bytes > 1.02 * before.read_bytes || c.cpu.flops > 1.02 * before.flops;
        if (!higher) return &found->second;
        c.cpu.read_bytes = std::max(c.cpu.read_bytes, before.read_bytes);
        c.cpu.flops = std::max(c.cpu.flops, before.flops);
      }
    }
    Progress("");
    report_->Add(c);
    return &(ceilings_[key] = c);
  }

  // One line that is overwritten, where somebody watches.
  static void Progress(const std::string& text) {
    if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\r\033[K%s", text.c_str());
  }

  const Options& options_;
  Report* report_;
  LoadedLayer loaded_;
  std::map<std::string, DeviceCeilings> ceilings_;
#if DSV4MX_HAVE_CUDA
  std::unique_ptr<GpuTimer> timer_;
#endif
};

// What each case has to do, without a device.
void List(const Options& options, Report* report, std::FILE* table) {
  for (const std::string& given : options.problems) {
    Result r;
    r.given = given;
    if (test::ParseProblem(given, &r.problem, &r.error)) {
      const test::Case c = test::MakeCase(r.problem, false);
      r.work = WorkOf(c, c.in.ids);
      std::fprintf(table, "%s: %.0f experts hit, %.3f GB, %.3f GFLOP\n",
                   test::ProblemText(r.problem).c_str(), r.work.experts, r.work.bytes / 1e9,
                   r.work.flop / 1e9);
    }
    report->Add(r);
  }
}

int Main(int argc, char** argv) {
  std::string command = kTool;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    command += arg.find_first_of(" *") == std::string::npos ? " " + arg : " \"" + arg + "\"";
  }
  const Options options = ParseOptions(argc, argv);
  std::FILE* const table = options.json == "-" ? stderr : stdout;
  std::fprintf(table, "%s %s\n", kTool, dsv4mx_version_string());
  Baseline baseline;
  if (!options.baseline.empty()) baseline.Read(options.baseline);
  Report report(options.mode, command, std::move(baseline), table);
  if (options.mode == "list") {
    List(options, &report, table);
  } else {
    Bench bench(options, &report);
    for (const std::string& problem : options.problems) {
      bench.Run(problem);
      // A run that is stopped leaves what it found.
      if (!options.json.empty() && options.json != "-") report.WriteJson(options.json, false);
    }
  }
  if (!options.json.empty()) report.WriteJson(options.json, true);
  return report.good() ? kGood : kFailed;
}

}  // namespace
}  // namespace dsv4mx::bench

int main(int argc, char** argv) {
  return dsv4mx::bench::RunTool(dsv4mx::bench::kTool,
                                [&] { return dsv4mx::bench::Main(argc, argv); });
}
