// Ranks of one process, a thread and a device each, and the time of what they do together: a graph of many rounds per rank,
// launched at the same time, and the slowest rank's time for a round.
#ifndef DSV4MX_TESTS_BENCH_GROUP_TIMER_H_
#define DSV4MX_TESTS_BENCH_GROUP_TIMER_H_

#include <cuda_runtime_api.h>

#include <functional>
#include <vector>

#include "tests/bench/statistics.h"

namespace dsv4mx::bench {

// Throws what CUDA says.
void CudaMust(cudaError_t error, const char* call);

// body(rank) on a thread per rank, its device current. Throws what the first of them threw.
void OnEachRank(const std::vector<int>& devices, const std::function<void(int rank)>& body);

struct GroupTimes {
  Summary us;  // of one round: the slowest rank of each replay
  int rounds = 0, replays = 0;
};

// enqueue(rank, round, stream), `rounds` times into a graph behind a few that are not timed; rounds of different numbers may
// do different things. Ranks that share a device take turns in one graph and are not timed apart.
using EnqueueRound = std::function<void(int rank, int round, cudaStream_t stream)>;
GroupTimes TimeGroup(const std::vector<int>& devices, int rounds, int replays,
                     const EnqueueRound& enqueue);

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_GROUP_TIMER_H_
