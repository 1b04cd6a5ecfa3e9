// dsv4mx-info: what the library is, which devices it can use, and for problem strings what a layer would take and how
// it would run. Only the public C ABI is used; no weights are made.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "tests/bench/cpu_ceilings.h"
#include "tests/bench/tool.h"
#include "tests/runner.h"

namespace dsv4mx::bench {
namespace {

constexpr const char* kTool = "dsv4mx-info";
constexpr int kMostDevices = 64;

const char kHelp[] =
    "usage: dsv4mx-info [\"problem\"...]\n"
    "\n"
    "Prints version, build and devices; for each problem, such as \"flash m=1,64 dev=cuda\", what "
    "the layer\n"
    "takes in memory and which plan runs.\n"
    "Exit code: 0 all right, 1 a problem was refused, 2 usage.\n"
    "\n";

// Opens a device and says what it is; false if it was refused.
bool PrintContext(dsv4mx_device device, int ordinal) {
  dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
  desc.device = device;
  desc.device_ordinal = ordinal;
  const std::string name = device == DSV4MX_DEVICE_CPU ? "cpu" : "cuda " + std::to_string(ordinal);
  dsv4mx_context* made = nullptr;
  if (const dsv4mx_status status = dsv4mx_context_create(&desc, &made);
      status != DSV4MX_STATUS_OK) {
    // Past the last device there is nothing to tell.
    if (ordinal == 0 || status == DSV4MX_STATUS_UNSUPPORTED_DEVICE)
      std::printf("%-9s %s: %s\n", name.c_str(), dsv4mx_status_name(status), dsv4mx_last_error());
    return status == DSV4MX_STATUS_UNSUPPORTED_DEVICE;
  }
  const test::ContextPtr context(made);
  dsv4mx_context_info info{};
  info.struct_size = sizeof info;
  test::Must(dsv4mx_context_query(context.get(), &info), "context_query");
  if (info.device == DSV4MX_DEVICE_CPU) {
    std::printf("%-9s %s, %s, %d threads\n", name.c_str(), info.name, IsaName(info.cpu_isa).c_str(),
                info.threads);
  } else {
    std::printf("%-9s %s, compute capability %d.%d, %d multiprocessors, L2 %.1f MiB\n",
                name.c_str(), info.name, info.compute_capability / 10, info.compute_capability % 10,
                info.multiprocessors, static_cast<double>(info.l2_bytes) / (1 << 20));
  }
  return true;
}

void PrintProblem(const test::Problem& p) {
  const dsv4mx_context* context = test::ContextOf(p);
  const test::Case description{p, {}, {}, {}};
  const test::LayerPtr layer = test::MakeLayer(context, test::DescOf(description));
  dsv4mx_layer_info info{};
  info.struct_size = sizeof info;
  test::Must(dsv4mx_layer_query(layer.get(), &info), "layer_query");
  const size_t workspace = test::WorkspaceBytes(layer.get(), p.tokens);
  char plan[512];
  test::Must(dsv4mx_layer_query_plan(layer.get(), nullptr, p.tokens, plan, sizeof plan),
             "query_plan");
  std::printf("  backend     %s\n", info.backend);
  std::printf("  prepared    %lld bytes, %lld more at most while it is made\n",
              static_cast<long long>(info.prepared_bytes),
              static_cast<long long>(info.peak_extra_bytes));
  std::printf("  workspace   %zu bytes for up to %lld tokens (at most %lld in one call)\n",
              workspace, static_cast<long long>(p.tokens), static_cast<long long>(info.max_tokens));
  std::printf("  plan        %s\n", plan);
}

int Main(int argc, char** argv) {
  std::vector<std::string> problems;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--help" || arg == "-h") {
      std::printf("%s%s", kHelp, test::ProblemHelp().c_str());
      return kGood;
    }
    if (arg.size() > 1 && arg[0] == '-') UsageError(kTool, "unknown option " + arg);
    for (const std::string& text : test::ExpandProblems(arg)) problems.push_back(text);
  }
  const uint32_t version = dsv4mx_version();
  std::printf("dsv4mx    %u.%u.%u, %s\n", version >> 16, version >> 8 & 255, version & 255,
              dsv4mx_version_string());
  std::printf("header    %d.%d.%d\n", DSV4MX_VERSION_MAJOR, DSV4MX_VERSION_MINOR,
              DSV4MX_VERSION_PATCH);
  PrintContext(DSV4MX_DEVICE_CPU, 0);
  for (int i = 0; i < kMostDevices && PrintContext(DSV4MX_DEVICE_CUDA, i); ++i) {
  }
  int code = kGood;
  for (const std::string& text : problems) {
    test::Problem p;
    std::string error;
    try {
      if (!test::ParseProblem(text, &p, &error)) throw std::runtime_error(error);
      std::printf("%s\n", test::ProblemText(p).c_str());
      PrintProblem(p);
    } catch (const std::exception& refused) {
      std::fprintf(stderr, "%s: %s: %s\n", kTool, text.c_str(), refused.what());
      code = kFailed;
    }
  }
  return code;
}

}  // namespace
}  // namespace dsv4mx::bench

int main(int argc, char** argv) {
  try {
    return dsv4mx::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dsv4mx-info: %s\n", error.what());
    return dsv4mx::bench::kFailed;
  }
}
