// dsv4mx-bench-stages: where the time of an apply on a GPU goes. Runs the stages of the library's own pipeline, which it
// reaches through the static twin, in replayed graphs, and asks of each what it adds and what it takes by itself:
//
//   adds    an apply that ends behind this stage, less one that ends before it. A stage that begins while the one before it
//           ends adds less than it takes; all together are the apply.
//   alone   this stage again and again, on what an apply has left in the workspace.
//   beyond  the apply, less all stages alone: what their order costs, or where negative what their overlap saves.
//
// Inputs, rotations of the ids and the kernel that writes ids and x before each apply, whose time is taken off, are those of
// dsv4mx-bench.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "lib/api/handles.h"
#include "lib/cuda/cuda_layer.h"
#include "tests/bench/group_timer.h"
#include "tests/bench/loaded_layer.h"
#include "tests/bench/tool.h"

namespace dsv4mx::bench {
namespace {

using cuda::Pipeline;
using Json = nlohmann::ordered_json;
using test::Problem;

#define MUST(call) CudaMust(call, #call)

constexpr const char* kTool = "dsv4mx-bench-stages";
constexpr double kGraphUs = 10e3;  // a graph takes about as long
constexpr int kMostRounds = 512;

constexpr struct {
  const char* name;
  Status (Pipeline::*run)(cudaStream_t) const;
  double weights;  // its share of the weights, and of the products
} kStages[] = {{"ids", &Pipeline::ReadIds, 0},       {"gather", &Pipeline::Gather, 0},
               {"gemm1", &Pipeline::Gemm1, 2.0 / 3}, {"level", &Pipeline::Level, 0},
               {"quantise", &Pipeline::Quantise, 0}, {"gemm2", &Pipeline::Gemm2, 1.0 / 3},
               {"combine", &Pipeline::Combine, 0}};
constexpr int kStageCount = static_cast<int>(std::size(kStages));

struct Options {
  int replays = 20, rounds = 0, rotations = 0;
  std::string json, command = kTool;
  std::vector<std::string> problems;
};

const char kHelp[] =
    "usage: dsv4mx-bench-stages [options] \"problem\"...\n"
    "\n"
    "  --replays N      of each graph, default 20\n"
    "  --rounds N       applies of a graph, default: as many as take 10 ms\n"
    "  --rotations N    routings to take turns with, default: as dsv4mx-bench\n"
    "  --json FILE      write everything as JSON too; - = standard output, and the table to "
    "standard error\n"
    "\n"
    "Medians in microseconds, of problems as dsv4mx-bench takes them, on a GPU. Where there are "
    "few "
    "pairs gather is part of\n"
    "gemm1, and combine may be part of gemm2. Exit code: 0 all right, 1 a case failed, 2 usage.\n";

Options ParseOptions(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) o.command += " \"" + std::string(argv[i]) + "\"";
  enum { kReplays = 1, kRounds, kRotations, kJson };
  const option known[] = {{"help", no_argument, nullptr, 'h'},
                          {"replays", required_argument, nullptr, kReplays},
                          {"rounds", required_argument, nullptr, kRounds},
                          {"rotations", required_argument, nullptr, kRotations},
                          {"json", required_argument, nullptr, kJson},
                          {}};
  const auto number = [](const char* name, int most) {
    char* end = nullptr;
    const long value = std::strtol(optarg, &end, 10);
    if (*end != '\0' || value < 1 || value > most)
      UsageError(kTool,
                 std::string(name) + " is " + optarg + ", wanted 1.." + std::to_string(most));
    return static_cast<int>(value);
  };
  for (int code; (code = NextOption(kTool, argc, argv, known)) != -1;) {
    if (code == 'h') {
      std::fputs(kHelp, stdout);
      std::exit(kGood);
    }
    if (code == kReplays) o.replays = number("--replays", 10000);
    if (code == kRounds) o.rounds = number("--rounds", 4096);
    if (code == kRotations) o.rotations = number("--rotations", 1024);
    if (code == kJson) o.json = optarg;
  }
  for (int i = optind; i < argc; ++i) {
    for (const std::string& text : test::ExpandProblems(argv[i])) o.problems.push_back(text);
  }
  if (o.problems.empty()) UsageError(kTool, "wanted a problem, such as \"flash m=1\"");
  return o;
}

void Must(Status status) {
  if (!status.ok()) throw std::runtime_error(dsv4mx_last_error());
}

// A layer's stages by themselves.
class StagedLayer {
 public:
  explicit StagedLayer(const LoadedLayer& loaded)
      : layer_(*loaded.layer()->impl),
        weights_(*loaded.weights()->impl),
        backend_(static_cast<const cuda::CudaLayer&>(layer_.backend())) {}

  // Stages first..last-1 of an apply.
  void Run(const dsv4mx_apply_args& args, int first, int last, cudaStream_t stream) const {
    ApplyCall call{};
    Must(layer_.CheckApply(weights_, args, &call));
    Must(backend_.ForChunks(backend_.spec(), backend_.tables(), weights_.store(),
                            *weights_.census(), call, 0, call.tokens,
                            [&](const Pipeline& pipeline, int64_t, int64_t) {
                              for (int s = first; s < last; ++s)
                                DSV4MX_TRY((pipeline.*kStages[s].run)(stream));
                              return kOk;
                            }));
  }

  // Whether the stage launches anything of its own.
  bool Has(const dsv4mx_apply_args& args, int stage) const {
    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    size_t nodes = 0;
    MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    Run(args, stage, stage + 1, stream);
    MUST(cudaStreamEndCapture(stream, &graph));
    MUST(cudaGraphGetNodes(graph, nullptr, &nodes));
    MUST(cudaGraphDestroy(graph));
    MUST(cudaStreamDestroy(stream));
    return nodes > 0;
  }

 private:
  const Layer& layer_;
  const Weights& weights_;
  const cuda::CudaLayer& backend_;
};

class Bench {
 public:
  Bench(const Options& options, std::FILE* table) : options_(options), table_(table) {}

  Json Run(const std::string& given) {
    Json j;
    j["given"] = given;
    try {
      Problem p;
      std::string error;
      if (!test::ParseProblem(given, &p, &error)) throw std::runtime_error(error);
      p.device = DSV4MX_DEVICE_CUDA;
      RunCase(p, given, &j);
      j["error"] = nullptr;
    } catch (const std::exception& error) {
      j["error"] = error.what();
      good_ = false;
      std::fprintf(table_, "%s: FAILED: %s\n", given.c_str(), error.what());
    }
    return j;
  }
  bool good() const { return good_; }

 private:
  void RunCase(const Problem& p, const std::string& given, Json* j) {
    if (p.tokens == 0) throw std::runtime_error("0 tokens have no stages");
    loaded_.Use(p);
    dsv4mx_context_info info{};
    info.struct_size = sizeof info;
    test::Must(dsv4mx_context_query(loaded_.context(), &info), "context_query");
    device_ = info.device_ordinal;
    MUST(cudaSetDevice(device_));
    const test::Case c = test::MakeCase(p, false);
    const DeviceCase device(loaded_, c,
                            options_.rotations > 0 ? options_.rotations : DefaultRotations(c));
    const StagedLayer staged(loaded_);
    const int n = device.rotations();
    CheckBits(device, staged);

    const double write = Time(n, [&](int r, cudaStream_t s) { device.WriteInputs(r, s); });
    const auto timed = [&](const auto& apply) {
      return Time(n, [&](int r, cudaStream_t s) { device.WriteInputs(r, s), apply(s); }) - write;
    };
    const double apply = timed([&](cudaStream_t s) { device.ApplyWritten(s); });
    (*j)["problem"] = test::ProblemText(p);
    (*j)["tokens"] = p.tokens;
    (*j)["plan"] = loaded_.Plan(p.tokens);
    (*j)["rotations"] = n;
    (*j)["bytes"] = device.work().bytes;
    (*j)["flop"] = device.work().flop;
    (*j)["apply_us"] = apply;
    (*j)["stages"] = Json::array();
    std::fprintf(table_, "%s: apply %.1f us\n    %s\n", given.c_str(), apply,
                 loaded_.Plan(p.tokens).c_str());
    double before = 0, sum = 0;
    for (int stage = 0; stage < kStageCount; ++stage) {
      if (!staged.Has(device.Args(0), stage)) continue;
      const double so_far =
          timed([&](cudaStream_t s) { staged.Run(device.WrittenArgs(), 0, stage + 1, s); });
      const double alone =
          Time(n, [&](int r, cudaStream_t s) { staged.Run(device.Args(r), stage, stage + 1, s); });
      Tell(kStages[stage].name, so_far - before, alone, device.work(), kStages[stage].weights, j);
      before = so_far;
      sum += alone;
    }
    (*j)["stages_us"] = before;
    (*j)["alone_us"] = sum;
    (*j)["beyond_us"] = apply - sum;
    std::fprintf(table_, "    %-9s adds %8.1f  alone %8.1f  beyond %8.1f\n", "together", before,
                 sum, apply - sum);
  }

  void Tell(const char* name, double adds, double alone, const Work& work, double weights,
            Json* j) {
    Json s;
    s["name"] = name;
    s["adds_us"] = adds;
    s["alone_us"] = alone;
    std::fprintf(table_, "    %-9s adds %8.1f  alone %8.1f", name, adds, alone);
    if (weights > 0 && alone > 0) {
      s["gb_s"] = weights * work.bytes / alone * 1e-3;
      s["gflop_s"] = weights * work.flop / alone * 1e-3;
      std::fprintf(table_, "  %.0f GB/s, %.1f TFLOP/s", weights * work.bytes / alone * 1e-3,
                   weights * work.flop / alone * 1e-6);
    }
    std::fprintf(table_, "\n");
    (*j)["stages"].push_back(s);
  }

  // Stage by stage the output must be what the library's apply writes.
  void CheckBits(const DeviceCase& device, const StagedLayer& staged) {
    const auto read = [&] {
      MUST(cudaDeviceSynchronize());
      return device.Read().y;
    };
    const std::vector<float> nothing = read();
    staged.Run(device.Args(0), 0, kStageCount, nullptr);
    const std::vector<float> mine = read();
    device.Apply(0, nullptr);
    const std::vector<float> theirs = read();
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
    };
    if (same(nothing, mine) || !same(mine, theirs))
      throw std::runtime_error("stage by stage the output is another than apply's");
  }

  // Median of one call, sustained: calls that take turns with the rotations, the last of them with rotation 0.
  double Time(int rotations, const std::function<void(int, cudaStream_t)>& enqueue) {
    const auto measure = [&](int rounds, int replays) {
      const auto round = [&](int, int i, cudaStream_t s) {
        enqueue((rounds - 1 - i) % rotations, s);
      };
      return std::max(TimeGroup({device_}, rounds, replays, round).us.median, 1e-3);
    };
    int rounds = options_.rounds;
    if (rounds == 0) {
      const double once = measure(rotations, 1);
      rounds = std::clamp(static_cast<int>(std::ceil(kGraphUs / once)), 1, kMostRounds);
      rounds = (rounds + rotations - 1) / rotations * rotations;
    }
    return measure(rounds, options_.replays);
  }

  const Options& options_;
  std::FILE* table_;
  LoadedLayer loaded_;
  int device_ = 0;
  bool good_ = true;
};

int Main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  std::FILE* const table = options.json == "-" ? stderr : stdout;
  std::fprintf(table, "%s %s\n", kTool, dsv4mx_version_string());
  Bench bench(options, table);
  Json j;
  j["tool"] = kTool;
  j["version"] = dsv4mx_version_string();
  j["command"] = options.command;
  j["results"] = Json::array();
  for (const std::string& problem : options.problems) j["results"].push_back(bench.Run(problem));
  j["good"] = bench.good();
  const std::string text = j.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  if (options.json == "-") {
    std::fputs(text.c_str(), stdout);
  } else if (!options.json.empty()) {
    std::ofstream file(options.json);
    file << text;
    file.close();
    if (!file) throw std::runtime_error(options.json + ": cannot be written");
  }
  return bench.good() ? kGood : kFailed;
}

}  // namespace
}  // namespace dsv4mx::bench

int main(int argc, char** argv) {
  return dsv4mx::bench::RunTool(dsv4mx::bench::kTool,
                                [&] { return dsv4mx::bench::Main(argc, argv); });
}
