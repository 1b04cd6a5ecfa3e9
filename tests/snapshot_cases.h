// What the tests of snapshots share: files as bytes, prepared weights, and restoring with its status.
#ifndef DSV4MX_TESTS_SNAPSHOT_CASES_H_
#define DSV4MX_TESTS_SNAPSHOT_CASES_H_

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "tests/check.h"
#include "tests/safetensors_file.h"

namespace dsv4mx::test {

inline std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

inline size_t FilesIn(const TempFolder& folder) {
  const std::filesystem::directory_iterator all(folder.path());
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

inline dsv4mx_snapshot_args SnapshotArgs(int32_t threads, int32_t level,
                                         const dsv4mx_control* control = nullptr) {
  dsv4mx_snapshot_args args = DSV4MX_SNAPSHOT_ARGS_INIT;
  args.threads = threads;
  args.level = level;
  args.control = control;
  return args;
}

inline void Save(const dsv4mx_weights* weights, const std::string& path, int32_t threads = 0,
                 int32_t level = 0) {
  const dsv4mx_snapshot_args args = SnapshotArgs(threads, level);
  Must(dsv4mx_weights_save(weights, path.c_str(), &args, nullptr), "weights_save");
}

inline dsv4mx_status Restore(dsv4mx_weights* weights, const std::string& path,
                             int32_t threads = 0) {
  const dsv4mx_snapshot_args args = SnapshotArgs(threads, 0);
  return dsv4mx_weights_restore(weights, path.c_str(), &args, nullptr);
}

inline dsv4mx_weights_state StateOf(const dsv4mx_weights* weights) {
  dsv4mx_weights_info info = DSV4MX_WEIGHTS_INFO_INIT;
  Must(dsv4mx_weights_query(weights, &info), "weights_query");
  return info.state;
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_SNAPSHOT_CASES_H_
