// A checkpoint of layers that are all alike, written as fast as the disk takes it: any codes, scales as in real releases.
#ifndef DSV4MX_TESTS_BENCH_SYNTHETIC_CHECKPOINT_H_
#define DSV4MX_TESTS_BENCH_SYNTHETIC_CHECKPOINT_H_

#include <cstdint>
#include <string>

#include "tests/problems.h"

namespace dsv4mx::bench {

// One file with the experts of one layer, in DeepSeek's own names.
class LayerFile {
 public:
  // Throws std::runtime_error with the path.
  LayerFile(const std::string& path, const test::Problem& problem, int layer);
  const std::string& path() const { return path_; }
  int64_t bytes() const { return bytes_; }  // of tensors
  int64_t data() const { return data_; }    // where they begin in the file

  // All tensor bytes into `to`, by threads that take blocks of 4 MiB in turn. Seconds.
  double PlainCopy(uint8_t* to, int threads) const;

 private:
  std::string path_;
  int64_t bytes_ = 0, data_ = 0;
};

// A folder of such files, one a layer, with their index and a config.json. Bytes of all tensors.
int64_t WriteModel(const std::string& folder, const test::Problem& problem, int layers);

// A name in `folder` that no other process has.
std::string OwnFile(const std::string& folder, const std::string& name);

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_SYNTHETIC_CHECKPOINT_H_
