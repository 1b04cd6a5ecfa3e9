// dsv4mx-bench-group: times what groups of GPUs do, beside NCCL in the same run: the exchange of expert-parallel ranks with
// experts that give back what they get, the reduction of tensor-parallel ranks, and whole layers beside the slices that they
// are made of. Everything is a chain in replayed graphs; the time is that of the slowest rank.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/bench/group_kernels.h"
#include "tests/bench/group_layers.h"
#include "tests/bench/group_nccl.h"
#include "tests/bench/tool.h"

namespace dsv4mx::bench {
namespace {

constexpr const char* kTool = "dsv4mx-bench-group";

const char kHelp[] =
    "usage: dsv4mx-bench-group [options] [exchange] [reduce] [layers]\n"
    "\n"
    "  --ranks N       ranks, a GPU each; default: as many as there are GPUs, at most 8; 1: "
    "layers\n"
    "                  in slices alone\n"
    "  --one-device    all ranks on the first GPU, in lock step: shows that it works, not how "
    "fast\n"
    "  --model NAME    flash (default), pro or small\n"
    "  --nccl FILE     libnccl.so.2, default: as the loader finds it; needs NCCL_NVLS_ENABLE=0\n"
    "  --replays N     of each graph, default 20\n"
    "  --rounds N      of a graph, default 128 (layers: 32)\n"
    "  --pieces N      CTAs of a push of the exchange, 1..64; default: as the library chooses\n"
    "  --json FILE     write everything as JSON too\n"
    "\n"
    "Times in microseconds: median (least) of the slowest rank's round. Exit code: 0 all right, 1 "
    "a\n"
    "case failed, 2 usage.\n";

struct Model {
  const char* name;
  int hidden, intermediate, experts, top_k;
};
constexpr Model kModels[] = {
    {"flash", 4096, 2048, 256, 6}, {"pro", 7168, 3072, 384, 6}, {"small", 128, 256, 16, 4}};

struct Options {
  int ranks = 0, replays = 20, rounds = 0, pieces = 0;
  bool one_device = false;
  Model model = kModels[0];
  std::string nccl, json, command;
  std::vector<std::string> what;
};

Options ParseOptions(int argc, char** argv) {
  Options o;
  for (int i = 0; i < argc; ++i) {
    const std::string word = argv[i];
    o.command += (i == 0 ? "" : " ") + (i == 0 ? word.substr(word.rfind('/') + 1) : word);
  }
  enum { kRanks = 1, kOneDevice, kModel, kNccl, kReplays, kRounds, kPieces, kJson };
  const option known[] = {{"help", no_argument, nullptr, 'h'},
                          {"ranks", required_argument, nullptr, kRanks},
                          {"one-device", no_argument, nullptr, kOneDevice},
                          {"model", required_argument, nullptr, kModel},
                          {"nccl", required_argument, nullptr, kNccl},
                          {"replays", required_argument, nullptr, kReplays},
                          {"rounds", required_argument, nullptr, kRounds},
                          {"pieces", required_argument, nullptr, kPieces},
                          {"json", required_argument, nullptr, kJson},
                          {}};
  const auto number = [](const char* name, int most) {
    char* end = nullptr;
    const long value = std::strtol(optarg, &end, 10);
    if (*end != '\0' || value < 1 || value > most)
      UsageError(kTool, std::string("--") + name + " is " + optarg + ", wanted 1.." +
                            std::to_string(most));
    return static_cast<int>(value);
  };
  for (int code; (code = NextOption(kTool, argc, argv, known)) != -1;) {
    switch (code) {
      case 'h':
        std::fputs(kHelp, stdout);
        std::exit(kGood);
      case kRanks:
        o.ranks = number("ranks", 64);
        break;
      case kOneDevice:
        o.one_device = true;
        break;
      case kModel: {
        const auto found = std::find_if(std::begin(kModels), std::end(kModels), [](const Model& m) {
          return std::string(m.name) == optarg;
        });
        if (found == std::end(kModels))
          UsageError(kTool, std::string("--model is ") + optarg + ", wanted flash, pro or small");
        o.model = *found;
        break;
      }
      case kNccl:
        o.nccl = optarg;
        break;
      case kReplays:
        o.replays = number("replays", 10000);
        break;
      case kRounds:
        o.rounds = number("rounds", 10000);
        break;
      case kPieces:
        o.pieces = number("pieces", 64);
        break;
      case kJson:
        o.json = optarg;
        break;
    }
  }
  for (int i = optind; i < argc; ++i) {
    const std::string word = argv[i];
    if (word != "exchange" && word != "reduce" && word != "layers")
      UsageError(kTool, "no such part: " + word + ", wanted exchange, reduce or layers");
    o.what.push_back(word);
  }
  if (o.what.empty()) o.what = {"exchange", "reduce", "layers"};
  return o;
}

class Run {
 public:
  Run(const Options& o, const std::vector<int>& devices) : o_(o), devices_(devices) {
    std::string why;
    nccl_ = GroupNccl::Make(o.nccl, devices, &why);
    cudaDeviceProp properties;
    CudaMust(cudaGetDeviceProperties(&properties, devices[0]), "cudaGetDeviceProperties");
    json_["device"] = properties.name;
    json_["version"] = dsv4mx_version_string();
    json_["command"] = o.command;
    json_["ranks"] = devices.size();
    json_["one_device"] = o.one_device;
    json_["model"] = o.model.name;
    json_["nccl"] = nccl_ != nullptr ? std::to_string(nccl_->version()) : "none: " + why;
    json_["results"] = nlohmann::json::array();
    std::printf("%zu ranks on %s%s, %s, NCCL %s\n", devices.size(), properties.name,
                o.one_device ? " (one device, lock step)" : "", o.model.name,
                json_["nccl"].get<std::string>().c_str());
  }
  bool good() const { return good_; }
  const nlohmann::json& json() const { return json_; }

  // Beside it what the library's other transport does in the same mode: NCCL gathers rows, and sends home by reduce-scatter every
  // route, or a sum per token, which is less than it promises: NCCL's order of adding is its own.
  void Exchange() {
    std::printf("\n%-34s %10s %10s %10s %10s\n", "dispatch + combine, tokens a rank", "us", "least",
                "GB/s out", "NCCL us");
    const struct {
      const char *name, *mode;
      int sum_bytes;
    } modes[] = {{"routes bf16", "route_exact bf16", 0},
                 {"sums f32", "rank_reduce f32", 4},
                 {"sums bf16", "rank_reduce bf16", 2}};
    for (const auto& mode : modes) {
      for (const int tokens : Tokens({1, 2, 4, 8, 32, 64, 128, 512, 4096})) {
        ExchangeCase c{o_.model.hidden, o_.model.experts, o_.model.top_k,
                       tokens,          mode.sum_bytes,   o_.pieces};
        ExchangeBench bench(devices_, c);
        const int rounds = Rounds(tokens > 512 ? 16 : 128);
        const GroupTimes own = bench.Time(rounds, o_.replays);
        const std::string wrong = bench.Check();
        nlohmann::json row = {{"what", "exchange"},
                              {"mode", mode.mode},
                              {"tokens", tokens},
                              {"bytes_out", bench.bytes_out()}};
        GroupTimes theirs;
        if (nccl_ != nullptr) {
          const size_t count = static_cast<size_t>(tokens) * static_cast<size_t>(c.hidden);
          const size_t home = mode.sum_bytes == 0 ? count * static_cast<size_t>(c.top_k) : count;
          const auto type = mode.sum_bytes == 4 ? GroupNccl::kFloat32 : GroupNccl::kBfloat16;
          theirs = TimeGroup(devices_, rounds, o_.replays, [&](int r, int, cudaStream_t s) {
            nccl_->AllGather(r, bench.x(r), bench.all(r), count, GroupNccl::kBfloat16, s);
            nccl_->ReduceScatter(r, bench.all(r), bench.part(r), home, type, s);
          });
        }
        Tell((std::string(mode.name) + " " + std::to_string(tokens)).c_str(), own, theirs,
             bench.bytes_out() / own.us.median * 1e-3, wrong, &row);
      }
    }
  }

  void Reduce() {
    std::printf("\n%-34s %10s %10s %10s %10s\n", "all-reduce, tokens", "us", "least", "GB/s out",
                "NCCL us");
    for (const bool bf16 : {true, false}) {
      for (const int tokens : Tokens({1, 2, 4, 8, 32, 128, 256, 1024, 4096})) {
        const ReduceCase c{o_.model.hidden, tokens, bf16};
        ReduceBench bench(devices_, c);
        const int rounds = Rounds(128);
        const GroupTimes own = bench.Time(rounds, o_.replays);
        const std::string wrong = bench.Check();
        const size_t count = static_cast<size_t>(tokens) * static_cast<size_t>(c.hidden);
        const double bytes = static_cast<double>(count) * (bf16 ? 2 : 4);
        nlohmann::json row = {{"what", "reduce"},
                              {"mode", bf16 ? "bf16" : "f32"},
                              {"tokens", tokens},
                              {"bytes", bytes}};
        GroupTimes theirs;
        if (nccl_ != nullptr) {
          theirs = TimeGroup(devices_, rounds, o_.replays, [&](int r, int, cudaStream_t s) {
            nccl_->AllReduce(r, bench.sums(r), bench.scratch(r), count,
                             bf16 ? GroupNccl::kBfloat16 : GroupNccl::kFloat32, s);
          });
        }
        char name[64];
        std::snprintf(name, sizeof name, "%s %d (%.0f KB)", bf16 ? "bf16" : "f32", tokens,
                      bytes / 1024);
        Tell(name, own, theirs,
             bytes * static_cast<double>(devices_.size() - 1) / own.us.median * 1e-3, wrong, &row);
      }
    }
  }

  void Layers() {
    std::printf("\n%-34s %10s %10s %10s %10s %10s\n", "whole layer, tokens a rank", "us", "least",
                "slice us", "over it", "slowest's");
    const struct {
      const char* name;
      bool tensor, exact;
      const char* path;
      std::vector<int> tokens;
      bool invariant = false, narrow = false;
    } cases[] = {{"ep route_exact planes", false, true, "planes", {1, 8, 32, 128, 512}},
                 {"ep route_exact bf16", false, true, "bf16", {4096}},
                 {"ep rank_reduce auto", false, false, "", {1, 8, 32, 128, 512, 4096}},
                 {"tp rank_order f32", true, false, "", {1, 2, 4, 8, 32, 128, 512, 4096}},
                 {"tp rank_order bf16", true, false, "", {1, 8, 32, 128, 512, 4096}, false, true},
                 {"tp invariant", true, false, "", {1, 8, 32, 128, 512, 4096}, true}};
    for (const auto& one : cases) {
      const std::vector<int> tokens = Tokens(one.tokens);
      // One rank has nothing to exchange, but slices.
      if (tokens.empty() || (devices_.size() == 1 && !one.invariant)) continue;
      LayerCase c{o_.model.hidden,  o_.model.intermediate,
                  o_.model.experts, o_.model.top_k,
                  one.tensor,       one.exact,
                  one.path,         tokens.back(),
                  one.invariant,    one.narrow};
      LayerBench bench(devices_, c);
      for (const int n : tokens) {
        const int rounds = Rounds(n > 512 ? 8 : 32);
        const GroupTimes own = bench.Time(n, false, rounds, o_.replays);
        const std::string wrong = bench.Check();
        const GroupTimes slice = bench.Time(n, true, rounds, o_.replays);
        // Slices of experts take as long as their pairs do, which differ from rank to rank.
        const bool uneven = !one.tensor && n >= 8 && n <= 128;
        const double slowest = !uneven ? slice.us.median
                               : o_.rounds > 0
                                   ? bench.SlowestSlices(n, 1, o_.rounds, 1)
                                   : bench.SlowestSlices(n, 8, 8, std::min(o_.replays, 6));
        nlohmann::json row = {{"what", "layer"},
                              {"mode", one.name},
                              {"tokens", n},
                              {"slice_us", slice.us.median},
                              {"slice_least_us", slice.us.least}};
        if (uneven) row["slowest_slices_us"] = slowest;
        char name[64];
        std::snprintf(name, sizeof name, "%s %d", one.name, n);
        std::printf("%-34s %10.2f %10.2f %10.2f %10.2f %10.2f%s%s\n", name, own.us.median,
                    own.us.least, slice.us.median, own.us.median - slice.us.median, slowest,
                    wrong.empty() ? "" : "  WRONG: ", wrong.c_str());
        Keep(own, wrong, &row);
      }
    }
  }

 private:
  // Small models and single devices are for seeing that it works.
  std::vector<int> Tokens(std::vector<int> all) const {
    const int most = std::string(o_.model.name) == "small" ? 8 : o_.one_device ? 512 : 4096;
    all.erase(std::remove_if(all.begin(), all.end(), [&](int n) { return n > most; }), all.end());
    return all;
  }
  int Rounds(int usual) const { return o_.rounds > 0 ? o_.rounds : usual; }

  void Tell(const char* name, const GroupTimes& own, const GroupTimes& theirs, double rate,
            const std::string& wrong, nlohmann::json* row) {
    std::printf("%-34s %10.2f %10.2f %10.1f", name, own.us.median, own.us.least, rate);
    if (theirs.replays > 0) {
      std::printf(" %10.2f", theirs.us.median);
      (*row)["nccl_us"] = theirs.us.median;
      (*row)["nccl_least_us"] = theirs.us.least;
    }
    std::printf("%s%s\n", wrong.empty() ? "" : "  WRONG: ", wrong.c_str());
    (*row)["gb_per_s_out"] = rate;
    Keep(own, wrong, row);
  }
  void Keep(const GroupTimes& own, const std::string& wrong, nlohmann::json* row) {
    (*row)["us"] = own.us.median;
    (*row)["least_us"] = own.us.least;
    (*row)["spread"] = own.us.spread;
    (*row)["rounds"] = own.rounds;
    (*row)["replays"] = own.replays;
    (*row)["wrong"] = wrong;
    good_ = good_ && wrong.empty();
    json_["results"].push_back(*row);
    std::fflush(stdout);
  }

  const Options& o_;
  std::vector<int> devices_;
  std::unique_ptr<GroupNccl> nccl_;
  nlohmann::json json_;
  bool good_ = true;
};

int Main(int argc, char** argv) {
  Options o = ParseOptions(argc, argv);
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    std::fprintf(stderr, "%s: no CUDA device\n", kTool);
    return kFailed;
  }
  if (o.ranks == 0) o.ranks = o.one_device ? 2 : std::min(count, 8);
  const bool slices = o.ranks == 1 && o.what == std::vector<std::string>{"layers"};
  if ((o.ranks < 2 && !slices) || (!o.one_device && o.ranks > count)) {
    std::fprintf(stderr,
                 "%s: %d ranks on %d devices, wanted 2 ranks at least (layers: 1, for "
                 "TP_INVARIANT), and a device each, or --one-device\n",
                 kTool, o.ranks, count);
    return kFailed;
  }
  std::vector<int> devices;
  for (int r = 0; r < o.ranks; ++r) devices.push_back(o.one_device ? 0 : r);
  try {
    Run run(o, devices);
    for (const auto& what : o.what) {
      if (what == "exchange") run.Exchange();
      if (what == "reduce") run.Reduce();
      if (what == "layers") run.Layers();
    }
    if (!o.json.empty()) std::ofstream(o.json) << run.json().dump(1) << '\n';
    return run.good() ? kGood : kFailed;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", kTool, e.what());
    return kFailed;
  }
}

}  // namespace
}  // namespace dsv4mx::bench

int main(int argc, char** argv) {
  return dsv4mx::bench::Main(argc, argv);
}
