// What dsv4mx-info tells of a checkpoint or a snapshot: read through the public C ABI, without loading anything.
#ifndef DSV4MX_TESTS_BENCH_INFO_CHECKPOINT_H_
#define DSV4MX_TESTS_BENCH_INFO_CHECKPOINT_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "dsv4mx.h"
#include "tests/bench/info_census.h"

namespace dsv4mx::bench {

struct CheckpointQuestion {
  bool census = false;  // read all scales
  int32_t tp = 1, ep = 1;
  int64_t tokens = 4096;
  dsv4mx_device device = DSV4MX_DEVICE_AUTO;
};

// One call's outcome in words: "" and "" where it succeeded.
struct Outcome {
  std::string status, error;
  bool good() const { return status.empty(); }
};

struct BlockReport {
  std::string name, prefix;  // "layers.3"
  std::string family, codes, scales;
  Outcome outcome;  // of the tensors: what a load would be refused for
  Outcome config;   // of config.json about this block; NOT_FOUND counts as good
  uint32_t filled = 0;
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;  // valid if outcome is good
  int64_t tensors = 0, bytes = 0;                   // bytes of those whose files are there
  Census census;
};

struct CheckpointReport {
  std::string path;
  Outcome outcome;  // of opening
  bool snapshot = false;
  dsv4mx_snapshot_info snapshot_info = DSV4MX_SNAPSHOT_INFO_INIT;
  int64_t tensors = 0;
  std::vector<BlockReport> blocks;
  std::vector<std::string> unreadable;  // files that tensors of experts want, each with the reason
  std::string device;
  Outcome model_outcome;
  dsv4mx_model_info model = DSV4MX_MODEL_INFO_INIT;
  bool census = false;
  CheckpointQuestion question;
  bool good() const;
};

// Whether an operand means a path: it is there, or is written like one.
bool IsPath(const std::string& operand);

CheckpointReport DescribeCheckpoint(const std::string& path, const CheckpointQuestion& question);

void Print(const CheckpointReport& report);
nlohmann::ordered_json ToJson(const CheckpointReport& report);

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_INFO_CHECKPOINT_H_
