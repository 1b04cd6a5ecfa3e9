// Launches: CTAs on threads of the host, their threads in turn.
#include "tests/emulator/machine.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "tests/emulator/cta.h"

namespace dsv4mx::emulator {

thread_local Emulated* self;
thread_local uint8_t anchor;

void Fail(const char* format, ...) {
  char text[400], where[160];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const Thread& t = self->view;
  std::snprintf(where, sizeof where, "thread %u of CTA (%u, %u): ", t.index.x, t.block.x,
                t.block.y);
  {
    Cluster& cluster = *self->cta->cluster;
    const std::lock_guard<std::mutex> lock(cluster.mutex);
    if (cluster.fault.empty()) cluster.fault = std::string(where) + text;
    cluster.failed = true;
  }
  for (;;) self->fiber.Leave();
}

void WaitUntil(const std::atomic<uint64_t>& counter, uint64_t mask, uint64_t value) {
  self->wait = {&counter, mask, value};
  while (!self->wait.Over()) self->fiber.Leave();
  self->wait = {};
}

namespace {

constexpr auto kPatience = std::chrono::seconds(20);
std::atomic<int> host_threads{2};

void RunThread() {
  self->cta->cluster->launch->thread();
  FlushStores();
  Cta& cta = *self->cta;
  self->ended = true;
  --cta.live;
  Warp& w = cta.warps[static_cast<size_t>(self->number / 32)];
  w.ended |= 1u << (self->number % 32);
  CompleteIfAll(w);
  CompleteIfAll(cta, cta.barriers[0]);
  for (;;) self->fiber.Leave();
}

Size At(const Size& grid, uint64_t number) {
  return {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
          static_cast<unsigned>(number / grid.x / grid.y)};
}

// Prepares a CTA on the host thread that will run it.
void Begin(Cta& cta, Cluster& cluster, unsigned rank, uint64_t number) {
  const Launch& launch = *cluster.launch;
  cta.cluster = &cluster;
  cta.rank = rank;
  cta.static_origin = &anchor;
  cta.shared_bytes = launch.shared_bytes;
  std::memset(cta.shared, 0xFF, launch.shared_bytes);  // NaN in every format
  cta.threads = cta.live = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  cta.over = false;
  const auto warps = static_cast<size_t>((cta.threads + 31) / 32);
  cta.warps = std::deque<Warp>(warps);
  cta.products = std::deque<Product>((warps + 3) / 4);
  for (ThreadBarrier& b : cta.barriers) b.arrived = b.threads = 0;
  cta.memory_barriers.clear();
  cta.copies.clear();
  cta.draw = static_cast<uint32_t>(number * 2654435761u) | 1;
  while (cta.fibers.size() < static_cast<size_t>(cta.threads)) {
    cta.fibers.push_back(std::make_unique<Emulated>());
  }
  for (int i = 0; i < cta.threads; i++) {
    Emulated& e = *cta.fibers[static_cast<size_t>(i)];
    e.view = {At(launch.block, static_cast<uint64_t>(i)), At(launch.grid, number), launch.block,
              launch.grid};
    e.wait = {};
    e.cta = &cta;
    e.number = i;
    e.ended = false;
    e.stores.clear();
    e.fiber.Begin(RunThread);
    cta.warps[static_cast<size_t>(i / 32)].lanes |= 1u << (i % 32);
  }
}

std::string WhereAll(const Cta& cta) {
  std::map<std::string, int> places;
  for (int i = 0; i < cta.threads; i++) {
    const Emulated& e = *cta.fibers[static_cast<size_t>(i)];
    if (e.ended) continue;
    const Warp& w = cta.warps[static_cast<size_t>(i / 32)];
    std::string place =
        e.wait.counter == &w.generation ? std::string("at ") + w.operation : "at a barrier";
    for (const auto& [bar, b] : cta.memory_barriers) {
      if (e.wait.counter == &b.phase) {
        char text[96];
        std::snprintf(text, sizeof text, "at mbarrier %#x (%lld arrivals, %lld bytes missing)", bar,
                      static_cast<long long>(b.missing), static_cast<long long>(b.bytes));
        place = text;
      }
    }
    for (int b = 0; b < kNamedBarriers; b++) {
      if (e.wait.counter == &cta.barriers[b].generation) place = "at bar.sync " + std::to_string(b);
    }
    ++places[place];
  }
  std::string text = "; CTA " + std::to_string(cta.rank) + " of the cluster has";
  for (const auto& [place, count] : places)
    text += ", " + std::to_string(count) + " threads " + place;
  return text + ", " + std::to_string(cta.copies.size()) + " copies under way";
}

void RunCta(Cta& cta) {
  Cluster& cluster = *cta.cluster;
  auto moved_at = std::chrono::steady_clock::now();
  uint64_t seen = 0;
  while (cta.live > 0 && !cluster.failed) {
    bool moved = false;
    const auto n = static_cast<uint32_t>(cta.threads);
    const uint32_t first = cta.Draw() % n;
    const bool up = cta.Draw() % 2 != 0;
    for (uint32_t i = 0; i < n && !cluster.failed; i++) {
      Emulated& e = *cta.fibers[up ? (first + i) % n : (first + n - i) % n];
      if (e.ended || !e.wait.Over()) continue;
      self = &e;
      e.fiber.Resume();
      moved = true;
    }
    if (PerformCopies(cta, !moved)) moved = true;
    if (moved) {
      cluster.steps.fetch_add(1, std::memory_order_relaxed);
      continue;
    }
    const uint64_t steps = cluster.steps;
    const auto now = std::chrono::steady_clock::now();
    if (steps != seen) moved_at = now, seen = steps;
    if (cluster.ctas.size() == 1 || now - moved_at > kPatience) {
      const std::lock_guard<std::mutex> lock(cluster.mutex);
      if (cluster.fault.empty()) {
        cluster.fault = "nothing moves";
        for (const Cta* c : cluster.ctas) cluster.fault += WhereAll(*c);
      }
      cluster.failed = true;
    }
    std::this_thread::yield();
  }
  // What it sent to others arrives although it has ended.
  while (!cta.copies.empty() && !cluster.failed) PerformCopies(cta, true);
  cta.over = true;
}

// What a host thread keeps from launch to launch: making fibers is what costs.
Cta& OwnCta() {
  struct Owner {
    Cta cta;
    Owner() {
      cta.shared =
          static_cast<uint8_t*>(std::aligned_alloc(1024, (kMostShared + 1023) / 1024 * 1024));
    }
    ~Owner() { std::free(cta.shared); }
  };
  thread_local Owner owner;
  return owner.cta;
}

// Threads of the host that wait for work, so that fibers and shared memory are made once.
class Crew {
 public:
  // Calls f(number) for 0..count-1, each on a thread of its own.
  void Run(size_t count, const std::function<void(size_t)>& f) {
    const std::lock_guard<std::mutex> one(one_);
    std::unique_lock<std::mutex> lock(mutex_);
    while (threads_.size() < count) {
      const size_t number = threads_.size();
      threads_.emplace_back([this, number, round = round_] { Work(number, round); });
    }
    work_ = &f;
    count_ = left_ = count;
    ++round_;
    wake_.notify_all();
    done_.wait(lock, [&] { return left_ == 0; });
  }
  ~Crew() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      wake_.notify_all();
    }
    for (std::thread& t : threads_) t.join();
  }

 private:
  void Work(size_t number, uint64_t seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stop_ || round_ != seen; });
      if (stop_) return;
      seen = round_;
      if (number >= count_) continue;
      const auto* work = work_;
      lock.unlock();
      (*work)(number);
      lock.lock();
      if (--left_ == 0) done_.notify_all();
    }
  }
  std::mutex one_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  const std::function<void(size_t)>* work_ = nullptr;
  size_t count_ = 0, left_ = 0;
  uint64_t round_ = 0;
  bool stop_ = false;
};

}  // namespace

void SetHostThreads(int threads) {
  host_threads = std::max(threads, 1);
}

std::string Run(const Launch& launch, int device) {
  static Crew crews[kMostDevices];
  Crew& crew = crews[device];
  const uint64_t ctas = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  const unsigned size = std::max(launch.cluster, 1u);
  const unsigned threads = launch.block.x * launch.block.y * launch.block.z;
  if (ctas == 0 || threads == 0 || threads > kMostThreads || launch.shared_bytes > kMostShared ||
      launch.grid.x % size != 0 || size > 8) {
    char text[160];
    std::snprintf(text, sizeof text, "launch of %llu CTAs of %u threads, %zu bytes, clusters of %u",
                  static_cast<unsigned long long>(ctas), threads, launch.shared_bytes, size);
    return text;
  }
  std::mutex mutex;
  std::string fault;
  const auto note = [&](const Cluster& cluster) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (fault.empty()) fault = cluster.fault;
  };
  if (size == 1) {
    std::atomic<uint64_t> next{0};
    std::atomic<bool> failed{false};
    const auto teams =
        static_cast<size_t>(std::min<uint64_t>(ctas, static_cast<uint64_t>(host_threads.load())));
    crew.Run(teams, [&](size_t) {
      for (uint64_t number; !failed && (number = next++) < ctas;) {
        Cluster cluster;
        Cta& cta = OwnCta();
        cluster.launch = &launch;
        cluster.ctas = {&cta};
        Begin(cta, cluster, 0, number);
        RunCta(cta);
        if (cluster.failed) failed = true, note(cluster);
      }
    });
    return fault;
  }
  for (uint64_t first = 0; first < ctas && fault.empty(); first += size) {
    Cluster cluster;
    cluster.launch = &launch;
    cluster.ctas.resize(size);
    std::atomic<unsigned> ready{0};
    crew.Run(size, [&](size_t rank) {
      Cta& cta = OwnCta();
      Begin(cta, cluster, static_cast<unsigned>(rank), first + rank);
      cluster.ctas[rank] = &cta;
      // All must be there before one looks for another.
      ++ready;
      while (ready != size) std::this_thread::yield();
      RunCta(cta);
    });
    if (cluster.failed) note(cluster);
  }
  return fault;
}

const Thread& This() {
  return self->view;
}

}  // namespace dsv4mx::emulator
