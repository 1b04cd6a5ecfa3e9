// Whole layers over a group of GPUs through the public C ABI, beside the same slices by themselves.
#ifndef DSV4MX_TESTS_BENCH_GROUP_LAYERS_H_
#define DSV4MX_TESTS_BENCH_GROUP_LAYERS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dsv4mx.h"
#include "tests/bench/group_timer.h"

namespace dsv4mx::bench {

struct LayerCase {
  int hidden = 4096, intermediate = 2048, experts = 256, top_k = 6;
  bool tensor = false;     // slices of every expert, else parts of the experts
  bool exact = true;       // ROUTE_EXACT with a batch-invariant layer, else RANK_REDUCE
  std::string path;        // "", "planes", "bf16"
  int most_tokens = 512;   // of a call on a rank
  bool invariant = false;  // TP_INVARIANT, in 8 slices
  bool narrow = false;     // partial sums of slices travel in bf16, else in fp32
};

class LayerBench {
 public:
  LayerBench(const std::vector<int>& devices, const LayerCase& c);
  ~LayerBench();
  // Tokens of each rank (tensor parallel: of all). `alone`: every rank computes the same pairs without the others.
  GroupTimes Time(int tokens, bool alone, int rounds, int replays);
  // Ranks that wait for each other take as long as the slowest in each round, which is another one in each: the slowest rank's
  // time of the same pairs without the others, the mean of up to 16 routings. Not for so few tokens that their weights stay in L2.
  double SlowestSlices(int tokens, int routings, int rounds, int replays);
  // "" or the fault of a rank.
  std::string Check() const;

 private:
  GroupTimes TimeRoutings(int tokens, bool alone, int rounds, int replays,
                          const std::function<int(int round)>& routing);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_GROUP_LAYERS_H_
