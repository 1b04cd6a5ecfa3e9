// Warps of two devices that send each other lines (kernels/dist/line.cuh), round after round, and look at every byte.
#ifndef DSV4MX_TESTS_GPU_LINES_H_
#define DSV4MX_TESTS_GPU_LINES_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace dsv4mx::test {

struct LineCounts {
  uint64_t rounds, torn,
      late;  // of all warps; units that were not of their line's round; warps that gave up
};
// Of memory that lines land in: two blocks a warp.
int64_t LineBytes(int warps);
// `mine` and `theirs` are both devices' memory, zeros at first; `side` is 0 on one of them and 1 on the other. An even number of warps.
void SendLines(int side, int warps, int rounds, uint64_t* mine, uint64_t* theirs,
               LineCounts* counts, cudaStream_t stream);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_LINES_H_
