// The exchange by itself: the kernels of kernels/dist between windows as the library makes them, with experts that give back
// what they get, so that every result is known to the bit.
#ifndef DSV4MX_TESTS_BENCH_GROUP_KERNELS_H_
#define DSV4MX_TESTS_BENCH_GROUP_KERNELS_H_

#include <memory>
#include <string>
#include <vector>

#include "tests/bench/group_timer.h"

namespace dsv4mx::bench {

struct ExchangeCase {
  int hidden = 4096, experts = 256, top_k = 6, tokens = 1;  // tokens of each rank
  int sum_bytes = 0;  // RANK_REDUCE: of an element of a sum; 0 = ROUTE_EXACT, bf16 routes travel
  int pieces = 0;     // CTAs of a push; 0 = as the library
};

class ExchangeBench {
 public:
  ExchangeBench(const std::vector<int>& devices, const ExchangeCase& c);
  ~ExchangeBench();
  GroupTimes Time(int rounds, int replays);
  // "" or the first element that is wrong.
  std::string Check();
  // Bytes of rows that leave a rank in one round, the most of all ranks: to their experts and back.
  double bytes_out() const;
  // Memory for NCCL's way: [ranks * tokens, top_k, hidden] of bf16, or half as many of fp32; and a rank's part of it.
  void* all(int rank) const;
  const void* x(int rank) const;
  void* part(int rank) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct ReduceCase {
  int hidden = 4096, tokens = 1;
  bool bf16 = false;  // partial sums
};

class ReduceBench {
 public:
  ReduceBench(const std::vector<int>& devices, const ReduceCase& c);
  ~ReduceBench();
  GroupTimes Time(int rounds, int replays);
  std::string Check();
  const void* sums(int rank) const;
  void* scratch(int rank) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_GROUP_KERNELS_H_
