// dsv4mx-convert: the experts of a checkpoint's blocks to snapshots, one file for each block, prepared for a kind of device and a
// rank of a tensor- and expert-parallel group. Only the public C ABI is used.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "dsv4mx.h"
#include "tests/bench/tool.h"
#include "tests/runner.h"

namespace dsv4mx::bench {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;
using test::Must;

constexpr const char* kTool = "dsv4mx-convert";

const char kHelp[] =
    "usage: dsv4mx-convert [option]... CHECKPOINT FOLDER\n"
    "\n"
    "Prepares the experts of a checkpoint (a file, an index, a folder) and writes each block's to "
    "a snapshot in FOLDER:\n"
    "layers.3.snapshot, mtp.0.snapshot; of a rank layers.3.tp0of2.ep1of4.snapshot. What has the "
    "name is replaced.\n"
    "\n"
    "  --block NAME       this block alone, e.g. layers.3 or mtp.0; may be given several times; "
    "default: all\n"
    "  --device D         auto, cpu or cuda: which device's layout; default auto\n"
    "  --tp N, --tp-rank R  tensor-parallel ranks, and which of them; default 1 and 0\n"
    "  --ep N, --ep-rank R  expert-parallel ranks, and which of them; default 1 and 0\n"
    "  --level L          zstd's level for what compresses, 1..19; -1 = nothing is; default: the "
    "library's choice\n"
    "  --threads N        threads of the CPU, 1..64; default: the library's choice\n"
    "  --verify           restore each file, which checks every byte of it\n"
    "  --json             print the table as JSON\n"
    "  --quiet            show no progress\n"
    "\n"
    "Activation, clamp and top_k come from the config.json beside the tensors; where there is "
    "none, defaults are written,\n"
    "which matter to nobody who restores into a layer of his own.\n"
    "\n"
    "Exit code: 0 all right, 1 a block failed, 2 usage.\n";

struct Options {
  std::string checkpoint, folder;
  std::set<std::string> blocks;
  dsv4mx_device device = DSV4MX_DEVICE_AUTO;
  int32_t tp = 1, tp_rank = 0, ep = 1, ep_rank = 0, level = 0, threads = 0;
  bool verify = false, json = false, quiet = false;
};

struct Row {
  std::string block, file, error;
  int64_t source_bytes = 0, prepared_bytes = 0, file_bytes = 0;
  double load = 0, save = 0, verify = 0;
};

struct DestroyCheckpoint {
  void operator()(dsv4mx_checkpoint* p) const { dsv4mx_checkpoint_destroy(p); }
};

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

int32_t Number(const char* name, const char* text, int32_t least, int32_t most) {
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (*text == '\0' || *end != '\0' || value < least || value > most) {
    UsageError(kTool, std::string(name) + " is '" + text + "', wanted " + std::to_string(least) +
                          ".." + std::to_string(most));
  }
  return static_cast<int32_t>(value);
}

Options Parse(int argc, char** argv) {
  enum {
    kBlock = 256,
    kDevice,
    kTp,
    kTpRank,
    kEp,
    kEpRank,
    kLevel,
    kThreads,
    kVerify,
    kJson,
    kQuiet
  };
  static const option known[] = {{"block", required_argument, nullptr, kBlock},
                                 {"device", required_argument, nullptr, kDevice},
                                 {"tp", required_argument, nullptr, kTp},
                                 {"tp-rank", required_argument, nullptr, kTpRank},
                                 {"ep", required_argument, nullptr, kEp},
                                 {"ep-rank", required_argument, nullptr, kEpRank},
                                 {"level", required_argument, nullptr, kLevel},
                                 {"threads", required_argument, nullptr, kThreads},
                                 {"verify", no_argument, nullptr, kVerify},
                                 {"json", no_argument, nullptr, kJson},
                                 {"quiet", no_argument, nullptr, kQuiet},
                                 {"help", no_argument, nullptr, 'h'},
                                 {nullptr, 0, nullptr, 0}};
  Options o;
  for (int code; (code = NextOption(kTool, argc, argv, known)) != -1;) {
    switch (code) {
      case 'h':
        std::fputs(kHelp, stdout);
        std::exit(kGood);
      case kBlock:
        o.blocks.insert(optarg);
        break;
      case kDevice: {
        const std::string name = optarg;
        if (name != "auto" && name != "cpu" && name != "cuda") {
          UsageError(kTool, "--device is '" + name + "', wanted auto, cpu or cuda");
        }
        o.device = name == "cpu"    ? DSV4MX_DEVICE_CPU
                   : name == "cuda" ? DSV4MX_DEVICE_CUDA
                                    : DSV4MX_DEVICE_AUTO;
        break;
      }
      case kTp:
        o.tp = Number("--tp", optarg, 1, 1024);
        break;
      case kTpRank:
        o.tp_rank = Number("--tp-rank", optarg, 0, 1023);
        break;
      case kEp:
        o.ep = Number("--ep", optarg, 1, 4096);
        break;
      case kEpRank:
        o.ep_rank = Number("--ep-rank", optarg, 0, 4095);
        break;
      case kLevel:
        o.level = Number("--level", optarg, -1, 19);
        break;
      case kThreads:
        o.threads = Number("--threads", optarg, 1, 64);
        break;
      case kVerify:
        o.verify = true;
        break;
      case kJson:
        o.json = true;
        break;
      case kQuiet:
        o.quiet = true;
        break;
    }
  }
  if (argc - optind != 2) UsageError(kTool, "wanted a checkpoint and a folder");
  if (o.tp_rank >= o.tp) UsageError(kTool, "--tp-rank is not below --tp");
  if (o.ep_rank >= o.ep) UsageError(kTool, "--ep-rank is not below --ep");
  o.checkpoint = argv[optind];
  o.folder = argv[optind + 1];
  return o;
}

std::string NameOf(const dsv4mx_block& block) {
  if (block.kind == DSV4MX_BLOCK_LAYER) return "layers." + std::to_string(block.index);
  if (block.kind == DSV4MX_BLOCK_MTP) return "mtp." + std::to_string(block.index);
  std::string name = block.prefix;
  while (!name.empty() && name.back() == '.') name.pop_back();
  for (char& c : name) c = c == '/' ? '_' : c;
  return name.empty() ? "experts" : name;
}

std::string FileOf(const Options& o, const std::string& block) {
  std::string name = block;
  if (o.tp > 1) name += ".tp" + std::to_string(o.tp_rank) + "of" + std::to_string(o.tp);
  if (o.ep > 1) name += ".ep" + std::to_string(o.ep_rank) + "of" + std::to_string(o.ep);
  return (std::filesystem::path(o.folder) / (name + ".snapshot")).string();
}

// One line on a terminal, which the next one replaces.
struct Progress {
  std::string block;
  bool shown;
  Clock::time_point told{};
  int64_t loaded = 0;  // bytes of the last stage that counts them

  static int32_t Tell(void* user, dsv4mx_stage stage, int64_t done, int64_t total) {
    auto* p = static_cast<Progress*>(user);
    if (stage == DSV4MX_STAGE_LOAD) p->loaded = total;
    if (!p->shown || total == 0 ||
        (done < total && Clock::now() - p->told < std::chrono::milliseconds(200)))
      return 0;
    p->told = Clock::now();
    const char* what = stage == DSV4MX_STAGE_LOAD      ? "load"
                       : stage == DSV4MX_STAGE_PREPARE ? "prepare"
                       : stage == DSV4MX_STAGE_SAVE    ? "save"
                                                       : "wait";
    const int filled = static_cast<int>(30 * done / total);
    std::fprintf(stderr, "\r%-24s %-8s [%.*s%*s] %3d %%", p->block.c_str(), what, filled,
                 "##############################", 30 - filled, "",
                 static_cast<int>(100 * done / total));
    return 0;
  }
  void Clear() const {
    if (shown) std::fprintf(stderr, "\r%*s\r", 78, "");
  }
};

// The layer that a rank holds of a block.
dsv4mx_layer_desc DescOf(const dsv4mx_checkpoint* checkpoint, const dsv4mx_block& block,
                         const Options& o) {
  dsv4mx_layer_desc d = DSV4MX_LAYER_DESC_INIT;
  uint32_t filled = 0;
  const dsv4mx_status status = dsv4mx_checkpoint_query_config(checkpoint, &block, 0, &d, &filled);
  if (status == DSV4MX_STATUS_NOT_FOUND) {
    d = DSV4MX_LAYER_DESC_INIT;
    Must(dsv4mx_checkpoint_query_layer(checkpoint, &block, &d), "query_layer");
  } else {
    Must(status, "query_config");
  }
  if (d.top_k == 0) d.top_k = 1;
  const int32_t all = d.experts;
  const auto begin = static_cast<int32_t>(int64_t{all} * o.ep_rank / o.ep);
  const auto end = static_cast<int32_t>(int64_t{all} * (o.ep_rank + 1) / o.ep);
  if (begin == end)
    throw std::runtime_error("this rank has none of the block's " + std::to_string(all) +
                             " experts");
  d.expert_first += begin;
  d.experts = end - begin;
  d.tp_size = o.tp;
  d.tp_rank = o.tp_rank;
  return d;
}

void Convert(const dsv4mx_context* context, const dsv4mx_checkpoint* checkpoint,
             const dsv4mx_block& block, const Options& o, Row* row) {
  Progress progress{row->block, !o.quiet && isatty(STDERR_FILENO) != 0};
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  control.progress = Progress::Tell;
  control.progress_user = &progress;
  const dsv4mx_layer_desc desc = DescOf(checkpoint, block, o);
  const test::LayerPtr layer = test::MakeLayer(context, desc);
  test::WeightsPtr weights = test::MakeWeights(layer.get());

  auto begin = Clock::now();
  dsv4mx_load_args load = DSV4MX_LOAD_ARGS_INIT;
  load.control = &control;
  Must(dsv4mx_weights_load(weights.get(), checkpoint, &block, &load, nullptr), "load");
  row->source_bytes = progress.loaded;
  dsv4mx_prepare_args prepare = DSV4MX_PREPARE_ARGS_INIT;
  prepare.control = &control;
  Must(dsv4mx_weights_prepare(weights.get(), &prepare, nullptr), "prepare");
  row->load = Since(begin);

  begin = Clock::now();
  dsv4mx_snapshot_args args = DSV4MX_SNAPSHOT_ARGS_INIT;
  args.control = &control;
  args.threads = o.threads;
  args.level = o.level;
  Must(dsv4mx_weights_save(weights.get(), row->file.c_str(), &args, nullptr), "save");
  row->save = Since(begin);
  dsv4mx_snapshot_info info = DSV4MX_SNAPSHOT_INFO_INIT;
  Must(dsv4mx_snapshot_query(row->file.c_str(), &info, nullptr), "snapshot_query");
  row->file_bytes = info.file_bytes;
  row->prepared_bytes = info.slab_bytes * info.experts;

  if (o.verify) {
    begin = Clock::now();
    weights.reset();  // one block's memory is enough
    weights = test::MakeWeights(layer.get());
    Must(dsv4mx_weights_restore(weights.get(), row->file.c_str(), &args, nullptr), "restore");
    row->verify = Since(begin);
  }
  progress.Clear();
}

double GigabytesASecond(int64_t bytes, double seconds) {
  return seconds > 0 ? static_cast<double>(bytes) / 1e9 / seconds : 0;
}

void PrintTable(const std::vector<Row>& rows, bool verify) {
  std::printf("%-24s %15s %15s %9s %8s %9s %8s", "block", "prepared bytes", "file bytes", "load s",
              "GB/s", "save s", "GB/s");
  std::printf(verify ? " %9s %8s\n" : "\n", "verify s", "GB/s");
  for (const Row& r : rows) {
    if (!r.error.empty()) {
      std::printf("%-24s %s\n", r.block.c_str(), r.error.c_str());
      continue;
    }
    std::printf("%-24s %15lld %15lld %9.3f %8.3f %9.3f %8.3f", r.block.c_str(),
                static_cast<long long>(r.prepared_bytes), static_cast<long long>(r.file_bytes),
                r.load, GigabytesASecond(r.source_bytes, r.load), r.save,
                GigabytesASecond(r.prepared_bytes, r.save));
    if (verify) std::printf(" %9.3f %8.3f", r.verify, GigabytesASecond(r.prepared_bytes, r.verify));
    std::printf("\n");
  }
}

void PrintJson(const std::vector<Row>& rows) {
  Json all = Json::array();
  for (const Row& r : rows) {
    Json j = {{"block", r.block},
              {"file", r.file},
              {"error", r.error.empty() ? Json(nullptr) : Json(r.error)}};
    if (r.error.empty()) {
      j.update({{"source_bytes", r.source_bytes},
                {"prepared_bytes", r.prepared_bytes},
                {"file_bytes", r.file_bytes},
                {"load_s", r.load},
                {"save_s", r.save},
                {"verify_s", r.verify},
                {"load_gb_s", GigabytesASecond(r.source_bytes, r.load)},
                {"save_gb_s", GigabytesASecond(r.prepared_bytes, r.save)},
                {"verify_gb_s", GigabytesASecond(r.prepared_bytes, r.verify)}});
    }
    all.push_back(j);
  }
  const Json out = {{"tool", kTool}, {"version", dsv4mx_version_string()}, {"blocks", all}};
  std::printf("%s\n", out.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
}

int Run(const Options& o) {
  dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
  cd.device = o.device;
  cd.threads = o.threads;
  dsv4mx_context* made = nullptr;
  Must(dsv4mx_context_create(&cd, &made), "context_create");
  const test::ContextPtr context(made);
  dsv4mx_checkpoint* opened = nullptr;
  Must(dsv4mx_checkpoint_create(o.checkpoint.c_str(), nullptr, &opened), "checkpoint_create");
  const std::unique_ptr<dsv4mx_checkpoint, DestroyCheckpoint> checkpoint(opened);
  std::error_code error;
  std::filesystem::create_directories(o.folder, error);
  if (error) throw std::runtime_error(o.folder + ": cannot make the folder: " + error.message());

  std::set<std::string> wanted = o.blocks;
  std::vector<Row> rows;
  bool good = true;
  for (int64_t i = 0; i < dsv4mx_checkpoint_get_block_count(checkpoint.get()); ++i) {
    dsv4mx_block block = DSV4MX_BLOCK_INIT;
    Must(dsv4mx_checkpoint_get_block(checkpoint.get(), i, &block), "get_block");
    const std::string name = NameOf(block);
    if (!o.blocks.empty() && o.blocks.count(name) == 0) continue;
    wanted.erase(name);
    Row row{name, FileOf(o, name), ""};
    // With the prefix a block of any kind is named without doubt; a number alone may stand under several.
    if (block.kind != DSV4MX_BLOCK_PREFIX) block.prefix = nullptr;
    try {
      Convert(context.get(), checkpoint.get(), block, o, &row);
    } catch (const std::exception& e) {
      row.error = e.what();
      good = false;
      std::fprintf(stderr, "%s%s: %s: %s\n", isatty(STDERR_FILENO) != 0 ? "\n" : "", kTool,
                   name.c_str(), e.what());
    }
    rows.push_back(row);
  }
  for (const std::string& name : wanted) {
    std::fprintf(stderr, "%s: the checkpoint has no block %s\n", kTool, name.c_str());
    good = false;
  }
  if (rows.empty() && wanted.empty()) {
    std::fprintf(stderr, "%s: the checkpoint has no experts\n", kTool);
    good = false;
  }
  o.json ? PrintJson(rows) : PrintTable(rows, o.verify);
  return good ? kGood : kFailed;
}

}  // namespace
}  // namespace dsv4mx::bench

int main(int argc, char** argv) {
  const dsv4mx::bench::Options options = dsv4mx::bench::Parse(argc, argv);
  return dsv4mx::bench::RunTool(dsv4mx::bench::kTool, [&] { return dsv4mx::bench::Run(options); });
}
