// Work that threads share: every item once, the first failure by item with its own text, and the caller asked in between.
#include "lib/base/shared_work.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "tests/catch.h"

using namespace dsv4mx;

TEST_CASE("shared work: every item once, on no more threads than asked for", "[unit]") {
  std::unique_ptr<ThreadPool> pool;
  REQUIRE(ThreadPool::Make(4, &pool).ok());
  for (const int workers : {1, 3, 9}) {
    std::vector<std::atomic<int>> seen(1000);
    std::atomic<int> most{0};
    const Status status = ShareWork(
        pool.get(), workers, 1000, 1000, Control(), [&](int64_t item, int worker) -> Status {
          ++seen[static_cast<size_t>(item)];
          int at = most.load();
          while (worker > at && !most.compare_exchange_weak(at, worker)) {
          }
          return kOk;
        });
    CHECK(status.ok());
    int wrong = 0;
    for (const auto& n : seen) wrong += n != 1 ? 1 : 0;
    CHECK(wrong == 0);
    CHECK(most < std::min(workers, 4));
  }
  CHECK(ShareWork(pool.get(), 2, 0, 0, Control(), [](int64_t, int) { return kOk; }).ok());
}

TEST_CASE("shared work: the first item that fails is the call's failure, with its text", "[unit]") {
  std::unique_ptr<ThreadPool> pool;
  REQUIRE(ThreadPool::Make(4, &pool).ok());
  for (int run = 0; run < 50; ++run) {
    const Status status =
        ShareWork(pool.get(), 4, 400, 400, Control(), [&](int64_t item, int) -> Status {
          // The lower one takes longer.
          if (item == 100) std::this_thread::sleep_for(std::chrono::microseconds(200));
          DSV4MX_RETURN_IF(item >= 100, DSV4MX_STATUS_IO_ERROR, "item %d", static_cast<int>(item));
          return kOk;
        });
    CHECK(status.code == DSV4MX_STATUS_IO_ERROR);
    CHECK(std::string(LastError()) == "item 100");
  }
  const Status status = ShareWork(pool.get(), 4, 4, 4, Control(),
                                  [](int64_t, int) -> Status { throw std::bad_alloc(); });
  CHECK(status.code == DSV4MX_STATUS_OUT_OF_MEMORY);
  CHECK(std::string(LastError()).find("no memory for a small object") != std::string::npos);
}
