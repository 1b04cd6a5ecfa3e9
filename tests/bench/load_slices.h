// Processes of one host that each load a slice of the same layer from the same file at the same time: what they read, and what
// of it came from the disk.
#ifndef DSV4MX_TESTS_BENCH_LOAD_SLICES_H_
#define DSV4MX_TESTS_BENCH_LOAD_SLICES_H_

#include <nlohmann/json.hpp>
#include <string>

#include "tests/problems.h"

namespace dsv4mx::bench {

// Forks: nothing of the library, of CUDA or of threads may have been used before. The first pass begins with the file out of
// the page cache. Throws where a process fails, or where together they read more than once from the disk, or more of gate and
// up than once.
nlohmann::ordered_json LoadSlices(const test::Problem& problem, const std::string& folder,
                                  int processes, int passes);

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_LOAD_SLICES_H_
