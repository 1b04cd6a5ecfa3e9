// What a host allows a load at best: reads out of page cache into small slots of pinned memory, copies of these to the device,
// and both at once, for many ways to divide the work. Without the library, so that its loads can be judged beside it.
#ifndef DSV4MX_TESTS_BENCH_LOAD_FLOOR_H_
#define DSV4MX_TESTS_BENCH_LOAD_FLOOR_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace dsv4mx::bench {

struct FloorWays {
  std::vector<int> threads = {8, 12, 15};
  std::vector<int> slot_kib = {512, 1024};
  std::vector<int> slots = {2};  // of each thread
  int passes = 2;                // the best counts
  bool timeline = true;          // of the best way: what each thread did when
};

// Reads `bytes` bytes from byte `first` of the file. Prints a line for each way.
nlohmann::ordered_json LoadFloor(const std::string& path, int64_t first, int64_t bytes,
                                 const FloorWays& ways);

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_LOAD_FLOOR_H_
