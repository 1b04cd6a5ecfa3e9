// Times of other implementations on one H200, and what this library is built towards (peers.csv).
#ifndef DSV4MX_TESTS_BENCH_PEERS_H_
#define DSV4MX_TESTS_BENCH_PEERS_H_

#include <string>
#include <vector>

#include "tests/problems.h"

namespace dsv4mx::bench {

struct Peer {
  std::string model;
  int64_t tokens = 0;
  double sglang_us = 0, best_us = 0;
  std::string best;
  double target_us = 0, target_fraction = 0;  // 0 = none stated
};

const std::vector<Peer>& Peers();

// The row for a whole layer of that model under uniform routing; nullptr if there is none.
const Peer* PeerOf(const test::Problem& problem);

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_PEERS_H_
