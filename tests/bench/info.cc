// dsv4mx-info: what the library is, which devices it can use, what checkpoints and snapshots hold, and for problem strings
// what a layer would take and how it would run. Only the public C ABI is used; no weights are made.
#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/bench/cpu_ceilings.h"
#include "tests/bench/info_checkpoint.h"
#include "tests/bench/tool.h"
#include "tests/runner.h"

namespace dsv4mx::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kTool = "dsv4mx-info";
constexpr int kMostDevices = 64;

const char kHelp[] =
    "usage: dsv4mx-info [--json] [--census] [--tp N] [--ep N] [--tokens M] [--device D] [PATH | "
    "\"problem\"]...\n"
    "\n"
    "Prints version, build and devices; of each checkpoint (a file, an index, a folder) or "
    "snapshot what it holds, what "
    "would be\n"
    "refused and what its experts need on a device, without loading it; for each problem, such as "
    "\"flash m=1,64 "
    "dev=cuda\", what\n"
    "the layer takes in memory and which plan runs.\n"
    "\n"
    "  --json           print all of it as JSON\n"
    "  --census         read the scales of checkpoints: least and largest byte, and most binades "
    "within 512 values of a "
    "row\n"
    "                   (groups of zeros included)\n"
    "  --tp N, --ep N   tensor- and expert-parallel ranks that a model is spread over; default 1\n"
    "  --tokens M       most tokens of one apply; default 4096\n"
    "  --device D       auto, cpu or cuda: where the model is to run; default auto\n"
    "\n"
    "Exit code: 0 all right, 1 something was refused, 2 usage.\n"
    "\n";

// What is told is collected first, and printed in one form or the other.
struct Device {
  std::string name;  // "cpu", "cuda 0"
  std::string status = "OK", error;
  dsv4mx_context_info info{};
};

struct Told {
  std::string given, problem, error;
  dsv4mx_layer_info info{};
  int64_t tokens = 0;
  size_t workspace = 0;
  std::string plan;
};

// Opens a device and says what it is; false past the last one, of which there is nothing to tell.
bool Open(dsv4mx_device device, int ordinal, std::vector<Device>* devices) {
  Device d;
  d.name = device == DSV4MX_DEVICE_CPU ? "cpu" : "cuda " + std::to_string(ordinal);
  dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
  desc.device = device;
  desc.device_ordinal = ordinal;
  dsv4mx_context* made = nullptr;
  const dsv4mx_status status = dsv4mx_context_create(&desc, &made);
  if (status != DSV4MX_STATUS_OK) {
    d.status = dsv4mx_status_name(status);
    d.error = dsv4mx_last_error();
    const bool unsupported = status == DSV4MX_STATUS_UNSUPPORTED_DEVICE;
    if (ordinal == 0 || unsupported) devices->push_back(d);
    return unsupported;
  }
  const test::ContextPtr context(made);
  d.info.struct_size = sizeof d.info;
  test::Must(dsv4mx_context_query(context.get(), &d.info), "context_query");
  devices->push_back(d);
  return true;
}

// Throws where the problem or its layer is refused.
void Ask(Told* told) {
  test::Problem p;
  if (!test::ParseProblem(told->given, &p, &told->error)) throw std::runtime_error(told->error);
  told->problem = test::ProblemText(p);
  told->tokens = p.tokens;
  const test::Case description{p, {}, {}, {}};
  const test::LayerPtr layer = test::MakeLayer(test::ContextOf(p), test::DescOf(description));
  told->info.struct_size = sizeof told->info;
  test::Must(dsv4mx_layer_query(layer.get(), &told->info), "layer_query");
  told->workspace = test::WorkspaceBytes(layer.get(), p.tokens);
  char plan[512];
  test::Must(dsv4mx_layer_query_plan(layer.get(), nullptr, p.tokens, plan, sizeof plan),
             "query_plan");
  told->plan = plan;
}

void Print(const Device& d) {
  if (!d.error.empty()) {
    std::printf("%-9s %s: %s\n", d.name.c_str(), d.status.c_str(), d.error.c_str());
  } else if (d.info.device == DSV4MX_DEVICE_CPU) {
    std::printf("%-9s %s, %s, %d threads\n", d.name.c_str(), d.info.name,
                IsaName(d.info.cpu_isa).c_str(), d.info.threads);
  } else {
    std::printf("%-9s %s, compute capability %d.%d, %d multiprocessors, L2 %.1f MiB\n",
                d.name.c_str(), d.info.name, d.info.compute_capability / 10,
                d.info.compute_capability % 10, d.info.multiprocessors,
                static_cast<double>(d.info.l2_bytes) / (1 << 20));
  }
}

void Print(const Told& t) {
  if (!t.error.empty()) return;  // it went to stderr
  std::printf("%s\n", t.problem.c_str());
  std::printf("  backend     %s\n", t.info.backend);
  std::printf("  prepared    %lld bytes, %lld more at most while it is made\n",
              static_cast<long long>(t.info.prepared_bytes),
              static_cast<long long>(t.info.peak_extra_bytes));
  std::printf("  workspace   %zu bytes for up to %lld tokens (at most %lld in one call)\n",
              t.workspace, static_cast<long long>(t.tokens),
              static_cast<long long>(t.info.max_tokens));
  std::printf("  plan        %s\n", t.plan.c_str());
}

Json ToJson(const Device& d) {
  Json j;
  j["name"] = d.name;
  j["status"] = d.status;
  j["error"] = d.error.empty() ? Json(nullptr) : Json(d.error);
  if (!d.error.empty()) return j;
  j["device"] = d.info.name;
  if (d.info.device == DSV4MX_DEVICE_CPU) {
    j["isa"] = IsaName(d.info.cpu_isa);
    j["threads"] = d.info.threads;
  } else {
    j["compute_capability"] = std::to_string(d.info.compute_capability / 10) + "." +
                              std::to_string(d.info.compute_capability % 10);
    j["multiprocessors"] = d.info.multiprocessors;
    j["l2_bytes"] = d.info.l2_bytes;
  }
  return j;
}

Json ToJson(const Told& t) {
  Json j;
  j["given"] = t.given;
  j["error"] = t.error.empty() ? Json(nullptr) : Json(t.error);
  if (!t.error.empty()) return j;
  j["problem"] = t.problem;
  j["backend"] = t.info.backend;
  j["prepared_bytes"] = t.info.prepared_bytes;
  j["peak_extra_bytes"] = t.info.peak_extra_bytes;
  j["tokens"] = t.tokens;
  j["workspace_bytes"] = t.workspace;
  j["max_tokens"] = t.info.max_tokens;
  j["plan"] = t.plan;
  return j;
}

std::string VersionText(uint32_t major, uint32_t minor, uint32_t patch) {
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
}

// The value of the option that was just read, 1..most.
int64_t Number(const char* name, int64_t most) {
  int64_t value = 0;
  const std::string text = optarg;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > most) {
    UsageError(kTool,
               std::string(name) + ": got \"" + text + "\", wanted 1 to " + std::to_string(most));
  }
  return value;
}

dsv4mx_device DeviceNamed(const std::string& text) {
  if (text == "auto") return DSV4MX_DEVICE_AUTO;
  if (text == "cpu") return DSV4MX_DEVICE_CPU;
  if (text == "cuda") return DSV4MX_DEVICE_CUDA;
  UsageError(kTool, "--device: got \"" + text + "\", wanted auto, cpu or cuda");
}

struct Options {
  bool json = false, help = false;
  CheckpointQuestion question;
};

Options ReadOptions(int argc, char** argv) {
  enum { kCensus = 256, kTp, kEp, kTokens, kDevice };
  const option known[] = {{"help", no_argument, nullptr, 'h'},
                          {"json", no_argument, nullptr, 'j'},
                          {"census", no_argument, nullptr, kCensus},
                          {"tp", required_argument, nullptr, kTp},
                          {"ep", required_argument, nullptr, kEp},
                          {"tokens", required_argument, nullptr, kTokens},
                          {"device", required_argument, nullptr, kDevice},
                          {}};
  Options o;
  for (int code; (code = NextOption(kTool, argc, argv, known)) != -1;) {
    o.help = o.help || code == 'h';
    o.json = o.json || code == 'j';
    if (code == kCensus) o.question.census = true;
    if (code == kTp) o.question.tp = static_cast<int32_t>(Number("--tp", 1024));
    if (code == kEp) o.question.ep = static_cast<int32_t>(Number("--ep", 4096));
    if (code == kTokens) o.question.tokens = Number("--tokens", 131072);
    if (code == kDevice) o.question.device = DeviceNamed(optarg);
  }
  return o;
}

int Main(int argc, char** argv) {
  const Options options = ReadOptions(argc, argv);
  const bool json = options.json;
  if (options.help) {
    std::printf("%s%s", kHelp, test::ProblemHelp().c_str());
    return kGood;
  }
  std::vector<Device> devices;
  Open(DSV4MX_DEVICE_CPU, 0, &devices);
  for (int i = 0; i < kMostDevices && Open(DSV4MX_DEVICE_CUDA, i, &devices); ++i) {
  }
  int code = kGood;
  std::vector<Told> problems;
  std::vector<CheckpointReport> checkpoints;
  for (int i = optind; i < argc; ++i) {
    if (IsPath(argv[i])) {
      checkpoints.push_back(DescribeCheckpoint(argv[i], options.question));
      const CheckpointReport& r = checkpoints.back();
      if (!r.outcome.good()) {
        std::fprintf(stderr, "%s: %s\n", kTool, r.outcome.error.c_str());
      }
      if (!r.good()) code = kFailed;
      continue;
    }
    for (const std::string& given : test::ExpandProblems(argv[i])) {
      Told t;
      t.given = given;
      try {
        Ask(&t);
      } catch (const std::exception& refused) {
        t.error = refused.what();
        std::fprintf(stderr, "%s: %s: %s\n", kTool, given.c_str(), refused.what());
        code = kFailed;
      }
      problems.push_back(t);
    }
  }

  const uint32_t v = dsv4mx_version();
  const std::string version = VersionText(v >> 16, v >> 8 & 255, v & 255);
  const std::string header =
      VersionText(DSV4MX_VERSION_MAJOR, DSV4MX_VERSION_MINOR, DSV4MX_VERSION_PATCH);
  if (json) {
    Json j;
    j["tool"] = kTool;
    j["version"] = version;
    j["build"] = dsv4mx_version_string();
    j["header"] = header;
    j["devices"] = Json::array();
    for (const Device& d : devices) j["devices"].push_back(ToJson(d));
    j["checkpoints"] = Json::array();
    for (const CheckpointReport& r : checkpoints) j["checkpoints"].push_back(ToJson(r));
    j["problems"] = Json::array();
    for (const Told& t : problems) j["problems"].push_back(ToJson(t));
    std::printf("%s\n", j.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
    return code;
  }
  std::printf("dsv4mx    %s, %s\n", version.c_str(), dsv4mx_version_string());
  std::printf("header    %s\n", header.c_str());
  for (const Device& d : devices) Print(d);
  for (const CheckpointReport& r : checkpoints) Print(r);
  for (const Told& t : problems) Print(t);
  return code;
}

}  // namespace
}  // namespace dsv4mx::bench

int main(int argc, char** argv) {
  return dsv4mx::bench::RunTool(dsv4mx::bench::kTool,
                                [&] { return dsv4mx::bench::Main(argc, argv); });
}
