// The threads of a long call: every item once, failures with their text, steps of the owner, order, and signals.
#include "lib/base/crew.h"

#include <signal.h>

#include <atomic>
#include <chrono>
#include <new>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/catch.h"

namespace {

using dsv4mx::Crew;
using dsv4mx::Fail;
using dsv4mx::kOk;
using dsv4mx::LastError;
using dsv4mx::Status;

Status NoTick() {
  return kOk;
}

TEST_CASE("a crew does every item once, whatever its size", "[crew]") {
  for (const int threads : {1, 2, 7}) {
    for (const int64_t items : {0, 1, 5, 1000}) {
      std::vector<std::atomic<int>> done(static_cast<size_t>(items));
      Crew crew;
      REQUIRE(crew.Run(
                      threads, items,
                      [&](int64_t item, int worker) {
                        if (worker < 0 || worker >= threads)
                          return Fail(DSV4MX_STATUS_INTERNAL, "worker");
                        ++done[static_cast<size_t>(item)];
                        return kOk;
                      },
                      NoTick)
                  .ok());
      for (const auto& d : done) REQUIRE(d == 1);
    }
  }
}

TEST_CASE("a crew gives the failure of its lowest item, with its text, and ends early", "[crew]") {
  for (const int threads : {1, 4}) {
    std::atomic<int> begun{0};
    Crew crew;
    const Status status = crew.Run(
        threads, 100000,
        [&](int64_t item, int) {
          ++begun;
          return item >= 50 ? Fail(DSV4MX_STATUS_IO_ERROR, "item %d", static_cast<int>(item)) : kOk;
        },
        NoTick);
    CHECK(status.code == DSV4MX_STATUS_IO_ERROR);
    CHECK(std::string(LastError()) == "item 50");
    CHECK(begun < 100);
  }
}

TEST_CASE("a crew catches what its work throws", "[crew]") {
  Crew crew;
  CHECK(crew.Run(
                2, 3, [](int64_t, int) -> Status { throw std::bad_alloc(); }, NoTick)
            .code == DSV4MX_STATUS_OUT_OF_MEMORY);
  Crew other;
  CHECK(other
            .Run(
                2, 3, [](int64_t, int) -> Status { throw std::runtime_error("odd"); }, NoTick)
            .code == DSV4MX_STATUS_INTERNAL);
  CHECK(std::string(LastError()) == "unexpected exception: odd");
}

TEST_CASE("a crew's owner is asked often, and may end the call", "[crew]") {
  int ticks = 0;
  Crew crew;
  const Status status = crew.Run(
      2, 1000000,
      [](int64_t, int) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        return kOk;
      },
      [&] { return ++ticks == 3 ? Fail(DSV4MX_STATUS_CANCELLED, "enough") : kOk; });
  CHECK(status.code == DSV4MX_STATUS_CANCELLED);
  CHECK(std::string(LastError()) == "enough");
  CHECK(ticks == 3);
}

TEST_CASE("a crew's steps run on the owner, one at a time", "[crew]") {
  const auto owner = std::this_thread::get_id();
  std::set<int64_t> seen;  // no lock: the owner alone
  Crew crew;
  REQUIRE(crew.Run(
                  5, 500,
                  [&](int64_t item, int) {
                    return crew.OnOwner([&] {
                      CHECK(std::this_thread::get_id() == owner);
                      seen.insert(item);
                      return kOk;
                    });
                  },
                  NoTick)
              .ok());
  CHECK(seen.size() == 500);
  Crew failing;
  CHECK(failing
            .Run(
                3, 500,
                [&](int64_t item, int) {
                  return failing.OnOwner([&] {
                    return item == 20 ? Fail(DSV4MX_STATUS_CUDA_ERROR, "step %d", 20) : kOk;
                  });
                },
                NoTick)
            .code == DSV4MX_STATUS_CUDA_ERROR);
  CHECK(std::string(LastError()) == "step 20");
}

TEST_CASE("a step that throws on the owner ends the crew", "[crew]") {
  for (int round = 0; round < 20; ++round) {
    Crew crew;
    CHECK_THROWS_AS(crew.Run(
                        4, 500,
                        [&](int64_t item, int) {
                          return crew.OnOwner([&]() -> Status {
                            if (item == 7) throw std::runtime_error("gone");
                            return kOk;
                          });
                        },
                        NoTick),
                    std::runtime_error);
  }
}

TEST_CASE("a crew keeps order where it is asked", "[crew]") {
  for (const int threads : {1, 6}) {
    std::vector<int64_t> order;
    Crew crew;
    REQUIRE(crew.Run(
                    threads, 300,
                    [&](int64_t item, int) {
                      if (item % 7 == 0) std::this_thread::yield();
                      return crew.InOrder(item, [&] {
                        order.push_back(item);
                        return kOk;
                      });
                    },
                    NoTick)
                .ok());
    REQUIRE(order.size() == 300);
    for (size_t i = 0; i < order.size(); ++i) REQUIRE(order[i] == static_cast<int64_t>(i));
    // Those behind a failed one do not wait for ever.
    Crew failing;
    CHECK(failing
              .Run(
                  threads, 300,
                  [&](int64_t item, int) {
                    if (item == 10) return Fail(DSV4MX_STATUS_IO_ERROR, "ten");
                    return failing.InOrder(item, [] { return kOk; });
                  },
                  NoTick)
              .code == DSV4MX_STATUS_IO_ERROR);
  }
}

TEST_CASE("a crew's owner polls, and work waits for what that brings", "[crew]") {
  for (const int threads : {1, 5}) {
    std::atomic<int> asked{0}, given{0};
    const auto owner = std::this_thread::get_id();
    Crew crew;
    const auto poll = [&](bool* busy) -> Status {
      CHECK(std::this_thread::get_id() == owner);
      *busy = false;
      if (given == asked) return kOk;
      ++given;
      crew.Changed();
      *busy = given < asked;
      return kOk;
    };
    REQUIRE(crew.Run(
                    threads, 300,
                    [&](int64_t item, int) {
                      const int mine = ++asked;
                      crew.Wake();
                      return crew.Await(item, [&] { return given >= mine; });
                    },
                    NoTick, poll)
                .ok());
    CHECK(given == 300);
  }
}

TEST_CASE("a crew's item that waits goes on where a later one failed, and its failure comes first",
          "[crew]") {
  for (int round = 0; round < 20; ++round) {
    std::atomic<bool> failed{false}, given{false};
    Crew crew;
    const auto poll = [&](bool* busy) -> Status {
      *busy = true;
      if (failed && !given) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));  // the crew has been stopped
        given = true;
        crew.Changed();
      }
      return kOk;
    };
    CHECK(crew.Run(
                  2, 100,
                  [&](int64_t item, int) -> Status {
                    if (item == 0) {
                      const Status status = crew.Await(item, [&] { return given.load(); });
                      return status.ok() ? Fail(DSV4MX_STATUS_IO_ERROR, "the first") : status;
                    }
                    failed = true;
                    return Fail(DSV4MX_STATUS_CUDA_ERROR, "a later one");
                  },
                  NoTick, poll)
              .code == DSV4MX_STATUS_IO_ERROR);
    CHECK(std::string(LastError()) == "the first");
  }
  // One that waits for what never comes ends with a failure of the owner.
  Crew ended;
  CHECK(ended
            .Run(
                2, 2, [&](int64_t item, int) { return ended.Await(item, [] { return false; }); },
                NoTick, [](bool*) { return Fail(DSV4MX_STATUS_CUDA_ERROR, "polled"); })
            .code == DSV4MX_STATUS_CUDA_ERROR);
  CHECK(std::string(LastError()) == "polled");
}

std::atomic<int> signals{0};

TEST_CASE("a crew's threads take no signals of the process", "[crew]") {
  struct sigaction action {
  }, before{};
  action.sa_handler = [](int) { ++signals; };
  sigaction(SIGUSR2, &action, &before);
  Crew crew;
  REQUIRE(crew.Run(
                  2, 4,
                  [](int64_t, int) {
                    sigset_t blocked;
                    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
                    return sigismember(&blocked, SIGUSR2) == 1
                               ? kOk
                               : Fail(DSV4MX_STATUS_INTERNAL, "open");
                  },
                  NoTick)
              .ok());
  sigset_t mine;
  pthread_sigmask(SIG_SETMASK, nullptr, &mine);
  CHECK(sigismember(&mine, SIGUSR2) == 0);
  raise(SIGUSR2);
  CHECK(signals == 1);
  sigaction(SIGUSR2, &before, nullptr);
}

TEST_CASE("what is asked of a crew's owner while it polls is done at once, not at its next tick",
          "[crew]") {
  constexpr int kItems = 20;
  std::atomic<int> asking{0};
  int polled = 0, ticks = 0;
  const auto ask = [&](Crew* crew) {
    ++asking;
    return crew->OnOwner([] { return kOk; });
  };
  const auto tick = [&] {
    ++ticks;
    return kOk;
  };
  // Once for each item: until it is about to ask, and has had the time to.
  const auto poll = [&](bool*) {
    if (polled == kItems) return kOk;
    while (asking.load() == polled) std::this_thread::yield();
    polled = asking.load();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    return kOk;
  };
  Crew crew;
  CHECK(crew.Run(
                1, kItems, [&](int64_t, int) { return ask(&crew); }, tick, poll)
            .ok());
  CHECK(polled == kItems);
  CHECK(ticks < kItems / 2);
}

}  // namespace
